"""Splits into train, val and test: their shares, their classes, blocks on the ground.

What is split are chips of any kind, or units of them that stay together, such as the
tiles of an image; `chips` and `dense` say which.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import RasterItem, Window, list_folder
from spectralgpt.rasters.footprints import EARTH_RADIUS_M, centre_lonlat

__all__ = [
    "SPLITS",
    "Fractions",
    "Located",
    "assign_blocks",
    "chip_centres",
    "find_apart",
    "keep_share",
    "part_name",
    "refuse_untaught",
    "report_missing",
    "select_split",
    "split_folders",
    "split_named",
    "spread_classes",
    "wanted_splits",
]

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "testing": "test",
}
"""What people call the splits."""
_SHOWN = 5
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


class InSplit(Protocol):
    """Anything that belongs to a split."""

    @property
    def split(self) -> str:
        """Such as `train`; empty where the archive does not say."""


Chip = TypeVar("Chip", bound=InSplit)


class Located(Protocol):
    """Anything that shows a part of a raster."""

    @property
    def item(self) -> RasterItem:
        """The raster."""

    @property
    def window(self) -> Window | None:
        """The part of it, all if None."""

    @property
    def name(self) -> str:
        """For messages."""


def part_name(item: RasterItem, window: Window | None) -> str:
    """Name a raster, or a part of one, for tables and messages."""
    return item.name if window is None else f"{item.name}[{window.row},{window.column}]"


def select_split(
    chips: Sequence[Chip], split: str, source: str, advice: str
) -> tuple[Chip, ...]:
    """Return the chips of one split.

    Args:
        chips: of any kind that has a `split`.
        split: which.
        source: where they are from, for messages.
        advice: what to do if there are none.

    Raises:
        DataError: the split is empty.
    """
    chosen = tuple(chip for chip in chips if chip.split == split)
    if not chosen:
        found = Counter(chip.split or "(none)" for chip in chips)
        raise DataError(
            f"{source} has no images in split '{split}' (found: "
            f"{', '.join(f'{n} in {name}' for name, n in found.items())}). {advice}"
        )
    return chosen


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


def keep_share(
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


def report_missing(
    splits: Sequence[str], held: Sequence[Held], names: Sequence[str], source: str
) -> None:
    """Say aloud which classes a split lacks that others show.

    Args:
        splits: of chips or units; "" for those that are left out.
        held: the classes that each of them shows.
        names: of the classes.
        source: what is split, for messages.
    """
    for split in [name for name in SPLITS if name in splits]:
        lacking = _lacking(split, splits, held, names)
        if lacking:
            logger.warning(
                "%s: split %s shows nothing of %s, which other splits do.",
                source,
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


def assign_blocks(
    lonlat: np.ndarray,
    held: Sequence[Held],
    fractions: Fractions,
    block_m: float,
    seed: int,
    source: str,
) -> list[str]:
    """Return the split of each place, by square blocks; see `split_blocks`.

    Args:
        lonlat: (N, 2) longitude and latitude of the places, degrees.
        held: the classes that each place shows.
        fractions: wanted shares.
        block_m: side of a block, m.
        seed: another seed gives another assignment.
        source: what is split, for messages.

    Raises:
        DataError: there are fewer blocks than splits.
    """
    cells = _cells(lonlat, block_m)
    sizes = Counter(cells)
    wanted = {name: fractions.of(name) * len(cells) for name in SPLITS}
    wanted = {name: share for name, share in wanted.items() if share > 0}
    if len(sizes) < len(wanted):
        raise DataError(
            f"{source} covers {len(sizes)} blocks of {block_m:g} m, too few "
            f"for the {len(wanted)} splits {', '.join(wanted)}. Make data.block_m "
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
        list(assigned.values()), list(shown.values()), wanted_splits(fractions)
    )
    assigned = dict(zip(assigned, dealt, strict=True))
    return [assigned[cell] for cell in cells]


def chip_centres(chips: Sequence[Located]) -> np.ndarray:
    """Longitude and latitude of the chips' centres, degrees, (N, 2).

    Raises:
        DataError: chips without coordinates; the first few are named.
    """
    centres = [centre_lonlat(chip.item.grid(), chip.window) for chip in chips]
    missing = [chip.name for chip, at in zip(chips, centres, strict=True) if at is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(chips)} images have no coordinates "
            f"({', '.join(missing[:_SHOWN])}). A split by blocks needs them; use "
            "data.split 'stratified'."
        )
    return np.array(centres, dtype=np.float64)


def find_apart(
    lonlat: np.ndarray, splits: Sequence[str], gap_m: float
) -> NDArray[np.bool_]:
    """Return which places to keep so that splits lie apart; see `split_blocks`.

    Args:
        lonlat: (N, 2) longitude and latitude, degrees.
        splits: N splits.
        gap_m: places of train nearer than this to one of val or test, and of val to
            one of test, are left out.
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
    return keep


def _cells(lonlat: np.ndarray, block_m: float) -> list[tuple[int, int]]:
    """Number the square block of each place: rows of latitude, cut into columns."""
    longitude, latitude = np.radians(lonlat).T
    row = np.floor(EARTH_RADIUS_M * latitude / block_m)
    middle = (row + 1 / 2) * block_m / EARTH_RADIUS_M
    column = np.floor(EARTH_RADIUS_M * longitude * np.cos(middle) / block_m)
    return [(int(r), int(c)) for r, c in zip(row, column, strict=True)]


def _hash(seed: int, cell: tuple[int, int]) -> str:
    return hashlib.sha256(f"{seed}:{cell[0]}:{cell[1]}".encode()).hexdigest()
