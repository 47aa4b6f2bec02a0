"""Known land cover of the demo's scene, cell by cell, and its split.

A cell is a token's patch. Which cells train and which test is decided by strip: the
middle one, which pretraining never saw, tests.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.imagery import Imagery
from spectralgpt.errors import DataError

__all__ = ["CellLabels", "read_labels"]

# Every third rectangle of a class chooses the strength of the probe's penalty.
_VAL_EVERY = 3


@dataclass(frozen=True)
class CellLabels:
    """Labels of the cells of a scene.

    Args:
        class_names: names of the classes.
        classes: (rows, columns) class of each cell, -1 where it is not known.
        rectangles: (rows, columns) number of the rectangle a cell is in, -1 for none.
        split: (rows, columns) of `train`, `val`, `test`, and `` where not known.
    """

    class_names: tuple[str, ...]
    classes: NDArray[np.int64]
    rectangles: NDArray[np.int64]
    split: NDArray[np.str_]

    def count(self, split: str, name: str | None = None) -> tuple[int, int]:
        """Count cells and rectangles of a split, of one class or of all."""
        chosen = self.split == split
        if name is not None:
            chosen &= self.classes == self.class_names.index(name)
        return int(chosen.sum()), len(np.unique(self.rectangles[chosen]))


def read_labels(path: Path, imagery: Imagery, cell_px: int) -> CellLabels:
    """Read rectangles of land cover onto the cells of a scene.

    Args:
        path: GeoJSON of rectangles with a property `class`, in the scene's coordinates.
        imagery: the scene; its strips lie below each other.
        cell_px: side of a cell, px.

    Raises:
        DataError: a rectangle is not on the grid of cells, or crosses strips.
    """
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    class_names = tuple(sorted({f["properties"]["class"] for f in features}))
    held_out = np.concatenate(
        [
            np.full(strip.window.height // cell_px, strip.is_held_out)
            for strip in imagery.strips
        ]
    )
    shape = (len(held_out), imagery.strips[0].window.width // cell_px)
    classes, rectangles = (np.full(shape, -1, dtype=np.int64) for _ in range(2))
    split = np.full(shape, "", dtype="<U5")
    seen = dict.fromkeys(class_names, 0)
    for number, feature in enumerate(features):
        rows, columns = _cells(feature, imagery, cell_px)
        name = feature["properties"]["class"]
        is_test = held_out[rows]
        if is_test.any() != is_test.all() or (classes[rows, columns] >= 0).any():
            raise DataError(
                f"{path}: rectangle {number} crosses strips or another one."
            )
        classes[rows, columns] = class_names.index(name)
        rectangles[rows, columns] = number
        seen[name] += not is_test.all()
        is_val = seen[name] % _VAL_EVERY == 0
        split[rows, columns] = "test" if is_test.all() else "val" if is_val else "train"
    return CellLabels(class_names, classes, rectangles, split)


def _cells(feature: object, imagery: Imagery, cell_px: int) -> tuple[slice, slice]:
    """Return the rows and columns of cells that a rectangle covers."""
    assert isinstance(feature, dict)
    transform = imagery.strips[0].item.grid().transform
    corners = feature["geometry"]["coordinates"][0]
    if transform is None:
        raise DataError("labels need a scene with a georeference.")
    origin = np.array([transform.c, transform.f])
    cell = np.array([transform.a, transform.e]) * cell_px
    positions = (np.array(corners) - origin) / cell
    if not np.allclose(positions, positions.round(), atol=1e-6):
        raise DataError(f"{corners} is not on the grid of {cell_px} px cells.")
    (left, top), (right, bottom) = positions.min(axis=0), positions.max(axis=0)
    return slice(round(top), round(bottom)), slice(round(left), round(right))
