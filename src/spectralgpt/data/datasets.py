"""Samples as a model takes them: one item of a batch at a time, read when asked for.

Pixels are prepared exactly as the checkpoint's `Preprocessing` says. `LabelledDataset`
is for labels of images. `DenseDataset` is for masks: indexed, it gives the windows of a
regular grid that covers every image; drawn, random crops of the same images, turned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spectralgpt.config import check_range
from spectralgpt.data.crops import part_on
from spectralgpt.data.masks import read_target
from spectralgpt.data.samples import CHANGE, SampleSet
from spectralgpt.errors import ConfigError
from spectralgpt.losses import IGNORE
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, Raster, RasterFile, Window, read_raster
from spectralgpt.rasters.grid import Axis, resample
from spectralgpt.sensors import Band

_BYTES_PER_PIXEL = 5
"""float32 reflectance and a byte of validity."""
_BYTES_PER_LABEL = 8
_MEGABYTE = 2**20
_QUARTERS = 4
_Kept = TypeVar("_Kept")


class _SampleDataset(Dataset[dict[str, Tensor]], Generic[_Kept]):
    """What data sets of labels and of masks share: bands, parts, and what is kept.

    Whole samples are kept in memory once read, up to so many megabytes; for sets that
    are gone through several times.
    """

    def __init__(
        self, sample_set: SampleSet, preprocessing: Preprocessing, memory_mb: float
    ) -> None:
        self.sample_set = sample_set
        self.preprocessing = preprocessing
        self.memory_mb = memory_mb
        self._kept: dict[int, _Kept] = {}
        self._kept_mb = 0.0
        self._parts: dict[int, tuple[Grid, Window]] = {}
        self._matched: dict[tuple[Band, ...], tuple[Band, ...]] = {}

    def _bands(self, item: RasterFile) -> tuple[Band, ...]:
        """The bands of the model as an image calls them."""
        available = item.bands
        if available not in self._matched:
            order = self.preprocessing.match(available)
            self._matched[available] = tuple(available[i] for i in order)
        return self._matched[available]

    def _part(self, number: int) -> tuple[Grid, Window]:
        """Grid of the model's bands, and a sample's pixels in it."""
        if number not in self._parts:
            sample = self.sample_set.samples[number]
            bands = self._bands(sample.item)
            self._parts[number] = part_on(sample.item, sample.window, bands)
        return self._parts[number]

    def _keep(self, number: int, num_bytes: int, read: Callable[[], _Kept]) -> bool:
        """Tell whether a whole sample is kept, once there was room to read it."""
        if number not in self._kept:
            needed_mb = num_bytes / _MEGABYTE
            if self._kept_mb + needed_mb > self.memory_mb:
                return False
            self._kept[number] = read()
            self._kept_mb += needed_mb
        return True


class LabelledDataset(_SampleDataset[Raster]):
    """Images with labels as a model takes them: plain when indexed, else augmented.

    Args:
        sample_set: the samples, of one split or all.
        preprocessing: that of the checkpoint: bands, unit, scaling, image size.
        crop_scale: share of a sample's area that a drawn crop covers, lowest and
            highest; None draws the whole sample.
        flip: turn drawn images left to right at random.
        memory_mb: whole samples kept in memory once read, up to this many megabytes;
            for sets that are gone through several times.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        preprocessing: Preprocessing,
        crop_scale: tuple[float, float] | None = None,
        flip: bool = False,
        memory_mb: float = 0.0,
    ) -> None:
        super().__init__(sample_set, preprocessing, memory_mb)
        self.crop_scale = crop_scale
        self.flip = flip
        self._targets = sample_set.targets()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_set.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return `image` and `valid` (C, H, W), and `target`: () int64 or (classes,).

        Raises:
            BandError: the image lacks a band of the model; it is named.
            RasterError: the file cannot be read.
        """
        return self._prepare(index, self.raster(index))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return an item, see `__getitem__`, with a random crop and flip."""
        window = None
        if self.crop_scale is not None:
            whole = self._part(index)[1]
            low, high = self.crop_scale
            share = low + (high - low) * float(torch.rand((), generator=generator))
            side = round(float(np.sqrt(share * whole.height * whole.width)))
            side = max(1, min(side, whole.height, whole.width))
            window = _draw_window(whole, side, generator)
        item = self._prepare(index, self.raster(index, window))
        if self.flip and torch.rand((), generator=generator) < 1 / 2:
            item["image"] = item["image"].flip(-1)
            item["valid"] = item["valid"].flip(-1)
        return item

    def raster(self, index: int, window: Window | None = None) -> Raster:
        """Read reflectance on the model's grid, bands by name; see `__getitem__`.

        Args:
            index: of the sample.
            window: pixels of the grid of the model's bands; None is the whole sample.
        """
        size = self.preprocessing.image_size
        num_bytes = len(self.preprocessing.bands) * size**2 * _BYTES_PER_PIXEL
        if window is None and self._keep(index, num_bytes, lambda: self._read(index)):
            return self._kept[index]
        return self._read(index, window)

    def _read(self, index: int, window: Window | None = None) -> Raster:
        sample, size = self.sample_set.samples[index], self.preprocessing.image_size
        if window is None and sample.window is not None:
            window = self._part(index)[1]
        bands = self._bands(sample.item)
        return read_raster(sample.item, bands, window=window, out_size=(size, size))

    def _prepare(self, index: int, raster: Raster) -> dict[str, Tensor]:
        images, valid = self.preprocessing.prepare(raster)
        return {
            "image": torch.from_numpy(images),
            "valid": torch.from_numpy(valid),
            "target": self._targets[index],
        }


