"""Splitting data sets: one engine for labels of images and of pixels.

Places, or images where none are stated, stay whole; so do blocks on the ground.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import check_range
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.identity import find_copies
from spectralgpt.data.masks import count_samples
from spectralgpt.data.overlaps import count_overlaps, footprint_of
from spectralgpt.data.samples import SPLITS, Sample, SampleSet
from spectralgpt.data.splits import (
    Fractions,
    Held,
    refuse_untaught,
    report_missing,
    spread_classes,
)
from spectralgpt.errors import ConfigError, DataError, require
from spectralgpt.rasters import Stated
from spectralgpt.rasters.footprints import EARTH_RADIUS_M, centre_lonlat

logger = logging.getLogger(__name__)

_SHOWN = 5
_SHOWN_COPIES = 3
_FEWEST_FOLDS = 3  # One to test, one to choose weights by, one to learn from.


@dataclass(frozen=True)
class SampleSetConfig(Stated):
    """Where labelled data are, what is stated of their images, and how they are split.

    Args:
        root: folder of the data set.
        split: `given` by the archive, `stratified` (whole places at random, with like
            shares of the classes), `blocks` (by position on the ground, so that
            neighbours stay together), `folds` (one fold of the places is test, the next
            val), or `auto` (given if there is one, else stratified).
        fractions: shares of train, val and test, for splits that are not given.
        block_m: side of a block of split `blocks`, m.
        gap_m: least distance between images of different splits of `blocks`, centre to
            centre, m; of train, and then of val, those that are nearer are left out.
        num_folds: folds of split `folds`; null makes each place a fold.
        fold: number of the fold that is test, from 0.
        split_seed: seed of the split.
        train_fraction: share of the training places that is used, 0..1; of each class
            at least one. Smaller shares lie inside larger ones.

    Raises:
        ConfigError: a value makes no sense.
    """

    root: str
    split: Literal["auto", "given", "stratified", "blocks", "folds"] = "auto"
    fractions: Fractions = field(default_factory=Fractions)
    block_m: float = 10_000.0
    gap_m: float = 0.0
    num_folds: int | None = None
    fold: int = 0
    split_seed: int = 0
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check what can be seen without the data."""
        super().__post_init__()
        check_range("above 0 and at most 1", self, "train_fraction", section="data.")
        check_range("at least 0", self, "fold", section="data.")

    def image_format(self, assumed: Stated | None = None) -> ImageFormat:
        """Return what is stated about the images."""
        return ImageFormat(**self.facts).assuming(assumed or Stated())


def divide(samples: SampleSet, config: SampleSetConfig, seed: int) -> SampleSet:
    """Split as configured and keep the configured share of train.

    Classes that a split lacks, and images of one split that show ground of another, are
    reported.

    Args:
        samples: with the splits that the archive states.
        config: how to split.
        seed: of the split and of the choice of what is kept of train.

    Raises:
        DataError: the images cannot be split that way, or train would learn nothing of
            a class.
        ConfigError: options of the split make no sense.
    """
    given = {sample.split for sample in samples.samples}
    is_new = config.split == "auto" and given == {""}
    how = "stratified" if is_new else config.split
    if how not in ("auto", "given"):
        divided = _assign(samples, how, config, seed)
    elif "" in given:
        without = sum(sample.split == "" for sample in samples.samples)
        raise DataError(
            f"{samples.source}: {without} of {len(samples.samples)} images have no "
            "split. Give all of them one, or set data.split to stratified, blocks or "
            "folds."
        )
    else:
        divided = samples if "val" in given else _val_from_train(samples, config, seed)
    if divided.has_labels:
        report_missing(
            [sample.split for sample in divided.samples],
            [sample.labels for sample in divided.samples],
            divided.class_names,
            divided.source,
        )
    _report_overlaps(divided.samples, divided.source)
    return _keep_fraction(divided, config.train_fraction, seed)


def _report_overlaps(samples: Sequence[Sample], source: str) -> None:
    """Report where images of one split show ground of another.

    Only georeferences count: names of places may be the same in two splits by chance.
    Images without one are compared by their pixels, which finds copies but no partial
    overlap.
    """
    images = [
        (sample.split, "", footprint_of(sample.item, sample.window))
        for sample in samples
    ]
    counts = count_overlaps(images, partly=True)
    shared = [f"{pair}: {count}" for pair, count in counts.items() if count]
    if shared:
        logger.warning(
            "%s: images show ground of other splits (%s), so that scores tell what was "
            "seen in training. Set data.split blocks with data.gap_m as large as an "
            "image, or state places.",
            source,
            ", ".join(shared),
        )
    unplaced = [
        sample
        for sample, (_, _, area) in zip(samples, images, strict=True)
        if area is None
        if not any(file.is_stated for file in sample.item.files.values())
    ]
    _report_copies(unplaced, source)


