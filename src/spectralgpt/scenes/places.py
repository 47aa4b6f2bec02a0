"""Places that a user names: points and shapes, brought onto the cells of a raster."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.labelling import (
    LabelSource,
    check_places,
    read_vectors,
    reading_layer,
)
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    RasterError,
)
from spectralgpt.rasters.footprints import move_near, move_shapes
from spectralgpt.rasters.grid import Grid, Window, apply
from spectralgpt.rasters.lookup import paint_shapes

logger = logging.getLogger(__name__)

_POINTS = ("Point", "MultiPoint")


@dataclass(frozen=True)
class LabelledCells:
    """Cells with classes.

    Args:
        rows: (N,) of the cells.
        columns: (N,) of the cells.
        classes: (N,) indices into `names`.
        shapes: (N,) number of the point or polygon that each is of.
        centres: (shapes, 2) x and y of each, in the raster's reference system.
        names: of the classes, sorted.
        notes: what was mended or left out, for people.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    classes: NDArray[np.int64]
    shapes: NDArray[np.int64]
    centres: NDArray[np.float64]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def cell_of_point(grid: Grid, x: float, y: float, crs: str) -> tuple[int, int]:
    """Return the (row, column) of the cell that holds a point.

    Args:
        grid: of the cells.
        x: easting or longitude.
        y: northing or latitude.
        crs: reference system of the point, such as "EPSG:4326".

    Raises:
        RasterError: it lies outside, or the raster has no reference system.
        ConfigError: there is no such reference system.
    """
    import geopandas
    from pyproj.exceptions import CRSError

    if grid.crs is None or grid.transform is None:
        raise RasterError(
            "the raster has no reference system, so a point lies nowhere."
        )
    try:
        point = geopandas.GeoSeries(geopandas.points_from_xy([x], [y]), crs=crs)
    except CRSError:
        raise ConfigError(
            f"there is no reference system {crs!r}: name one such as EPSG:4326."
        ) from None
    moved = move_shapes(point, grid.crs).iloc[0]
    if not np.isfinite([moved.x, moved.y]).all():
        raise RasterError(
            f"point {x:.10g},{y:.10g} ({crs}) does not exist in {grid.crs}."
        )
    centre = apply(grid.transform, grid.width / 2, grid.height / 2)
    near = move_near(np.array(moved.x), grid.crs, centre[0])
    return grid.pixel_at(float(near), moved.y)