def _draw_window(whole: Window, side: int, generator: torch.Generator) -> Window:
    """Choose a square crop at random, cut to the part where that is smaller."""
    height, width = min(side, whole.height), min(side, whole.width)
    row, column = (
        int(torch.randint(free + 1, (), generator=generator))
        for free in (whole.height - height, whole.width - width)
    )
    return Window(whole.row + row, whole.column + column, height, width)


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
        check_range("at least 1", self, "tries", section="augmentation.")

    def draw_scale(self, generator: torch.Generator) -> float:
        """Draw the side that a crop covers, relative to the model's image."""
        if self.scale_low == self.scale_high:
            return self.scale_low
        share = float(torch.rand((), generator=generator))
        return self.scale_low + (self.scale_high - self.scale_low) * share


@dataclass(frozen=True)
class Patch:
    """A window of a sample at its own pixel size.

    Args:
        rasters: one per date, of the same size.
        target: (H, W) class indices, or numbers; see `DenseDataset`.
    """

    rasters: tuple[Raster, ...]
    target: NDArray[Any]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(H, W) whether a pixel has a label or a number."""
        return _is_labelled(self.target)

    def cut(self, row: int, column: int, height: int, width: int) -> "Patch":
        """Return a part of it, without a georeference.

        Args:
            row: first row of the part.
            column: its first column.
            height: its rows.
            width: its columns.
        """
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
        padded = np.pad(self.target, missing, constant_values=_no_label(self.target))
        return Patch(rasters, padded)


def _no_label(target: NDArray[Any]) -> float:
    """Return what stands for no label: `IGNORE`, or NaN among numbers."""
    return np.nan if target.dtype.kind == "f" else IGNORE


def _is_labelled(target: NDArray[Any]) -> NDArray[np.bool_]:
    labelled: NDArray[np.bool_] = np.isfinite(target) & (target != _no_label(target))
    return labelled


_SampleWindow = tuple[int, Window, int, int]
"""One window of the grid that covers a sample: number of the sample, pixels of the grid
of the model's bands, and how many of its first rows and columns an earlier window
covers already."""


class DenseDataset(_SampleDataset[Patch]):
    """Windows of images with class indices: plain when indexed, augmented when drawn.

    For regression, numbers stand in place of class indices, and NaN of `IGNORE`.

    Every labelled pixel of every sample stands in the target of exactly one indexed
    window: where the last window of a row overlaps the one before, its target is
    `IGNORE`. The same holds where the mask states no class, and where no band of the
    image is valid at one of the dates. Pixels that lack only some bands keep their
    label, as a map gives them a class too.

    Images smaller than the model's are never enlarged. They are padded with invalid
    pixels, below and to the right, to a multiple of the patch.

    Args:
        sample_set: the samples, of one split or all.
        preprocessing: that of the checkpoint: bands, unit, scaling, image size, patch.
        augmentation: what `draw` does beside cropping; None draws the windows of the
            grid as they are.
        pad: `shared` pads all windows to one square that the largest sample needs, at
            most the model's image, so that any of them form a batch; `patch` pads each
            no more than it needs, so that shapes differ (see `shape`).
        memory_mb: whole samples kept in memory once read, up to this many megabytes;
            for sets that are gone through several times.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        preprocessing: Preprocessing,
        augmentation: DenseAugmentationConfig | None = None,
        pad: Literal["shared", "patch"] = "shared",
        memory_mb: float = 0.0,
    ) -> None:
        super().__init__(sample_set, preprocessing, memory_mb)
        self.augmentation = augmentation
        self.pad = pad

    def __len__(self) -> int:
        """Return the number of windows that cover all samples."""
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one window of the grid.

        Returns:
            `image` (C, H, W) or, for change detection, (2, C, H, W) float32; `valid`,
            the same in bool; `target` (H, W) int64, or float32 for regression.

        Raises:
            BandError: the sample lacks a band of the model; it is named.
            RasterError: a file cannot be read.
            DataError: the mask holds an unknown code, or a number out of range.
        """
        number, window, seen_rows, seen_columns = self.windows[index]
        patch = self._read(number, window)
        target = patch.target.copy()
        target[:seen_rows] = _no_label(target)
        target[:, :seen_columns] = _no_label(target)
        return self._prepare(Patch(patch.rasters, target), self.shape(index))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a random crop of the sample that window `index` belongs to.

        A sample is drawn from as often as it has windows, and so by its size.

        Args:
            index: as for indexing.
            generator: all randomness comes from it.

        Returns:
            See `__getitem__`.
        """
        if self.augmentation is None:
            return self[index]
        number = self.windows[index][0]
        size = self.preprocessing.image_size
        side = max(1, round(size * self.augmentation.draw_scale(generator)))
        # A crop that shows no label is drawn again, a few times.
        part = self._part(number)[1]
        for _ in range(self.augmentation.tries):
            window = _draw_window(part, side, generator)
            is_whole = (window.height, window.width) == (part.height, part.width)
            if is_whole or _is_labelled(self._read_target(number, window)).any():
                break
        patch = self._read(number, window)
        if side != size:
            height, width = (
                max(1, min(size, round(length * size / side)))
                for length in (window.height, window.width)
            )
            patch = patch.scaled(height, width)
        shape = self._padded(*patch.target.shape) if side != size else self.shape(index)
        return _turn(self._prepare(patch, shape), self.augmentation, generator)

    def patch(self, number: int) -> Patch:
        """Return a whole sample at its own pixel size, with class indices."""
        return self._read(number, self._part(number)[1])

    def shape(self, index: int) -> tuple[int, int]:
        """(H, W) of the images of a window, whether indexed or drawn without scale."""
        window = self.windows[index][1]
        return self._padded(window.height, window.width)

    @cached_property
    def windows(self) -> tuple[_SampleWindow, ...]:
        """The windows in order, with the number of their sample.

        The last one of a row or column is moved back to end with the image, so that it
        sees what is really there; it says how far it overlaps the one before.
        """
        size, found = self.preprocessing.image_size, []
        for number in range(len(self.sample_set.samples)):
            whole = self._part(number)[1]
            for row, height, seen_rows in _cover_axis(whole.row, whole.height, size):
                for column, width, seen in _cover_axis(whole.column, whole.width, size):
                    window = Window(row, column, height, width)
                    found.append((number, window, seen_rows, seen))
        return tuple(found)

    @cached_property
    def shared_side(self) -> int:
        """Side that all windows are padded to with `pad` shared, px."""
        size = self.preprocessing.image_size
        if self.augmentation is not None and self.augmentation.scale_low < 1:
            return size
        parts = [
            self._part(number)[1] for number in range(len(self.sample_set.samples))
        ]
        largest = max(max(part.height, part.width) for part in parts)
        return _padded_side(largest, self.preprocessing.patch_size, size)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        if self.pad == "shared":
            return self.shared_side, self.shared_side
        size, patch = self.preprocessing.image_size, self.preprocessing.patch_size
        return _padded_side(height, patch, size), _padded_side(width, patch, size)

    def _read_target(self, number: int, window: Window) -> NDArray[Any]:
        grid, part = self._part(number)
        if number in self._kept:
            return _inside(self._kept[number], part, window).target
        return read_target(
            self.sample_set, self.sample_set.samples[number], grid, window
        )

    def _read(self, number: int, window: Window) -> Patch:
        """Read a window at its own pixel size, from memory if it is kept there."""
        part = self._part(number)[1]
        dates = len(self.sample_set.samples[number].items)
        each = len(self.preprocessing.bands) * dates * _BYTES_PER_PIXEL
        num_bytes = part.height * part.width * (each + _BYTES_PER_LABEL)
        if not self._keep(number, num_bytes, lambda: self._read_files(number, part)):
            return self._read_files(number, window)
        return _inside(self._kept[number], part, window)

    def _read_files(self, number: int, window: Window) -> Patch:
        found = self.sample_set.samples[number]
        rasters = tuple(
            read_raster(item, self._bands(item), window) for item in found.items
        )
        target = read_target(self.sample_set, found, self._part(number)[0], window)
        for raster in rasters:
            target[~raster.valid.any(axis=0)] = _no_label(target)
        return Patch(rasters, target)

    def _prepare(self, patch: Patch, shape: tuple[int, int]) -> dict[str, Tensor]:
        patch = patch.padded(*shape)
        dates = [self._prepare_date(raster) for raster in patch.rasters]
        images, valid = (np.stack(parts) for parts in zip(*dates, strict=True))
        if self.sample_set.task != CHANGE:
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


def _padded_side(length: int, patch_size: int, most: int) -> int:
    """Return the next multiple of the patch, at most the model's image size."""
    return min(most, -(-length // patch_size) * patch_size)


def _cover_axis(start: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield first pixel, length and overlap of the windows along one axis."""
    if length <= size:
        yield start, length, 0
        return
    for at in range(0, length, size):
        moved = min(at, length - size)
        yield start + moved, size, at - moved


def _turn(
    sample: dict[str, Tensor],
    augmentation: DenseAugmentationConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Flip and turn all tensors of an item, (..., H, W), in the same way."""
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
