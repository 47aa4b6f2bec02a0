"""Samples as a model takes them: one item of a batch at a time, read when asked for.

Pixels are prepared exactly as the checkpoint's `Preprocessing` says. `LabelledDataset`
is for labels of images, `spectralgpt.data.dense.DenseDataset` for masks.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spectralgpt.data.crops import part_on
from spectralgpt.data.samples import SampleSet
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, Raster, RasterFile, Window, read_raster
from spectralgpt.sensors import Band

BYTES_PER_PIXEL = 5
"""float32 reflectance and a byte of validity."""
_MEGABYTE = 2**20
Kept = TypeVar("Kept")


class SampleDataset(Dataset[dict[str, Tensor]], Generic[Kept]):
    """What data sets of labels and of masks share: bands, parts, and what is kept.

    Args:
        sample_set: the samples, of one split or all.
        preprocessing: that of the checkpoint: bands, unit, scaling, image size.
        memory_mb: whole samples kept in memory once read, up to this many megabytes;
            for sets that are gone through several times.
    """

    def __init__(
        self, sample_set: SampleSet, preprocessing: Preprocessing, memory_mb: float
    ) -> None:
        self.sample_set = sample_set
        self.preprocessing = preprocessing
        self.memory_mb = memory_mb
        self._kept: dict[int, Kept] = {}
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

    def _keep(self, number: int, num_bytes: int, read: Callable[[], Kept]) -> bool:
        """Tell whether a whole sample is kept, once there was room to read it."""
        if number not in self._kept:
            needed_mb = num_bytes / _MEGABYTE
            if self._kept_mb + needed_mb > self.memory_mb:
                return False
            self._kept[number] = read()
            self._kept_mb += needed_mb
        return True


class LabelledDataset(SampleDataset[Raster]):
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
        """Return an item with a random crop and flip from `generator`."""
        window = None
        if self.crop_scale is not None:
            whole = self._part(index)[1]
            low, high = self.crop_scale
            share = low + (high - low) * float(torch.rand((), generator=generator))
            side = round(float(np.sqrt(share * whole.height * whole.width)))
            side = max(1, min(side, whole.height, whole.width))
            window = draw_window(whole, side, generator)
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
        num_bytes = len(self.preprocessing.bands) * size**2 * BYTES_PER_PIXEL
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


def draw_window(whole: Window, side: int, generator: torch.Generator) -> Window:
    """Choose a square crop at random, cut to the part where that is smaller."""
    height, width = min(side, whole.height), min(side, whole.width)
    row, column = (
        int(torch.randint(free + 1, (), generator=generator))
        for free in (whole.height - height, whole.width - width)
    )
    return Window(whole.row + row, whole.column + column, height, width)
