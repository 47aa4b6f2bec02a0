"""Splits into train, val and test: one engine for labels of images and of pixels.

What is split are units that stay whole: the places, or images where none are stated,
or blocks on the ground. The classes that each unit holds decide where it goes.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.masks import count_samples
from spectralgpt.data.overlaps import report_overlaps
from spectralgpt.data.samples import SPLITS, Sample, SampleSet
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import Stated, list_folder
from spectralgpt.rasters.footprints import EARTH_RADIUS_M, centre_lonlat

__all__ = [
    "Fractions",
    "SampleSetConfig",
    "divide",
    "refuse_untaught",
    "sample_centres",
    "split_folders",
    "split_named",
    "spread_classes",
    "wanted_splits",
]

logger = logging.getLogger(__name__)

_SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "testing": "test",
}
"""What people call the splits."""
_SHOWN = 5
_FEWEST_FOLDS = 3  # One to test, one to choose weights by, one to learn from.
Held = Collection[int]
"""The classes that something shows, by index."""


@dataclass(frozen=True)
class Fractions:
    """Shares of the chips in each split.

    Args:
        train: share to learn from.
        val: share to choose the checkpoint and hyper-parameters by.
        test: share that is scored once.
    """

    train: float = 0.6
    val: float = 0.2
    test: float = 0.2

    def __post_init__(self) -> None:
        """Check that the shares are shares."""
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or not np.isclose(sum(shares), 1.0):
            raise ConfigError(
                f"Split fractions must be >= 0 and sum to 1 (found: train {self.train},"
                f" val {self.val}, test {self.test})."
            )

    def of(self, split: str) -> float:
        """Return the share of the split of that name."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def split_named(text: str) -> str | None:
    """Return the split that a folder or a table means, such as `val` by Validation."""
    return _SPLIT_NAMES.get(text.strip().lower())


def split_folders(parent: Path) -> dict[str, Path]:
    """Return the folders that are named as splits, by split; there may be none.

    Raises:
        DataError: two folders mean one split.
    """
    found: dict[str, Path] = {}
    for folder in list_folder(parent) if parent.is_dir() else []:
        split = split_named(folder.name) if folder.is_dir() else None
        if split in found:
            raise DataError(
                f"{parent} has two folders for split {split}: {found[split].name} and "
                f"{folder.name}. Put them together, or move one away."
            )
        if split is not None:
            found[split] = folder
    return {split: found[split] for split in SPLITS if split in found}


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
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(
                f"data.train_fraction must be in (0, 1] (found: {self.train_fraction})."
            )
        if self.fold < 0:
            raise ConfigError(f"data.fold must be at least 0: {self.fold}.")

    def image_format(self, assumed: Stated | None = None) -> ImageFormat:
        """Return what is stated about the images."""
        return ImageFormat(**self.facts).assuming(assumed or Stated())


def divide(samples: SampleSet, config: SampleSetConfig, seed: int) -> SampleSet:
    """Split as configured and keep the configured share of train.

    Classes that a split lacks, and images of one split that show ground of another, are
    said aloud.

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
        _report_missing(
            [sample.split for sample in divided.samples],
            [sample.labels for sample in divided.samples],
            divided,
        )
    report_overlaps(divided.samples, divided.source)
    return _keep_fraction(divided, config.train_fraction, seed)


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
        _report_missing(splits, held, samples)
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
    wanted = wanted_splits(fractions)
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
    wanted = wanted_splits(fractions)
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

    Args:
        counts: (units, K) pixels of each class.
        fractions: wanted shares.
        rng: draws.
    """
    wanted = wanted_splits(fractions)
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
    chosen = _keep_share(strata, held, fraction, np.random.default_rng(seed))
    kept = {train.samples[units[number][0]].ground for number in chosen}
    return replace(
        samples,
        samples=tuple(
            sample
            for sample in samples.samples
            if sample.split != "train" or sample.ground in kept
        ),
    )


def wanted_splits(fractions: Fractions) -> list[str]:
    """Return the splits that get a share."""
    return [name for name in SPLITS if fractions.of(name) > 0]


def spread_classes(
    splits: Sequence[str], held: Sequence[Held], wanted: Sequence[str]
) -> list[str]:
    """Move units between splits so that each split shows each class, as far as can be.

    Rare classes come first, and train before val and test: a class that one unit alone
    shows is learned. Nothing moves where nothing is missing.

    Args:
        splits: of the units; units stay whole.
        held: the classes that each unit shows.
        wanted: the splits, train first.

    Returns:
        The splits of the units; none of them is left empty.
    """
    dealt = list(splits)
    holders: dict[int, list[int]] = {}
    for unit, classes in enumerate(held):
        for index in classes:
            holders.setdefault(index, []).append(unit)
    for index in sorted(holders, key=lambda index: (len(holders[index]), index)):
        for split in wanted:
            if all(dealt[unit] != split for unit in holders[index]):
                _bring(split, holders[index], dealt, held)
    return dealt


