"""Writing exported models, and keeping only those that give the model's numbers."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.exporting.graphs import (
    EMBEDDINGS,
    INPUT_NAME,
    METADATA_KEY,
    ExportGraph,
    choose_contract,
    choose_output,
    describe,
    input_shape,
    output_axes,
)
from spectralgpt.outputs import folder_beside
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster

ExportFormat = Literal["onnx", "torch-export"]
What = Literal["auto", "embeddings", "logits"]
_SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch-export"}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED_BATCH = 2  # Sizes 0 and 1 would be taken for constants.
_COMPARED_BATCHES = (1, 3)
_BRIGHTEST = 0.6
_INVALID_SHARE = 0.02

Run = Callable[[Tensor], tuple[Tensor, ...]]


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


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the model.

    Attributes:
        difference: the greatest one of any number, over the greatest number of its
            output.
        batches: sizes of the random batches that were compared.
    """

    difference: float
    batches: tuple[int, ...]


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
            parity = _check_parity(made, loaded, output, batches)
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


def _check_parity(
    path: Path, loaded: LoadedModel, output: str, batches: Sequence[int]
) -> Parity:
    """Run an exported file and the model on random images, some pixels without data.

    The model runs as everywhere in this package: scaled by its contract, in the form
    that is fastest here.

    Args:
        path: an .onnx or .pt2 file.
        loaded: what it was made from, on the CPU.
        output: logits or embeddings.
        batches: sizes of the batches.

    Raises:
        CheckpointError: the file cannot be run.
    """
    run = open_exported(path)
    worst = 0.0
    for seed, size in enumerate(batches):
        images = _random_images(loaded, output, size, seed)
        expected = _run_model(loaded, output, images)
        try:
            given = run(images)
        except Exception as error:
            # Runtimes raise errors of their own without a common base.
            raise CheckpointError(
                f"{path.name} does not run on a batch of {size}: {error}"
            ) from error
        pairs = zip(given, expected, strict=True)
        worst = max(worst, *(_difference(*pair) for pair in pairs))
    return Parity(worst, tuple(batches))


def open_exported(path: Path) -> Run:
    """Open an exported file; give what runs it on reflectance.

    A `.pt2` is opened by torch, which trusts it: open only your own.
    """
    if path.suffix == ".onnx":
        return _open_onnx(path)
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(images: Tensor) -> tuple[Tensor, ...]:
        answer = module(images)
        return answer if isinstance(answer, tuple) else (answer,)

    return run


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )

    def run(images: Tensor) -> tuple[Tensor, ...]:
        answers = session.run(None, {INPUT_NAME: images.numpy()})
        return tuple(torch.from_numpy(answer) for answer in answers)

    return run


def _random_images(loaded: LoadedModel, output: str, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, *input_shape(loaded, output))
    images = torch.rand(shape, generator=generator) * _BRIGHTEST
    is_invalid = torch.rand(shape, generator=generator) < _INVALID_SHARE
    return images.masked_fill(is_invalid, torch.nan)


@torch.inference_mode()
def _run_model(loaded: LoadedModel, output: str, images: Tensor) -> tuple[Tensor, ...]:
    prepared = _prepare(images, choose_contract(loaded))
    if output == EMBEDDINGS:
        tokens = loaded.encoder(prepared)
        return tokens.flatten(1, -2).mean(dim=1), tokens
    return (loaded.model(prepared),)


def _prepare(images: Tensor, contract: Preprocessing) -> Tensor:
    """Scale images (..., C, H, W) by the contract, one by one."""
    scaled = []
    for image in images.flatten(0, -4).numpy():
        valid = np.isfinite(image)
        raster = Raster(np.where(valid, image, np.float32(0)), valid, contract.bands)
        scaled.append(contract.prepare(raster, is_checked=True)[0])
    return torch.from_numpy(np.stack(scaled)).reshape(images.shape)


def _difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape or not bool(given.isfinite().all()):
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((given - expected).abs().max() / largest)
