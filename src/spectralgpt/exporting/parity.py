"""Whether an exported file gives the numbers of the model that it was made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError
from spectralgpt.exporting.description import INPUT_NAME
from spectralgpt.exporting.graphs import EMBEDDINGS, choose_contract, input_shape
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster

__all__ = ["Parity", "check_parity", "open_exported"]

_BRIGHTEST = 0.6
_INVALID_SHARE = 0.02

Run = Callable[[Tensor], tuple[Tensor, ...]]


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


def check_parity(
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
