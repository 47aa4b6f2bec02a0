"""Where a raster, or a part of it, lies on the globe, and how large it is there."""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from spectralgpt.errors import RasterError
from spectralgpt.rasters.gdal_errors import move_points
from spectralgpt.rasters.geometry import Grid, Window, apply, compose

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

__all__ = [
    "EARTH_RADIUS_M",
    "LONLAT",
    "centre_lonlat",
    "coarsen",
    "cut_at_180",
    "epsg_code",
    "footprint_lonlat",
    "move_near",
    "pixel_size_m",
    "turn_of",
]

LONLAT = "EPSG:4326"
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the ellipsoid."""
_TRUE_SCALE = 0.01
"""Largest relative error of lengths on a map that are taken as they are."""
_TURN = 360.0
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
    """Return longitudes moved by whole turns, each next to another; else x as it is.

    Args:
        x: of any shape.
        crs: their reference system.
        near: where they are to lie.
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


def coarsen(grid: Grid, window: Window, cell_px: int) -> Grid:
    """Return the grid of square cells of `cell_px` pixels that cover a window.

    The last row and column of cells may reach beyond the window.
    """
    transform = grid.transform
    if transform is not None:
        moved = compose(transform, Affine.translation(window.column, window.row))
        transform = compose(moved, Affine.scale(cell_px, cell_px))
    rows, columns = -(-window.height // cell_px), -(-window.width // cell_px)
    return Grid(rows, columns, transform, grid.crs)


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
