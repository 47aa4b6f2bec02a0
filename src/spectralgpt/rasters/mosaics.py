"""Products that lie over one area, and the grid that they are brought to.

Nothing is read here: `spectralgpt.rasters.read_raster` reads windows of a mosaic, and
of each product only what lies under the window.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.json_files import parse_json
from spectralgpt.rasters.alignment import (
    common_windows,
    describe_difference,
    is_same_system,
)
from spectralgpt.rasters.archives import check_text
from spectralgpt.rasters.footprints import LONLAT
from spectralgpt.rasters.gdal_errors import GDAL_ERRORS
from spectralgpt.rasters.geometry import Grid, apply
from spectralgpt.rasters.items import RasterItem
from spectralgpt.sensors import Band

__all__ = ["Bounds", "Mosaic", "cut_to_common", "make_mosaic", "read_area"]

_EDGE_POINTS = 21
"""Points along each side of a rectangle that is taken to another reference system."""
_WHOLE_PX = 1e-3
_LARGEST_PX = 2**31 - 1
"""Of a side, what GDAL counts."""


@dataclass(frozen=True)
class Bounds:
    """A rectangle on the ground.

    Args:
        left: smallest x or longitude.
        bottom: smallest y or latitude.
        right: largest x or longitude.
        top: largest y or latitude.
        crs: reference system of the four, such as EPSG:32632.

    Raises:
        ConfigError: it is empty, or the reference system is unknown.
    """

    left: float
    bottom: float
    right: float
    top: float
    crs: str = LONLAT

    def __post_init__(self) -> None:
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
            return Bounds(found[0], found[1], found[2], found[3], crs)
        except (*GDAL_ERRORS, ConfigError):
            raise ConfigError(
                f"bounds {sides} of {self.crs} have no place in {crs}."
            ) from None


@dataclass(frozen=True)
class Mosaic(RasterItem):
    """Products over one area; of each pixel the first that shows all bands counts.

    What it has of an item's own, such as the files, is that of the first product.

    Args:
        parts: the products, the first ones above the others.
        area: the rectangle that is read, None for all that the products cover.
    """

    parts: tuple[RasterItem, ...] = ()
    area: Bounds | None = None

    def grid(self, bands: Sequence[Band] | None = None) -> Grid:
        """The pixels of the first product's grid, continued, that touch the area.

        Raises:
            BandError: a product lacks a band.
            RasterError: a product has no georeference.
        """
        used = self.require(bands)
        base = _placed(self.parts[0], self.parts[0].grid(used))
        assert base.crs is not None
        if self.area is not None:
            return _snap(base, self.area.to(base.crs), self.name)
        grids = [_placed(part, part.grid(used)) for part in self.parts]
        covers = [_bounds_of(grid).to(base.crs) for grid in grids]
        whole = Bounds(
            min(bounds.left for bounds in covers),
            min(bounds.bottom for bounds in covers),
            max(bounds.right for bounds in covers),
            max(bounds.top for bounds in covers),
            base.crs,
        )
        return _snap(base, whole, self.name)

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`."""
        grid = self.grid(bands)
        return grid.height, grid.width

    def located(
        self, bands: Sequence[Band] | None = None, files: Any = None
    ) -> "RasterItem":
        """Return it as it is: its products are located when they are read."""
        return self


def make_mosaic(items: Sequence[RasterItem], area: Bounds | None = None) -> RasterItem:
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
    touching = [item for item in items if area is None or _touches(item, area)]
    if area is not None and not touching:
        reach = _bounds_of(_placed(items[0], items[0].grid())).to(area.crs)
        raise RasterError(
            f"none of the {len(items)} products shows the area; {items[0].name} "
            f"reaches from {reach.left:.10g},{reach.bottom:.10g} to "
            f"{reach.right:.10g},{reach.top:.10g} ({area.crs})."
        )
    first = touching[0]
    more = f" and {len(touching) - 1} more" if len(touching) > 1 else ""
    values = {name: getattr(first, name) for name in RasterItem.__dataclass_fields__}
    mosaic = Mosaic(**values, parts=tuple(touching), area=area)
    return replace(mosaic, name=f"{first.name}{more}")


def cut_to_common(
    first: RasterItem,
    second: RasterItem,
    first_bands: Sequence[Band] | None = None,
    second_bands: Sequence[Band] | None = None,
) -> tuple[RasterItem, RasterItem]:
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
    difference = describe_difference(*grids)
    if difference is None:
        return first, second
    windows = common_windows(*grids)
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


def read_area(path: Path) -> Bounds:
    """Return the rectangle around all shapes of a GeoJSON file, degrees.

    Raises:
        ConfigError: the file is no GeoJSON, or holds no position.
    """
    try:
        with path.open("rb") as file:
            content = parse_json(check_text(str(path), file.read(2**26 + 1)), str(path))
        points = list(_positions(content))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as GeoJSON: {error}.") from None
    if not points:
        raise ConfigError(f"{path} holds no shape.")
    xs, ys = zip(*points, strict=True)
    return Bounds(min(xs), min(ys), max(xs), max(ys), _system_of(content))


def _system_of(content: Mapping[str, Any]) -> str:
    """RFC 7946 knows longitude and latitude alone; older files may name another."""
    named = content.get("crs")
    if isinstance(named, dict) and isinstance(named.get("properties"), dict):
        name = str(named["properties"].get("name", LONLAT))
        return LONLAT if name.endswith("CRS84") else name
    return LONLAT


def _positions(node: Any) -> Any:
    if isinstance(node, dict):
        for key in ("features", "geometry", "geometries", "coordinates"):
            if node.get(key) is not None:
                yield from _positions(node[key])
    elif isinstance(node, list):
        if len(node) > 1 and all(isinstance(n, int | float) for n in node[:2]):
            yield float(node[0]), float(node[1])
        else:
            for each in node:
                yield from _positions(each)


def _placed(item: RasterItem, grid: Grid) -> Grid:
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


def _touches(item: RasterItem, area: Bounds) -> bool:
    grid = _placed(item, item.grid())
    own = _bounds_of(grid)
    wanted = area.to(own.crs)
    return (
        own.left < wanted.right
        and wanted.left < own.right
        and own.bottom < wanted.top
        and wanted.bottom < own.top
    )


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
