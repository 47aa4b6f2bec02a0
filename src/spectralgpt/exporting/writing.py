"""Writing exported models, and keeping only those that give the model's numbers."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch

from spectralgpt.atomic_files import folder_beside
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.exporting.description import (
    INPUT_NAME,
    METADATA_KEY,
    describe,
    output_axes,
)
from spectralgpt.exporting.graphs import ExportGraph, choose_output, input_shape
from spectralgpt.exporting.parity import Parity, check_parity

__all__ = ["ExportFormat", "ExportOptions", "What", "choose_format", "export_model"]

ExportFormat = Literal["onnx", "torch-export"]
What = Literal["auto", "embeddings", "logits"]
_SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch-export"}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED_BATCH = 2  # Sizes 0 and 1 would be taken for constants.
_COMPARED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Args:
        what: logits of a fine-tuned model, embeddings of its encoder, or auto: logits
            where there are any.
        batch: images taken at once; None for any number.
        tolerance: greatest difference from the model that is accepted, as a share of
            the largest number of an output.

    Raises:
        ConfigError: a value is unknown, or not positive.
    """

    what: What = "auto"
    batch: int | None = None
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Check the values."""
        if self.what not in get_args(What):
            raise ConfigError(
                f"what {self.what!r} is unknown: use {', '.join(get_args(What))}."
            )
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch is {self.batch}: use at least 1, or dynamic.")
        if not self.tolerance > 0:
            raise ConfigError(f"tolerance is {self.tolerance}: it must be above 0.")


def choose_format(path: Path, stated: ExportFormat | None = None) -> ExportFormat:
    """Return the format of a file by its ending, and that it can be written here.

    Raises:
        ConfigError: the ending is unknown or another format's, or packages are missing.
    """
    found = _SUFFIXES.get(path.suffix)
    if found is None:
        raise ConfigError(
            f"{path}: the ending {path.suffix!r} is no format of exported models: use "
            f"{' or '.join(_SUFFIXES)}."
        )
    if stated is not None and stated != found:
        raise ConfigError(f"{path} has the ending of {found}, not of {stated}.")
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if found == "onnx" and missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}: pip install 'spectralgpt[export]'."
        )
    return found


def export_model(
    loaded: LoadedModel, path: Path, options: ExportOptions | None = None
) -> Parity:
    """Write a model as a file that runs without this package.

    Nothing is left if the file does not give the model's numbers. A copy of what
    travels with it lies beside it, as `path` with `.json` appended.

    Args:
        loaded: the model, on the CPU; its weights are left without gradients.
        path: the file to make, .onnx or .pt2; replaced if it is there.
        options: what of the model, and how.

    Returns:
        How far the file is from the model.

    Raises:
        ConfigError: the ending is unknown, packages are missing, or the model has no
            contract or no such output.
        CheckpointError: it cannot be exported, or gives other numbers.
        OutputError: it cannot be written.
    """
    options = options or ExportOptions()
    file_format = choose_format(path)
    output = choose_output(loaded, options.what)
    text = json.dumps(describe(loaded, output, options.batch), indent=2)
    batch = options.batch
    batches = _COMPARED_BATCHES if batch is None else (batch, batch)
    program = _trace(loaded, output, batch)
    try:
        with folder_beside(path) as folder:
            made = folder / path.name
            write = _write_onnx if file_format == "onnx" else _write_pt2
            write(program, made, text, tuple(output_axes(loaded, output)))
            parity = check_parity(made, loaded, output, batches)
            if not parity.difference <= options.tolerance:
                raise CheckpointError(
                    f"{path.name} was not kept: it differs from the model by "
                    f"{parity.difference:.2g} of the largest value, more than "
                    f"{options.tolerance:g}."
                )
            (folder / f"{path.name}.json").write_text(text + "\n", encoding="utf-8")
            weights = f"{path.name}.data"  # Of a model that was too large for one file.
            if not (folder / weights).exists():
                path.with_name(weights).unlink(missing_ok=True)
            # The model comes last: where it is, all of it is.
            for file in sorted(folder.iterdir(), key=lambda each: each == made):
                os.replace(file, path.with_name(file.name))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}.") from error
    return parity


def _trace(
    loaded: LoadedModel, output: str, batch: int | None
) -> torch.export.ExportedProgram:
    graph = ExportGraph(loaded, output).eval().requires_grad_(False)
    example = torch.zeros(batch or _TRACED_BATCH, *input_shape(loaded, output))
    axes = None if batch else {INPUT_NAME: {0: torch.export.Dim("batch", min=1)}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (example,), dynamic_shapes=axes)
    except Exception as error:
        # Of many kinds, none of which is public.
        raise CheckpointError(f"the model cannot be traced: {error}") from error


def _write_pt2(
    program: torch.export.ExportedProgram,
    path: Path,
    text: str,
    output_names: tuple[str, ...],
) -> None:
    torch.export.save(program, path, extra_files={METADATA_KEY: text})


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    text: str,
    output_names: tuple[str, ...],
) -> None:
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT_NAME],
            output_names=list(output_names),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(f"the model has no form in ONNX: {error}") from error
    assert written is not None, "given when no file is named"
    written.model.metadata_props[METADATA_KEY] = text
    # Weights of more than 2 GB go to a file beside it, which this names by itself.
    written.save(path)
