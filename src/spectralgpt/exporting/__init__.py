"""Models as files that run without this package: ONNX and `torch.export`."""

from spectralgpt.exporting.graphs import METADATA_KEY, describe, read_description
from spectralgpt.exporting.writing import (
    ExportOptions,
    Parity,
    check_parity,
    choose_format,
    export_model,
)

__all__ = [
    "METADATA_KEY",
    "ExportOptions",
    "Parity",
    "check_parity",
    "choose_format",
    "describe",
    "export_model",
    "read_description",
]
