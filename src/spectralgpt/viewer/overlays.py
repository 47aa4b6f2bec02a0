"""What lies over a scene, and the scene itself, in files that stay open while served.

Each file is for one thread at a time.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import class_colours
from spectralgpt.errors import DataError
from spectralgpt.rasters import OpenFiles, RasterFile, Window
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.lookup import lay_under, sample, sample_scene, shown_grid
from spectralgpt.rasters.maps import MapFile, sample_map
from spectralgpt.scenes.embedding import SceneEmbedding
from spectralgpt.scenes.similarity import Query, query_of
from spectralgpt.sensors import Band
from spectralgpt.viewer.pictures import (
    Picture,
    ReadBands,
    draw_classes,
    draw_measures,
    thin_grid,
)

MEASURE_COLOURS = "viridis"
LIKENESS_COLOURS = "inferno"
LIKENESS_LIMITS = (0.0, 1.0)
"""What is less alike than all places on average is shown as not alike."""
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_MOST_NUMBERS = 2**23
"""Of embeddings that are read at once."""
_THIN_CELLS = 256
_SLACK = 1e-3
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
ReadCells = Callable[[Window, tuple[int, int]], tuple[FloatArray, BoolArray]]
"""Returns numbers (h, w, K) and validity (h, w) of a window thinned out to a size."""


def read_scene(item: RasterFile, base: Grid) -> ReadBands:
    """Return what reads bands of a scene under grids, from files that stay open.

    Args:
        item: the scene.
        base: the grid that its pixels are counted in.
    """
    files, lock = OpenFiles(), threading.Lock()

    def read(bands: Sequence[Band], shown: Grid) -> tuple[FloatArray, BoolArray]:
        with lock:
            raster = sample_scene(item, bands, shown, base, files)
        return raster.pixels, raster.valid

    return read


class MapLayer:
    """A map, kept open, with its colours.

    Args:
        found: the map.

    Raises:
        RasterError: it cannot be read.
    """

    def __init__(self, found: MapFile) -> None:
        self._files, self._lock = OpenFiles(), threading.Lock()
        stated = {each.name: each.colour for each in found.classes if each.colour}
        colours = class_colours([each.name for each in found.classes], stated)
        # Two codes may share a name, and yet have colours of their own.
        classes = (
            replace(each, colour=each.colour or colours[each.name])
            for each in found.classes
        )
        self.map = replace(found, classes=tuple(classes))
        self.limits = [
            self._measure(layer)
            for layer in range(len(found.layers) if found.kind == "measures" else 0)
        ]

    def read(
        self, layer: int, shown: Grid, base: Grid
    ) -> tuple[NDArray[Any], BoolArray]:
        """Read a layer under a grid; see `sample_map`."""
        with self._lock:
            return sample_map(self.map, layer, shown, base, self._files)

    def draw(self, layer: int, shown: Grid, base: Grid) -> Picture:
        """Draw a layer under a grid."""
        values, valid = self.read(layer, shown, base)
        if self.map.kind == "classes":
            return draw_classes(values, valid, self.map.classes)
        return draw_measures(values, valid, self.limits[layer], MEASURE_COLOURS)

    def name_of(self, layer: int, row: int, column: int, base: Grid) -> str:
        """Say what the map holds at a pixel of the base; "" where nothing."""
        values, valid = self.read(layer, shown_grid(base, row, column, 1, 1), base)
        if not valid[0, 0]:
            return ""
        if self.map.kind == "measures":
            return f"{values[0, 0]:.4g}"
        names = {each.code: each.name for each in self.map.classes}
        return names.get(int(values[0, 0]), f"code {values[0, 0]}")

    def _measure(self, layer: int) -> tuple[float, float]:
        values, valid = self.read(layer, thin_grid(self.map.grid), self.map.grid)
        if not valid.any():
            return 0.0, 1.0
        low, high = np.percentile(values[valid], (_LOW_PERCENT, _HIGH_PERCENT))
        return float(low), float(high)


@dataclass(frozen=True)
class Cells:
    """Embeddings under a base, to be compared with one of them.

    Args:
        base: the grid whose pixels are pointed at.
        grid: of the cells, as it is found under parts of the base, see `lay_under`.
        width: dimensions D of an embedding; further numbers may follow it.
        read: reads them.
        path: of the raster; None for embeddings that were just made.
        lock: held while cells are in memory, so that only one thread holds many.
    """

    base: Grid
    grid: Grid
    width: int
    read: ReadCells
    path: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def level(self) -> int:
        """Level of tiles that show a cell a pixel: finer ones only repeat cells."""
        base = self.base.pixel_area if self.base.transform is not None else 1.0
        side = (self.grid.pixel_area / base) ** 0.5
        return max(0, math.floor(math.log2(side) + _SLACK))

    @cached_property
    def mean(self) -> FloatArray:
        """(D,), of cells picked evenly: what all places share tells nothing."""
        height, width = self.grid.height, self.grid.width
        size = min(height, _THIN_CELLS), min(width, _THIN_CELLS)
        with self.lock:
            values, valid = self.read(Window(0, 0, height, width), size)
        if not valid.any():
            raise DataError("there is no embedding anywhere: nothing is valid.")
        mean: FloatArray = values[valid][:, : self.width].mean(axis=0)
        return mean

    def take(
        self, shown: Grid, of: Callable[[FloatArray], FloatArray]
    ) -> tuple[FloatArray, BoolArray]:
        """Take what is computed of cells under the pixels of a grid.

        Args:
            shown: the grid wanted, a part of the base.
            of: makes (h, w, K) of cells (h, w, D and what follows).

        Returns:
            (K, H, W) and where there are any (H, W).
        """

        def read(window: Window, size: tuple[int, int]) -> FloatArray:
            values, valid = self.read(window, size)
            layers = np.concatenate([of(values), valid[..., None]], axis=-1)
            return np.moveaxis(layers.astype(np.float32), -1, 0)

        with self.lock:
            taken = sample(shown, self.grid, read)
        if taken is None:
            nothing = np.zeros((1, shown.height, shown.width), np.float32)
            return nothing, nothing[0] > 0
        numbers = taken[0].astype(np.float32)
        return numbers[:-1], taken[1] & (numbers[-1] > 0)

    def query_at(self, row: int, column: int) -> Query:
        """Return the query for the cell under a pixel of the base.

        Raises:
            DataError: there is no embedding there.
            RasterError: the embeddings cannot be read.
        """
        shown = shown_grid(self.base, row, column, 1, 1)
        found, valid = self.take(shown, lambda cells: cells[..., : self.width])
        if not valid[0, 0]:
            raise DataError("there is no embedding at this place: choose another.")
        return query_of(found[None, :, 0, 0], self.mean)

    def draw(self, query: Query, shown: Grid) -> Picture:
        """Draw how like a query all cells are under a grid."""

        def likeness(cells: FloatArray) -> FloatArray:
            return query.similarity(cells[..., : self.width])[..., None]

        found, valid = self.take(shown, likeness)
        return draw_measures(found[0], valid, LIKENESS_LIMITS, LIKENESS_COLOURS)


def raster_cells(raster: EmbeddingRaster, base: Grid, lock: threading.Lock) -> Cells:
    """Return the embeddings of a raster under a base.

    Args:
        raster: the raster.
        base: the grid whose pixels are pointed at.
        lock: one for all that read the raster.

    Raises:
        RasterError: the raster cannot be laid under the base.
    """
    most = _MOST_NUMBERS // len(raster.source.layer_names)

    def read(window: Window, size: tuple[int, int]) -> tuple[FloatArray, BoolArray]:
        wanted = min(window.height // size[0], window.width // size[1])
        # Overviews are halves: at other steps GDAL takes a hundred times as long.
        step = 2 ** (max(1, wanted).bit_length() - 1)
        while window.height * window.width > most * step**2:
            step *= 2
        thinned = -(-window.height // step), -(-window.width // step)
        return raster.read(window, thinned)

    grid = lay_under(base, raster.grid)
    return Cells(base, grid, raster.source.width, read, raster.path, lock)


def made_cells(made: SceneEmbedding, grid: Grid, scene: Grid) -> Cells:
    """Return embeddings that were just made of a window of a scene.

    Args:
        made: of the window.
        grid: where the cells lie under the scene, see `shown_grid`.
        scene: the grid of the scene.
    """

    def read(window: Window, size: tuple[int, int]) -> tuple[FloatArray, BoolArray]:
        rows = window.row + np.arange(size[0]) * window.height // size[0]
        columns = window.column + np.arange(size[1]) * window.width // size[1]
        at = np.ix_(rows, columns)
        return made.values[at], made.valid[at] > 0

    return Cells(scene, grid, int(made.values.shape[-1]), read)