def _report_copies(samples: Sequence[Sample], source: str) -> None:
    """Report which images lie in two splits at once, by whatever names."""
    by_split = {name: [c for c in samples if c.split == name] for name in SPLITS}
    for number, split in enumerate(SPLITS[:-1]):
        later = [sample for name in SPLITS[number + 1 :] for sample in by_split[name]]
        copies = find_copies(later, by_split[split]) if by_split[split] else []
        if copies:
            some = (f"{name} is {other}" for name, other in copies[:_SHOWN_COPIES])
            logger.warning(
                "%s: %d images of other splits have the pixels of images of %s (%s), "
                "so that scores tell what was seen in training. Remove the copies.",
                source,
                len(copies),
                split,
                ", ".join(some),
            )


def _assign(
    samples: SampleSet, how: str, config: SampleSetConfig, seed: int
) -> SampleSet:
    """Split into units, and these as asked; samples in gaps are left out."""
    counts = np.array(count_samples(samples))
    units = [[number] for number in range(len(samples.samples))]
    if how != "blocks":
        units = _units(samples)
        counts = np.array([counts[unit].sum(axis=0) for unit in units])
    held = [frozenset(np.flatnonzero(row).tolist()) for row in counts]
    if how == "blocks":
        splits = _split_blocks(samples, held, config, seed)
    elif how == "folds":
        splits = _split_folds(samples, len(units), config, seed)
    else:
        splits = _split_stratified(samples, counts, held, config.fractions, seed)
    if how != "folds":
        # Classes that only lie in a gap are missed, too.
        refuse_untaught(
            splits, held, samples.class_names, samples.source, config.fractions
        )
    if not samples.has_labels:
        report_missing(splits, held, samples.class_names, samples.source)
    split_of = {
        number: split
        for unit, split in zip(units, splits, strict=True)
        for number in unit
    }
    chosen = (
        replace(sample, split=split_of[number])
        for number, sample in enumerate(samples.samples)
        if split_of[number]
    )
    return replace(samples, samples=tuple(chosen))


def _units(samples: SampleSet) -> list[list[int]]:
    """Put samples of one place together, by number.

    Their order, with the seed, decides the split: it must stay what it always was.
    """
    units: dict[str, list[int]] = {}
    for number, sample in enumerate(samples.samples):
        units.setdefault(sample.ground, []).append(number)
    names = list(units) if samples.has_labels else sorted(units)
    return [units[name] for name in names]


def _split_stratified(
    samples: SampleSet,
    counts: NDArray[np.int64],
    held: Sequence[Held],
    fractions: Fractions,
    seed: int,
) -> list[str]:
    """Split units at random, with the classes in like shares.

    Every split with a share gets at least one unit of each class that has enough of
    them, and train gets one in any case.
    """
    wanted = fractions.wanted
    if len(held) < len(wanted):
        raise DataError(
            f"{samples.source} has {len(held)} places, too few for the splits "
            f"{', '.join(wanted)}: parts of one image stay together. Set data.split to "
            "blocks (and data.tile_px, for few large images), or change data.fractions."
        )
    rng = np.random.default_rng(seed)
    dealt = (
        _deal_by_class(held, fractions, rng)
        if samples.has_labels
        else _deal_by_share(counts, fractions, rng)
    )
    return spread_classes(dealt, held, wanted)


def _deal_by_class(
    held: Sequence[Held], fractions: Fractions, rng: np.random.Generator
) -> list[str]:
    """Deal units out with the others of the rarest of their classes."""
    dealt = [""] * len(held)
    for members in _strata(held):
        order = rng.permutation(members)
        bounds = np.cumsum(_group_sizes(len(order), fractions))
        for rank, unit in enumerate(order):
            dealt[unit] = SPLITS[int(np.searchsorted(bounds, rank, side="right"))]
    return dealt


def _strata(held: Sequence[Held]) -> list[list[int]]:
    """Put units together by the rarest of their classes; those without any too."""
    frequency = Counter(label for labels in held for label in labels)
    strata: dict[int, list[int]] = {}
    for number, labels in enumerate(held):
        rarest = min(labels, key=lambda label: (frequency[label], label), default=-1)
        strata.setdefault(rarest, []).append(number)
    return [members for _, members in sorted(strata.items())]