def _bring(
    split: str, units: Sequence[int], dealt: list[str], held: Sequence[Held]
) -> None:
    """Bring one of these units to a split, alone or against one of the split's own."""
    sizes = Counter(dealt)
    shown = {name: Counter[int]() for name in sizes}
    for name, classes in zip(dealt, held, strict=True):
        shown[name].update(classes)

    def losses(leaving: int, coming: Held = ()) -> int:
        """Count the classes that the split of a unit would show no more."""
        counts = shown[dealt[leaving]]
        return sum(counts[c] == 1 and c not in coming for c in held[leaving])

    def may_give(unit: int, coming: Held = ()) -> bool:
        # A class that is to be learned is taken even from the only split that has it.
        return split == SPLITS[0] or losses(unit, coming) == 0

    ranked = sorted(units, key=lambda unit: (losses(unit), -sizes[dealt[unit]]))
    for unit in ranked:
        if sizes[dealt[unit]] > 1 and may_give(unit):
            dealt[unit] = split
            return
    own = [unit for unit, name in enumerate(dealt) if name == split]
    for unit in ranked:
        for back in own:
            if not losses(back, held[unit]) and may_give(unit, held[back]):
                dealt[unit], dealt[back] = split, dealt[unit]
                return


def _keep_share(
    strata: Sequence[Sequence[int]],
    held: Sequence[Held],
    fraction: float,
    rng: np.random.Generator,
) -> set[int]:
    """Choose a share of each stratum, and one unit of each class at the least.

    Smaller shares lie inside larger ones of the same generator.

    Args:
        strata: units, by number.
        held: the classes that each unit shows.
        fraction: share that is kept, 0..1.
        rng: draws the units.
    """
    orders = [rng.permutation(np.array(units)).tolist() for units in strata]
    needed = _cover([unit for order in orders for unit in order], held)
    kept = set(needed)
    for order in orders:
        count = len(order) - round(len(order) * (1 - fraction))
        kept |= set(sorted(order, key=lambda unit: unit not in needed)[:count])
    return kept


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


def _lacking(
    split: str, splits: Sequence[str], held: Sequence[Held], names: Sequence[str]
) -> list[str]:
    """Name the classes that others show and a split does not."""
    shown = {c for own, h in zip(splits, held, strict=True) if own == split for c in h}
    every = set().union(*held)
    return [names[index] for index in sorted(every - shown)]


def _report_missing(
    splits: Sequence[str], held: Sequence[Held], samples: SampleSet
) -> None:
    """Say aloud which classes a split lacks that others show.

    Args:
        splits: of samples or units; "" for those that are left out.
        held: the classes that each of them shows.
        samples: the set, for messages.
    """
    for split in [name for name in SPLITS if name in splits]:
        lacking = _lacking(split, splits, held, samples.class_names)
        if lacking:
            logger.warning(
                "%s: split %s shows nothing of %s, which other splits do.",
                samples.source,
                split,
                ", ".join(lacking),
            )


def refuse_untaught(
    splits: Sequence[str],
    held: Sequence[Held],
    names: Sequence[str],
    source: str,
    fractions: Fractions,
) -> None:
    """Refuse an automatic split that leaves train nothing of a class.

    Args:
        splits: of chips or units; "" for those that are left out.
        held: the classes that each of them shows.
        names: of the classes.
        source: what is split, for messages.
        fractions: wanted shares; without one for train nothing is refused.

    Raises:
        DataError: names the classes.
    """
    lacking = _lacking(SPLITS[0], splits, held, names)
    if lacking and fractions.train > 0:
        raise DataError(
            f"{source}: too little shows {', '.join(lacking)}, so that this split "
            "leaves train nothing of it. Add images of it, leave the class out, or "
            "change data.split, data.fractions, data.block_m or data.gap_m."
        )


def _split_blocks(
    samples: SampleSet, held: Sequence[Held], config: SampleSetConfig, seed: int
) -> list[str]:
    """Split samples by square blocks on the ground, so that neighbours stay together.

    Blocks are square cells of rows of latitude. They are dealt out in the order of a
    hash, each to the split that lacks most; "" is what lies in a gap between splits.
    """
    centres = sample_centres(samples.samples)
    cells = _cells(centres, config.block_m)
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
        list(assigned.values()),
        list(shown.values()),
        wanted_splits(config.fractions),
    )
    assigned = dict(zip(assigned, dealt, strict=True))
    splits = [assigned[cell] for cell in cells]
    return _leave_gaps(centres, splits, config.gap_m) if config.gap_m > 0 else splits


def sample_centres(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Longitude and latitude of centres, degrees, (N, 2).

    Raises:
        DataError: samples without coordinates; the first few are named.
    """
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

    Args:
        lonlat: (N, 2) longitude and latitude, degrees.
        splits: N splits.
        gap_m: least distance that remains.

    Returns:
        The splits, "" for what is left out.
    """
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


def _cells(lonlat: np.ndarray, block_m: float) -> list[tuple[int, int]]:
    """Number the square block of each place: rows of latitude, cut into columns."""
    longitude, latitude = np.radians(lonlat).T
    row = np.floor(EARTH_RADIUS_M * latitude / block_m)
    middle = (row + 1 / 2) * block_m / EARTH_RADIUS_M
    column = np.floor(EARTH_RADIUS_M * longitude * np.cos(middle) / block_m)
    return [(int(r), int(c)) for r, c in zip(row, column, strict=True)]


def _hash(seed: int, cell: tuple[int, int]) -> str:
    return hashlib.sha256(f"{seed}:{cell[0]}:{cell[1]}".encode()).hexdigest()
