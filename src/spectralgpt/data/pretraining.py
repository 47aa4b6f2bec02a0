"""Unlabelled training samples: crops of images, flipped and scaled.

Each crop is read as a window at the size the model takes; whole files are never read.
What is drawn depends on nothing but the index and the generator that are passed, so
that runs can be resumed and spread over any number of workers.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spectralgpt.data.crops import Crop, CropConfig, draw_crop, grid_crops
from spectralgpt.data.cubes import check_token_budget, draw_bands
from spectralgpt.data.parts import find_parts, own_bands, share_indices
from spectralgpt.data.sources import refuse_if_bad
from spectralgpt.errors import ConfigError, DataError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import OpenFiles, Raster, RasterItem, read_raster

__all__ = ["PretrainingDataset", "ground_distance"]

_LOG = logging.getLogger(__name__)
_DRAWS = 32
"""Crops tried for one sample before giving up: most of what is there is unusable."""
_DRAWS_IN_ITEM = 4
"""Crops tried in one image before another is taken."""


class PretrainingDataset(Dataset[dict[str, Any]]):
    """Crops of unlabelled images.

    In training, images take part in proportion to their size, in base windows (see
    `CropConfig`), times their weight; each index stands for one base window, and each
    draw cuts a random crop from its image. In validation, each index is a fixed crop
    without augmentation.

    A large image is split by holding out a strip of it, small ones by holding out whole
    places (see `split_region`). An image that cannot be read is left out, counted, and
    reported once.

    Of images with more band groups than the token budget allows, each batch takes some
    (see `spectralgpt.data.cubes`).

    Args:
        items: images, as `spectralgpt.data.sources.find_items` gives them.
        preprocessing: bands, scaling and image size.
        split: `train` or `val`.
        crops: how crops are cut.
        max_bad_share: largest share of images that may turn out bad, 0..1.
        allow_missing: take images that lack some of the bands; those are invalid.
        token_budget: most tokens of one sample; None for no limit.
        memory_mb: most memory in MiB for small files that are kept decoded; each
            process that reads has its own.

    Raises:
        ConfigError: unknown split, or the budget holds no band group.
        DataError: too many images lack bands, or no image is left in the split.
    """

    def __init__(
        self,
        items: Sequence[RasterItem],
        preprocessing: Preprocessing,
        split: str = "train",
        crops: CropConfig | None = None,
        max_bad_share: float = 0.1,
        allow_missing: bool = False,
        token_budget: int | None = None,
        memory_mb: float = 0.0,
    ) -> None:
        if split not in ("train", "val"):
            raise ConfigError(f"split must be train or val, found '{split}'.")
        self.items = tuple(items)
        self.preprocessing = preprocessing
        self.split = split
        self.crops = crops or CropConfig()
        self.max_bad_share = max_bad_share
        self.allow_missing = allow_missing
        self._groups = check_token_budget(token_budget, preprocessing)
        self._memory_mb = memory_mb
        self._files = OpenFiles(memory_mb=memory_mb)
        self._process = os.getpid()
        self.parts, self.bad = find_parts(
            self.items, preprocessing, split, self.crops, allow_missing
        )
        self._check_parts()
        if split == "train":
            base = self.crops.base_side(preprocessing.image_size)
            self._owners = share_indices(self.parts, self.items, base)
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
        return self.__dict__ | {"_files": OpenFiles(memory_mb=self._memory_mb)}

    @property
    def groups(self) -> int:
        """Band groups of one sample."""
        contract = self.preprocessing
        return self._groups or -(-len(contract.bands) // contract.bands_per_token)

    def item_of(self, index: int) -> RasterItem:
        """The image an index belongs to."""
        return self.items[self.parts[self._owners[index]].item]

    def draw(
        self, index: int, generator: torch.Generator, batch_seed: int = 0
    ) -> dict[str, Any]:
        """Give one sample; all that is random in it comes from the arguments.

        Args:
            index: 0 .. len - 1.
            generator: on the CPU.
            batch_seed: chooses the spectral cubes, the same for a batch.

        Returns:
            `images` (C, S, S) float32 scaled, `valid` (C, S, S) bool, `wavelengths_nm`
            (C,) float32, `gsd_m`, the side of a pixel on the ground in metres, and
            `item`, the index in `items` of the image that the crop was taken from.

        Raises:
            DataError: too many images are bad, or none has a usable crop.
        """
        contract = self.contract_of(batch_seed)
        for attempt in range(_DRAWS):
            crop = self.choose_crop(index, attempt, generator)
            raster = self.read_crop(crop, contract)
            if raster is None or not self.is_usable(raster):
                continue
            images, valid = contract.prepare(
                raster, self.allow_missing, is_checked=True
            )
            flipped = ((-1, crop.flip_columns), (-2, crop.flip_rows))
            axes = [axis for axis, is_flipped in flipped if is_flipped]
            return {
                "images": torch.from_numpy(images).flip(axes),
                "valid": torch.from_numpy(valid).flip(axes),
                "wavelengths_nm": torch.tensor(contract.wavelengths_nm),
                "gsd_m": ground_distance(crop, raster, contract.image_size),
                "item": crop.item,
            }
        raise DataError(
            f"{_DRAWS} crops in turn hold more than the share of "
            f"{self.crops.max_invalid_share:g} invalid pixels, or cannot be read. "
            "Check nodata and the images, or allow a larger share."
        )

    def contract_of(self, batch_seed: int) -> Preprocessing:
        """Return the contract of one batch: all bands, or the cubes that it takes."""
        contract = self.preprocessing
        if self._groups is None:
            return contract
        chosen = draw_bands(
            contract.bands, contract.bands_per_token, self._groups, batch_seed
        )
        return replace(contract, bands=chosen)

    def choose_crop(self, index: int, attempt: int, generator: torch.Generator) -> Crop:
        """Take the crop for a draw; on retries the next, or one of another image."""
        if self.split == "val":
            return self._fixed[(index + attempt) % len(self._fixed)]
        if attempt and attempt % _DRAWS_IN_ITEM == 0:
            index = int(torch.randint(len(self), (), generator=generator))
        part = self.parts[self._owners[index]]
        size = self.preprocessing.image_size
        return draw_crop(part.item, part.region, size, self.crops, generator)

    def read_crop(self, crop: Crop, contract: Preprocessing) -> Raster | None:
        """Read a crop at the model's size; None, counted and reported, if it is bad."""
        if self._process != os.getpid():
            # Handles copied by a fork share their position in the file.
            self._files = OpenFiles(memory_mb=self._memory_mb)
            self._process = os.getpid()
        item = self.items[crop.item]
        try:
            bands = own_bands(item, contract, self.allow_missing)
            if not bands:
                return None
            return read_raster(
                item, bands, crop.window, contract.image_size, self._files
            )
        except SpectralGPTError as error:
            self.set_aside(crop.item, error)
            return None

    def set_aside(self, item: int, error: SpectralGPTError) -> None:
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

    def is_usable(self, raster: Raster) -> bool:
        """Whether a crop has few enough invalid pixels."""
        invalid = 1 - np.count_nonzero(raster.valid) / raster.valid.size
        return bool(invalid <= self.crops.max_invalid_share)

    def _check_parts(self) -> None:
        refuse_if_bad(
            "pretraining images",
            list(self.bad.values()),
            len(self.items),
            self.max_bad_share,
        )
        if not self.parts:
            raise DataError(
                f"no image is left in the {self.split} split of {len(self.items)}. "
                "Add images, or change val_share or holdout."
            )

    def _fix_crops(self) -> tuple[list[Crop], list[int]]:
        fixed, owners = [], []
        for number, part in enumerate(self.parts):
            size = self.preprocessing.image_size
            for crop in grid_crops(part.item, part.region, size):
                fixed.append(crop)
                owners.append(number)
        return fixed, owners


def ground_distance(crop: Crop, raster: Raster, size: int) -> Tensor:
    """Return the side of a pixel of the sample on the ground, m.

    A crop is read on the grid of its finest band, and then brought to the model's size.
    """
    finest = min(band.gsd_m for band in raster.bands)
    side = math.sqrt(crop.window.height * crop.window.width)
    # Single precision, because not every accelerator takes double.
    return torch.tensor(finest * side / size, dtype=torch.float32)
