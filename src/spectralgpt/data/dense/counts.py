"""Counting labels: class counts, weights, statistics, and faults of whole sets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spectralgpt import losses
from spectralgpt.data.dense.chips import DenseSet
from spectralgpt.data.dense.masks import read_target
from spectralgpt.data.statistics import part_statistics
from spectralgpt.errors import DataError, SpectralGPTError
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import Window, read_raster
from spectralgpt.sensors import Band

__all__ = [
    "balanced_class_weights",
    "count_chips",
    "count_classes",
    "count_places",
    "dense_statistics",
    "find_faults",
]


def count_classes(dense: DenseSet) -> dict[str, dict[str, int]]:
    """Labelled pixels per split and class name.

    Raises:
        DataError: a mask holds an unknown code.
        RasterError: a mask cannot be read.
    """
    counts: dict[str, NDArray[np.int64]] = {}
    for chip, found in zip(dense.chips, count_chips(dense), strict=True):
        counts[chip.split] = counts.get(chip.split, 0) + found
    return {
        split: dict(zip(dense.class_names, map(int, values), strict=True))
        for split, values in counts.items()
    }


def count_places(dense: DenseSet) -> dict[str, NDArray[np.int64]]:
    """Labelled pixels of each class, (K,), by place."""
    counts: dict[str, NDArray[np.int64]] = {}
    for chip, found in zip(dense.chips, count_chips(dense), strict=True):
        counts[chip.place] = counts.get(chip.place, 0) + found
    return counts


def balanced_class_weights(dense: DenseSet) -> tuple[float, ...]:
    """Weigh classes by the inverse of their pixels.

    Over all labelled pixels the mean weight is 1, so the learning rate can stay. A
    class that does not occur weighs nothing.

    Raises:
        DataError: there is no labelled pixel, or a mask holds an unknown code.
    """
    counts = np.sum(count_chips(dense), axis=0)
    if not counts.any():
        raise DataError(f"{dense.source} has no labelled pixel to weigh classes by.")
    return losses.balanced_class_weights(counts.tolist())


def dense_statistics(
    dense: DenseSet, bands: Sequence[Band], num_windows: int = 256, seed: int = 0
) -> BandStatistics:
    """Measure reflectance by band on windows of these chips, all dates alike.

    Args:
        dense: chips, usually those of train.
        bands: which bands.
        num_windows: windows drawn.
        seed: of the draw.
    """
    parts = [(item, chip.window) for chip in dense.chips for item in chip.items]
    return part_statistics(parts, bands, dense.source, num_windows, seed)


def find_faults(dense: DenseSet) -> tuple[str, ...]:
    """Read everything once and say what is wrong: one message for each bad chip."""
    faults = []
    for number, chip in enumerate(dense.chips):
        try:
            for item in chip.items:
                read_raster(item, window=chip.window)
            _count(dense, number)
        except SpectralGPTError as error:
            faults.append(str(error))
    return tuple(faults)


def count_chips(dense: DenseSet) -> list[NDArray[np.int64]]:
    """Labelled pixels of each class, (K,), of each chip.

    Raises:
        DataError: a mask holds an unknown code.
        RasterError: a mask cannot be read.
    """
    return [_count(dense, number) for number in range(len(dense.chips))]


def _count(dense: DenseSet, number: int) -> NDArray[np.int64]:
    chip = dense.chips[number]
    grid = chip.item.grid()
    window = chip.window or Window(0, 0, grid.height, grid.width)
    target = read_target(dense, chip, grid, window)
    return np.bincount(target[target >= 0], minlength=dense.num_classes)
