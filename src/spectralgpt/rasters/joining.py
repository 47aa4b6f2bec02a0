"""Bringing a product onto the pixels of another grid, and laying products over others.

Pixels that lie on each other are copied. Others are interpolated by GDAL's warper with
cubic convolution, at exact positions, so that a window equals that part of the whole.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.warp import Resampling, reproject

from spectralgpt.rasters.alignment import is_same_system
from spectralgpt.rasters.footprints import move_near
from spectralgpt.rasters.gdal_errors import move_points, reading
from spectralgpt.rasters.geometry import Grid, Raster, Window, apply, compose

__all__ = ["Layer", "bring_to", "lay_over"]

Layer = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Reflectance and validity, each (C, H, W)."""
_ReadWindow = Callable[[Window, tuple[int, int]], Raster]
_SAME = 1e-6
"""Relative size and shift, px, of pixels that lie on each other."""
_MARGIN_PX = 3
"""Pixels around a window that cubic convolution looks at, and one to spare."""
_EDGE_POINTS = 33
_SHRINK = 1.5
"""From this many pixels of the image a pixel of the target on, means are taken first.
"""


def lay_over(above: Layer, below: Layer) -> Layer:
    """Fill a layer with what lies below it.

    A pixel is taken from one layer with all of its bands, so that no spectrum mixes
    two dates: from the first that shows all bands, else the first that shows any.
    """
    pixels, valid = above
    more, more_valid = below
    is_full, is_empty = valid.all(axis=0), ~valid.any(axis=0)
    take = more_valid.all(axis=0) & ~is_full | more_valid.any(axis=0) & is_empty
    return np.where(take, more, pixels), np.where(take, more_valid, valid)


def bring_to(target: Grid, source: Grid, count: int, read: _ReadWindow) -> Layer:
    """Return what an image shows of a grid; nothing is valid outside of the image.

    Args:
        target: the grid wanted, a few windows large at most.
        source: the image's own.
        count: bands C.
        read: reads a window of the image at a size (H, W).
    """
    shape = (count, target.height, target.width)
    pixels, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    shift = _whole_shift(target, source)
    if shift is not None:
        _copy((pixels, valid), source, shift, read)
        return pixels, valid
    window = _window_below(target, source)
    if window is None:
        return pixels, valid
    size = _size_of(target, source, window)
    raster = read(window, size)
    place = Grid(*size, raster.transform, source.crs)
    return _warp(raster, place, target)


def _size_of(target: Grid, source: Grid, window: Window) -> tuple[int, int]:
    """Return the size to read a window at: shrunk where the target is coarser."""
    rows, columns = window.height / target.height, window.width / target.width
    if min(rows, columns) < _SHRINK:
        return window.height, window.width
    return math.ceil(window.height / rows), math.ceil(window.width / columns)


def _whole_shift(target: Grid, source: Grid) -> tuple[int, int] | None:
    """Return (rows, columns) from source to target if their pixels are the same."""
    if not is_same_system(target.crs, source.crs):
        return None
    assert target.transform is not None
    assert source.transform is not None
    step = compose(~source.transform, target.transform)
    turned = max(abs(step.b), abs(step.d), abs(step.a - 1), abs(step.e - 1))
    side = max(target.height, target.width)
    off = max(abs(step.c - round(step.c)), abs(step.f - round(step.f)))
    # Rounded coordinates of two products differ by far less than this.
    if turned * side > _SAME * 1000 or off > _SAME * 1000:
        return None
    return round(step.f), round(step.c)


def _copy(
    layer: Layer, source: Grid, shift: tuple[int, int], read: _ReadWindow
) -> None:
    _, height, width = layer[0].shape
    top, left = max(0, shift[0]), max(0, shift[1])
    bottom = min(source.height, shift[0] + height)
    right = min(source.width, shift[1] + width)
    if top >= bottom or left >= right:
        return
    size = bottom - top, right - left
    raster = read(Window(top, left, *size), size)
    rows = slice(top - shift[0], bottom - shift[0])
    columns = slice(left - shift[1], right - shift[1])
    layer[0][:, rows, columns], layer[1][:, rows, columns] = raster.pixels, raster.valid


def _window_below(target: Grid, source: Grid) -> Window | None:
    """Return the window of the source that a grid lies on, with a margin."""
    assert target.transform is not None
    assert source.transform is not None
    along: list[float] = np.linspace(0, 1, _EDGE_POINTS).tolist()
    sides = [(t, 0.0) for t in along] + [(t, 1.0) for t in along]
    sides += [(0.0, t) for t in along] + [(1.0, t) for t in along]
    places = [
        apply(target.transform, x * target.width, y * target.height) for x, y in sides
    ]
    xs, ys = move_points(target.crs, source.crs, *zip(*places, strict=True))
    middle = apply(source.transform, source.width / 2, source.height / 2)[0]
    xs = move_near(np.asarray(xs), source.crs, middle).tolist()
    back = ~source.transform
    moved = [apply(back, x, y) for x, y in zip(xs, ys, strict=True)]
    found = [place for place in moved if all(map(math.isfinite, place))]
    if not found:
        return None
    columns, rows = zip(*found, strict=True)
    top = max(0, math.floor(min(rows)) - _MARGIN_PX)
    left = max(0, math.floor(min(columns)) - _MARGIN_PX)
    bottom = min(source.height, math.ceil(max(rows)) + _MARGIN_PX)
    right = min(source.width, math.ceil(max(columns)) + _MARGIN_PX)
    if top >= bottom or left >= right:
        return None
    return Window(top, left, bottom - top, right - left)


def _warp(raster: Raster, source: Grid, target: Grid) -> Layer:
    shape = (len(raster.pixels), target.height, target.width)
    out = np.full(shape, np.nan, np.float32)
    seen = np.zeros(shape, np.uint8)
    places = {
        "src_transform": source.transform,
        "src_crs": source.crs,
        "dst_transform": target.transform,
        "dst_crs": target.crs,
        # The nearest positions, not those of a grid that differs between windows.
        "tolerance": 0,
    }
    cubic = places | {"resampling": Resampling.cubic}
    cubic |= {"src_nodata": np.nan, "dst_nodata": np.nan}
    with reading(Path(raster.name)):
        for i, (pixels, valid) in enumerate(
            zip(raster.pixels, raster.valid, strict=True)
        ):
            known = np.where(valid, pixels, np.float32(np.nan))
            reproject(known, out[i], **cubic)
            # Valid is what the nearest pixel is, as between bands of different size.
            reproject(
                valid.astype(np.uint8), seen[i], resampling=Resampling.nearest, **places
            )
    is_valid = (seen > 0) & np.isfinite(out)
    return np.where(is_valid, out, np.float32(0)), is_valid
