"""Splits into train, val and test: their shares, and blocks on the ground.

What is split are chips of any kind; `chips` and `dense` say which.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import RasterItem, Window
from spectralgpt.rasters.footprints import EARTH_RADIUS_M, centre_lonlat

__all__ = [
    "SPLITS",
    "Fractions",
    "Located",
    "assign_blocks",
    "chip_centres",
    "find_apart",
    "part_name",
    "select_split",
]

SPLITS = ("train", "val", "test")
_SHOWN = 5


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


def assign_blocks(
    lonlat: np.ndarray, fractions: Fractions, block_m: float, seed: int, source: str
) -> list[str]:
    """Return the split of each place, by square blocks; see `split_blocks`.

    Args:
        lonlat: (N, 2) longitude and latitude of the places, degrees.
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
