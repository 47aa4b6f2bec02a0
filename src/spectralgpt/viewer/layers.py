"""What lies at a place, as colours: bands, maps and embeddings under parts of a grid.

Files stay open while they are served; each is for one thread at a time.
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

from spectralgpt.data.classes import class_colours, to_rgb
from spectralgpt.errors import BandError, DataError
from spectralgpt.rasters import OpenFiles, Window
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.lookup import lay_under, sample, sample_map, shown_grid
from spectralgpt.rasters.maps import MapFile
from spectralgpt.reports.style import Stretch, choose_composites, measure_stretch
from spectralgpt.scenes.embedding import SceneEmbedding
from spectralgpt.scenes.similarity import Query
from spectralgpt.sensors import Band

Picture = NDArray[np.uint8]
"""(H, W, 4): red, green, blue and how opaque."""
ReadBands = Callable[
    [Sequence[Band], Grid], tuple[NDArray[np.float32], NDArray[np.bool_]]
]
"""Returns pixels and validity, both (C, H, W), of bands under a grid."""
_LEVELS = 255
_THIN_PX = 512
_SMALLEST_SPAN = 1e-30
_COLOURS_A_PICTURE = (1, 3)
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


def thin_grid(base: Grid, most: int = _THIN_PX) -> Grid:
    """Return a grid of at most `most` pixels per side that covers all of another."""
    side = max(base.height, base.width)
    return shown_grid(base, 0, 0, -(-side // most), min(most, side))


class BandPictures:
    """Bands of one place as pictures, each band stretched alike everywhere.

    Args:
        bands: that there are.
        base: the grid that they lie on.
        read: reads bands under a part of the base; may be called by several threads.
    """

    def __init__(self, bands: Sequence[Band], base: Grid, read: ReadBands) -> None:
        self.bands, self.base, self.read = tuple(bands), base, read
        self.composites = choose_composites(self.bands)
        self._limits: dict[str, tuple[float, float]] = {}

    def choose(self, names: Sequence[str]) -> list[Band]:
        """Return the bands of these names.

        Raises:
            BandError: one is not there, or they are not one or three.
        """
        known = {band.name: band for band in self.bands}
        wrong = [name for name in names if name not in known]
        if wrong:
            raise BandError(f"no band {wrong[0][:40]!r} (there: {', '.join(known)}).")
        if len(names) not in _COLOURS_A_PICTURE:
            raise BandError(f"a picture is of one band or three, not {len(names)}.")
        return [known[name] for name in names]

    def stretch(self, bands: Sequence[Band]) -> Stretch:
        """Return the darkest and brightest values shown, measured once per band.

        Raises:
            RasterError: the bands cannot be read.
        """
        new = [band for band in dict.fromkeys(bands) if band.name not in self._limits]
        if new:
            pixels, valid = self.read(new, thin_grid(self.base))
            found = measure_stretch(pixels, valid)
            for band, *limits in zip(new, found.low, found.high, strict=True):
                self._limits[band.name] = float(limits[0]), float(limits[1])
        low, high = zip(*(self._limits[band.name] for band in bands), strict=True)
        return Stretch(np.array(low, np.float32), np.array(high, np.float32))

    def draw(self, names: Sequence[str], shown: Grid) -> Picture:
        """Draw bands by their names.

        Raises:
            BandError: see `choose`.
            RasterError: the bands cannot be read.
        """
        bands = self.choose(names)
        pixels, valid = self.read(list(dict.fromkeys(bands)), shown)
        # The same band may be shown in several colours.
        order = [list(dict.fromkeys(bands)).index(band) for band in bands]
        return draw_bands(pixels[order], valid[order], self.stretch(bands))


def draw_bands(
    pixels: NDArray[np.float32], valid: NDArray[np.bool_], stretch: Stretch
) -> Picture:
    """Draw one band in grey or three in colour; clear where one holds no data.

    Args:
        pixels: (1 or 3, H, W).
        valid: the same shape.
        stretch: of these bands.
    """
    indices = tuple(range(len(pixels)))
    shown = stretch.apply(pixels, indices)
    rgb = np.broadcast_to(shown, (*shown.shape[:2], 3))
    return _join(rgb, np.asarray(valid.all(axis=0)))


def draw_measures(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    limits: tuple[float, float],
    colours: str,
) -> Picture:
    """Draw numbers by a colour map, clear where invalid.

    Args:
        values: (H, W).
        valid: the same shape.
        limits: numbers at both ends of the colour map.
        colours: matplotlib's name of the colour map.
    """
    from matplotlib import colormaps

    span = max(limits[1] - limits[0], _SMALLEST_SPAN)
    share = np.clip((np.where(valid, values, limits[0]) - limits[0]) / span, 0, 1)
    return _join(colormaps[colours](share)[..., :3], valid)


def _join(rgb: NDArray[np.floating], is_shown: NDArray[np.bool_]) -> Picture:
    """Join colours (H, W, 3) of 0..1 with whether a pixel is shown."""
    alpha = np.where(is_shown, 1.0, 0.0)[..., None]
    shown = np.concatenate([rgb, alpha], axis=-1) * _LEVELS
    return np.rint(shown).astype(np.uint8)


class MapLayer:
    """A map, kept open, with its colours.

    Args:
        found: the map.

    Raises:
        RasterError: it cannot be read.
    """

    def __init__(self, found: MapFile) -> None:
        self._files, self._lock = OpenFiles(), threading.Lock()
        names = found.names
        stated = {names[code]: colour for code, colour in found.colours.items()}
        by_name = class_colours(list(names.values()), stated)
        # Two codes may share a name, and yet have colours of their own.
        colours = {code: by_name[name] for code, name in names.items()}
        self.map = replace(found, colours=colours | found.colours)
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
        """Draw a layer under a grid; for the arguments see `sample_map`."""
        values, valid = self.read(layer, shown, base)
        if self.map.kind == "classes":
            picture = np.zeros((*values.shape, 4), np.uint8)
            for code, colour in self.map.colours.items():
                picture[valid & (values == code)] = (*to_rgb(colour), _LEVELS)
            return picture
        return draw_measures(values, valid, self.limits[layer], MEASURE_COLOURS)

    def name_of(self, layer: int, row: int, column: int, base: Grid) -> str:
        """Say what the map holds at a pixel; "" where nothing.

        Args:
            layer: which, from 0.
            row: of the pixel, in the base.
            column: of the pixel, in the base.
            base: the whole grid that is shown.
        """
        values, valid = self.read(layer, shown_grid(base, row, column, 1, 1), base)
        if not valid[0, 0]:
            return ""
        if self.map.kind == "measures":
            return f"{values[0, 0]:.4g}{self.map.unit}"
        return self.map.names.get(int(values[0, 0]), f"code {values[0, 0]}")

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
        """Level of tiles that show a cell per pixel: finer ones only repeat cells."""
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
        return Query.of(found[None, :, 0, 0], self.mean)

    def draw(self, query: Query, shown: Grid) -> Picture:
        """Draw how like a query all cells are under a grid."""

        def likeness(cells: FloatArray) -> FloatArray:
            return query.similarity(cells[..., : self.width])[..., None]

        found, valid = self.take(shown, likeness)
        return draw_measures(found[0], valid, LIKENESS_LIMITS, LIKENESS_COLOURS)

    @classmethod
    def of_raster(
        cls, raster: EmbeddingRaster, base: Grid, lock: threading.Lock
    ) -> "Cells":
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
        return cls(base, grid, raster.source.width, read, raster.path, lock)

    @classmethod
    def of_made(cls, made: SceneEmbedding, grid: Grid, scene: Grid) -> "Cells":
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

        return cls(scene, grid, int(made.values.shape[-1]), read)
