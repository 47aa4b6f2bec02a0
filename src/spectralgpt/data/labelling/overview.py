"""What a picture of a labelled set shows; `spectralgpt.reports` draws it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.labelling.scenes import LabelledScenes
from spectralgpt.data.labelling.tiles import WrittenTile
from spectralgpt.data.splits import SPLITS

__all__ = ["Overview"]


@dataclass(frozen=True)
class Overview:
    """The parts of a labelled set that are drawn.

    Args:
        folder: holds `<split>/images` and `<split>/masks`.
        labelled: what tiles were cut from.
        tiles: all of them, with their splits.
        title: heading.
    """

    folder: Path
    labelled: LabelledScenes
    tiles: Sequence[WrittenTile]
    title: str

    def largest(self) -> int:
        """Number of the scene with most tiles."""
        counts = [0] * len(self.labelled.scenes)
        for tile in self.tiles:
            counts[tile.tile.scene] += 1
        return counts.index(max(counts))

    def samples(self, each: int) -> list[WrittenTile]:
        """The tiles of each split with the most classes, as evenly as they come."""
        chosen: list[WrittenTile] = []
        for split in SPLITS:
            own = [tile for tile in self.tiles if tile.split == split]
            own.sort(key=lambda tile: -_variety(tile))
            chosen += own[:each]
        return chosen


def _variety(tile: WrittenTile) -> float:
    """Probability that two labelled pixels differ in class."""
    counts = tile.tile.counts
    shares = counts / max(1, int(counts.sum()))
    return float(1 - (shares**2).sum())
