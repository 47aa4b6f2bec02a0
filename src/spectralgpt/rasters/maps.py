"""Maps on disk: classes with names and colours, or measured numbers of pixels.

Ours are Cloud-Optimized GeoTIFFs that say what they are; `spectralgpt.rasters.write`
writes them. Outlines of the classes of a map are polygons in a GeoPackage.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import shapes

from spectralgpt import __version__
from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.rasters.files import OpenFiles, find_masks, open_place, open_raster
from spectralgpt.rasters.gdal import output_error, quiet_gdal, reading
from spectralgpt.rasters.grid import Grid, Window, apply
from spectralgpt.rasters.lookup import lay_under, sample_layers
from spectralgpt.rasters.stated import SENSOR_TAG, UNIT_TAG
from spectralgpt.rasters.write import Layers

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from shapely.geometry.base import BaseGeometry

NO_CLASS = 255
"""What a map of classes holds where the image shows nothing."""
MODEL_TAG = "SPECTRALGPT_MODEL"
_ROWS = 512
_CLASS = "CLASS_"
_SOFTWARE = "TIFFTAG_SOFTWARE"
_OURS = "spectralgpt "
_TILE_PX = 2048
_AT_ONCE = 50_000
_LAYER = "classes"
_DATE = "1970-01-01T00:00:00.000Z"
"""GeoPackages state when they were changed; this makes equal maps equal bytes."""
_Shape = tuple["BaseGeometry", int]


def class_layers(
    names: Sequence[str],
    colours: Sequence[str],
    tags: Mapping[str, str] | None = None,
) -> Layers:
    """Describe a map of class indices in 8-bit numbers.

    Names stand in tags CLASS_0, CLASS_1, ..., which `spectralgpt.data.dense` reads in
    masks, and as GDAL's names of categories, from which QGIS makes its legend.

    Args:
        names: of the classes, in the order of their indices.
        colours: one a class, such as "#1b7837".
        tags: further text by key.

    Raises:
        ConfigError: there are more classes than 8-bit numbers.
    """
    if len(names) > NO_CLASS:
        raise ConfigError(
            f"{len(names)} classes do not fit a map of 8-bit numbers, which holds "
            f"{NO_CLASS}. Fine-tune with fewer classes."
        )
    classes = {f"CLASS_{i}": name for i, name in enumerate(names)}
    return Layers(
        ("class",),
        "uint8",
        NO_CLASS,
        "mode",
        tuple(names),
        tuple(colours),
        _tags(tags) | classes,
    )


def measure_layers(
    names: Sequence[str], tags: Mapping[str, str] | None = None
) -> Layers:
    """Describe layers of measured numbers, float32, NaN for nodata."""
    return Layers(tuple(names), "float32", float("nan"), "average", tags=_tags(tags))


def read_class_rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a map of classes from the top downwards: first row, and (rows, W).

    Raises:
        RasterError: the file cannot be read.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        for row in range(0, dataset.height, _ROWS):
            rows = min(_ROWS, dataset.height - row)
            place = Window(row, 0, rows, dataset.width)
            with reading(path):
                classes = dataset.read(1, window=place.slices)
            yield row, classes


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    return {"TIFFTAG_SOFTWARE": f"spectralgpt {__version__}", **(tags or {})}


@dataclass(frozen=True)
class MapClass:
    """A class of a map.

    Args:
        code: number in the file.
        name: what the file calls it.
        colour: such as "#1b7837"; None if the file has no table of colours.
    """

    code: int
    name: str
    colour: str | None


@dataclass(frozen=True)
class MapFile:
    """A map and what it says of itself.

    Args:
        path: its file.
        grid: where its pixels lie.
        kind: `classes`, or `measures` for numbers that are more or less.
        layers: names of its layers; one for classes.
        classes: by code; empty for measures.
        nodata: number that means nothing was mapped.
        scales: (scale, offset) of each layer of measures.
        masks: of each layer, see `spectralgpt.rasters.files.read_masks`.
        is_certain: whether names, colours or this package say that it is a map; else it
            is one for having one layer alone.
    """

    path: Path
    grid: Grid
    kind: Literal["classes", "measures"]
    layers: tuple[str, ...]
    classes: tuple[MapClass, ...]
    nodata: float | None
    scales: tuple[tuple[float, float], ...]
    masks: tuple[tuple[int, ...], ...]
    is_certain: bool


def open_map(path: Path) -> MapFile | None:
    """Read what a map says of itself; None if the raster does not look like a map.

    A map is a raster with names of classes, a table of colours or one layer alone, or
    one of this package's with layers of measured numbers.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        tags = dataset.tags()
        is_whole = np.dtype(dataset.dtypes[0]).kind in "iu"
        table = _colour_table(dataset) if dataset.count == 1 and is_whole else {}
        names = _class_names(tags) if is_whole else {}
        is_ours = tags.get(_SOFTWARE, "").startswith(_OURS)
        if (
            not (is_ours or dataset.count == 1)
            or SENSOR_TAG in tags
            or UNIT_TAG in tags
        ):
            return None
        codes = sorted(names) if names else sorted(table)
        return MapFile(
            path,
            open_place(path)[0],
            "classes" if codes else "measures",
            tuple(
                text or f"layer {i}" for i, text in enumerate(dataset.descriptions, 1)
            ),
            tuple(MapClass(c, names.get(c, f"class {c}"), table.get(c)) for c in codes),
            dataset.nodata,
            tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            find_masks(dataset),
            is_ours or bool(codes),
        )


def read_palette(path: Path) -> dict[int, str]:
    """Return the colours that a raster gives its codes; empty without a table.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        return _colour_table(dataset)


def sample_map(
    found: MapFile, layer: int, shown: Grid, base: Grid, files: OpenFiles
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Take the numbers of a map under the pixels of a grid.

    Args:
        found: the map.
        layer: which, from 0.
        shown: the grid wanted, a part of the base; see `sampling.shown_grid`.
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
        taken = sample_layers(found.path, indices, masks, shown, under, files)
    if taken is None:
        shape = (shown.height, shown.width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    numbers = taken[0][0]
    valid = taken[1][0] & np.isfinite(numbers)
    if found.nodata is not None and not np.isnan(found.nodata):
        valid &= numbers != found.nodata
    if found.kind == "classes":
        return numbers, valid
    scale, offset = found.scales[layer]
    measured = numbers.astype(np.float32) * np.float32(scale) + np.float32(offset)
    return np.where(valid, measured, np.float32(0)), valid


def _class_names(tags: dict[str, str]) -> dict[int, str]:
    numbers = {key.removeprefix(_CLASS): key for key in tags if key.startswith(_CLASS)}
    return {int(n): tags[key] for n, key in numbers.items() if n.isdecimal()}


def _colour_table(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Colours by code, without the black that fills a table's unused end."""
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    return {
        code: f"#{red:02x}{green:02x}{blue:02x}"
        for code, (red, green, blue, opaque) in table.items()
        if opaque and code != dataset.nodata and (red, green, blue) != (0, 0, 0)
    }


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
    import geopandas
    import pyogrio
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
