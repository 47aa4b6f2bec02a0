"""Labelled chips, and how they are split into train, val and test.

A chip is a raster, or a window of one, with its labels. The readers of labelled
archives (`labelled`, `eurosat`, `bigearthnet`) return a `LabelledSet`; nothing here
reads pixels.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import RasterItem, Window
from spectralgpt.rasters.footprints import centre_lonlat

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "SPLITS",
    "TASKS",
    "Chip",
    "Fractions",
    "LabelledSet",
    "chip_centres",
    "split_blocks",
    "split_stratified",
]

SINGLE_LABEL = "single-label"
MULTI_LABEL = "multi-label"
TASKS = (SINGLE_LABEL, MULTI_LABEL)
SPLITS = ("train", "val", "test")
_SHOWN = 5
_EARTH_RADIUS_M = 6_371_008.8  # Mean radius of the ellipsoid.


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


@dataclass(frozen=True)
class Chip:
    """A raster, or a part of one, and its labels.

    Args:
        item: the raster.
        labels: indices of its classes, ascending; exactly one for single-label tasks.
        split: "train", "val", "test", or "" where the archive does not say.
        window: the part that is meant, in pixels of the finest grid; None is all of it.
    """

    item: RasterItem
    labels: tuple[int, ...]
    split: str = ""
    window: Window | None = None

    @property
    def name(self) -> str:
        """Name for tables and messages."""
        if self.window is None:
            return self.item.name
        return f"{self.item.name}[{self.window.row},{self.window.column}]"


@dataclass(frozen=True)
class LabelledSet:
    """Chips that share class names.

    Args:
        chips: at least one.
        class_names: names in the order of the class indices.
        task: "single-label" or "multi-label".
        source: where it came from, for messages and reports.
    """

    chips: tuple[Chip, ...]
    class_names: tuple[str, ...]
    task: str
    source: str

    def __post_init__(self) -> None:
        """Check the task, and that every chip fits it."""
        if self.task not in TASKS:
            raise ConfigError(
                f"Unknown task '{self.task}' (known: {', '.join(TASKS)})."
            )
        if not self.chips:
            raise DataError(f"{self.source} holds no labelled images.")
        if self.task == SINGLE_LABEL:
            wrong = [chip for chip in self.chips if len(chip.labels) != 1]
            if wrong:
                raise DataError(
                    f"{self.source}: {len(wrong)} images do not have exactly one label "
                    f"(first: {wrong[0].name} with {len(wrong[0].labels)})."
                )

    def select(self, split: str) -> "LabelledSet":
        """Return the chips of one split.

        Raises:
            DataError: the split is empty.
        """
        chips = tuple(chip for chip in self.chips if chip.split == split)
        if not chips:
            found = Counter(chip.split or "(none)" for chip in self.chips)
            raise DataError(
                f"{self.source} has no images in split '{split}' (found: "
                f"{', '.join(f'{n} in {name}' for name, n in found.items())}). "
                "Set data.split to 'stratified' or 'blocks', or change its fractions."
            )
        return replace(self, chips=chips)

    def targets(self) -> Tensor:
        """Class indices (N,) int64, or (N, C) float32 of 0 and 1 for multi-label."""
        if self.task == SINGLE_LABEL:
            return torch.tensor([chip.labels[0] for chip in self.chips])
        targets = torch.zeros(len(self.chips), len(self.class_names))
        for row, chip in enumerate(self.chips):
            targets[row, list(chip.labels)] = 1.0
        return targets

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class name."""
        table: dict[str, dict[str, int]] = {
            split: dict.fromkeys(self.class_names, 0) for split in SPLITS
        }
        for chip in self.chips:
            for label in chip.labels:
                row = table.setdefault(chip.split, dict.fromkeys(self.class_names, 0))
                row[self.class_names[label]] += 1
        return table


def split_stratified(
    labelled: LabelledSet, fractions: Fractions | None = None, seed: int = 0
) -> LabelledSet:
    """Split at random, with the classes in equal shares.

    A multi-label chip is dealt out with the others of its rarest class. Every split
    with a share gets at least one chip of each class that has enough of them.
    """
    fractions = fractions or Fractions()
    frequency = Counter(label for chip in labelled.chips for label in chip.labels)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, chip in enumerate(labelled.chips):
        rarest = min(
            chip.labels, key=lambda label: (frequency[label], label), default=-1
        )
        groups[rarest].append(index)
    rng = np.random.default_rng(seed)
    splits = [""] * len(labelled.chips)
    for _, members in sorted(groups.items()):
        order = rng.permutation(members)
        bounds = np.cumsum(_group_sizes(len(order), fractions))
        for rank, index in enumerate(order):
            splits[index] = SPLITS[int(np.searchsorted(bounds, rank, side="right"))]
    return _with_splits(labelled, splits)