def _group_sizes(count: int, fractions: Fractions) -> list[int]:
    """Number of units of one class for train, val and test."""
    wanted = fractions.wanted
    at_least = 1 if count >= len(wanted) else 0
    sizes = {
        split: max(at_least, round(count * fractions.of(split)))
        for split in wanted
        if split != "train"
    }
    if "train" in wanted:
        # Shares are rounded; what train lacks of its least comes from the largest.
        least = min(count, 1)
        while sizes and count - sum(sizes.values()) < least:
            sizes[max(sizes, key=lambda split: sizes[split])] -= 1
    return [count - sum(sizes.values()), sizes.get("val", 0), sizes.get("test", 0)]


def _deal_by_share(
    counts: NDArray[np.int64], fractions: Fractions, rng: np.random.Generator
) -> list[str]:
    """Deal units out in the order of their share of the class that is rarest overall.

    Each run of neighbours in that order goes to all splits, each at its own pace.
    `counts` (units, K) are pixels of each class.
    """
    wanted = fractions.wanted
    count = len(counts)
    total = counts.sum(axis=0)
    rarest = int(np.argmin(np.where(total > 0, total, np.inf)))
    shares = counts[:, rarest] / np.maximum(1, counts.sum(axis=1))
    # Equal shares, such as none at all, come in random order.
    order = np.lexsort((rng.permutation(count), shares))
    left = {name: max(1, round(fractions.of(name) * count)) for name in wanted}
    left[wanted[0]] += count - sum(left.values())
    quota = dict(left)
    run = math.ceil(1 / min(fractions.of(name) for name in wanted))
    dealt = [""] * count
    for start in range(0, count, run):
        for unit in rng.permutation(order[start : start + run]):
            name = max(wanted, key=lambda name: left[name] / quota[name])
            dealt[unit] = name
            left[name] -= 1
    return dealt


def _split_folds(
    samples: SampleSet, num_units: int, config: SampleSetConfig, seed: int
) -> list[str]:
    """Name one fold of the units test, the next one val, and the others train."""
    count = num_units if config.num_folds is None else config.num_folds
    if not _FEWEST_FOLDS <= count <= num_units or config.fold >= count:
        raise ConfigError(
            f"{samples.source} has {num_units} places: data.num_folds must be in "
            f"{_FEWEST_FOLDS}..{num_units} and data.fold below it (found: {count} "
            f"and {config.fold})."
        )
    order = list(range(num_units))
    if config.num_folds is not None:
        np.random.default_rng(seed).shuffle(order)
    named = {config.fold: "test", (config.fold + 1) % count: "val"}
    dealt = [""] * num_units
    for rank, unit in enumerate(order):
        dealt[unit] = named.get(rank % count, "train")
    return dealt


def _val_from_train(
    samples: SampleSet, config: SampleSetConfig, seed: int
) -> SampleSet:
    """Take a val split out of train, so that test never chooses a checkpoint."""
    share = config.fractions.val
    logger.warning(
        "%s has no val split: %.0f %% of train is held out as val.",
        samples.source,
        share * 100,
    )
    shares = replace(config, fractions=Fractions(1 - share, share, 0))
    divided = _assign(samples.select("train"), "stratified", shares, seed)
    rest = tuple(sample for sample in samples.samples if sample.split != "train")
    return replace(samples, samples=divided.samples + rest)


def _keep_fraction(samples: SampleSet, fraction: float, seed: int) -> SampleSet:
    """Keep a share of the places of train, and of each class one place at the least.

    Places with labels are kept of each class alike. Smaller shares lie inside larger
    ones.
    """
    if fraction == 1.0:
        return samples
    train = samples.select("train")
    units = _units(train)
    counts = np.array(count_samples(train))
    held = [frozenset(np.flatnonzero(counts[u].any(axis=0)).tolist()) for u in units]
    strata = _strata(held) if samples.has_labels else [range(len(units))]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.array(units)).tolist() for units in strata]
    needed = _cover([unit for order in orders for unit in order], held)
    chosen = set(needed)
    for order in orders:
        count = len(order) - round(len(order) * (1 - fraction))
        chosen |= set(sorted(order, key=lambda unit: unit not in needed)[:count])
    kept = {train.samples[units[number][0]].ground for number in chosen}
    return replace(
        samples,
        samples=tuple(
            sample
            for sample in samples.samples
            if sample.split != "train" or sample.ground in kept
        ),
    )


