"""Labelled chips, and how they are split into train, val and test.

A chip is a raster, or a window of one, with its labels. The readers of labelled
archives (`labelled`, `eurosat`, `bigearthnet`) return a `LabelledSet`; nothing here
reads pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from spectralgpt.data.splits import (
    SPLITS,
    Fractions,
    assign_blocks,
    chip_centres,
    find_apart,
    keep_share,
    part_name,
    refuse_untaught,
    select_split,
    spread_classes,
    wanted_splits,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import RasterItem, Stated, Window

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "SPLITS",
    "TASKS",
    "Chip",
    "Fractions",
    "LabelledSet",
    "chip_centres",
    "keep_fraction",
    "split_blocks",
    "split_stratified",
]

SINGLE_LABEL = "single-label"
MULTI_LABEL = "multi-label"
TASKS = (SINGLE_LABEL, MULTI_LABEL)


@dataclass(frozen=True)
class Chip:
    """A raster, or a part of one, and its labels.

    Args:
        item: the raster.
        labels: indices of its classes, ascending; exactly one for single-label tasks.
        split: "train", "val", "test", or "" where the archive does not say.
        window: the part that is meant, in pixels of the finest grid of all bands; None
            is all of it.
        place: what it shows; chips of one place stay in one split. "" takes the
            image's own, so that parts of one image do.
    """

    item: RasterItem
    labels: tuple[int, ...]
    split: str = ""
    window: Window | None = None
    place: str = ""

    @property
    def items(self) -> tuple[RasterItem, ...]:
        """The image, as of chips of several dates."""
        return (self.item,)

    @property
    def name(self) -> str:
        """Name for tables and messages."""
        return part_name(self.item, self.window)


@dataclass(frozen=True)
class LabelledSet:
    """Chips that share class names.

    Args:
        chips: at least one.
        class_names: names in the order of the class indices.
        task: "single-label" or "multi-label".
        source: where it came from, for messages and reports.
        stated: what was stated of its images.
    """

    chips: tuple[Chip, ...]
    class_names: tuple[str, ...]
    task: str
    source: str
    stated: Stated = field(default_factory=Stated)

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
        advice = "Set data.split to 'stratified' or 'blocks', or change its fractions."
        chips = select_split(self.chips, split, self.source, advice)
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
    """Split whole places at random, with the classes in equal shares.

    A place with several labels is dealt out with the others of its rarest class. Every
    split with a share gets at least one place of each class that has enough of them,
    and train gets one in any case.

    Raises:
        DataError: there are too few places, or train would learn nothing of a class.
    """
    fractions = fractions or Fractions()
    wanted = wanted_splits(fractions)
    units = _units(labelled)
    if len(units) < len(wanted):
        raise DataError(
            f"{labelled.source} shows {len(units)} places, too few for the splits "
            f"{', '.join(wanted)}: parts of one image stay together. Set data.split "
            "to 'blocks', or change data.fractions."
        )
    held = [_held(labelled, unit) for unit in units]
    rng = np.random.default_rng(seed)
    dealt = [""] * len(units)
    for members in _strata(held):
        order = rng.permutation(members)
        bounds = np.cumsum(_group_sizes(len(order), fractions))
        for rank, unit in enumerate(order):
            dealt[unit] = SPLITS[int(np.searchsorted(bounds, rank, side="right"))]
    dealt = spread_classes(dealt, held, wanted)
    splits = [""] * len(labelled.chips)
    for unit, split in zip(units, dealt, strict=True):
        for index in unit:
            splits[index] = split
    divided = _with_splits(labelled, splits)
    _refuse_untaught(divided, fractions)
    return divided


def keep_fraction(labelled: LabelledSet, fraction: float, seed: int) -> LabelledSet:
    """Keep a share of the training images, of each class alike and one at the least.

    Args:
        labelled: with splits.
        fraction: share that is kept, in (0, 1]; smaller ones lie inside larger ones.
        seed: another seed keeps others.

    Raises:
        ConfigError: the share is no share.
    """
    if fraction == 1.0:
        return labelled
    if not 0 < fraction < 1:
        raise ConfigError(f"data.train_fraction must be in (0, 1] (found: {fraction}).")
    train = labelled.select("train")
    units = _units(train)
    held = [_held(train, unit) for unit in units]
    rng = np.random.default_rng(seed)
    chosen = keep_share(_strata(held), held, fraction, rng)
    kept = {index for number in chosen for index in units[number]}
    rest = [chip for chip in labelled.chips if chip.split != "train"]
    chips = [chip for index, chip in enumerate(train.chips) if index in kept]
    return replace(labelled, chips=(*chips, *rest))


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
    splits = assign_blocks(
        centres,
        [chip.labels for chip in labelled.chips],
        fractions,
        block_m,
        seed,
        labelled.source,
    )
    if gap_m > 0:
        apart = find_apart(centres, splits, gap_m)
        splits = [
            name if kept else "" for name, kept in zip(splits, apart, strict=True)
        ]
    divided = _with_splits(labelled, splits)
    # Classes that only lie in a gap are missed, too.
    _refuse_untaught(divided, fractions)
    return replace(divided, chips=tuple(chip for chip in divided.chips if chip.split))


def _units(labelled: LabelledSet) -> list[list[int]]:
    """Put chips that show one place together, by number."""
    units: dict[str, list[int]] = {}
    for index, chip in enumerate(labelled.chips):
        units.setdefault(chip.place or chip.item.name, []).append(index)
    return list(units.values())


def _held(labelled: LabelledSet, unit: Sequence[int]) -> frozenset[int]:
    return frozenset(label for index in unit for label in labelled.chips[index].labels)


def _strata(held: Sequence[frozenset[int]]) -> list[list[int]]:
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


def _refuse_untaught(labelled: LabelledSet, fractions: Fractions) -> None:
    splits = [chip.split for chip in labelled.chips]
    held = [chip.labels for chip in labelled.chips]
    refuse_untaught(splits, held, labelled.class_names, labelled.source, fractions)


def _with_splits(labelled: LabelledSet, splits: Sequence[str]) -> LabelledSet:
    chips = tuple(
        replace(chip, split=split)
        for chip, split in zip(labelled.chips, splits, strict=True)
    )
    return replace(labelled, chips=chips)
