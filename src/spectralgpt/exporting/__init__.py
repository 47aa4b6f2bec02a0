"""Models as files that run without this package: ONNX and `torch.export`."""

from spectralgpt.exporting.description import METADATA_KEY, describe, read_description
from spectralgpt.exporting.graphs import ExportGraph, ReflectanceScaling
from spectralgpt.exporting.parity import Parity, check_parity
from spectralgpt.exporting.writing import ExportOptions, export_model

__all__ = [
    "METADATA_KEY",
    "ExportGraph",
    "ExportOptions",
    "Parity",
    "ReflectanceScaling",
    "check_parity",
    "describe",
    "export_model",
    "read_description",
]
