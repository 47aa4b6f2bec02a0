"""What is done alike to images, their validity and their mask: scale, pad, turn."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.data.dense.chips import IGNORE
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Raster
from spectralgpt.rasters.grid import Axis, resample

__all__ = ["DenseAugmentationConfig", "Patch", "turn_sample"]

_QUARTERS = 4


@dataclass(frozen=True)
class DenseAugmentationConfig:
    """What is done to the training images; masks follow.

    Args:
        flip: turn images left to right, and upside down, at random.
        turn: turn square images by 0, 90, 180 or 270 degrees at random; others are not
            turned, so that images of a batch keep one shape.
        scale_low: least side of the ground that a crop covers, relative to the model's
            image at the image's own pixel size; 1 keeps pixels as they are.
        scale_high: largest side.
        tries: crops drawn until one shows a labelled pixel; for sparse masks.
    """

    flip: bool = True
    turn: bool = True
    scale_low: float = 1.0
    scale_high: float = 1.0
    tries: int = 8

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.scale_low <= self.scale_high:
            raise ConfigError(
                "augmentation.scale_low and scale_high must be 0 < low <= high "
                f"(found: {self.scale_low} and {self.scale_high})."
            )
        if self.tries < 1:
            raise ConfigError(f"augmentation.tries must be at least 1: {self.tries}.")

    def draw_scale(self, generator: torch.Generator) -> float:
        """Draw the side that a crop covers, relative to the model's image."""
        if self.scale_low == self.scale_high:
            return self.scale_low
        share = float(torch.rand((), generator=generator))
        return self.scale_low + (self.scale_high - self.scale_low) * share


@dataclass(frozen=True)
class Patch:
    """A window of a chip at its own pixel size.

    Args:
        rasters: one a date, of the same size.
        target: (H, W) class indices.
    """

    rasters: tuple[Raster, ...]
    target: NDArray[np.int64]

    def cut(self, row: int, column: int, height: int, width: int) -> "Patch":
        """Return a part of it."""
        rows, columns = slice(row, row + height), slice(column, column + width)
        rasters = tuple(
            replace(
                raster,
                pixels=raster.pixels[:, rows, columns],
                valid=raster.valid[:, rows, columns],
                crs=None,
                transform=None,
            )
            for raster in self.rasters
        )
        return Patch(rasters, self.target[rows, columns])

    def scaled(self, height: int, width: int) -> "Patch":
        """Return it at another size: images by cubic convolution, the mask nearest."""
        if self.target.shape == (height, width):
            return self
        rows = Axis.between(0, self.target.shape[0], height, self.target.shape[0])
        columns = Axis.between(0, self.target.shape[1], width, self.target.shape[1])
        (top, bottom), (left, right) = rows.span, columns.span
        rasters = []
        for raster in self.rasters:
            pixels = raster.pixels[:, top:bottom, left:right]
            valid = raster.valid[:, top:bottom, left:right]
            pixels, valid = resample(np.where(valid, pixels, 0), valid, rows, columns)
            rasters.append(
                replace(raster, pixels=pixels, valid=valid, crs=None, transform=None)
            )
        target = self.target[rows.nearest[:, None], columns.nearest]
        return Patch(tuple(rasters), target)

    def padded(self, height: int, width: int) -> "Patch":
        """Return it with invalid pixels added below and to the right."""
        missing = [
            (0, height - self.target.shape[0]),
            (0, width - self.target.shape[1]),
        ]
        if not any(after for _, after in missing):
            return self
        rasters = tuple(
            raster.padded(height, width, "constant") for raster in self.rasters
        )
        return Patch(rasters, np.pad(self.target, missing, constant_values=IGNORE))


def turn_sample(
    sample: dict[str, Tensor],
    augmentation: DenseAugmentationConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Flip and turn all tensors of a sample, (..., H, W), in the same way."""
    flips = [axis for axis in (-2, -1) if augmentation.flip and _toss(generator)]
    height, width = sample["target"].shape
    quarters = 0
    if augmentation.turn and height == width:
        quarters = int(torch.randint(_QUARTERS, (), generator=generator))
    return {
        name: torch.rot90(values.flip(flips), quarters, (-2, -1)).contiguous()
        for name, values in sample.items()
    }


def _toss(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 1 / 2)