def cells_of_shapes(
    shapes: Sequence[Any], grid: Grid
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the rows and columns of the cells of each shape.

    A cell is a polygon's if its centre lies in it; a polygon without any has those that
    it touches. Points have the cell they lie in.

    Args:
        shapes: shapely's, in the grid's reference system.
        grid: of the cells.
    """
    return [_cells_of_shape(shape, grid) for shape in shapes]


def _cells_of_shape(
    shape: Any, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    window = _window_around(shape, grid)
    part = grid.part(window)
    is_point = shape.geom_type in _POINTS
    painted = paint_shapes([(shape, 1)], part, 0, all_touched=is_point)
    if not painted.any():
        painted = paint_shapes([(shape, 1)], part, 0, all_touched=True)
    rows, columns = (at.astype(np.int64) for at in np.nonzero(painted))
    return rows + window.row, columns + window.column


def _window_around(shape: Any, grid: Grid) -> Window:
    """Return the cells around the bounds of a shape that lies on the grid."""
    assert grid.transform is not None
    low_x, low_y, high_x, high_y = shape.bounds
    corners = [(low_x, low_y), (low_x, high_y), (high_x, low_y), (high_x, high_y)]
    at = np.array([apply(~grid.transform, *corner) for corner in corners])
    most = np.array([grid.width, grid.height]) - 1
    first = np.clip(np.floor(at.min(axis=0)).astype(int) - 1, 0, most)
    last = np.clip(np.ceil(at.max(axis=0)).astype(int) + 1, first, most)
    (left, top), (width, height) = map(int, first), map(int, last - first + 1)
    return Window(top, left, height, width)


def read_shapes(path: Path, grid: Grid) -> list[Any]:
    """Read the shapes of a file that lie on a raster, in its reference system.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it cannot be read, has no reference system, or lies elsewhere.
    """
    import geopandas
    import shapely

    if not path.is_file():
        raise DatasetNotFoundError(f"there are no shapes at {path}.")
    with reading_layer(path) as odd:
        frame = geopandas.read_file(path)
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise DataError(
            f"{path} has no shapes, or no reference system: set one with ogr2ogr "
            "-a_srs."
        )
    for note in odd:
        logger.warning("%s: %s", path, note)
    check_places(path, frame.geometry)
    shapes = move_shapes(frame.geometry.dropna().make_valid(), grid.crs)
    # What lies on the other side of the globe has no place in the raster's system.
    shapes = shapes[np.isfinite(shapes.bounds).all(axis=1)]
    assert grid.transform is not None
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    outline = shapely.Polygon([apply(grid.transform, *corner) for corner in corners])
    found = list(shapes[shapes.intersects(outline)])
    if not found:
        raise DataError(f"{path}: none of its {len(shapes)} shapes lies on the raster.")
    return found


def find_query_cells(
    grid: Grid, point: str | None, crs: str, polygon: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of the cells at a point, or below shapes.

    Args:
        grid: of the cells.
        point: "x,y"; None takes the shapes.
        crs: reference system of the point.
        polygon: file of shapes.

    Raises:
        ConfigError: the point is not two numbers, or has no such reference system.
        RasterError: the point lies outside.
        DataError: no shape lies on the raster; see `read_shapes`.
    """
    if point is not None:
        try:
            x, y = (float(part) for part in point.split(","))
        except ValueError:
            raise ConfigError(
                f"--point {point!r}: give two numbers such as 103.7,17.9."
            ) from None
        row, column = cell_of_point(grid, x, y, crs)
        return np.array([row]), np.array([column])
    assert polygon is not None
    found = cells_of_shapes(read_shapes(polygon, grid), grid)
    rows, columns = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, columns


def labelled_cells(
    labels: Path, column: str, layer: str | None, grid: Grid
) -> LabelledCells:
    """Find the cells below labelled points and polygons.

    Args:
        labels: GeoJSON, GeoPackage or Shapefile, in any reference system.
        column: with the classes.
        layer: of a file with several.
        grid: of the cells.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: the layer or column is not there.
        DataError: no shape lies on the raster, there is one class only, or a cell is
            labelled with two.
    """
    frame, notes = read_vectors(LabelSource(labels, column, layer=layer), [grid])
    named = move_shapes(frame[frame["value"] != ""], grid.crs)
    if not np.isfinite(named.bounds).all(axis=None):
        raise DataError(
            f"{labels} has shapes on the raster that reach further than {grid.crs} "
            "does: cut them around the raster."
        )
    names = tuple(sorted(set(named["value"])))
    if len(names) < 2:
        raise DataError(
            f"{labels} has labels of {len(names)} class on the raster "
            f"({', '.join(names) or 'none'}): label places of at least two."
        )
    places = cells_of_shapes(named.geometry, grid)
    counts = [len(rows) for rows, _ in places]
    cells = LabelledCells(
        rows=np.concatenate([rows for rows, _ in places]),
        columns=np.concatenate([columns for _, columns in places]),
        classes=np.repeat([names.index(value) for value in named["value"]], counts),
        shapes=np.repeat(np.arange(len(counts)), counts),
        centres=np.array([(c.x, c.y) for c in named.geometry.centroid]),
        names=names,
        notes=notes,
    )
    _refuse_doubt(cells, labels, grid)
    return cells


def _refuse_doubt(cells: LabelledCells, labels: Path, grid: Grid) -> None:
    """Refuse cells that are labelled with two classes."""
    index = cells.rows * grid.width + cells.columns
    pairs = np.unique(np.stack([index, cells.classes]), axis=1)
    cell, count = np.unique(pairs[0], return_counts=True)
    if (count > 1).any():
        row, column = divmod(int(cell[count > 1][0]), grid.width)
        assert grid.transform is not None
        x, y = apply(grid.transform, column + 0.5, row + 0.5)
        raise DataError(
            f"{labels}: {int((count > 1).sum())} cells are labelled with two "
            f"classes, such as the one at {x:.7g},{y:.7g} ({grid.crs}). Move or "
            "remove labels, or embed with smaller cells."
        )
