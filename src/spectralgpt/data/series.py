"""Series: several dates of one place, cut by the same window and turned alike.

Crops, splits and reading are those of single images; which images are the dates of one
place is found by `spectralgpt.data.places`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from spectralgpt.data.crops import Crop, CropConfig
from spectralgpt.data.parts import own_bands
from spectralgpt.data.places import Series
from spectralgpt.data.pretraining import PretrainingDataset, ground_distance
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, Raster, RasterItem

__all__ = ["SeriesDataset"]

_DRAWS = 32
"""Crops tried for one sample before giving up."""
_SHIFT_PX = 0.5
"""Dates whose pixels lie further apart do not show the same ground."""


class SeriesDataset(Dataset[dict[str, Any]]):
    """Crops of series: T dates of one place, cut by one window and turned alike.

    Each index stands for a window of one date of a place, as in `PretrainingDataset`.
    In training T usable dates of that place are drawn without replacement, in
    validation those from that date on, round the series; they come sorted by date. A
    date is usable if its crop can be read and has few enough invalid pixels. Each date
    is scaled as an image by itself.

    Args:
        series: as `find_series` gives them; those of one data set have samples of the
            same number of dates.
        preprocessing: bands, scaling and image size.
        split: `train` or `val`; a place belongs to one, or its strips do.
        crops: how crops are cut.
        max_bad_share: largest share of images that may turn out bad, 0..1.
        allow_missing: take images that lack some of the bands; those are invalid.
        token_budget: most tokens of one sample, all dates together; None for no limit.
        memory_mb: see `PretrainingDataset`.

    Raises:
        ConfigError: unknown split, the budget holds no band group, or series of
            different numbers of dates.
        DataError: too many images lack bands, or no place is left in the split.
    """

    def __init__(
        self,
        series: Sequence[Series],
        preprocessing: Preprocessing,
        split: str = "train",
        crops: CropConfig | None = None,
        max_bad_share: float = 0.1,
        allow_missing: bool = False,
        token_budget: int | None = None,
        memory_mb: float = 0.0,
    ) -> None:
        self.series = tuple(series)
        self.num_dates = _num_dates(self.series)
        self.preprocessing = preprocessing
        # All dates as single images: where crops lie, and how they are read.
        self.images = PretrainingDataset(
            [item for one in series for item in one.items],
            preprocessing,
            split,
            crops,
            max_bad_share,
            allow_missing,
            None if token_budget is None else token_budget // self.num_dates,
            memory_mb,
        )
        self._owners = [n for n, one in enumerate(series) for _ in one.items]
        counts = [len(one.items) for one in series]
        self._first = [sum(counts[:number]) for number in range(len(counts))]

    @property
    def items(self) -> tuple[RasterItem, ...]:
        """All dates of all places."""
        return self.images.items

    @property
    def groups(self) -> int:
        """Band groups of one date of a sample."""
        return self.images.groups

    def __len__(self) -> int:
        """Number of windows, over all dates of all places."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw with a generator that the index alone seeds."""
        return self.draw(index, torch.Generator().manual_seed(index))

    def item_of(self, index: int) -> RasterItem:
        """The image an index stands for."""
        return self.images.item_of(index)

    def contract_of(self, batch_seed: int) -> Preprocessing:
        """Return the contract of one batch; see `PretrainingDataset.contract_of`."""
        return self.images.contract_of(batch_seed)

    def draw(
        self, index: int, generator: torch.Generator, batch_seed: int = 0
    ) -> dict[str, Any]:
        """Give one sample; all that is random in it comes from the arguments.

        Args:
            index: 0 .. len - 1.
            generator: on the CPU.
            batch_seed: chooses the spectral cubes, the same for a batch.

        Returns:
            `images` (T, C, S, S) float32 scaled, `valid` (T, C, S, S) bool, `days`
            (T,) float32 since 1 January 1970 (NaN if unknown, or where `at_least`
            dates are padded), and the rest as `PretrainingDataset.draw`.

        Raises:
            DataError: too many images are bad, or no place has enough usable dates.
        """
        contract = self.contract_of(batch_seed)
        for attempt in range(_DRAWS):
            crop = self.images.choose_crop(index, attempt, generator)
            dates = self._read_dates(crop, contract, generator)
            if len(dates) >= self._series_of(crop).rule.fewest:
                return self._arrange(crop, contract, dates)
        raise DataError(
            f"{_DRAWS} crops in turn have too few usable dates of {self.num_dates}: "
            "they cannot be read, lie apart, or hold more than the share of "
            f"{self.images.crops.max_invalid_share:g} invalid pixels. Ask for fewer "
            "dates, or allow a larger share."
        )

    def _series_of(self, crop: Crop) -> Series:
        return self.series[self._owners[crop.item]]

    def _read_dates(
        self, crop: Crop, contract: Preprocessing, generator: torch.Generator
    ) -> list[tuple[float, Raster]]:
        """Read up to T usable dates of a crop's place, sorted by date."""
        one, first = self._series_of(crop), self._first[self._owners[crop.item]]
        count = len(one.items)
        if self.images.split == "train":
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order = [(crop.item - first + step) % count for step in range(count)]
        chosen: dict[int, Raster] = {}
        for date in order:
            if not self._lies_on(first, first + date, contract):
                continue
            raster = self.images.read_crop(replace(crop, item=first + date), contract)
            if raster is None or not self.images.is_usable(raster):
                continue
            chosen[date] = raster
            if len(chosen) == self.num_dates:
                break
        return [(one.days[date], chosen[date]) for date in sorted(chosen)]

    def _lies_on(self, first: int, other: int, contract: Preprocessing) -> bool:
        """Whether a date's pixels lie on those of its place's first date."""
        one, two = (self.images.items[item] for item in (first, other))
        missing = self.images.allow_missing
        try:
            grids = [
                item.grid(own_bands(item, contract, missing)) for item in (one, two)
            ]
            _check_together(two.name, *grids)
        except SpectralGPTError as error:
            self.images.set_aside(other, error)
            return False
        return True

    def _arrange(
        self, crop: Crop, contract: Preprocessing, dates: list[tuple[float, Raster]]
    ) -> dict[str, Any]:
        size = contract.image_size
        shape = (self.num_dates, len(contract.bands), size, size)
        images, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        days = [math.nan] * self.num_dates
        for at, (day, raster) in enumerate(dates):
            prepared = contract.prepare(
                raster, self.images.allow_missing, is_checked=True
            )
            images[at], valid[at] = prepared
            days[at] = day
        flipped = [crop.flip_rows, crop.flip_columns]
        axes = [axis for axis, flip in zip((-2, -1), flipped, strict=True) if flip]
        return {
            "images": torch.from_numpy(images).flip(axes),
            "valid": torch.from_numpy(valid).flip(axes),
            "days": torch.tensor(days, dtype=torch.float32),
            "wavelengths_nm": torch.tensor(contract.wavelengths_nm),
            "gsd_m": ground_distance(crop, dates[0][1], size),
            "item": crop.item,
        }


def _num_dates(series: Sequence[Series]) -> int:
    counts = sorted({one.rule.dates for one in series})
    if not counts:
        raise DataError("no series to draw samples from.")
    if len(counts) > 1:
        raise ConfigError(
            f"series of {' and '.join(map(str, counts))} dates cannot make one data "
            "set. Give their descriptions the same number, or mix several data sets."
        )
    return counts[0]


def _check_together(name: str, first: Grid, other: Grid) -> None:
    """Refuse a date whose pixels do not lie on those of its place's first date.

    Raises:
        RasterError: it differs in size or reference system, or is shifted.
    """
    apart = math.inf
    if (first.height, first.width) == (other.height, other.width):
        apart = max(
            abs(scale * place + shift - place)
            for (scale, shift), size in zip(
                first.map_to(other), (first.height, first.width), strict=True
            )
            for place in (0, size)
        )
    if apart > _SHIFT_PX:
        raise RasterError(
            f"{name} does not lie on the first date of its place: {other.height} x "
            f"{other.width} px against {first.height} x {first.width}, up to "
            f"{apart:.1f} px apart. Resample it, or correct 'place'."
        )
