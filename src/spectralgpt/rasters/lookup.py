"""What lies below the pixels of a grid: codes, numbers and shapes, never blended.

Each pixel of the grid takes what lies below its centre, in any reference system. Class
codes of labels and maps are looked up this way, and so are the pixels that a screen
shows, which are read at the resolution needed, through a file's overviews where it has
some. Reading for models is `spectralgpt.rasters.read`'s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.features import rasterize

from spectralgpt.errors import RasterError
from spectralgpt.rasters.files import find_masks, open_raster, read_header, read_masks
from spectralgpt.rasters.footprints import move_edges, move_pixels, move_points, turn_of
from spectralgpt.rasters.gdal import Location, check_memory, quiet_gdal, reading
from spectralgpt.rasters.grid import (
    Flags,
    Grid,
    Numbers,
    Raster,
    Window,
    apply,
    compose,
    is_same_system,
)
from spectralgpt.rasters.maps import MapFile
from spectralgpt.rasters.mosaics import Mosaic
from spectralgpt.rasters.read import OpenFiles, RasterFile
from spectralgpt.sensors import Band

Align = Literal["auto", "georeference", "shape"]
_Indices = npt.NDArray[np.intp]
_Codes = npt.NDArray[np.int64]
_Line = tuple[float, float]
ReadAt = Callable[[Window, tuple[int, int]], Numbers]
"""Reads a window of a file at a size (H, W); returns (layers, H, W)."""
_CODE_BYTES = 10
"""Of a code, what stands in the file, and a flag."""
_SLACK = 1e-6
"""Relative to a pixel; georeferences are rounded where they are written."""


@dataclass(frozen=True)
class Overlay:
    """Where the pixels of an image lie in a layer of codes.

    Args:
        rows: (scale, shift): row in the layer = scale * row in the image + shift.
        columns: the same for columns.
        height: rows of the layer.
        width: columns of the layer.
    """

    rows: _Line
    columns: _Line
    height: int
    width: int

    def pixels(self, window: Window) -> tuple[_Indices, _Indices]:
        """Return the layer's (row, column) indices below the centres of a window.

        Indices outside the layer are -1.
        """
        rows = _along(self.rows, window.row, window.height, self.height)
        return rows, _along(self.columns, window.column, window.width, self.width)


def overlay(image: Grid, codes: Grid, align: Align = "auto") -> Overlay:
    """Lay a layer of codes over an image.

    Args:
        image: grid of the image.
        codes: grid of the layer; it must cover the image, to half a pixel of the
            coarser one.
        align: `auto` goes by georeference where both have one and by equal shape
            otherwise; `georeference` and `shape` insist.

    Raises:
        RasterError: the two cannot lie on each other; says why.
    """
    is_placed = [g.transform is not None and g.crs is not None for g in (image, codes)]
    if align == "georeference" and not all(is_placed):
        which = "the image" if not is_placed[0] else "the mask"
        raise RasterError(
            f"{which} has no georeference. Add one, or set align to shape."
        )
    if align == "shape" or not all(is_placed):
        _check_shape(image, codes, align)
        return Overlay((1.0, 0.0), (1.0, 0.0), codes.height, codes.width)
    if not is_same_system(image.crs, codes.crs):
        raise RasterError(
            f"the image is in {_shorten(image.crs)}, the mask in "
            f"{_shorten(codes.crs)}. Reproject one of them first."
        )
    rows, columns = image.map_to(replace(codes, crs=image.crs))
    _check_cover(rows, image.height, codes.height, "rows")
    _check_cover(columns, image.width, codes.width, "columns")
    return Overlay(rows, columns, codes.height, codes.width)


def _along(line: _Line, start: int, length: int, size: int) -> _Indices:
    scale, shift = line
    at = np.floor(scale * (np.arange(start, start + length) + 0.5) + shift)
    return np.where((at >= 0) & (at < size), at, -1).astype(np.intp)


def _check_shape(image: Grid, codes: Grid, align: Align) -> None:
    if (image.height, image.width) == (codes.height, codes.width):
        return
    why = "" if align == "shape" else ", and not both have a georeference"
    raise RasterError(
        f"the image has {image.height} x {image.width} px, the mask {codes.height} x "
        f"{codes.width}{why}. Cut one of them to the other."
    )


def _check_cover(line: _Line, length: int, size: int, what: str) -> None:
    """Refuse a layer that ends before the image does."""
    scale, shift = line
    first, last = sorted((shift, scale * length + shift))
    # In pixels of the layer.
    slack = max(1.0, abs(scale)) / 2 + _SLACK * size
    missing = max(-first, last - size)
    if missing > slack:
        raise RasterError(
            f"the mask ends {missing / abs(scale):.1f} px ({what}) before the image "
            "does, by their georeferences. Correct them, or set align to shape if "
            "only the georeference is wrong."
        )


def _shorten(text: str | None, most: int = 40) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= most else f"{text[:most]}..."


def read_codes(
    path: Path, index: int, rows: _Indices, columns: _Indices
) -> tuple[_Codes, Flags]:
    """Look codes up in a layer.

    Args:
        path: the file.
        index: which layer of it, from 1.
        rows: (H,) rows of the layer, -1 for none.
        columns: (W,) columns of the layer, -1 for none.

    Returns:
        codes (H, W), and whether there is one (H, W): not outside, NaN or masked.

    Raises:
        RasterError: the file cannot be read, has no such layer, or holds fractions.
    """
    numbers, known = read_values(path, index, rows, columns)
    return _to_codes(np.where(known, numbers, 0), path), known


def read_values(
    path: Path, index: int, rows: _Indices, columns: _Indices
) -> tuple[Numbers, Flags]:
    """Look numbers up in a layer, fractions and all; see `read_codes`."""
    check_memory(path, len(rows) * len(columns) * _CODE_BYTES)
    there = (rows >= 0)[:, None] & (columns >= 0)
    if not there.any():
        return np.zeros(there.shape, np.int64), there
    top, left = int(rows[rows >= 0].min()), int(columns[columns >= 0].min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    numbers, seen, _ = _read_window(path, index, Window(top, left, height, width))
    at = np.maximum(rows - top, 0)[:, None], np.maximum(columns - left, 0)
    return numbers[at], there & seen[at]


def read_codes_at(path: Path, index: int, grid: Grid) -> tuple[_Codes, Flags]:
    """Look up the code at the centre of each pixel of a grid.

    Unlike `read_codes`, the layer may cover a part of the grid only.

    Args:
        path: a georeferenced layer of codes.
        index: which layer of the file, from 1.
        grid: a strip of an image, see `Grid.strips`.

    Returns:
        codes (H, W), and whether there is one (H, W): not outside, NaN, masked or
        nodata.

    Raises:
        RasterError: the file cannot be read, has no reference system, or holds
            fractions.
    """
    layer = _placed_layer(path, grid)
    rows, columns, inside = _below(grid, layer)
    codes = np.zeros(inside.shape, np.int64)
    if not inside.any():
        return codes, inside
    top, bottom = int(rows[inside].min()), int(rows[inside].max()) + 1
    middles = columns[inside].astype(np.float64) + 0.5
    for left, right in _spans(middles, layer):
        window = Window(top, left, bottom - top, right - left)
        found, known = _read_known_codes(path, index, window)
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
    layer = _placed_layer(path, grid)
    columns, rows = move_edges(grid, layer)
    if not len(rows):
        return {}
    top = max(0, math.floor(rows.min()))
    bottom = min(layer.height, math.ceil(rows.max()))
    counts: dict[int, int] = {}
    if bottom <= top:
        return counts
    for left, right in _spans(columns, layer):
        for strip in Grid(bottom - top, right - left).strips():
            window = Window(top + strip.row, left, strip.height, strip.width)
            codes, known = _read_known_codes(path, index, window)
            found = np.unique(codes[known], return_counts=True)
            for code, count in zip(*found, strict=True):
                counts[int(code)] = counts.get(int(code), 0) + int(count)
    return counts


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

    Returns:
        (H, W).
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


def _placed_layer(path: Path, grid: Grid) -> Grid:
    """Return the grid of a layer, which must have a way to the image's system."""
    layer = read_header(path).grid
    if layer.transform is None or layer.crs is None or grid.transform is None:
        raise RasterError(
            f"{path} has no reference system, so it lies on no scene. Set one with "
            "gdal_edit.py -a_srs."
        )
    try:
        return lay_under(grid, layer)
    except RasterError as error:
        raise RasterError(f"{path} cannot be laid on a scene: {error}") from None


