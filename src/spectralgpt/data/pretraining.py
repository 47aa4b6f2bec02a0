"""Unlabelled training samples: crops of images, or of series of dates of a place.

Each crop is read as a window at the size the model takes; whole files are never read.
What is drawn depends on nothing but the index and the generator that are passed, so
that runs can be resumed and spread over any number of workers.

Several data sets may take part in one run, with other sensors, band counts and image
sizes. Each keeps its own contract; their samples share one row of indices, so that a
sampler need not know what it draws from. Which indices make a batch is its business.
"""

import bisect
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from spectralgpt.data.crops import (
    Crop,
    CropConfig,
    check_token_budget,
    draw_bands,
    find_parts,
    own_bands,
)
from spectralgpt.data.series import Series, items_of
from spectralgpt.data.sources import refuse_if_bad
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, OpenFiles, Raster, RasterFile, read_raster
from spectralgpt.sensors import Band

_LOG = logging.getLogger(__name__)
_DRAWS = 32
"""Crops tried for one sample before giving up: most of what is there is unusable."""
_DRAWS_IN_ITEM = 4
"""Crops tried in one image before another is taken."""
_SHIFT_PX = 0.5
"""Dates whose pixels lie further apart do not show the same ground."""


class PretrainingDataset(Dataset[dict[str, Any]]):
    """Crops of unlabelled images, or of T dates of one place, cut and turned alike.

    In training, images take part in proportion to their size, in base windows (see
    `CropConfig`), times their weight; each index stands for one base window, and each
    draw cuts a random crop from its image. In validation, each index is a fixed crop
    without augmentation.

    A large image is split by holding out a strip of it, small ones by holding out whole
    places (see `find_parts`). An image that cannot be read is left out, counted, and
    reported once.

    Of series, each index stands for a window of one date of a place. In training T
    usable dates of that place are drawn without replacement, in validation those from
    that date on, round the series; they come sorted by date. A date is usable if its
    crop can be read and has few enough invalid pixels. Each is scaled for itself.

    Of images with more band groups than the token budget allows, each batch takes some
    (see `spectralgpt.data.crops`).

    Args:
        images: as `spectralgpt.data.sources.find_items` gives them, or `find_series`;
            all series of one data set have samples of the same number of dates.
        preprocessing: bands, scaling and image size.
        split: `train` or `val`; a place belongs to one, or its strips do.
        crops: how crops are cut.
        max_bad_share: largest share of images that may turn out bad, 0..1.
        allow_missing: take images that lack some of the bands; those are invalid.
        token_budget: most tokens of one sample, all dates together; None for no limit.
        memory_mb: most memory in MiB for small files that are kept decoded; each
            process that reads has its own.
        band_subsets: share of training batches that take a random part of the bands.

    Raises:
        ConfigError: unknown split, the budget holds no band group, or series of
            different numbers of dates.
        DataError: too many images lack bands, or no image is left in the split.
    """

    def __init__(
        self,
        images: Sequence[RasterFile] | Sequence[Series],
        preprocessing: Preprocessing,
        split: str = "train",
        crops: CropConfig | None = None,
        max_bad_share: float = 0.1,
        allow_missing: bool = False,
        token_budget: int | None = None,
        memory_mb: float = 0.0,
        band_subsets: float = 0.0,
    ) -> None:
        if split not in ("train", "val"):
            raise ConfigError(f"split must be train or val, found '{split}'.")
        self.items = items_of(images)
        self.num_dates = _num_dates(images)
        self.preprocessing = preprocessing
        self.split = split
        self.crops = crops or CropConfig()
        self.max_bad_share = max_bad_share
        self.allow_missing = allow_missing
        if token_budget is not None:
            token_budget //= self.num_dates or 1
        self._groups = check_token_budget(token_budget, preprocessing)
        self._band_subsets = band_subsets if split == "train" else 0.0
        self._memory_mb = memory_mb
        self._files = OpenFiles(memory_mb=memory_mb)
        self._process = os.getpid()
        # Of each item its series, and the number of that one's first item.
        self._series: list[tuple[Series, int]] = []
        for one in images:
            if isinstance(one, Series):
                self._series += [(one, len(self._series))] * len(one.items)
        self.parts, self.bad = find_parts(
            self.items, preprocessing, split, self.crops, allow_missing
        )
        self._check_parts()
        self._fixed: list[Crop] = []
        if split == "train":
            base = self.crops.base_side(preprocessing.image_size)
            self._owners = _share_indices(self.parts, self.items, base)
        else:
            size = preprocessing.image_size
            cut = [part.grid(size) for part in self.parts]
            self._fixed = [crop for crops_of_part in cut for crop in crops_of_part]
            self._owners = [number for number, some in enumerate(cut) for _ in some]

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
        """Band groups of one image of a sample."""
        contract = self.preprocessing
        return self._groups or -(-len(contract.bands) // contract.bands_per_token)

    def item_of(self, index: int) -> RasterFile:
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
            `images` (C, S, S) float32 scaled, `valid` (C, S, S) bool, `bands` (C, 3)
            float32, see `Preprocessing.band_rows`, `gsd_m`, the side of a pixel on the
            ground in metres, and `item`, the index in `items` of the image that the
            crop was taken from. Of series, `images` and `valid` are (T, C, S, S), and
            `days` (T,) float32 count since 1 January 1970 (NaN if unknown, or where
            dates are padded).

        Raises:
            DataError: too many images are bad, or none has a usable crop.
        """
        contract = self.contract_of(batch_seed)
        for attempt in range(_DRAWS):
            crop = self.choose_crop(index, attempt, generator)
            dates = self._read_dates(crop, contract, generator)
            if len(dates) >= self._fewest_of(crop):
                return self._arrange(crop, contract, dates)
        few = f": too few usable dates of {self.num_dates}" if self._series else ""
        raise DataError(
            f"{_DRAWS} crops in turn hold more than the share of "
            f"{self.crops.max_invalid_share:g} invalid pixels, cannot be read, or lie "
            f"apart{few}. Check nodata and the images, or allow a larger share or "
            "fewer dates."
        )

    def contract_of(self, batch_seed: int) -> Preprocessing:
        """Return the contract of one batch: all bands, or the cubes that it takes."""
        contract = self.preprocessing
        if self._groups is None and not self._band_subsets:
            return contract
        chosen = draw_bands(
            contract.bands,
            contract.bands_per_token,
            self._groups,
            batch_seed,
            self._band_subsets,
        )
        return replace(contract, bands=chosen)

    def choose_crop(self, index: int, attempt: int, generator: torch.Generator) -> Crop:
        """Take the crop for a draw; on retries the next, or one of another image.

        Args:
            index: 0 .. len - 1.
            attempt: how often this draw was tried before, from 0.
            generator: on the CPU; validation draws nothing from it.
        """
        if self.split == "val":
            return self._fixed[(index + attempt) % len(self._fixed)]
        if attempt and attempt % _DRAWS_IN_ITEM == 0:
            index = int(torch.randint(len(self), (), generator=generator))
        part, size = self.parts[self._owners[index]], self.preprocessing.image_size
        return part.draw(size, self.crops, generator)

    def _fewest_of(self, crop: Crop) -> int:
        """Fewest usable dates of a sample."""
        return self._series[crop.item][0].rule.fewest if self._series else 1

    def _read_dates(
        self, crop: Crop, contract: Preprocessing, generator: torch.Generator
    ) -> list[tuple[float, Raster]]:
        """Read up to T usable dates of a crop's place, sorted, with their days."""
        days: tuple[float, ...] = (math.nan,)
        first, order = crop.item, [0]
        if self._series:
            series, first = self._series[crop.item]
            days, count = series.days, len(series.items)
            if self.split == "train":
                order = torch.randperm(count, generator=generator).tolist()
            else:
                order = [(crop.item - first + step) % count for step in range(count)]
        chosen: dict[int, Raster] = {}
        for date in order:
            if self._series and not self._lies_on(first, first + date, contract):
                continue
            raster = self._read_crop(replace(crop, item=first + date), contract)
            if raster is not None:
                chosen[date] = raster
            if len(chosen) == self.num_dates:
                break
        return [(days[date], chosen[date]) for date in sorted(chosen)]

    def _read_crop(self, crop: Crop, contract: Preprocessing) -> Raster | None:
        """Read a crop at the model's size; None if it has too few valid pixels.

        Also None if it cannot be read, which is counted and reported.
        """
        if self._process != os.getpid():
            # Handles copied by a fork share their position in the file.
            self._files = OpenFiles(memory_mb=self._memory_mb)
            self._process = os.getpid()
        item = self.items[crop.item]
        try:
            bands = own_bands(item, contract.bands, self.allow_missing)
            if not bands:
                return None
            found = list(bands.values())
            raster = read_raster(
                item,
                [*found, *_finer(item, found, self._all_of(crop.item))],
                crop.window,
                contract.image_size,
                self._files,
            )
        except SpectralGPTError as error:
            self._set_aside(crop.item, error)
            return None
        count = len(found)
        raster = replace(
            raster,
            pixels=raster.pixels[:count],
            valid=raster.valid[:count],
            bands=raster.bands[:count],
        )
        invalid = 1 - np.count_nonzero(raster.valid) / raster.valid.size
        return raster if invalid <= self.crops.max_invalid_share else None

    def _all_of(self, item: int) -> list[Band]:
        """Bands of an image, whichever a batch takes of them."""
        bands = self.preprocessing.bands
        return list(own_bands(self.items[item], bands, self.allow_missing).values())

    def _lies_on(self, first: int, other: int, contract: Preprocessing) -> bool:
        """Whether a date's pixels lie on those of its place's first date."""
        one, two = self.items[first], self.items[other]
        try:
            grids = [
                item.grid(
                    list(own_bands(item, contract.bands, self.allow_missing).values())
                )
                for item in (one, two)
            ]
            _check_together(two.name, *grids)
        except SpectralGPTError as error:
            self._set_aside(other, error)
            return False
        return True

    def _arrange(
        self, crop: Crop, contract: Preprocessing, dates: list[tuple[float, Raster]]
    ) -> dict[str, Any]:
        """Scale what was read, each date for itself, and turn it."""
        size = contract.image_size
        prepared = [
            contract.prepare(raster, self.allow_missing, is_checked=True)
            for _, raster in dates
        ]
        images, valid = prepared[0]
        sample: dict[str, Any] = {}
        if self.num_dates is not None:
            shape = (self.num_dates, len(contract.bands), size, size)
            images, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
            days = [math.nan] * self.num_dates
            for at, (day, _) in enumerate(dates):
                images[at], valid[at] = prepared[at]
                days[at] = day
            sample["days"] = torch.tensor(days, dtype=torch.float32)
        flipped = ((-1, crop.flip_columns), (-2, crop.flip_rows))
        axes = [axis for axis, is_flipped in flipped if is_flipped]
        bands = self._all_of(crop.item)
        finest = min(band.gsd_m for band in bands)
        side = math.sqrt(crop.window.height * crop.window.width)
        turned = [torch.from_numpy(each).flip(axes) for each in (images, valid)]
        if crop.is_transposed:
            turned = [each.mT.contiguous() for each in turned]
        # Single precision, because not every accelerator takes double.
        return sample | {
            "images": turned[0],
            "valid": turned[1],
            "bands": torch.tensor(contract.band_rows),
            "gsd_m": torch.tensor(finest * side / size, dtype=torch.float32),
            "item": crop.item,
        }

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


def _share_indices(
    parts: Sequence[Crop], items: Sequence[RasterFile], base_side: float
) -> list[int]:
    """Give each index the number of a part, in proportion to its size and weight.

    A window of `base_side` px counts as one.
    """
    weights = [items[part.item].weight for part in parts]
    areas = [part.window.height * part.window.width / base_side**2 for part in parts]
    sizes = np.array(
        [w * max(1.0, area) for w, area in zip(weights, areas, strict=True)]
    )
    # The least weight counts as one, so that no image falls between two indices.
    sizes /= min(weights)
    edges = np.cumsum(sizes)
    length = max(len(sizes), math.floor(edges[-1]))
    positions = (np.arange(length) + 0.5) * edges[-1] / length
    return [int(owner) for owner in np.searchsorted(edges, positions)]


def _finer(
    item: RasterFile, bands: Sequence[Band], every: Sequence[Band]
) -> list[Band]:
    """Return the finest band of an image if it is finer than those of a batch.

    Windows are pixels of it, whichever bands are drawn.
    """

    def area(band: Band) -> float:
        return item.files[band.name].grid.pixel_area

    finest = min(every, key=area)
    return [finest] if area(finest) < min(map(area, bands)) else []


def _num_dates(images: Sequence[RasterFile] | Sequence[Series]) -> int | None:
    """Return the dates T of a sample, None of single images."""
    counts = sorted({one.rule.dates for one in images if isinstance(one, Series)})
    if len(counts) > 1:
        raise ConfigError(
            f"series of {' and '.join(map(str, counts))} dates cannot make one data "
            "set. Give their descriptions the same number, or mix several data sets."
        )
    return counts[0] if counts else None


def _check_together(name: str, first: Grid, other: Grid) -> None:
    """Refuse a date whose pixels do not lie on those of its place's first date."""
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


class MixedDataset(Dataset[dict[str, Any]]):
    """Data sets one after the other; `dataset` in a sample says which it is from.

    Args:
        datasets: by their names in metrics and reports; the first is the primary one.
        weights: how often each is drawn, relative to each other; None draws all alike.
        numbers: which of the run's data sets each is; None counts them.

    Raises:
        ConfigError: there is none.
    """

    def __init__(
        self,
        datasets: Mapping[str, PretrainingDataset],
        weights: Sequence[float] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        if not datasets:
            raise ConfigError("a mixture needs at least one data set.")
        self.names, self.datasets = tuple(datasets), tuple(datasets.values())
        self.weights = tuple(weights or (1.0 for _ in datasets))
        self._numbers = tuple(numbers or range(len(datasets)))
        self._ends = list(accumulate(self.sizes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of indices of each data set."""
        return tuple(map(len, self.datasets))

    def __len__(self) -> int:
        """Count the indices of all data sets."""
        return self._ends[-1]

    def place_of(self, index: int) -> tuple[int, int]:
        """Return which data set an index belongs to, and which of its indices it is."""
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number] - self.sizes[number]
        return number, index - first

    def item_of(self, index: int) -> RasterFile:
        """The image an index belongs to."""
        number, inner = self.place_of(index)
        return self.datasets[number].item_of(inner)

    def contract_of(self, index: int, batch_seed: int = 0) -> Preprocessing:
        """The contract of an index's sample in a batch."""
        number, _ = self.place_of(index)
        return self.datasets[number].contract_of(batch_seed)

    def draw(
        self, index: int, generator: torch.Generator, batch_seed: int = 0
    ) -> dict[str, Any]:
        """Give one sample; see `PretrainingDataset.draw`.

        Returns:
            The sample, with `dataset`, the number of the data set that it is from.
        """
        place, inner = self.place_of(index)
        sample = self.datasets[place].draw(inner, generator, batch_seed)
        return {**sample, "dataset": self._numbers[place]}
