"""Unlabelled training samples: crops of images, flipped and scaled.

Each crop is read as a window at the size the model takes; whole files are never read.
What is drawn depends on nothing but the index and the generator that are passed, so
that runs can be resumed and spread over any number of workers.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from spectralgpt.data.crops import Crop, CropConfig, draw_crop, grid_crops, split_region
from spectralgpt.data.sources import refuse_if_bad
from spectralgpt.errors import BandError, ConfigError, DataError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import OpenFiles, Raster, RasterItem, Window, read_raster
from spectralgpt.sensors import Band

__all__ = ["PretrainingDataset"]

_LOG = logging.getLogger(__name__)
_DRAWS = 32
"""Crops tried for one sample before giving up: most of what is there is unusable."""
_DRAWS_IN_ITEM = 4
"""Crops tried in one image before another is taken."""


@dataclass(frozen=True)
class _Part:
    """The part of an image that belongs to the split."""

    item: int
    region: Window
    bands: tuple[Band, ...]


class PretrainingDataset(Dataset[dict[str, Any]]):
    """Crops of unlabelled images.

    In training, images take part in proportion to their size, in base windows (see
    `CropConfig`), times their weight; each index stands for one base window, and each
    draw cuts a random crop from its image. In validation, each index is a fixed crop
    without augmentation.

    A large image is split by holding out a strip of it, small ones by holding out whole
    places (see `split_region`). An image that cannot be read is left out, counted, and
    reported once.

    Args:
        items: images, as `spectralgpt.data.sources.find_items` gives them.
        preprocessing: bands, scaling and image size.
        split: `train` or `val`.
        crops: how crops are cut.
        max_bad_share: largest share of images that may turn out bad, 0..1.

    Raises:
        ConfigError: unknown split.
        DataError: too many images lack bands, or no image is left in the split.
    """

    def __init__(
        self,
        items: Sequence[RasterItem],
        preprocessing: Preprocessing,
        split: str = "train",
        crops: CropConfig | None = None,
        max_bad_share: float = 0.1,
    ) -> None:
        if split not in ("train", "val"):
            raise ConfigError(f"split must be train or val, found '{split}'.")
        self.items = tuple(items)
        self.preprocessing = preprocessing
        self.split = split
        self.crops = crops or CropConfig()
        self.max_bad_share = max_bad_share
        self.bad: dict[int, str] = {}
        self._files = OpenFiles()
        self._process = os.getpid()
        self._parts = self._find_parts()
        if split == "train":
            self._owners = self._share_indices()
            self._fixed: list[Crop] = []
        else:
            self._fixed, self._owners = self._fix_crops()

    def __len__(self) -> int:
        """Number of base windows in training, of fixed crops in validation."""
        return len(self._owners)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw with a generator that the index alone seeds."""
        return self.draw(index, torch.Generator().manual_seed(index))

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: another process opens its own."""
        return self.__dict__ | {"_files": OpenFiles()}

    def item_of(self, index: int) -> RasterItem:
        """The image an index belongs to."""
        return self.items[self._parts[self._owners[index]].item]

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Give one sample; all that is random in it comes from `generator`.

        Args:
            index: 0 .. len - 1.
            generator: on the CPU.

        Returns:
            `images` (C, S, S) float32 scaled, `valid` (C, S, S) bool, and `item`, the
            index in `items` of the image that the crop was taken from.

        Raises:
            DataError: too many images are bad, or none has a usable crop.
        """
        for attempt in range(_DRAWS):
            crop = self._choose(index, attempt, generator)
            raster = self._read(crop)
            if raster is None or not self._is_usable(raster):
                continue
            images, valid = self.preprocessing.prepare(raster)
            if crop.flip_columns:
                images, valid = images[..., ::-1], valid[..., ::-1]
            if crop.flip_rows:
                images, valid = images[:, ::-1], valid[:, ::-1]
            return {
                "images": torch.from_numpy(np.ascontiguousarray(images)),
                "valid": torch.from_numpy(np.ascontiguousarray(valid)),
                "item": crop.item,
            }
        raise DataError(
            f"{_DRAWS} crops in turn hold more than the share of "
            f"{self.crops.max_invalid_share:g} invalid pixels, or cannot be read. "
            "Check nodata and the images, or allow a larger share."
        )

    def _choose(self, index: int, attempt: int, generator: torch.Generator) -> Crop:
        """Take the crop for a draw; on retries the next, or one of another image."""
        if self.split == "val":
            return self._fixed[(index + attempt) % len(self._fixed)]
        if attempt and attempt % _DRAWS_IN_ITEM == 0:
            index = int(torch.randint(len(self), (), generator=generator))
        part = self._parts[self._owners[index]]
        size = self.preprocessing.image_size
        return draw_crop(part.item, part.region, size, self.crops, generator)

    def _read(self, crop: Crop) -> Raster | None:
        if self._process != os.getpid():
            # Handles copied by a fork share their position in the file.
            self._files, self._process = OpenFiles(), os.getpid()
        item = self.items[crop.item]
        size = self.preprocessing.image_size
        try:
            bands = _match(item, self.preprocessing)
            return read_raster(item, bands, crop.window, size, self._files)
        except SpectralGPTError as error:
            self._set_aside(crop.item, error)
            return None

    def _set_aside(self, item: int, error: SpectralGPTError) -> None:
        """Count an image that is bad on reading; each process counts its own."""
        if item in self.bad:
            return
        self.bad[item] = str(error)
        summary = f"{len(self.bad)} of {len(self.items)} images are bad: {error}"
        if len(self.bad) > self.max_bad_share * len(self.items):
            raise DataError(
                f"{summary} More than the share of {self.max_bad_share:g} that may be."
            )
        _LOG.warning("%s", summary)

    def _is_usable(self, raster: Raster) -> bool:
        invalid = 1 - float(raster.valid.mean())
        return invalid <= self.crops.max_invalid_share

    def _find_parts(self) -> list[_Part]:
        parts = []
        least = self.preprocessing.patch_size
        for number, item in enumerate(self.items):
            try:
                bands = _match(item, self.preprocessing)
                height, width = item.shape(bands)
                if min(height, width) < least:
                    raise DataError(
                        f"{item.name} has {height} x {width} px, smaller than a token "
                        f"of {least} px. Leave it out."
                    )
            except SpectralGPTError as error:
                self.bad[number] = str(error)
                continue
            region = split_region(
                item,
                height,
                width,
                self.preprocessing.image_size,
                self.split,
                self.crops,
            )
            if region is not None:
                parts.append(_Part(number, region, bands))
        refuse_if_bad(
            "pretraining images",
            list(self.bad.values()),
            len(self.items),
            self.max_bad_share,
        )
        if not parts:
            raise DataError(
                f"no image is left in the {self.split} split of {len(self.items)}. "
                "Add images, or change val_share or holdout."
            )
        return parts

    def _share_indices(self) -> list[int]:
        """Give each index a part, in proportion to its size and weight."""
        base = self.crops.base_side(self.preprocessing.image_size)
        sizes = np.array(
            [
                self.items[part.item].weight
                * max(1.0, part.region.height * part.region.width / base**2)
                for part in self._parts
            ]
        )
        # The least weight counts as one, so that no image falls between two indices.
        sizes /= min(self.items[part.item].weight for part in self._parts)
        edges = np.cumsum(sizes)
        length = max(len(sizes), math.floor(edges[-1]))
        positions = (np.arange(length) + 0.5) * edges[-1] / length
        return [int(owner) for owner in np.searchsorted(edges, positions)]

    def _fix_crops(self) -> tuple[list[Crop], list[int]]:
        fixed, owners = [], []
        for number, part in enumerate(self._parts):
            size = self.preprocessing.image_size
            for crop in grid_crops(part.item, part.region, size):
                fixed.append(crop)
                owners.append(number)
        return fixed, owners


def _match(item: RasterItem, preprocessing: Preprocessing) -> tuple[Band, ...]:
    """Return the image's own bands that the contract asks for, in its order."""
    found = item.bands
    try:
        return tuple(found[i] for i in preprocessing.match(found))
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from None
