"""Where a raster, or a part of it, lies on the globe."""

import math

from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as reproject

from spectralgpt.rasters.geometry import Grid, Window, apply, compose

__all__ = [
    "LONLAT",
    "centre_lonlat",
    "coarsen",
    "footprint_lonlat",
    "measure_pixel_m",
]

LONLAT = "EPSG:4326"
_METRES_PER_DEGREE = 111_195.0  # Of latitude, on a sphere of the Earth's mean radius.
_Points = tuple[tuple[float, float], ...]


def footprint_lonlat(grid: Grid, window: Window | None = None) -> _Points | None:
    """Return the four corners of a window as (longitude, latitude), degrees.

    Args:
        grid: the raster's grid.
        window: pixels of it; everything if None.

    Returns:
        Corners from the upper left, clockwise in the image; None without a usable
        georeference.
    """
    place = window or Window(0, 0, grid.height, grid.width)
    right, bottom = place.column + place.width, place.row + place.height
    corners = [
        (place.column, place.row),
        (right, place.row),
        (right, bottom),
        (place.column, bottom),
    ]
    return _to_lonlat(grid, [(float(column), float(row)) for column, row in corners])


def centre_lonlat(
    grid: Grid, window: Window | None = None
) -> tuple[float, float] | None:
    """Return the (longitude, latitude) of a window's centre; see `footprint_lonlat`."""
    place = window or Window(0, 0, grid.height, grid.width)
    centre = (place.column + place.width / 2, place.row + place.height / 2)
    points = _to_lonlat(grid, [centre])
    return None if points is None else points[0]


def measure_pixel_m(grid: Grid) -> float | None:
    """Return the length of a pixel down a column, m; None without georeference."""
    corners = footprint_lonlat(grid)
    if corners is None:
        return None
    (west, north), (east, south) = corners[0], corners[3]
    across = (east - west) * math.cos(math.radians(north))
    return math.hypot(across, south - north) * _METRES_PER_DEGREE / grid.height


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


def _to_lonlat(grid: Grid, pixels: list[tuple[float, float]]) -> _Points | None:
    if grid.transform is None or grid.crs is None:
        return None
    places = [apply(grid.transform, *pixel) for pixel in pixels]
    try:
        source = CRS.from_user_input(grid.crs)
        xs, ys = reproject(
            source, CRS.from_user_input(LONLAT), *zip(*places, strict=True)
        )
    except CRSError:
        # A local engineering reference system lies nowhere on the globe.
        return None
    return tuple(zip(map(float, xs), map(float, ys), strict=True))
