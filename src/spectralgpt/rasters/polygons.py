"""Outlines of the classes of a map, as polygons in a GeoPackage."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio import Affine
from rasterio.features import shapes
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.files import open_raster, quiet_gdal
from spectralgpt.rasters.gdal_errors import output_error, reading

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from shapely.geometry.base import BaseGeometry

__all__ = ["write_polygons"]

_TILE_PX = 2048
_AT_ONCE = 50_000
_LAYER = "classes"
_DATE = "1970-01-01T00:00:00.000Z"
"""GeoPackages state when they were changed; this makes equal maps equal bytes."""
_Shape = tuple["BaseGeometry", int]


def write_polygons(source: Path, path: Path, names: Sequence[str]) -> Path:
    """Outline the classes of a map along the edges of its pixels.

    Pixels of a class that share a side make one polygon, with columns `class` and
    `name`. The map is read in tiles; what they cut is joined again, so that memory
    follows the outlines of the larger areas, not the map's size.

    Args:
        source: a map of classes with a reference system, see `class_layers`.
        path: the GeoPackage; one that is there is replaced.
        names: of the classes.

    Raises:
        RasterError: the map cannot be read, or has no reference system.
        OutputError: the file cannot be written.
    """
    path.unlink(missing_ok=True)
    with quiet_gdal(), open_raster(source) as dataset:
        if dataset.crs is None:
            raise RasterError(f"{source} has no reference system, so no polygons.")
        crs, transform = dataset.crs.to_wkt(), dataset.transform
        waiting: list[_Shape] = []
        for shape in _outline(dataset, source):
            waiting.append(shape)
            if len(waiting) == _AT_ONCE:
                _append(path, waiting, names, crs, transform)
                waiting = []
        if waiting or not path.exists():
            _append(path, waiting, names, crs, transform)
    return path


def _outline(dataset: "DatasetReader", source: Path) -> Iterator[_Shape]:
    """Yield polygons in pixels and their classes: those inside of tiles, then the cut.

    In pixels, edges of neighbouring tiles are equal to the bit.
    """
    from shapely import box

    scene = box(0, 0, dataset.width, dataset.height)
    cut: dict[int, list[BaseGeometry]] = {}
    for row in range(0, dataset.height, _TILE_PX):
        for column in range(0, dataset.width, _TILE_PX):
            rows = min(_TILE_PX, dataset.height - row)
            columns = min(_TILE_PX, dataset.width - column)
            place = RasterioWindow(column, row, columns, rows)
            seams = box(column, row, column + columns, row + rows).exterior.difference(
                scene.exterior
            )
            for shape, value in _read_shapes(dataset, place, source):
                if seams.is_empty or not shape.intersects(seams):
                    yield shape, value
                else:
                    cut.setdefault(value, []).append(shape)
    for value in sorted(cut):
        for shape in _join(cut.pop(value)):
            yield shape, value


def _read_shapes(
    dataset: "DatasetReader", place: RasterioWindow, source: Path
) -> Iterator[_Shape]:
    from shapely.geometry import shape

    with reading(source):
        classes = dataset.read(1, window=place)
    moved = Affine.translation(place.col_off, place.row_off)
    for outline, value in shapes(classes, classes != dataset.nodata, transform=moved):
        yield shape(outline), int(value)


def _join(shapes_of_class: Sequence["BaseGeometry"]) -> Sequence["BaseGeometry"]:
    """Join polygons that share an edge; a shared corner joins nothing."""
    import shapely

    joined = shapely.unary_union(np.array(shapes_of_class, dtype=object))
    parts = shapely.get_parts(joined)
    # The corners that tiles put on straight edges go; what is left is exact.
    return list(shapely.simplify(parts, 0))


def _append(
    path: Path,
    found: Sequence[_Shape],
    names: Sequence[str],
    crs: str,
    transform: Affine,
) -> None:
    import geopandas
    import pyogrio
    import shapely

    def place(pixels: Any) -> Any:
        columns, rows = pixels[:, 0], pixels[:, 1]
        t = transform
        return np.column_stack(
            (t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f)
        )

    outlines = shapely.transform([shape for shape, _ in found], place)
    values = [value for _, value in found]
    table = geopandas.GeoDataFrame(
        {
            "class": np.array(values, dtype=np.int32),
            "name": np.array([names[value] for value in values], dtype=object),
        },
        geometry=list(outlines),
        crs=crs,
    )
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _DATE})
    try:
        pyogrio.write_dataframe(
            table,
            path,
            layer=_LAYER,
            driver="GPKG",
            geometry_type="Polygon",
            append=path.exists(),
        )
    except (pyogrio.errors.DataSourceError, OSError, RuntimeError) as error:
        raise output_error(path, error) from None
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
