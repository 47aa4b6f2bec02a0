"""Pixels as a screen shows them: the ones below a coarser, or another, grid.

Nothing is interpolated: each pixel of the grid shown takes the pixel of the file that
its centre lies in. Files are read at the resolution that is needed, through their
overviews where they have some, so that memory follows the grid shown and not the file.
Reading for models is `spectralgpt.rasters.reading`'s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.alignment import is_same_system
from spectralgpt.rasters.files import (
    OpenFiles,
    quiet_gdal,
    read_masks,
)
from spectralgpt.rasters.footprints import move_near
from spectralgpt.rasters.gdal_errors import move_points, reading
from spectralgpt.rasters.geometry import Grid, Raster, Window, apply, compose
from spectralgpt.rasters.items import RasterItem
from spectralgpt.rasters.locations import Location
from spectralgpt.rasters.mosaics import Mosaic
from spectralgpt.rasters.reading import to_reflectance
from spectralgpt.sensors import Band

__all__ = [
    "lay_under",
    "reaches",
    "sample",
    "sample_layers",
    "sample_scene",
    "shown_grid",
]

Numbers = npt.NDArray[np.generic]
ReadAt = Callable[[Window, tuple[int, int]], Numbers]
"""Reads a window of a file at a size (H, W); returns (layers, H, W)."""


def shown_grid(base: Grid, row: int, column: int, step: int, size: int) -> Grid:
    """Return the grid of a square part of a screen; it may reach beyond its base.

    Args:
        base: the grid that rows and columns count in.
        row: first row.
        column: first column.
        step: pixels of the base a side of a pixel shown.
        size: pixels shown a side.
    """
    place = Affine.identity() if base.transform is None else base.transform
    moved = compose(place, Affine.translation(column, row))
    return Grid(size, size, compose(moved, Affine.scale(step, step)), base.crs)


def lay_under(base: Grid, source: Grid) -> Grid:
    """Return the grid of a file so that it can be found under the parts of a base.

    Without georeference the two are taken to cover the same rectangle.

    Args:
        base: what parts shown are made of, see `shown_grid`.
        source: the file's own grid.

    Raises:
        RasterError: one of them alone has a georeference, or the reference systems
            cannot be brought together.
    """
    is_placed = [grid.transform is not None for grid in (base, source)]
    if not any(is_placed):
        scale = Affine.scale(base.width / source.width, base.height / source.height)
        return replace(source, transform=scale)
    if not all(is_placed):
        which = "the other" if is_placed[0] else "the scene"
        raise RasterError(f"{which} has no georeference, so its place is not known.")
    if is_same_system(base.crs, source.crs):
        return replace(source, crs=base.crs)
    x, y = apply(source.transform, source.width / 2, source.height / 2)
    move_points(source.crs, base.crs, [x], [y])
    return source


def sample(
    shown: Grid, source: Grid, read: ReadAt
) -> tuple[Numbers, npt.NDArray[np.bool_]] | None:
    """Take the numbers of a file under the pixels of a grid.

    Args:
        shown: the grid wanted, see `shown_grid`.
        source: the file's, from `lay_under`.
        read: reads the file.

    Returns:
        Numbers (layers, H, W) and whether the file reaches there (H, W); None if it
        reaches nowhere.
    """
    rows, columns, there = _positions(shown, source)
    if not there.any():
        return None
    count_rows = int(there.any(axis=1).sum())
    count_columns = int(there.any(axis=0).sum())
    top, height = _span(rows[there], count_rows, source.height)
    left, width = _span(columns[there], count_columns, source.width)
    window = Window(top, left, height, width)
    # As many as are shown, so that a regular step lands on each once.
    numbers = read(window, (min(height, count_rows), min(width, count_columns)))
    size = numbers.shape[1], numbers.shape[2]
    at_rows = np.where(there, rows - top, 0) * size[0] // window.height
    at_columns = np.where(there, columns - left, 0) * size[1] // window.width
    return numbers[:, at_rows, at_columns], there


def reaches(shown: Grid, source: Grid) -> bool:
    """Whether a file lies under any pixel of a grid; see `sample`."""
    return bool(_positions(shown, source)[2].any())


def sample_layers(
    path: Location, indices: Sequence[int], files: OpenFiles, masks: Sequence[int] = ()
) -> ReadAt:
    """Return what reads layers (1-based) for `sample`, inside `quiet_gdal`.

    Args:
        path: the file.
        indices: its layers.
        files: kept open between calls.
        masks: read these in place of the numbers, see `files.read_masks`.
    """

    def read(window: Window, size: tuple[int, int]) -> Numbers:
        at = RasterioWindow(window.column, window.row, window.width, window.height)
        shape = (len(indices), *size)
        with reading(path):
            if masks:
                return read_masks(files.get(path), indices, masks, at, size)
            found = files.get(path).read(list(indices), window=at, out_shape=shape)
            return np.asarray(found)

    return read


def sample_scene(
    item: RasterItem, bands: Sequence[Band], shown: Grid, base: Grid, files: OpenFiles
) -> Raster:
    """Take reflectance under the pixels of a grid.

    Unlike `read_raster` this interpolates nothing, and does not judge values.

    Args:
        item: the scene.
        bands: which, in the order of the result.
        shown: the grid wanted, a part of the base.
        base: the scene's own grid.
        files: kept open between calls.

    Raises:
        BandError: a band is missing.
        RasterError: a file cannot be read.
    """
    bands = item.require(bands)
    if isinstance(item, Mosaic):
        raise RasterError(f"{item.name} is a mosaic: show its products one by one.")
    pixels = np.zeros((len(bands), shown.height, shown.width), np.float32)
    valid = np.zeros(pixels.shape, np.bool_)
    groups: dict[tuple[Location, tuple[int, ...]], list[int]] = {}
    with quiet_gdal():
        item = item.located(bands, files)
        for at, band in enumerate(bands):
            file = item.files[band.name]
            groups.setdefault((file.path, file.masks), []).append(at)
        for (path, masks), places in groups.items():
            chosen = [item.files[bands[at].name] for at in places]
            under = lay_under(base, chosen[0].grid)
            indices = [file.index for file in chosen]
            found = sample(shown, under, sample_layers(path, indices, files))
            if found is None:
                continue
            values, known = to_reflectance(found[0], item, chosen)
            pixels[places], valid[places] = values, known & found[1]
            if masks:
                seen = sample(shown, under, sample_layers(path, indices, files, masks))
                assert seen is not None
                valid[places] &= np.asarray(seen[0], np.bool_)
    pixels[~valid] = 0
    return Raster(pixels, valid, bands, shown.crs, shown.transform, item.name)


def _span(places: npt.NDArray[np.intp], count: int, length: int) -> tuple[int, int]:
    """Return the first of a file's rows that are covered, and how many.

    Half a step is added around the centres, so that pixels of the screen are whole.
    """
    first, last = int(places.min()), int(places.max())
    half = (last - first) / max(1, count - 1) / 2
    start = max(0, math.floor(first + 0.5 - half))
    return start, min(length, math.ceil(last + 0.5 + half)) - start


def _positions(
    shown: Grid, source: Grid
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return the row and column of the source under each pixel, and whether one is."""
    assert shown.transform is not None
    assert source.transform is not None
    columns, rows = np.meshgrid(
        np.arange(shown.width) + 0.5, np.arange(shown.height) + 0.5
    )
    if shown.crs == source.crs:
        step = compose(~source.transform, shown.transform)
        at_columns, at_rows = _apply(step, columns, rows)
    else:
        xs, ys = _apply(shown.transform, columns, rows)
        found = move_points(shown.crs, source.crs, xs.ravel(), ys.ravel())
        xs, ys = (np.reshape(each, xs.shape) for each in found)
        middle = apply(source.transform, source.width / 2, source.height / 2)[0]
        xs = move_near(xs, source.crs, middle)
        # Points without a place are infinite.
        with np.errstate(invalid="ignore"):
            at_columns, at_rows = _apply(~source.transform, xs, ys)
    with np.errstate(invalid="ignore"):
        there = (at_rows >= 0) & (at_rows < source.height)
        there &= (at_columns >= 0) & (at_columns < source.width)
    found_rows = np.where(there, at_rows, 0).astype(np.intp)
    return found_rows, np.where(there, at_columns, 0).astype(np.intp), there


def _apply(
    step: Affine, columns: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (
        step.a * columns + step.b * rows + step.c,
        step.d * columns + step.e * rows + step.f,
    )
