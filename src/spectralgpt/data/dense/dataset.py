"""Windows of images with their masks as a model takes them.

Indexed, the windows of a regular grid that covers every image; drawn, random crops of
the same images, turned. Pixels are read when they are asked for and prepared exactly
as the checkpoint's `Preprocessing` says.
"""

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spectralgpt.data.crops import part_on
from spectralgpt.data.dense.chips import IGNORE, SEGMENTATION, DenseSet
from spectralgpt.data.dense.geometry import (
    DenseAugmentationConfig,
    Patch,
    turn_sample,
)
from spectralgpt.data.dense.masks import read_target
from spectralgpt.data.dense.windows import (
    ChipWindow,
    cover_window,
    draw_window,
    padded_side,
)
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, Raster, RasterItem, Window, read_raster
from spectralgpt.sensors import Band

__all__ = ["DenseDataset", "Pad"]

Pad = Literal["shared", "patch"]
_MEGABYTE = 2**20
_BYTES_PER_PIXEL = 5
"""float32 reflectance and a byte of validity."""
_BYTES_PER_LABEL = 8


class DenseDataset(Dataset[dict[str, Tensor]]):
    """Windows of images with class indices: plain when indexed, augmented when drawn.

    Every labelled pixel of every chip stands in the target of exactly one indexed
    window: where the last window of a row overlaps the one before, its target is
    `IGNORE`. So it is where the mask states no class, and where the image shows
    nothing: no band is valid, at one of the dates. Pixels that lack some bands keep
    their label, as a map gives them a class too.

    Images smaller than the model's are never enlarged. They are padded with invalid
    pixels, below and to the right, to a multiple of the patch.

    Args:
        dense: the chips, of one split or all.
        preprocessing: that of the checkpoint: bands, unit, scaling, image size, patch.
        augmentation: what `draw` does beside cropping; None draws the windows of the
            grid as they are.
        pad: `shared` pads all windows to one square that the largest chip needs, at
            most the model's image, so that any of them form a batch; `patch` pads each
            no more than it needs, so that shapes differ (see `shape`).
        memory_mb: whole chips kept in memory once read, up to this many megabytes; for
            sets that are gone through several times.
    """

    def __init__(
        self,
        dense: DenseSet,
        preprocessing: Preprocessing,
        augmentation: DenseAugmentationConfig | None = None,
        pad: Pad = "shared",
        memory_mb: float = 0.0,
    ) -> None:
        self.dense = dense
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.pad = pad
        self.memory_mb = memory_mb
        self._kept: dict[int, Patch] = {}
        self._kept_mb = 0.0
        self._parts: dict[int, tuple[Grid, Window]] = {}
        self._matched: dict[tuple[Band, ...], tuple[Band, ...]] = {}

    def __len__(self) -> int:
        """Return the number of windows that cover all chips."""
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one window of the grid.

        Returns:
            `image` (C, H, W) or, for change detection, (2, C, H, W) float32; `valid`,
            the same in bool; `target` (H, W) int64.

        Raises:
            BandError: the chip lacks a band of the model; it is named.
            RasterError: a file cannot be read.
            DataError: the mask holds an unknown code.
        """
        place = self.windows[index]
        patch = self._read(place.chip, place.window)
        target = patch.target.copy()
        target[: place.seen_rows] = IGNORE
        target[:, : place.seen_columns] = IGNORE
        return self._prepare(Patch(patch.rasters, target), self.shape(index))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a random crop of the chip that window `index` belongs to.

        A chip is drawn from as often as it has windows, and so by its size.

        Args:
            index: as for indexing.
            generator: all randomness comes from it.
        """
        if self.augmentation is None:
            return self[index]
        chip = self.windows[index].chip
        size = self.preprocessing.image_size
        side = max(1, round(size * self.augmentation.draw_scale(generator)))
        window = self._draw_labelled(chip, side, self.augmentation.tries, generator)
        patch = self._read(chip, window)
        if side != size:
            height, width = (
                max(1, min(size, round(length * size / side)))
                for length in (window.height, window.width)
            )
            patch = patch.scaled(height, width)
        shape = self._padded(*patch.target.shape) if side != size else self.shape(index)
        return turn_sample(self._prepare(patch, shape), self.augmentation, generator)

    def chip(self, number: int) -> Patch:
        """Return a whole chip at its own pixel size: reflectance and class indices."""
        return self._read(number, self._part(number)[1])

    def shape(self, index: int) -> tuple[int, int]:
        """(H, W) of the images of a window, whether indexed or drawn without scale."""
        window = self.windows[index].window
        return self._padded(window.height, window.width)

    @cached_property
    def windows(self) -> tuple[ChipWindow, ...]:
        """The windows in order, with the number of their chip in `dense.chips`."""
        size = self.preprocessing.image_size
        return tuple(
            window
            for chip in range(len(self.dense.chips))
            for window in cover_window(chip, self._part(chip)[1], size)
        )

    @cached_property
    def shared_side(self) -> int:
        """Side that all windows are padded to with `pad` shared, px."""
        size = self.preprocessing.image_size
        if self.augmentation is not None and self.augmentation.scale_low < 1:
            return size
        parts = [self._part(chip)[1] for chip in range(len(self.dense.chips))]
        largest = max(max(part.height, part.width) for part in parts)
        return padded_side(largest, self.preprocessing.patch_size, size)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        if self.pad == "shared":
            return self.shared_side, self.shared_side
        size, patch = self.preprocessing.image_size, self.preprocessing.patch_size
        return padded_side(height, patch, size), padded_side(width, patch, size)

    def _bands(self, item: RasterItem) -> tuple[Band, ...]:
        available = item.bands
        if available not in self._matched:
            order = self.preprocessing.match(available)
            self._matched[available] = tuple(available[i] for i in order)
        return self._matched[available]

    def _part(self, chip: int) -> tuple[Grid, Window]:
        """Grid of the model's bands, and the chip's pixels in it."""
        if chip not in self._parts:
            found = self.dense.chips[chip]
            bands = self._bands(found.item)
            self._parts[chip] = part_on(found.item, found.window, bands)
        return self._parts[chip]

    def _draw_labelled(
        self, chip: int, side: int, tries: int, generator: torch.Generator
    ) -> Window:
        """Draw a crop, a few times if it shows no label."""
        part = self._part(chip)[1]
        for _ in range(tries):
            window = draw_window(part, side, generator)
            is_whole = (window.height, window.width) == (part.height, part.width)
            if is_whole or (self._read_target(chip, window) != IGNORE).any():
                break
        return window

    def _read_target(self, chip: int, window: Window) -> NDArray[np.int64]:
        grid, part = self._part(chip)
        if chip in self._kept:
            return _inside(self._kept[chip], part, window).target
        return read_target(self.dense, self.dense.chips[chip], grid, window)

    def _read(self, chip: int, window: Window) -> Patch:
        """Read a window at its own pixel size, from memory if it is kept there."""
        if chip not in self._kept:
            part = self._part(chip)[1]
            found = self.dense.chips[chip]
            each = len(self.preprocessing.bands) * len(found.items) * _BYTES_PER_PIXEL
            pixels = part.height * part.width
            needed_mb = pixels * (each + _BYTES_PER_LABEL) / _MEGABYTE
            if self._kept_mb + needed_mb > self.memory_mb:
                return self._read_files(chip, window)
            self._kept[chip] = self._read_files(chip, part)
            self._kept_mb += needed_mb
        return _inside(self._kept[chip], self._part(chip)[1], window)

    def _read_files(self, chip: int, window: Window) -> Patch:
        found = self.dense.chips[chip]
        rasters = tuple(
            read_raster(item, self._bands(item), window) for item in found.items
        )
        target = read_target(self.dense, found, self._part(chip)[0], window)
        for raster in rasters:
            target[~raster.valid.any(axis=0)] = IGNORE
        return Patch(rasters, target)

    def _prepare(self, patch: Patch, shape: tuple[int, int]) -> dict[str, Tensor]:
        patch = patch.padded(*shape)
        dates = [self._prepare_date(raster) for raster in patch.rasters]
        images, valid = (np.stack(parts) for parts in zip(*dates, strict=True))
        if self.dense.task == SEGMENTATION:
            images, valid = images[0], valid[0]
        return {
            "image": torch.from_numpy(images),
            "valid": torch.from_numpy(valid),
            "target": torch.from_numpy(np.ascontiguousarray(patch.target)),
        }

    def _prepare_date(
        self, raster: Raster
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if not raster.valid.any():
            # A window over a hole in an image is no error: nothing in it is scored.
            shape = (len(self.preprocessing.bands), *raster.pixels.shape[1:])
            return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        return self.preprocessing.prepare(raster)


def _inside(kept: Patch, part: Window, window: Window) -> Patch:
    """Cut a window out of the kept part that holds it."""
    row, column = window.row - part.row, window.column - part.column
    return kept.cut(row, column, window.height, window.width)
