"""Reference systems, where a raster lies on the globe, and how large it is there."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

# Nowhere else does rasterio name it.
from rasterio._err import CPLE_NotSupportedError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from spectralgpt.errors import RasterError, require
from spectralgpt.rasters.gdal import GDAL_ERRORS
from spectralgpt.rasters.grid import Grid, Window, apply, compose, is_same_system

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

LONLAT = "EPSG:4326"
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the ellipsoid."""
_TRUE_SCALE = 0.01
"""Largest relative error of lengths on a map that are taken as they are."""
_TURN = 360.0
_EDGE_POINTS = 33
_NAME = re.compile(r'"([^"]+)"')
_Points = tuple[tuple[float, float], ...]


def footprint_lonlat(grid: Grid, window: Window | None = None) -> _Points | None:
    """Return the four corners of a window as (longitude, latitude), degrees.

    Args:
        grid: the raster's grid.
        window: pixels of it; everything if None.

    Returns:
        Corners from the upper left, clockwise in the image; None without a usable
        georeference. Across 180 degrees longitudes go on, as from 179.9 to 180.1;
        files want them cut there (`cut_at_180`). Around a pole it is the whole cap.
    """
    place = window or Window(0, 0, grid.height, grid.width)
    right, bottom = place.column + place.width, place.row + place.height
    corners = [
        (place.column, place.row),
        (right, place.row),
        (right, bottom),
        (place.column, bottom),
    ]
    pixels = [(float(column), float(row)) for column, row in corners]
    points = _to_lonlat(grid, pixels)
    return None if points is None else _unwrap(points)


def cut_at_180(shape: "BaseGeometry") -> "BaseGeometry":
    """Return a shape of longitudes and latitudes cut in two where it crosses 180.

    Args:
        shape: its longitudes may go on beyond 180 or -180, by less than a turn.

    Source: RFC 7946, section 3.1.9.
    """
    import shapely
    from shapely.affinity import translate

    west, _, east, _ = shape.bounds
    if west >= -_TURN / 2 and east <= _TURN / 2:
        return shape
    parts = []
    for turn in (-_TURN, 0.0, _TURN):
        edges = (turn - _TURN / 2, -_TURN, turn + _TURN / 2, _TURN)
        part = shapely.clip_by_rect(shape, *edges)
        if part.area > 0:
            parts += list(shapely.get_parts(translate(part, -turn)))
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def turn_of(crs: str | None) -> float:
    """Return how far x goes until it is at the same place again.

    Returns:
        360 in a reference system of degrees, infinity in others.
    """
    try:
        is_of_degrees = crs is not None and CRS.from_user_input(crs).is_geographic
    except CRSError:
        is_of_degrees = False
    return _TURN if is_of_degrees else math.inf


def move_near(
    x: npt.NDArray[np.float64], crs: str | None, near: float
) -> npt.NDArray[np.float64]:
    """Move longitudes by whole turns until they lie nearest to one; others stay.

    Args:
        x: of any shape.
        crs: their reference system; x that are no longitudes in degrees stay.
        near: the longitude that they are brought near to.
    """
    turn = turn_of(crs)
    if math.isinf(turn):
        return x
    # Points without a place are infinite.
    with np.errstate(invalid="ignore"):
        return np.asarray(x + turn * np.round((near - x) / turn))


def centre_lonlat(
    grid: Grid, window: Window | None = None
) -> tuple[float, float] | None:
    """Return the (longitude, latitude) of a window's centre; see `footprint_lonlat`."""
    place = window or Window(0, 0, grid.height, grid.width)
    centre = (place.column + place.width / 2, place.row + place.height / 2)
    points = _to_lonlat(grid, [centre])
    return None if points is None else points[0]


def pixel_size_m(grid: Grid) -> tuple[float, float] | None:
    """Return the (height, width) of a pixel on the ground, m.

    Lengths of a projection count as they are where they are true to 1 %, as in UTM;
    elsewhere, as in degrees or Web Mercator, they are measured at the centre.

    Returns:
        None without a usable georeference.
    """
    row, column = grid.height / 2, grid.width / 2
    points = _to_lonlat(grid, [(column, row), (column, row + 1), (column + 1, row)])
    if points is None or grid.transform is None:
        return None
    true = [_distance_m(points[0], other) for other in points[1:]]
    step = grid.transform
    stated = [math.hypot(step.b, step.e), math.hypot(step.a, step.d)]
    reference = CRS.from_user_input(grid.crs)
    if reference.is_projected:
        unit_m = reference.linear_units_factor[1]
        stated = [length * unit_m for length in stated]
        if all(
            math.isclose(*pair, rel_tol=_TRUE_SCALE)
            for pair in zip(stated, true, strict=True)
        ):
            return stated[0], stated[1]
    return true[0], true[1]


def epsg_code(crs: str | None) -> str | None:
    """Return a reference system's code such as "EPSG:32632", None if it has none."""
    try:
        code = None if crs is None else CRS.from_user_input(crs).to_epsg()
    except CRSError:
        return None
    return None if code is None else f"EPSG:{code}"


