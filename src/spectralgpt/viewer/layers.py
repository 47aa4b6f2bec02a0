"""Files that stay open while the page is served; each for one thread at a time."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.colours import class_colours
from spectralgpt.rasters import OpenFiles, RasterItem, Window
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.map_files import MapFile, sample_map
from spectralgpt.rasters.sampling import lay_under, sample, sample_scene, shown_grid
from spectralgpt.scenes.embedding import SceneEmbedding
from spectralgpt.sensors import Band
from spectralgpt.viewer.pictures import (
    Picture,
    draw_classes,
    draw_measures,
    thin_grid,
)

__all__ = [
    "MEASURE_COLOURS",
    "CellFile",
    "CellMemory",
    "Cells",
    "MapLayer",
    "SceneFiles",
    "take_cells",
]

MEASURE_COLOURS = "viridis"
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_MOST_NUMBERS = 2**23
"""Of embeddings that are read at once."""
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class SceneFiles:
    """The files of a scene, kept open.

    Args:
        item: the scene.
        base: the grid that its pixels are counted in.
    """

    def __init__(self, item: RasterItem, base: Grid) -> None:
        self.item, self.base = item, base
        self._files, self._lock = OpenFiles(), threading.Lock()

    def read(self, bands: Sequence[Band], shown: Grid) -> tuple[FloatArray, BoolArray]:
        """Read bands under a grid; see `sample_scene`."""
        with self._lock:
            raster = sample_scene(self.item, bands, shown, self.base, self._files)
        return raster.pixels, raster.valid


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


class Cells(Protocol):
    """Embeddings on a grid of cells."""

    @property
    def width(self) -> int:
        """Dimensions D of an embedding; further numbers may follow it."""
        ...

    @property
    def lock(self) -> threading.Lock:
        """Held while cells are in memory, so that only one thread holds many."""
        ...

    def under(self, base: Grid) -> Grid:
        """Return the grid of the cells so that it is found under parts of a base.

        Raises:
            RasterError: it cannot be laid under it.
        """
        ...

    def read(
        self, window: Window, size: tuple[int, int]
    ) -> tuple[FloatArray, BoolArray]:
        """Read a window thinned out to about this size; see `EmbeddingRaster`."""
        ...


@dataclass(frozen=True)
class CellFile:
    """Embeddings in a raster.

    Args:
        raster: the raster.
        lock: see `Cells`.
    """

    raster: EmbeddingRaster
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def width(self) -> int:
        """Dimensions D."""
        return self.raster.source.width

    def under(self, base: Grid) -> Grid:
        """See `Cells`."""
        return lay_under(base, self.raster.grid)

    def read(
        self, window: Window, size: tuple[int, int]
    ) -> tuple[FloatArray, BoolArray]:
        """See `Cells`."""
        most = _MOST_NUMBERS // len(self.raster.source.layer_names)
        wanted = min(window.height // size[0], window.width // size[1])
        # Overviews are halves: at other steps GDAL takes a hundred times as long.
        step = 2 ** (max(1, wanted).bit_length() - 1)
        while window.height * window.width > most * step**2:
            step *= 2
        thinned = -(-window.height // step), -(-window.width // step)
        return self.raster.read(window, thinned)


@dataclass(frozen=True)
class CellMemory:
    """Embeddings that were just made of a window of a scene.

    Args:
        embedding: of the window.
        grid: where its cells lie under the scene, see `shown_grid`.
        lock: see `Cells`.
    """

    embedding: SceneEmbedding
    grid: Grid
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def width(self) -> int:
        """Dimensions D."""
        return int(self.embedding.values.shape[-1])

    def under(self, base: Grid) -> Grid:
        """See `Cells`; the base is the scene itself."""
        return self.grid

    def read(
        self, window: Window, size: tuple[int, int]
    ) -> tuple[FloatArray, BoolArray]:
        """See `Cells`."""
        rows = window.row + np.arange(size[0]) * window.height // size[0]
        columns = window.column + np.arange(size[1]) * window.width // size[1]
        at = np.ix_(rows, columns)
        return self.embedding.values[at], self.embedding.valid[at] > 0


def take_cells(
    cells: Cells,
    shown: Grid,
    base: Grid,
    of: Callable[[FloatArray], FloatArray],
) -> tuple[FloatArray, BoolArray]:
    """Take what is computed of cells under the pixels of a grid.

    Args:
        cells: the embeddings.
        shown: the grid wanted.
        base: the whole grid that it is a part of.
        of: makes (h, w, K) of cells (h, w, D and what follows).

    Returns:
        (K, H, W) and where there are any (H, W).
    """

    def read(window: Window, size: tuple[int, int]) -> FloatArray:
        values, valid = cells.read(window, size)
        layers = np.concatenate([of(values), valid[..., None]], axis=-1)
        return np.moveaxis(layers.astype(np.float32), -1, 0)

    with cells.lock:
        taken = sample(shown, cells.under(base), read)
    if taken is None:
        nothing = np.zeros((1, shown.height, shown.width), np.float32)
        return nothing, nothing[0] > 0
    numbers = taken[0].astype(np.float32)
    return numbers[:-1], taken[1] & (numbers[-1] > 0)
