"""Maps on disk: classes with names and colours, or measured numbers of pixels.

Ours are Cloud-Optimized GeoTIFFs that say what they are; `spectralgpt.rasters.write`
writes them. Outlines of the classes of a map are polygons in a GeoPackage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import shapes

from spectralgpt.errors import RasterError, require
from spectralgpt.rasters.files import (
    SENSOR_TAG,
    UNIT_TAG,
    Header,
    open_raster,
    read_header,
)
from spectralgpt.rasters.gdal import quiet_gdal, reading, writing
from spectralgpt.rasters.grid import Window, apply
from spectralgpt.rasters.styles import polygon_style
from spectralgpt.rasters.write import CLASS_TAG, SOFTWARE_TAG

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from shapely.geometry.base import BaseGeometry

TARGET_UNIT_TAG = "TARGET_UNIT"
_ROWS = 512
_TILE_PX = 2048
_AT_ONCE = 50_000
_LAYER = "classes"
_BLACK = "#000000"
_DATE = "1970-01-01T00:00:00.000Z"
"""GeoPackages state when they were changed; this makes equal maps equal bytes."""
_Shape = tuple["BaseGeometry", int]


def read_map_rows(path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read the first layer of a map from the top downwards: first row, and (rows, W).

    Raises:
        RasterError: the file cannot be read.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        for row in range(0, dataset.height, _ROWS):
            rows = min(_ROWS, dataset.height - row)
            place = Window(row, 0, rows, dataset.width)
            with reading(path):
                numbers = dataset.read(1, window=place.slices)
            yield row, numbers


@dataclass(frozen=True, kw_only=True)
class MapFile(Header):
    """A map and what it says of itself.

    Args:
        path: its file.
        kind: `classes`, or `measures` for numbers that are more or less.
        names: of classes by code; empty for measures.
        colours: such as "#1b7837" by code, as far as the file has a table of them.
        is_certain: whether names, colours or this package say that it is a map; else it
            is one for having one layer alone.
    """

    path: Path
    kind: Literal["classes", "measures"]
    names: dict[int, str]
    colours: dict[int, str]
    is_certain: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers; one for classes."""
        names = enumerate(self.descriptions, start=1)
        return tuple(text or f"layer {i}" for i, text in names)

    @property
    def unit(self) -> str:
        """Unit of measures, after a blank; "" for shares, and where none is said."""
        unit = self.tags.get(TARGET_UNIT_TAG, "1")
        return "" if unit == "1" else f" {unit}"


def open_map(path: Path) -> MapFile | None:
    """Read what a map says of itself; None if the raster does not look like a map.

    A map is a raster with names of classes, a table of colours or one layer alone, or
    one of this package's with layers of measured numbers.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    header = read_header(path)
    tags, is_single = header.tags, header.count == 1
    is_ours = tags.get(SOFTWARE_TAG, "").startswith("spectralgpt ")
    if not (is_ours or is_single) or SENSOR_TAG in tags or UNIT_TAG in tags:
        return None
    is_whole = np.dtype(header.dtypes[0]).kind in "iu"
    table = read_palette(path) if is_single and is_whole else {}
    names = _class_names(tags) if is_whole else {}
    codes = sorted(names) if names else sorted(table)
    return MapFile(
        **vars(header),
        kind="classes" if codes else "measures",
        names={code: names.get(code, f"class {code}") for code in codes},
        colours={code: table[code] for code in codes if code in table},
        is_certain=is_ours or bool(codes),
    )


def read_palette(path: Path) -> dict[int, str]:
    """Return the colours that a raster gives its codes; empty without a table.

    GDAL fills what a table does not state with black. Black counts as stated where the
    code has a name, or is the only such code before the last of another colour.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        try:
            table = dataset.colormap(1)
        except ValueError:
            return {}
        shown = {
            code: f"#{red:02x}{green:02x}{blue:02x}"
            for code, (red, green, blue, opaque) in table.items()
            if opaque and code != dataset.nodata
        }
        named = _class_names(dataset.tags())
    used = [code for code, colour in shown.items() if colour != _BLACK]
    black = [code for code in shown if code < max(used, default=0)]
    black = [code for code in black if shown[code] == _BLACK]
    kept = {*used, *named, *(black if len(black) == 1 else ())}
    return {code: colour for code, colour in shown.items() if code in kept}


def _class_names(tags: dict[str, str]) -> dict[int, str]:
    parts = ((*key.partition(CLASS_TAG), name) for key, name in tags.items())
    return {int(n): name for start, _, n, name in parts if not start and n.isdecimal()}


def write_polygons(
    source: Path, path: Path, names: Sequence[str], colours: Sequence[str]
) -> Path:
    """Outline the classes of a map along the edges of its pixels.

    Pixels of a class that share a side make one polygon, with columns `class` and
    `name`. The map is read in tiles; what they cut is joined again, so that memory
    follows the outlines of the larger areas, not the map's size.

    Args:
        source: a map of classes with a reference system, see `Layers.of_classes`.
        path: the GeoPackage; an existing one is replaced.
        names: of the classes.
        colours: one per class, such as "#1b7837", which QGIS draws them in.

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
    _append_style(path, polygon_style("class", names, colours))
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
            place = Window(row, column, rows, columns)
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
    dataset: "DatasetReader", place: Window, source: Path
) -> Iterator[_Shape]:
    from shapely.geometry import shape

    with reading(source):
        classes = dataset.read(1, window=place.slices)
    moved = Affine.translation(place.column, place.row)
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
    require("geopandas", "pyogrio")
    import geopandas
    import shapely

    def place(pixels: Any) -> Any:
        return np.column_stack(apply(transform, pixels[:, 0], pixels[:, 1]))

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
    _write_layer(path, table, layer=_LAYER, geometry_type="Polygon")


def _append_style(path: Path, style: str) -> None:
    """Add the table where QGIS looks for the style of a GeoPackage's layer."""
    import pandas

    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": _LAYER,
        "f_geometry_column": "geom",
        "styleName": _LAYER,
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": pandas.Timestamp(_DATE),
    }
    table = pandas.DataFrame([row])
    _write_layer(path, table, layer="layer_styles", layer_options={"FID": "id"})


def _write_layer(path: Path, table: Any, **options: Any) -> None:
    """Add to a layer of a GeoPackage, with the date of `_DATE`."""
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _DATE})
    with writing(path):
        try:
            pyogrio.write_dataframe(
                table, path, append=path.exists(), driver="GPKG", **options
            )
        except RuntimeError as error:
            raise OSError(str(error)) from None
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
