"""Labelled chips, and how they are split into train, val and test.

A chip is a raster, or a window of one, with its labels. The readers of labelled
archives (`labelled`, `eurosat`, `bigearthnet`) return a `LabelledSet`; nothing here
reads pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spectralgpt.data.splits import (
    SPLITS,
    Fractions,
    assign_blocks,
    chip_centres,
    find_apart,
    part_name,
    select_split,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import RasterItem, Window

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
        return part_name(self.item, self.window)


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
    centres = chip_centres(labelled.chips)
    splits = assign_blocks(
        centres, fractions or Fractions(), block_m, seed, labelled.source
    )
    divided = _with_splits(labelled, splits)
    if gap_m <= 0:
        return divided
    chips = zip(divided.chips, find_apart(centres, splits, gap_m), strict=True)
    return replace(divided, chips=tuple(chip for chip, kept in chips if kept))


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
