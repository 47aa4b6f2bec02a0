"""A layer of labels of either kind, laid on the grid of each scene.

Masks of whole scenes are written to files strip by strip, so that memory does not grow
with the scenes.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.labelling.classes import LabelClasses, number_classes, value_text
from spectralgpt.data.labelling.config import LabelSource
from spectralgpt.data.labelling.scenes import LabelledScenes
from spectralgpt.data.labelling.vectors import (
    VECTOR_SUFFIXES,
    VectorLabels,
    read_vectors,
)
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.rasters import Grid, Window
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.lookup import find_codes, read_codes_at, rows_of
from spectralgpt.rasters.write import write_strips

__all__ = ["RasterLabels", "open_labels", "write_scene_masks"]

_TAG = re.compile(r"CLASS_(-?\d+)")
_Painted = tuple[NDArray[np.uint8], int]


@dataclass(frozen=True)
class RasterLabels:
    """A raster of class codes.

    Args:
        path: the file.
        index: which layer of it, from 1.
        counts: its pixels by code, near the scenes.
        class_names: names of codes that the file states.
        notes: for people.
    """

    path: Path
    index: int
    counts: dict[str, int]
    class_names: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, int]:
        """Pixels by their code, as text."""
        return self.counts

    def on(self, grid: Grid, classes: LabelClasses) -> "_CodedScene":
        """Get ready to look codes up on a scene."""
        return _CodedScene(self, grid, classes)


@dataclass(frozen=True)
class _CodedScene:
    layer: RasterLabels
    grid: Grid
    classes: LabelClasses

    def paint(self, window: Window) -> _Painted:
        """Look a window up; codes never overlap."""
        layer, part = self.layer, self.grid.part(window)
        codes, known = read_codes_at(layer.path, layer.index, part)
        found, at = np.unique(codes, return_inverse=True)
        # What is not known may hold any number.
        table = [self.classes.code_of.get(str(code), 0) for code in found.tolist()]
        painted = np.array(table, np.uint8)[at].reshape(codes.shape)
        return np.where(known, painted, np.uint8(self.classes.fill)), 0


def open_labels(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple[VectorLabels | RasterLabels, LabelClasses]:
    """Open a layer of labels, and number its classes.

    Args:
        labels: what is stated.
        grids: of the scenes.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: what is stated does not fit the file.
        DataError: the layer cannot be used, or lies on no scene.
        RasterError: a raster cannot be read.
    """
    layer: VectorLabels | RasterLabels
    if labels.labels.suffix.lower() in VECTOR_SUFFIXES:
        layer = read_vectors(labels, grids)
    else:
        layer = _open_raster(labels, grids)
    return layer, number_classes(layer.values(), labels, dict(layer.class_names))


def write_scene_masks(
    layer: VectorLabels | RasterLabels,
    classes: LabelClasses,
    labelled: LabelledScenes,
    progress: Callable[[int, int], None],
) -> int:
    """Write the mask of each scene; returns the pixels that lie in several classes."""
    grids = [scene.grid for scene in labelled.scenes]
    total, done, overlaps = sum(grid.height for grid in grids), 0, 0

    def strips(grid: Grid) -> Iterator[NDArray[np.uint8]]:
        nonlocal done, overlaps
        scene = layer.on(grid, classes)
        for window in rows_of(grid):
            painted, several = scene.paint(window)
            done, overlaps = done + window.height, overlaps + several
            progress(done, total)
            yield painted

    for grid, path in zip(grids, labelled.masks, strict=True):
        write_strips(path, grid, strips(grid))
    return overlaps


def _open_raster(labels: LabelSource, grids: Sequence[Grid]) -> RasterLabels:
    path = labels.labels
    if not path.exists():
        raise DatasetNotFoundError(f"There is no layer of labels at {path}.")
    if labels.class_column is not None or labels.all_touched:
        raise ConfigError(
            f"{path} is read as a raster, which has no columns: leave class_column and "
            f"all_touched out. Polygons are read from {', '.join(VECTOR_SUFFIXES)}."
        )
    index = value_text(labels.layer) or "1"
    if not index.isdecimal() or not int(index):
        raise ConfigError(f"layer of a raster is a number from 1, found '{index}'.")
    header = read_header(path)
    counts: dict[str, int] = {}
    for grid in grids:
        for code, count in find_codes(path, int(index), grid).items():
            counts[str(code)] = counts.get(str(code), 0) + count
    if not counts:
        raise DataError(
            f"{path} has no label on any scene: it lies elsewhere, or all of it is "
            "nodata. Check its reference system, or take other scenes."
        )
    tags = {
        match: name for tag, name in header.tags.items() if (match := _TAG.match(tag))
    }
    names = tuple((match[1], name) for match, name in tags.items())
    return RasterLabels(path, int(index), counts, names)