def _distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Distance of two (longitude, latitude) on the sphere, by the haversine formula."""
    (west, south), (east, north) = (map(math.radians, at) for at in (first, second))
    across = math.cos(south) * math.cos(north) * math.sin((east - west) / 2) ** 2
    chord = math.sin((north - south) / 2) ** 2 + across
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(chord))


def _unwrap(points: _Points) -> _Points:
    """Return corners whose longitudes go on beyond 180 degrees, west in -180..180."""
    longitudes = [points[0][0]]
    for longitude, _ in (*points[1:], points[0]):
        turns = round((longitudes[-1] - longitude) / _TURN)
        longitudes.append(longitude + _TURN * turns)
    latitudes = [latitude for _, latitude in points]
    if abs(longitudes.pop() - longitudes[0]) > _TURN / 2:
        # Around a pole: all longitudes, from the furthest corner on.
        pole = math.copysign(90.0, sum(latitudes))
        edge = min(latitudes, key=abs)
        half = _TURN / 2
        return (-half, pole), (half, pole), (half, edge), (-half, edge)
    turns = math.floor((min(longitudes) + _TURN / 2) / _TURN)
    moved = [longitude - _TURN * turns for longitude in longitudes]
    return tuple(zip(moved, latitudes, strict=True))


def _to_lonlat(grid: Grid, pixels: list[tuple[float, float]]) -> _Points | None:
    if grid.transform is None or grid.crs is None:
        return None
    places = [apply(grid.transform, *pixel) for pixel in pixels]
    xs, ys = zip(*places, strict=True)
    try:
        points = tuple(zip(*move_points(grid.crs, LONLAT, xs, ys), strict=True))
    except RasterError:
        # A local engineering reference system lies nowhere on the globe.
        return None
    return points if np.isfinite(points).all() else None


def move_points(
    source: str | CRS | None,
    target: str | CRS | None,
    xs: Sequence[float] | npt.NDArray[np.float64],
    ys: Sequence[float] | npt.NDArray[np.float64],
) -> tuple[list[float], list[float]]:
    """Bring points to another reference system.

    Args:
        source: system that the points are in, as text or rasterio's.
        target: system that they are wanted in.
        xs: (N,), in the unit of the source; longitudes where that is degrees.
        ys: (N,), the same; latitudes where that is degrees.

    Returns:
        xs and ys there, (N,) each, infinite for points that have no place in it.

    Raises:
        RasterError: there is no way from the one system to the other, such as from that
            of a building site.
    """
    try:
        systems = CRS.from_user_input(source), CRS.from_user_input(target)
        moved = transform(*systems, list(xs), list(ys))
    except (CRSError, CPLE_NotSupportedError):
        raise _apart(source, target) from None
    except GDAL_ERRORS:
        # One point without a place fails them all.
        if len(xs) == 1:
            return [math.inf], [math.inf]
        half = len(xs) // 2
        parts = [
            move_points(source, target, xs[part], ys[part])
            for part in (slice(0, half), slice(half, None))
        ]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    return list(map(float, moved[0])), list(map(float, moved[1]))


def move_pixels(
    source: Grid,
    target: Grid,
    columns: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Carry positions in the pixels of one grid over to those of another.

    In degrees they come to lie next to the other grid's middle.

    Args:
        source: the grid that positions are in.
        target: the grid that they are wanted in; both have a georeference.
        columns: of any shape; edges of pixels are at whole numbers.
        rows: of the same shape.

    Returns:
        columns and rows there, not finite for positions without a place in it.

    Raises:
        RasterError: see `move_points`.
    """
    assert source.transform is not None
    assert target.transform is not None
    back, turn = ~target.transform, turn_of(target.crs)
    xs, ys = apply(source.transform, columns, rows)
    # Positions without a place are infinite.
    with np.errstate(invalid="ignore"):
        if is_same_system(source.crs, target.crs):
            # In one step, so that rounding does not blur the edges of pixels.
            step = compose(back, source.transform)
            found = apply(step, columns, rows)
        else:
            moved = move_points(source.crs, target.crs, xs.ravel(), ys.ravel())
            xs, ys = (np.reshape(line, xs.shape) for line in moved)
            found = apply(back, xs, ys)
        if math.isinf(turn):
            return found
        middle = apply(target.transform, target.width / 2, target.height / 2)[0]
        shift = turn * np.round((middle - xs) / turn)
        return found[0] + back.a * shift, found[1] + back.d * shift


def move_edges(
    source: Grid, target: Grid
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Carry points along the edges of a grid over to the pixels of another one.

    Returns:
        columns and rows of those that have a place there.

    Raises:
        RasterError: see `move_points`.
    """
    # Edges may be curved in the other reference system.
    along = np.linspace(0, 1, _EDGE_POINTS)
    none, all_ = np.zeros_like(along), np.ones_like(along)
    columns = np.concatenate([along, along, none, all_]) * source.width
    rows = np.concatenate([none, all_, along, along]) * source.height
    columns, rows = move_pixels(source, target, columns, rows)
    shown = np.isfinite(columns) & np.isfinite(rows)
    return columns[shown], rows[shown]


def move_shapes(shapes: Any, target: Any) -> Any:
    """Bring shapes of geopandas to another reference system.

    Raises:
        RasterError: see `move_points`.
    """
    require("pyproj")
    from pyproj.exceptions import ProjError

    try:
        return shapes.to_crs(target)
    except ProjError:
        raise _apart(shapes.crs, target) from None


def _apart(source: Any, target: Any) -> RasterError:
    names = []
    for system in (source, target):
        text = system.to_wkt() if hasattr(system, "to_wkt") else str(system)
        found = _NAME.search(text)
        names.append(found.group(1) if found else text)
    return RasterError(
        f"there is no way from the reference system '{names[0]}' to '{names[1]}': one "
        "of them is local or unknown. Assign the right one with gdal_edit.py -a_srs."
    )
