"""Labels brought onto the grid of an image: shapes painted, codes looked up.

A pixel takes what lies at its centre. Unlike `spectralgpt.rasters.codes`, a layer may
lie in any reference system and may cover a part of the image only.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import rasterize
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.alignment import is_same_system
from spectralgpt.rasters.codes import read_code_window, to_codes
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.footprints import move_near, turn_of
from spectralgpt.rasters.gdal_errors import move_points
from spectralgpt.rasters.geometry import Grid, Window, apply

__all__ = ["find_codes", "paint_shapes", "read_codes_at", "rows_of"]

_Codes = npt.NDArray[np.int64]
_Places = npt.NDArray[np.float64]
_MOST_PIXELS = 2**20
"""Pixels of a strip; coordinates of each are held at once."""
_EDGE_POINTS = 33
"""Along each edge of an image, which may be curved in the other reference system."""


def rows_of(grid: Grid, most_px: int = _MOST_PIXELS) -> Iterator[Window]:
    """Cut a grid into strips of whole rows, from the top down."""
    height = max(1, min(grid.height, most_px // grid.width))
    for row in range(0, grid.height, height):
        yield Window(row, 0, min(height, grid.height - row), grid.width)


def paint_shapes(
    shapes: Sequence[tuple[Any, int]], grid: Grid, fill: int, all_touched: bool = False
) -> npt.NDArray[np.uint8]:
    """Paint shapes onto a grid, later ones over earlier ones.

    Args:
        shapes: (geometry, number) in the grid's reference system; geometries are
            shapely's or GeoJSON.
        grid: where to.
        fill: number where there is no shape.
        all_touched: paint every pixel that a shape touches, not those whose centre
            lies in it.
    """
    shape = grid.height, grid.width
    if not shapes:
        return np.full(shape, fill, np.uint8)
    with rasterio.Env():
        painted = rasterize(
            shapes,
            out_shape=shape,
            transform=grid.transform,
            fill=fill,
            all_touched=all_touched,
            dtype="uint8",
        )
    return np.asarray(painted, np.uint8)


def read_codes_at(
    path: Path, index: int, grid: Grid
) -> tuple[_Codes, npt.NDArray[np.bool_]]:
    """Look up the code at the centre of each pixel of a grid.

    Args:
        path: a georeferenced layer of codes.
        index: which layer of the file, from 1.
        grid: a strip of an image, see `rows_of`.

    Returns:
        codes (H, W), and whether there is one (H, W): not outside, NaN, masked or
        nodata.

    Raises:
        RasterError: the file cannot be read, has no reference system, or holds
            fractions.
    """
    layer = read_header(path).grid
    rows, columns, inside = _centres_in(path, layer, grid)
    if not inside.any():
        return np.zeros(inside.shape, np.int64), inside
    codes = np.zeros(inside.shape, np.int64)
    top, bottom = int(rows[inside].min()), int(rows[inside].max()) + 1
    for left, right in _spans(columns[inside].astype(np.float64) + 0.5, layer):
        window = RasterioWindow(left, top, right - left, bottom - top)
        found, known = _read(path, index, window)
        here = inside & (columns >= left) & (columns < right)
        at = rows[here] - top, columns[here] - left
        codes[here] = found[at]
        inside[here] = known[at]
    return codes, inside


def find_codes(path: Path, index: int, grid: Grid) -> dict[int, int]:
    """Count the codes of a layer in the rectangle of it that holds an image.

    Args:
        path: a georeferenced layer of codes.
        index: which layer of the file, from 1.
        grid: of the image.

    Returns:
        Pixels of the layer by code; none if the two lie apart.

    Raises:
        RasterError: see `read_codes_at`.
    """
    header = read_header(path)
    edges = _edge(grid)
    columns, rows = _to_pixels(path, header.grid, grid, *edges)
    shown = np.isfinite(columns) & np.isfinite(rows)
    columns, rows = columns[shown], rows[shown]
    if not shown.any():
        return {}
    top = max(0, math.floor(rows.min()))
    bottom = min(header.grid.height, math.ceil(rows.max()))
    counts: dict[int, int] = {}
    if bottom <= top:
        return counts
    for left, right in _spans(columns, header.grid):
        for strip in rows_of(Grid(bottom - top, right - left)):
            window = RasterioWindow(left, top + strip.row, strip.width, strip.height)
            codes, known = _read(path, index, window)
            found = np.unique(codes[known], return_counts=True)
            for code, count in zip(*found, strict=True):
                counts[int(code)] = counts.get(int(code), 0) + int(count)
    return counts


def _centres_in(
    path: Path, layer: Grid, grid: Grid
) -> tuple[_Codes, _Codes, npt.NDArray[np.bool_]]:
    """Rows and columns of a layer below the centres of a grid, and whether inside."""
    at = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    columns, rows = _to_pixels(path, layer, grid, *at)
    inside = (rows >= 0) & (rows < layer.height)
    inside &= (columns >= 0) & (columns < layer.width)
    rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 0)
    return np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64), inside


def _edge(grid: Grid) -> tuple[_Places, _Places]:
    """Columns and rows of points all along the edges of a grid."""
    across = np.linspace(0, grid.width, _EDGE_POINTS)
    down = np.linspace(0, grid.height, _EDGE_POINTS)
    columns = [across, across, np.zeros_like(down), np.full_like(down, grid.width)]
    rows = [np.zeros_like(across), np.full_like(across, grid.height), down, down]
    return np.concatenate(columns), np.concatenate(rows)


def _to_pixels(
    path: Path, layer: Grid, grid: Grid, columns: _Places, rows: _Places
) -> tuple[_Places, _Places]:
    """Carry positions in a grid over to (columns, rows) of a layer."""
    if layer.transform is None or layer.crs is None or grid.transform is None:
        raise RasterError(
            f"{path} has no reference system, so it lies on no scene. Set one with "
            "gdal_edit.py -a_srs."
        )
    xs, ys = _apply(grid.transform, columns, rows)
    if not is_same_system(grid.crs, layer.crs):
        try:
            found = move_points(grid.crs, layer.crs, xs.ravel(), ys.ravel())
        except RasterError as error:
            raise RasterError(f"{path} cannot be laid on a scene: {error}") from None
        xs, ys = (np.asarray(line).reshape(xs.shape) for line in found)
    middle = apply(layer.transform, layer.width / 2, layer.height / 2)[0]
    # Points without a place are infinite.
    with np.errstate(invalid="ignore"):
        return _apply(~layer.transform, move_near(xs, layer.crs, middle), ys)


def _spans(columns: _Places, layer: Grid) -> list[tuple[int, int]]:
    """Return the (first, beyond the last) columns of a layer that hold positions.

    Two where they lie at both ends of it, as those of an image across 180 degrees do.
    """
    assert layer.transform is not None
    turn_px = turn_of(layer.crs) / max(abs(layer.transform.a), abs(layer.transform.b))
    ends = [columns]
    ordered = np.unique(columns)
    gaps = np.diff(ordered, append=ordered[-1])
    if gaps.max() > turn_px / 2:
        left, right = np.split(ordered, [int(gaps.argmax()) + 1])
        ends = [np.append(left, 0.0), np.append(right, layer.width)]
    spans = (
        (max(0, math.floor(c.min())), min(layer.width, math.ceil(c.max())))
        for c in ends
    )
    return [(left, right) for left, right in spans if right > left]


def _apply(
    transform: rasterio.Affine, xs: _Places, ys: _Places
) -> tuple[_Places, _Places]:
    return (
        transform.a * xs + transform.b * ys + transform.c,
        transform.d * xs + transform.e * ys + transform.f,
    )


def _read(
    path: Path, index: int, window: RasterioWindow
) -> tuple[_Codes, npt.NDArray[np.bool_]]:
    numbers, known, nodata = read_code_window(path, index, window)
    if nodata is not None:
        known &= numbers != nodata
    return to_codes(np.where(known, numbers, 0), path), known