def _spans(columns: npt.NDArray[np.float64], layer: Grid) -> list[tuple[int, int]]:
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


def _read_known_codes(path: Path, index: int, window: Window) -> tuple[_Codes, Flags]:
    numbers, known, nodata = _read_window(path, index, window)
    if nodata is not None:
        known &= numbers != nodata
    return _to_codes(np.where(known, numbers, 0), path), known


def _read_window(
    path: Path, index: int, window: Window
) -> tuple[Numbers, Flags, float | None]:
    """Read the numbers of a layer, where they are known, and its nodata.

    Known are those that are neither NaN nor masked (H, W).
    """
    with quiet_gdal(), open_raster(path) as dataset:
        if index > dataset.count:
            raise RasterError(
                f"{path} has {dataset.count} layers, number {index} was asked for."
            )
        with reading(path):
            check_memory(path, window.width * window.height * _CODE_BYTES)
            numbers = np.asarray(dataset.read(index, window=window.slices))
            known = np.isfinite(numbers)
            masks = find_masks(dataset)[index - 1]
            # Asked for itself, a layer of opacity holds codes.
            if masks and index not in masks:
                known &= read_masks(dataset, [index], masks, window)[0]
            return numbers, known, dataset.nodata


def _to_codes(numbers: Numbers, path: Path) -> _Codes:
    codes = numbers.astype(np.int64)
    if (codes != numbers).any():
        raise RasterError(
            f"{path} holds fractions such as {numbers[codes != numbers][0]:g}, so its "
            "numbers are no class codes. Name a file of class codes."
        )
    return codes


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
    assert source.transform is not None
    x, y = apply(source.transform, source.width / 2, source.height / 2)
    move_points(source.crs, base.crs, [x], [y])
    return source


