"""What splits are called, their shares, and which classes each of them shows.

What is split are units that stay whole, such as places or blocks on the ground; the
classes that each holds decide where it goes. `division` splits whole data sets.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectralgpt.data.samples import SPLITS
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import list_folder

logger = logging.getLogger(__name__)

_SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "testing": "test",
}
"""What people call the splits."""
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

    @property
    def wanted(self) -> list[str]:
        """The splits that get a share."""
        return [name for name in SPLITS if self.of(name) > 0]


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


def spread_classes(
    splits: Sequence[str], held: Sequence[Held], wanted: Sequence[str]
) -> list[str]:
    """Move units between splits so that each split shows each class, as far as can be.

    Rare classes come first, and train before val and test: a class that one unit alone
    shows is learned. If nothing is missing, nothing moves.

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
    """Report which classes a split lacks that others show.

    Args:
        splits: of samples or units; "" for those that are left out.
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
