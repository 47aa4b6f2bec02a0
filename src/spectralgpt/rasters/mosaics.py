"""Products that lie over one area: the grid that they are brought to, and reading it.

Of each product is read what lies under a window. Pixels that lie on each other are
copied; others are interpolated by GDAL's warper with cubic convolution, so that a
window equals that part of the whole to a thousandth of a pixel. Where pixels of the
grid are much coarser than the product's, means are taken first, and these depend a
little on the window.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject, transform_bounds

from spectralgpt.errors import ConfigError, RasterError, SpectralGPTError
from spectralgpt.files import parse_json
from spectralgpt.rasters.footprints import LONLAT, move_edges, move_pixels, turn_of
from spectralgpt.rasters.gdal import GDAL_ERRORS, read_metadata, reading
from spectralgpt.rasters.grid import (
    Flags,
    Grid,
    Pixels,
    Raster,
    Window,
    apply,
    is_same_system,
)
from spectralgpt.rasters.read import OpenFiles, RasterFile, read_raster
from spectralgpt.sensors import Band

Layer = tuple[Pixels, Flags]
"""Reflectance and validity, each (C, H, W)."""
_ReadWindow = Callable[[Window, tuple[int, int]], Raster]
_MARGIN_PX = 3
"""Pixels around a window that cubic convolution looks at, and one to spare."""
_SHRINK = 1.5
"""From this many pixels of the image a pixel of the target on, means are taken first.
"""
_EDGE_POINTS = 21
"""Points along each side of a rectangle that is taken to another reference system."""
_WHOLE_PX = 1e-3
_SLACK = 1e-6
"""Degrees that a latitude may lie beyond a pole, from rounding."""
_LARGEST_PX = 2**31 - 1
"""Of a side, what GDAL counts."""


@dataclass(frozen=True)
class Bounds:
    """A rectangle on the ground.

    Args:
        left: smallest x, or western longitude.
        bottom: smallest y or latitude.
        right: largest x, or eastern longitude; of a rectangle across 180 degrees it may
            be given below the western one, and is kept above 180.
        top: largest y or latitude.
        crs: reference system of the four, such as EPSG:32632.

    Raises:
        ConfigError: it is empty, lies beyond a pole, or the reference system is
            unknown.
    """

    left: float
    bottom: float
    right: float
    top: float
    crs: str = LONLAT

    def __post_init__(self) -> None:
        turn = turn_of(self.crs)
        if self.left - self.right > 0 and self.right + turn - self.left <= turn / 2:
            object.__setattr__(self, "right", self.right + turn)
        sides = (self.left, self.bottom, self.right, self.top)
        is_filled = self.left < self.right and self.bottom < self.top
        if not is_filled or not all(map(math.isfinite, sides)):
            raise ConfigError(
                f"bounds {sides} are empty: give minx,miny,maxx,maxy in this order."
            )
        try:
            CRS.from_user_input(self.crs)
        except GDAL_ERRORS:
            raise ConfigError(
                f"bounds: '{self.crs}' is no reference system. Use one like EPSG:4326."
            ) from None
        if math.isfinite(turn) and max(-self.bottom, self.top) > turn / 4 + _SLACK:
            raise ConfigError(
                f"bounds {sides} lie beyond a pole: give minx,miny,maxx,maxy with "
                "longitude before latitude, or name their reference system."
            )

    @classmethod
    def of_file(cls, path: Path) -> "Bounds":
        """Return the rectangle around all shapes of a GeoJSON file, degrees.

        Raises:
            ConfigError: the file is no GeoJSON, or holds no position.
        """
        try:
            content = parse_json(read_metadata(path), str(path))
            lines = [line for line in _lines(content) if line]
        except SpectralGPTError as error:
            # It names the file.
            raise ConfigError(str(error)) from None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as GeoJSON: {error}.") from None
        if not lines:
            raise ConfigError(f"{path} holds no shape.")
        ends = [(min(x), max(x)) for x in ([x for x, _ in line] for line in lines)]
        crs = _system_of(content)
        west, east = _narrowest(ends, turn_of(crs))
        latitudes = [y for line in lines for _, y in line]
        return cls(west, min(latitudes), east, max(latitudes), crs)

    def to(self, crs: str) -> "Bounds":
        """Return the rectangle in another system that covers this one.

        Raises:
            ConfigError: it has no place there.
        """
        if is_same_system(self.crs, crs):
            return self
        sides = (self.left, self.bottom, self.right, self.top)
        try:
            found = transform_bounds(self.crs, crs, *sides, densify_pts=_EDGE_POINTS)
            # West is above east across 180 degrees, and so are bounds.
            return Bounds(found[0], found[1], found[2], found[3], crs)
        except (*GDAL_ERRORS, ConfigError):
            raise ConfigError(
                f"bounds {sides} of {self.crs} have no place in {crs}."
            ) from None

    def common(self, other: "Bounds") -> "Bounds | None":
        """Return the part of a rectangle that lies in this one, where the other is.

        In degrees the two may be whole turns apart.

        Args:
            other: of the same reference system.
        """
        turn = turn_of(self.crs)
        found = []
        for by in (0.0,) if math.isinf(turn) else (-turn, 0.0, turn):
            left = max(self.left, other.left + by) - by
            right = min(self.right, other.right + by) - by
            bottom, top = max(self.bottom, other.bottom), min(self.top, other.top)
            if left < right and bottom < top:
                found.append(Bounds(left, bottom, right, top, self.crs))
        return _around(found, self.crs) if found else None


@dataclass(frozen=True)
class Mosaic(RasterFile):
    """Products over one area; of each pixel the first that shows all bands counts.

    What it has of an item's own, such as the files, is that of the first product.

    Args:
        parts: the products, the first ones above the others.
        area: the rectangle that is read, None for all that the products cover.
    """

    parts: tuple[RasterFile, ...] = ()
    area: Bounds | None = None

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands of the first product."""
        return self.parts[0].bands

    def require(self, bands: Sequence[Band] | None) -> tuple[Band, ...]:
        """Return the bands asked for; see `RasterFile.require`."""
        return self.parts[0].require(bands)

    def grid(self, bands: Sequence[Band] | None = None) -> Grid:
        """The pixels of the first product's grid, continued, that show the area.

        What no product shows of the area is left out.

        Raises:
            BandError: a product lacks a band.
            RasterError: a product has no georeference.
        """
        used = self.require(bands)
        base = _placed(self.parts[0], self.parts[0].grid(used))
        assert base.crs is not None
        grids = [_placed(part, part.grid(used)) for part in self.parts]
        shown = [_shown(grid, self.area, base.crs) for grid in grids]
        covers = [bounds for bounds in shown if bounds is not None]
        if not covers:
            raise RasterError(f"{self.name}: these bands do not show the area.")
        return _snap(base, _around(covers, base.crs), self.name)

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`."""
        grid = self.grid(bands)
        return grid.height, grid.width

    def located(
        self, bands: Sequence[Band] | None = None, files: OpenFiles | None = None
    ) -> "RasterFile":
        """Return it as it is: its products are located when they are read."""
        return self

    def read(
        self,
        bands: Sequence[Band],
        grid: Grid,
        window: Window,
        size: tuple[int, int],
        files: OpenFiles | None,
    ) -> Raster:
        """Read of each product what lies under a window, until all pixels are there.

        For the arguments see `RasterFile.read`.
        """
        target = grid.part(window, size)
        shape = (len(bands), *size)
        layer: Layer = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        for part in self.parts:
            read = partial(read_raster, part, bands, files=files)
            more, more_valid = _warp(target, part.grid(bands), len(bands), read)
            # A pixel is taken from one part with all of its bands, so that no spectrum
            # mixes two dates: from the first that shows all bands, else any.
            pixels, valid = layer
            is_full, is_empty = valid.all(axis=0), ~valid.any(axis=0)
            take = more_valid.all(axis=0) & ~is_full | more_valid.any(axis=0) & is_empty
            layer = np.where(take, more, pixels), np.where(take, more_valid, valid)
            if layer[1].all():
                break
        return Raster(*layer, tuple(bands), grid.crs, target.transform, self.name)


def make_mosaic(items: Sequence[RasterFile], area: Bounds | None = None) -> RasterFile:
    """Lay products over each other, or cut an area out of one.

    Args:
        items: the products, the first ones above the others.
        area: what is read of them; None for all that they cover.

    Raises:
        ConfigError: there is none, or they are of different sensors.
        RasterError: one has no georeference, or none of them touches the area.
    """
    if not items:
        raise ConfigError("a mosaic needs at least one product.")
    if len(items) == 1 and area is None:
        return items[0]
    others = {item.sensor.name for item in items} - {items[0].sensor.name}
    if others:
        raise ConfigError(
            f"a mosaic is of one sensor: {items[0].name} is of "
            f"{items[0].sensor.name}, others of {', '.join(sorted(others))}."
        )
    touching = [
        item
        for item in items
        if area is None or _shown(_placed(item, item.grid()), area) is not None
    ]
    if area is not None and not touching:
        reach = _bounds_of(_placed(items[0], items[0].grid())).to(area.crs)
        raise RasterError(
            f"none of the {len(items)} products shows the area; {items[0].name} "
            f"reaches from {reach.left:.10g},{reach.bottom:.10g} to "
            f"{reach.right:.10g},{reach.top:.10g} ({area.crs})."
        )
    first = touching[0]
    more = f" and {len(touching) - 1} more" if len(touching) > 1 else ""
    values = {name: getattr(first, name) for name in RasterFile.__dataclass_fields__}
    mosaic = Mosaic(**values, parts=tuple(touching), area=area)
    return replace(mosaic, name=f"{first.name}{more}")


def cut_to_common(
    first: RasterFile,
    second: RasterFile,
    first_bands: Sequence[Band] | None = None,
    second_bands: Sequence[Band] | None = None,
) -> tuple[RasterFile, RasterFile]:
    """Cut two dates to the ground that both show, where pixels lie on pixels.

    Args:
        first: a date.
        second: another one of the same place.
        first_bands: whose grid counts; all if None.
        second_bands: the same of the second.

    Returns:
        The two as they are where their grids are the same already.

    Raises:
        RasterError: they differ in reference system, pixel size, or by parts of a
            pixel, or have no ground in common; says how.
    """
    grids = first.grid(first_bands), second.grid(second_bands)
    difference = grids[0].difference(grids[1])
    if difference is None:
        return first, second
    windows = grids[0].common(grids[1])
    if windows is None:
        raise RasterError(
            f"{first.name} and {second.name} differ in {difference}. Bring one of them "
            "to the other's grid first."
        )
    cut = [
        make_mosaic([item], _bounds_of(grid.part(window)))
        for item, grid, window in zip((first, second), grids, windows, strict=True)
    ]
    return cut[0], cut[1]


def _narrowest(ends: Sequence[tuple[float, float]], turn: float) -> tuple[float, float]:
    """Return what is around lines, given by their ends, across 180 degrees if narrower.

    Shapes across 180 degrees are cut in two there (RFC 7946, section 3.1.9).
    """
    plain = min(west for west, _ in ends), max(east for _, east in ends)
    if math.isinf(turn):
        return plain
    moved = [(w + turn, e + turn) if e <= 0 else (w, e) for w, e in ends]
    across = min(west for west, _ in moved), max(east for _, east in moved)
    return min(plain, across, key=lambda each: each[1] - each[0])


def _system_of(content: Mapping[str, Any]) -> str:
    """RFC 7946 knows longitude and latitude alone; older files may name another."""
    named = content.get("crs")
    if isinstance(named, dict) and isinstance(named.get("properties"), dict):
        name = str(named["properties"].get("name", LONLAT))
        return LONLAT if name.endswith("CRS84") else name
    return LONLAT


def _lines(node: Any) -> Iterator[list[tuple[float, float]]]:
    """Yield the lines, rings and points of GeoJSON as (x, y)."""
    if isinstance(node, dict):
        for key in ("features", "geometry", "geometries", "coordinates"):
            if node.get(key) is not None:
                yield from _lines(node[key])
    elif _is_position(node):
        yield [_position(node)]
    elif isinstance(node, list) and all(map(_is_position, node)):
        yield [_position(each) for each in node]
    elif isinstance(node, list):
        for each in node:
            yield from _lines(each)


def _is_position(node: Any) -> bool:
    return (
        isinstance(node, list)
        and len(node) > 1
        and all(isinstance(number, int | float) for number in node[:2])
    )


def _position(node: list[float]) -> tuple[float, float]:
    x, y = float(node[0]), float(node[1])
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a position of {node[0]}, {node[1]}")
    return x, y


def _placed(item: RasterFile, grid: Grid) -> Grid:
    if grid.transform is None or grid.crs is None:
        raise RasterError(
            f"{item.name} has no georeference, so it cannot be laid over an area."
        )
    return grid


def _bounds_of(grid: Grid) -> Bounds:
    assert grid.transform is not None
    assert grid.crs is not None
    corners = [
        apply(grid.transform, column, row)
        for column in (0, grid.width)
        for row in (0, grid.height)
    ]
    xs, ys = zip(*corners, strict=True)
    return Bounds(min(xs), min(ys), max(xs), max(ys), grid.crs)


def _shown(grid: Grid, area: Bounds | None, crs: str | None = None) -> Bounds | None:
    """Return what a product shows of an area, or of everything; None for nothing.

    It is cut in the area's system first: other systems may not know all of the area.
    """
    own = _bounds_of(grid)
    crs = crs or own.crs
    if area is None:
        return own.to(crs)
    part = area.common(own.to(area.crs))
    return None if part is None else part.to(crs).common(own.to(crs))


def _around(parts: Sequence[Bounds], crs: str) -> Bounds:
    """Return the rectangle around others, next to the first of them."""
    turn = turn_of(crs)
    moved = []
    for part in parts:
        apart = parts[0].left - part.left
        by = 0.0 if math.isinf(turn) else turn * round(apart / turn)
        moved.append((part.left + by, part.bottom, part.right + by, part.top))
    lefts, bottoms, rights, tops = zip(*moved, strict=True)
    return Bounds(min(lefts), min(bottoms), max(rights), max(tops), crs)


def _snap(base: Grid, area: Bounds, name: str) -> Grid:
    """Return the pixels of a grid, continued beyond its edges, that touch an area."""
    assert base.transform is not None
    back = ~base.transform
    corners = [
        apply(back, x, y)
        for x in (area.left, area.right)
        for y in (area.bottom, area.top)
    ]
    columns, rows = zip(*corners, strict=True)
    left, top = (math.floor(min(each) + _WHOLE_PX) for each in (columns, rows))
    right, bottom = (math.ceil(max(each) - _WHOLE_PX) for each in (columns, rows))
    if max(right - left, bottom - top) > _LARGEST_PX:
        raise RasterError(f"{name}: the area is too large. Ask for a smaller one.")
    x, y = apply(base.transform, left, top)
    step = base.transform
    transform = Affine(step.a, step.b, x, step.d, step.e, y)
    return Grid(max(1, bottom - top), max(1, right - left), transform, base.crs)


def _warp(target: Grid, source: Grid, count: int, read: _ReadWindow) -> Layer:
    """Return what an image of `count` bands shows of a grid.

    Nothing is valid outside of the image. `read` reads a window of it at a size (H, W);
    a grid is a few windows large at most.
    """
    shape = (count, target.height, target.width)
    pixels, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    same = target.common(source)
    if same is not None:
        at, below = same
        raster = read(below, (below.height, below.width))
        pixels[:, *at.slices], valid[:, *at.slices] = raster.pixels, raster.valid
        return pixels, valid
    window = _window_below(target, source)
    if window is None:
        return pixels, valid
    size = _size_below(target, source, window)
    raster = read(window, size)
    place = Grid(*size, raster.transform, source.crs)
    return _interpolate(raster, place, target)


def _size_below(target: Grid, source: Grid, window: Window) -> tuple[int, int]:
    """Return the size to read a window at: shrunk where the target is coarser."""
    # One pixel down, and one to the right, of the middle.
    columns, rows = move_pixels(
        target,
        source,
        target.width / 2 + np.array([0.0, 1.0, 0.0]),
        target.height / 2 + np.array([0.0, 0.0, 1.0]),
    )
    steps = [float(np.abs(line[1:] - line[0]).max()) for line in (rows, columns)]
    height, width = (
        math.ceil(length / step) if step >= _SHRINK else length
        for length, step in zip((window.height, window.width), steps, strict=True)
    )
    return height, width


def _window_below(target: Grid, source: Grid) -> Window | None:
    """Return the window of the source that a grid lies on, with a margin."""
    columns, rows = move_edges(target, source)
    if not len(rows):
        return None
    top = max(0, math.floor(rows.min()) - _MARGIN_PX)
    left = max(0, math.floor(columns.min()) - _MARGIN_PX)
    bottom = min(source.height, math.ceil(rows.max()) + _MARGIN_PX)
    right = min(source.width, math.ceil(columns.max()) + _MARGIN_PX)
    if top >= bottom or left >= right:
        return None
    return Window(top, left, bottom - top, right - left)


def _interpolate(raster: Raster, source: Grid, target: Grid) -> Layer:
    shape = (len(raster.pixels), target.height, target.width)
    out = np.full(shape, np.nan, np.float32)
    seen = np.zeros(shape, np.uint8)
    places = {
        "src_transform": source.transform,
        "src_crs": source.crs,
        "dst_transform": target.transform,
        "dst_crs": target.crs,
        # Else GDAL guesses positions between a few (rasterio does so in any case before
        # 1.5), and takes the kernel's width from the size of what is read.
        "tolerance": 0,
        "XSCALE": 1,
        "YSCALE": 1,
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