def _cover(order: Sequence[int], held: Sequence[Held]) -> set[int]:
    """Choose units that show all classes: of each class the first, rare ones before."""
    counts = Counter(index for unit in order for index in held[unit])
    seen: set[int] = set()
    chosen = set()
    for index in sorted(counts, key=lambda index: (counts[index], index)):
        if index not in seen:
            unit = next(unit for unit in order if index in held[unit])
            chosen.add(unit)
            seen |= set(held[unit])
    return chosen


def _split_blocks(
    samples: SampleSet, held: Sequence[Held], config: SampleSetConfig, seed: int
) -> list[str]:
    """Split samples by square blocks on the ground, so that neighbours stay together.

    Blocks are square cells of rows of latitude. They are dealt out in the order of a
    hash, each to the split that lacks most; "" is what lies in a gap between splits.
    """
    centres = _sample_centres(samples.samples)
    # Rows of latitude, cut into columns, number the square blocks.
    longitude, latitude = np.radians(centres).T
    row = np.floor(EARTH_RADIUS_M * latitude / config.block_m)
    middle = (row + 1 / 2) * config.block_m / EARTH_RADIUS_M
    column = np.floor(EARTH_RADIUS_M * longitude * np.cos(middle) / config.block_m)
    cells = [(int(r), int(c)) for r, c in zip(row, column, strict=True)]
    sizes = Counter(cells)
    shares = {name: config.fractions.of(name) for name in SPLITS}
    wanted = {name: share * len(cells) for name, share in shares.items() if share > 0}
    if len(sizes) < len(wanted):
        raise DataError(
            f"{samples.source} covers {len(sizes)} blocks of {config.block_m:g} m, too "
            f"few for the {len(wanted)} splits {', '.join(wanted)}. Make data.block_m "
            "smaller."
        )
    assigned: dict[tuple[int, int], str] = {}
    for rank, cell in enumerate(sorted(sizes, key=lambda cell: _hash(seed, cell))):
        # The first blocks go one to each split, so that none stays empty.
        names = list(wanted)
        split = (
            names[rank]
            if rank < len(names)
            else max(names, key=lambda name: wanted[name])
        )
        assigned[cell] = split
        wanted[split] -= sizes[cell]
    shown: dict[tuple[int, int], set[int]] = {cell: set() for cell in assigned}
    for cell, classes in zip(cells, held, strict=True):
        shown[cell].update(classes)
    dealt = spread_classes(
        list(assigned.values()), list(shown.values()), config.fractions.wanted
    )
    assigned = dict(zip(assigned, dealt, strict=True))
    splits = [assigned[cell] for cell in cells]
    return _leave_gaps(centres, splits, config.gap_m) if config.gap_m > 0 else splits


def _sample_centres(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Longitude and latitude of centres, degrees, (N, 2)."""
    found = [(each.name, centre_lonlat(each.item.grid(), each.window))
             for each in samples]  # fmt: skip
    missing = [name for name, centre in found if centre is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(found)} images have no coordinates "
            f"({', '.join(missing[:_SHOWN])}). A split by blocks needs them; use "
            "data.split 'stratified'."
        )
    return np.array([centre for _, centre in found], dtype=np.float64)


def _leave_gaps(
    lonlat: NDArray[np.float64], splits: Sequence[str], gap_m: float
) -> list[str]:
    """Give up places of train too near to one of val or test, and of val to test.

    Returns the splits of places (N, 2), longitude and latitude; "" is left out.
    """
    require("sklearn")
    from sklearn.neighbors import NearestNeighbors

    # Haversine distance takes (latitude, longitude) in radians.
    places = np.radians(lonlat[:, ::-1])
    named = np.array(splits)
    keep = np.ones(len(named), dtype=bool)
    for split, others in (("train", ("val", "test")), ("val", ("test",))):
        mine, theirs = named == split, np.isin(named, others)
        if mine.any() and theirs.any():
            tree = NearestNeighbors(n_neighbors=1, metric="haversine")
            angle, _ = tree.fit(places[theirs]).kneighbors(places[mine])
            keep[mine] = angle[:, 0] * EARTH_RADIUS_M >= gap_m
    return np.where(keep, named, "").tolist()


def _hash(seed: int, cell: tuple[int, int]) -> str:
    return hashlib.sha256(f"{seed}:{cell[0]}:{cell[1]}".encode()).hexdigest()