def split_blocks(
    labelled: LabelledSet,
    fractions: Fractions | None = None,
    block_m: float = 10_000.0,
    gap_m: float = 0.0,
    seed: int = 0,
) -> LabelledSet:
    """Split by square blocks on the ground, so that neighbours stay together.

    Blocks are square cells of rows of latitude. They are dealt out in the order of a
    hash, each to the split that lacks most.

    Args:
        labelled: chips with coordinates.
        fractions: wanted shares; met as well as the blocks allow.
        block_m: side of a block, m.
        gap_m: chips of train nearer than this to one of val or test, and of val to one
            of test, centre to centre in m, are left out; 0 leaves out none.
        seed: another seed gives another assignment.

    Raises:
        DataError: a chip has no coordinates, or there are fewer blocks than splits.
    """
    fractions = fractions or Fractions()
    centres = chip_centres(labelled.chips)
    cells = _cells(centres, block_m)
    sizes = Counter(cells)
    wanted = {name: fractions.of(name) * len(cells) for name in SPLITS}
    wanted = {name: share for name, share in wanted.items() if share > 0}
    if len(sizes) < len(wanted):
        raise DataError(
            f"{labelled.source} covers {len(sizes)} blocks of {block_m:g} m, too few "
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
    splits = [assigned[cell] for cell in cells]
    divided = _with_splits(labelled, splits)
    return divided if gap_m <= 0 else _leave_gap(divided, centres, gap_m)


def chip_centres(chips: Sequence[Chip]) -> np.ndarray:
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


def _cells(lonlat: np.ndarray, block_m: float) -> list[tuple[int, int]]:
    """Number the square block of each place: rows of latitude, cut into columns."""
    longitude, latitude = np.radians(lonlat).T
    row = np.floor(_EARTH_RADIUS_M * latitude / block_m)
    middle = (row + 1 / 2) * block_m / _EARTH_RADIUS_M
    column = np.floor(_EARTH_RADIUS_M * longitude * np.cos(middle) / block_m)
    return [(int(r), int(c)) for r, c in zip(row, column, strict=True)]


def _hash(seed: int, cell: tuple[int, int]) -> str:
    return hashlib.sha256(f"{seed}:{cell[0]}:{cell[1]}".encode()).hexdigest()


def _leave_gap(labelled: LabelledSet, centres: np.ndarray, gap_m: float) -> LabelledSet:
    from sklearn.neighbors import NearestNeighbors

    # Haversine distance takes (latitude, longitude) in radians.
    places = np.radians(centres[:, ::-1])
    splits = np.array([chip.split for chip in labelled.chips])
    keep = np.ones(len(splits), dtype=bool)
    for split, others in (("train", ("val", "test")), ("val", ("test",))):
        mine, theirs = splits == split, np.isin(splits, others)
        if mine.any() and theirs.any():
            tree = NearestNeighbors(n_neighbors=1, metric="haversine")
            angle, _ = tree.fit(places[theirs]).kneighbors(places[mine])
            keep[mine] = angle[:, 0] * _EARTH_RADIUS_M >= gap_m
    chips = zip(labelled.chips, keep, strict=True)
    return replace(labelled, chips=tuple(chip for chip, kept in chips if kept))


def _group_sizes(count: int, fractions: Fractions) -> list[int]:
    """Number of chips of one class for train, val and test."""
    sizes = {}
    for split in ("val", "test"):
        share = fractions.of(split)
        at_least = 1 if share > 0 and count >= len(SPLITS) else 0
        sizes[split] = max(at_least, round(count * share))
    return [count - sum(sizes.values()), sizes["val"], sizes["test"]]


def _with_splits(labelled: LabelledSet, splits: Sequence[str]) -> LabelledSet:
    chips = tuple(
        replace(chip, split=split)
        for chip, split in zip(labelled.chips, splits, strict=True)
    )
    return replace(labelled, chips=chips)
