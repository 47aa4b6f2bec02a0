"""Models as files that run without this package: ONNX and `torch.export`."""

from spectralgpt.exporting.graphs import read_description
from spectralgpt.exporting.writing import ExportOptions, choose_format, export_model

__all__ = ["ExportOptions", "choose_format", "export_model", "read_description"]