def reaches(shown: Grid, source: Grid) -> bool:
    """Whether a file lies under any pixel of a grid; see `sample`."""
    return bool(_below(shown, source)[2].any())


def sample(shown: Grid, source: Grid, read: ReadAt) -> tuple[Numbers, Flags] | None:
    """Take the numbers of a file under the pixels of a grid.

    Args:
        shown: the grid wanted, see `shown_grid`.
        source: the file's, from `lay_under`.
        read: reads the file.

    Returns:
        Numbers (layers, H, W) and whether the file reaches there (H, W); None if it
        reaches nowhere.
    """
    rows, columns, there = _below(shown, source)
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


def _sample_layers(
    path: Location,
    indices: Sequence[int],
    masks: Sequence[int],
    shown: Grid,
    source: Grid,
    files: OpenFiles,
) -> tuple[Numbers, Flags] | None:
    """Take numbers of layers of a file, from 1, with `sample`, inside `quiet_gdal`.

    Numbers (layers, H, W), and whether they are there and not masked, in this shape;
    None if the file reaches nowhere.
    """

    def read_numbers(window: Window, size: tuple[int, int]) -> Numbers:
        shape = (len(indices), *size)
        with reading(path):
            dataset = files.get(path)
            found = dataset.read(list(indices), window=window.slices, out_shape=shape)
            return np.asarray(found)

    def read_seen(window: Window, size: tuple[int, int]) -> Numbers:
        with reading(path):
            return read_masks(files.get(path), indices, masks, window, size)

    found = sample(shown, source, read_numbers)
    if found is None:
        return None
    numbers, there = found
    known = np.broadcast_to(there, numbers.shape)
    if masks:
        seen = sample(shown, source, read_seen)
        assert seen is not None
        known = known & seen[0].astype(np.bool_)
    return numbers, known


def sample_scene(
    item: RasterFile, bands: Sequence[Band], shown: Grid, base: Grid, files: OpenFiles
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
            indices = [file.index for file in chosen]
            under = lay_under(base, chosen[0].grid)
            found = _sample_layers(path, indices, masks, shown, under, files)
            if found is not None:
                values, known = item.to_reflectance(found[0], chosen)
                pixels[places], valid[places] = values, known & found[1]
    pixels[~valid] = 0
    return Raster(pixels, valid, bands, shown.crs, shown.transform, item.name)


def _span(places: _Indices, count: int, length: int) -> tuple[int, int]:
    """Return the first of a file's rows that are covered, and how many.

    Half a step is added around the centres, so that pixels of the screen are whole.
    """
    first, last = int(places.min()), int(places.max())
    half = (last - first) / max(1, count - 1) / 2
    start = max(0, math.floor(first + 0.5 - half))
    return start, min(length, math.ceil(last + 0.5 + half)) - start


def _below(shown: Grid, source: Grid) -> tuple[_Indices, _Indices, Flags]:
    """Return the row and column of the source below each pixel, and whether one is."""
    at = np.meshgrid(np.arange(shown.width) + 0.5, np.arange(shown.height) + 0.5)
    columns, rows = move_pixels(shown, source, *at)
    with np.errstate(invalid="ignore"):
        there = (rows >= 0) & (rows < source.height)
        there &= (columns >= 0) & (columns < source.width)
    found_rows = np.where(there, rows, 0).astype(np.intp)
    return found_rows, np.where(there, columns, 0).astype(np.intp), there


def sample_map(
    found: MapFile, layer: int, shown: Grid, base: Grid, files: OpenFiles
) -> tuple[Numbers, Flags]:
    """Take the numbers of a map under the pixels of a grid.

    Args:
        found: the map.
        layer: which, from 0.
        shown: the grid wanted, a part of the base; see `shown_grid`.
        base: the whole grid that it is a part of.
        files: kept open between calls.

    Returns:
        Codes, or measured numbers as float32, (H, W), and where there are any.

    Raises:
        RasterError: the file cannot be read, or cannot be laid over the base.
    """
    indices, masks = [layer + 1], found.masks[layer]
    with quiet_gdal():
        under = lay_under(base, found.grid)
        taken = _sample_layers(found.path, indices, masks, shown, under, files)
    if taken is None:
        shape = (shown.height, shown.width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    numbers = taken[0][0]
    valid = taken[1][0] & np.isfinite(numbers)
    nodata = found.nodata[layer]
    if nodata is not None and not np.isnan(nodata):
        valid &= numbers != nodata
    if found.kind == "classes":
        return numbers, valid
    scale, offset = found.scales[layer]
    measured = numbers.astype(np.float32) * np.float32(scale) + np.float32(offset)
    return np.where(valid, measured, np.float32(0)), valid
