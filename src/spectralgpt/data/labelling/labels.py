"""Labels, polygons or class codes: numbered classes, laid on the grid of each scene.

Polygons are read where the scenes lie, and repaired. Masks of whole scenes are written
to files strip by strip, so that memory does not grow with the scenes.
"""

import codecs
import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import read_mapping, suggest
from spectralgpt.data.listings import first_names
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
    require,
)
from spectralgpt.rasters import Grid, Window
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.footprints import move_near, move_shapes, turn_of
from spectralgpt.rasters.grid import apply
from spectralgpt.rasters.lookup import find_codes, paint_shapes, read_codes_at
from spectralgpt.recipes import find_recipe

if TYPE_CHECKING:
    from geopandas import GeoDataFrame, GeoSeries

UNLABELLED = 255
"""Value of masks where there is no label."""
_SHOWN = 8
_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
_PARTS = 256
"""Parts that the edge of a scene, and long edges of polygons, are cut into: straight
lines of one reference system are curved in another."""
_MARGIN = 0.05
_WHOLE_SHAPES = (1, 3)
"""Line and polygon by shapely's numbers: shapes of several parts may lie apart."""
_STARTS = (b"SQLite format 3\0", b"\0\0\x27\x0a", b"fgb")
"""First bytes of a GeoPackage, a Shapefile and FlatGeobuf."""
_START_LENGTH = 1024
_POLE = 90.000001
_FURTHEST = 1e9
"""No reference system has coordinates beyond, whatever their unit."""
_TAG = re.compile(r"CLASS_(-?\d+)")
_Painter = Callable[[Window], tuple[NDArray[np.uint8], int]]
"""Paints a window: classes, (H, W), and how many pixels lie in several of them."""
PainterOn = Callable[[Grid], _Painter]


@dataclass(frozen=True)
class LabelSource:
    """Where labels lie, and what their values mean.

    Args:
        labels: layer of polygons (GeoPackage, GeoJSON, Shapefile), or raster of codes.
        class_column: column of the polygons that holds class names or codes.
        classes: YAML or JSON file with the value, or list of values, of each class by
            its name, or `corine` for SegMunich's classes of CORINE land cover; null
            makes each value that occurs a class.
        ignored: values that are no label, such as [cloud].
        background: class of pixels that no label covers; null leaves them unlabelled.
        layer: name of the layer in a file of several, or number of the raster's layer.
        all_touched: label every pixel that a polygon touches, not only those whose
            centre lies in it.
    """

    labels: Path
    class_column: str | None = None
    classes: Path | None = None
    ignored: tuple[str | int | float, ...] = ()
    background: str | None = None
    layer: str | int | None = None
    all_touched: bool = False


@dataclass(frozen=True)
class LabelClasses:
    """Classes, numbered from 0 in their order.

    Args:
        names: of the classes.
        code_of: number of the class of each value, as text; `UNLABELLED` for those
            that are no label.
        fill: number of pixels that no label covers.
        unseen: classes that were stated and do not occur.
    """

    names: tuple[str, ...]
    code_of: Mapping[str, int]
    fill: int = UNLABELLED
    unseen: tuple[str, ...] = ()


def _value_text(value: Any) -> str:
    """Return a value of a label as text: whole numbers alike, "" for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _number_classes(
    found: Mapping[str, int], labels: LabelSource, names: Mapping[str, str]
) -> LabelClasses:
    """Number the classes of the texts that occur so often; "" is no label."""
    ignored = {_value_text(value) for value in labels.ignored} | {""}
    if labels.classes is None:
        values = sorted(set(found) - ignored, key=_in_order)
        stated: dict[str, list[str]] = {}
        for value in values:
            stated.setdefault(_name(value, names), []).append(value)
    else:
        stated = _read_classes(labels.classes)
    code_of = dict.fromkeys(ignored, UNLABELLED)
    for code, (name, values) in enumerate(stated.items()):
        for value in values:
            if value in code_of:
                other = "ignored" if value in ignored else list(stated)[code_of[value]]
                raise ConfigError(f"value '{value}' is {name} and {other}. Choose one.")
            code_of[value] = code
    unknown = sorted(set(found) - set(code_of), key=_in_order)
    if unknown:
        shown = first_names((f"{value} ({found[value]})" for value in unknown), _SHOWN)
        raise DataError(
            f"{labels.labels}: {len(unknown)} values are in no class of "
            f"{labels.classes}: {shown}. Add them to a class, or to ignored."
        )
    unseen = [name for name, values in stated.items() if not set(values) & set(found)]
    classes = list(stated)
    fill = UNLABELLED
    if labels.background is not None:
        classes = list(dict.fromkeys([*classes, labels.background]))
        fill = classes.index(labels.background)
    if not 0 < len(classes) <= UNLABELLED:
        raise DataError(
            f"{labels.labels} gives {len(classes)} classes: masks hold 1 to "
            f"{UNLABELLED}. Put values together in a file of classes."
        )
    return LabelClasses(tuple(classes), code_of, fill, tuple(unseen))


def _read_classes(path: Path) -> dict[str, list[str]]:
    stated = {}
    for name, values in read_mapping(find_recipe(path)).items():
        listed = values if isinstance(values, Sequence) else [values]
        listed = [values] if isinstance(values, str) else listed
        if not listed or not all(isinstance(v, str | int | float) for v in listed):
            raise ConfigError(
                f"{path}: class '{name}' needs a value or a list of values, found "
                f"{values!r}."
            )
        stated[name] = [_value_text(value) for value in listed]
    return stated


def _name(value: str, names: Mapping[str, str]) -> str:
    return names.get(value) or (f"class {value}" if _is_number(value) else value)


def _is_number(value: str) -> bool:
    return value.lstrip("-").isdecimal()


def _in_order(value: str) -> tuple[int, int, str]:
    """Numbers by size, then texts by the alphabet."""
    return (0, int(value), "") if _is_number(value) else (1, 0, value)


def open_labels(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple[LabelClasses, PainterOn, tuple[str, ...]]:
    """Open a layer of labels, and number its classes.

    Args:
        labels: what is stated.
        grids: of the scenes.

    Returns:
        The classes, what gets ready to paint them on a grid, and what was repaired or
        left out, for people.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: what is stated does not fit the file.
        DataError: the layer cannot be used, or lies on no scene.
        RasterError: a raster cannot be read.
    """
    if labels.labels.suffix.lower() in _SUFFIXES:
        frame, notes = read_vectors(labels, grids)
        classes = _number_classes(Counter(frame["value"]), labels, {})
        painter_on = functools.partial(_shapes_on, frame, labels.all_touched, classes)
        return classes, painter_on, notes
    index, counts, names = _read_raster(labels, grids)
    classes = _number_classes(counts, labels, names)
    return classes, functools.partial(_codes_on, labels.labels, index, classes), ()


def _read_raster(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple[int, Counter[str], dict[str, str]]:
    """Return which layer is meant, how often it holds each code, and their names."""
    path = labels.labels
    if not path.exists():
        raise DatasetNotFoundError(f"There is no layer of labels at {path}.")
    if labels.class_column is not None or labels.all_touched:
        raise ConfigError(
            f"{path} is read as a raster, which has no columns: leave --class-column "
            f"and --all-touched out. Polygons are read from {', '.join(_SUFFIXES)}."
        )
    index = _value_text(labels.layer) or "1"
    if not index.isdecimal() or not int(index):
        raise ConfigError(f"layer of a raster is a number from 1, found '{index}'.")
    header = read_header(path)
    counts = Counter[str]()
    for grid in grids:
        found = find_codes(path, int(index), grid)
        counts.update({str(code): count for code, count in found.items()})
    if not counts:
        raise DataError(
            f"{path} has no label on any scene: it lies elsewhere, or all of it is "
            "nodata. Check its reference system, or take other scenes."
        )
    names = {
        match[1]: name
        for tag, name in header.tags.items()
        if (match := _TAG.match(tag))
    }
    return int(index), counts, names


def _codes_on(path: Path, index: int, classes: LabelClasses, grid: Grid) -> _Painter:
    """Get ready to look the codes of a raster up on a grid; they never overlap."""

    def paint(window: Window) -> tuple[NDArray[np.uint8], int]:
        codes, known = read_codes_at(path, index, grid.part(window))
        found, at = np.unique(codes, return_inverse=True)
        # What is not known may hold any number.
        table = [classes.code_of.get(str(code), 0) for code in found.tolist()]
        painted = np.array(table, np.uint8)[at].reshape(codes.shape)
        return np.where(known, painted, np.uint8(classes.fill)), 0

    return paint


def _shapes_on(
    frame: "GeoDataFrame", all_touched: bool, classes: LabelClasses, grid: Grid
) -> _Painter:
    """Get ready to paint the shapes of a layer that lie on a grid."""
    require("pandas")
    import pandas
    import shapely

    found = (
        _bring_near(frame, grid, outline, turns)
        for turns, outlines in _outlines([grid], frame.crs).items()
        for outline in outlines
    )
    # Where nothing was found, nothing was moved to the scene's reference system.
    near = pandas.concat([part for part in found if len(part)] or [frame[:0]])
    # Later shapes of the layer lie on top, wherever they were found.
    near = near[~near.geometry.is_empty].sort_index(kind="stable")
    shapes = np.asarray(near.geometry.to_numpy())
    codes = [classes.code_of[value] for value in near["value"]]

    def paint(window: Window) -> tuple[NDArray[np.uint8], int]:
        part = grid.part(window)
        corners = shapely.box(*shapely.total_bounds(_outline(part)))
        chosen = [
            (shapes[at], codes[at])
            for at in np.flatnonzero(shapely.intersects(shapes, corners)).tolist()
        ]
        painted = paint_shapes(chosen, part, classes.fill, all_touched)
        several = sorted({code for _, code in chosen} - {UNLABELLED})
        if len(several) < 2:
            return painted, 0
        covered = np.zeros(painted.shape, np.uint8)
        for code in several:
            same = [(shape, 1) for shape, other in chosen if other == code]
            covered += paint_shapes(same, part, 0, all_touched)
        return painted, int((covered > 1).sum())

    return paint


def _bring_near(
    frame: "GeoDataFrame", grid: Grid, outline: Any, turns: float
) -> "GeoDataFrame":
    """Bring the shapes on one outline of a grid to its reference system."""
    near = frame[frame.intersects(outline)]
    shapes = near.geometry
    if near.crs != grid.crs and len(near):
        low_x, low_y, high_x, high_y = outline.bounds
        side = max(high_x - low_x, high_y - low_y)
        # Cut first: a polygon of a whole country would fall into many parts.
        shapes = shapes.clip_by_rect(*_grow(outline.bounds))
        shapes = move_shapes(shapes.segmentize(side / _PARTS), grid.crs)
    elif turns:
        shapes = shapes.translate(-turns)
    return near.set_geometry(shapes)


def _outlines(grids: Sequence[Grid], crs: Any) -> dict[float, list[Any]]:
    """Return the outlines of those grids that can be shown in a reference system.

    In degrees each stands at every longitude that a layer may give its place, from -180
    to 360: so shapes on both sides of 180 degrees are found. They go by what was added
    to their x.
    """
    require("geopandas")
    import geopandas
    import shapely
    import shapely.affinity

    turn = turn_of(str(crs))
    found: dict[float, list[Any]] = {}
    for grid in grids:
        shown = geopandas.GeoSeries([_outline(grid)], crs=grid.crs)
        shown = move_shapes(shown, crs)
        if not np.isfinite(shown.total_bounds).all():
            continue
        if math.isinf(turn):
            found.setdefault(0.0, []).append(shown.iloc[0])
            continue
        outline = shapely.transform(shown.iloc[0], lambda at: _unwrap(at, str(crs)))
        for turns in (-2 * turn, -turn, 0.0, turn, 2 * turn):
            moved = shapely.affinity.translate(outline, turns)
            if moved.bounds[2] > -turn / 2 and moved.bounds[0] < turn:
                found.setdefault(turns, []).append(moved)
    return found


def _unwrap(at: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
    """Return the points of a ring next to its first one."""
    return np.stack([move_near(at[:, 0], crs, float(at[0, 0])), at[:, 1]], axis=1)


def _outline(grid: Grid) -> Any:
    """Return the outline of a grid, with points all along its edges."""
    import shapely

    assert grid.transform is not None
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    ring = shapely.Polygon([apply(grid.transform, *corner) for corner in corners])
    return shapely.segmentize(ring, ring.length / _PARTS)


def read_vectors(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple["GeoDataFrame", tuple[str, ...]]:
    """Read the shapes of a layer that lie on scenes.

    Returns:
        Frame with columns value and geometry, valid, in the layer's reference system;
        and what was repaired or left out, for people.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: the layer or column is not there, or not said.
        DataError: the file cannot be read, has no reference system, or lies elsewhere.
    """
    path = labels.labels
    if not path.exists():
        raise DatasetNotFoundError(f"There is no layer of labels at {path}.")
    with reading_layer(path) as odd:
        frame, notes = _load(labels, grids)
    notes += odd
    return frame.reset_index(drop=True), tuple(notes)


@contextmanager
def reading_layer(path: Path) -> Iterator[list[str]]:
    """Read a file of shapes inside of it: what is wrong with the file is our error.

    Yields:
        A list that in the end holds what GDAL found odd, for people.

    Raises:
        DataError: the file is of another kind, or cannot be read.
    """
    from shapely.errors import ShapelyError

    notes: list[str] = []
    try:
        _check_kind(path)
        with warnings.catch_warnings(record=True) as odd:
            warnings.simplefilter("always", RuntimeWarning)
            warnings.simplefilter("always", UserWarning)
            yield notes
    except SpectralGPTError:
        raise
    except (ShapelyError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{path} cannot be read as a layer of shapes: {reason}. Mend the file, for "
            "example with ogr2ogr -makevalid, or in QGIS."
        ) from None
    notes += sorted({" ".join(str(warning.message).split()) for warning in odd})


def _check_kind(path: Path) -> None:
    """Refuse files of other kinds: virtual ones make GDAL open any file or address."""
    with path.open("rb") as file:
        start = file.read(_START_LENGTH)
    is_json = start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
    if not is_json and not start.startswith(_STARTS):
        raise DataError(
            f"{path} is neither GeoJSON in UTF-8 nor a GeoPackage, Shapefile or "
            "FlatGeobuf: save it as one of these."
        )


def check_places(path: Path, shapes: "GeoSeries") -> None:
    """Refuse coordinates that are no place in the shapes' own reference system.

    Raises:
        DataError: they are not finite, out of all bounds, or latitudes beyond a pole.
    """
    import shapely

    points, shape_of = shapely.get_coordinates(shapes.to_numpy(), return_index=True)
    is_of_degrees = np.isfinite(turn_of(str(shapes.crs)))
    most = (_FURTHEST, _POLE if is_of_degrees else _FURTHEST)
    is_wrong = ~(np.abs(points) <= most).all(axis=1)
    if is_wrong.any():
        x, y = points[is_wrong][0]
        raise DataError(
            f"{path}: {len(np.unique(shape_of[is_wrong]))} shapes have points that lie "
            f"nowhere in {shapes.crs.name}, such as {x:.7g}, {y:.7g}. Correct or "
            "remove them."
        )


def _load(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple["GeoDataFrame", list[str]]:
    """Read values and geometries of the shapes that lie on scenes, and mend them."""
    require("geopandas")
    import geopandas
    import pandas
    import shapely

    path = labels.labels
    layer, crs, count = _look(labels)
    column = str(labels.class_column)
    outlines = _outlines(grids, crs)
    found = geopandas.GeoDataFrame({"value": []}, geometry=[], crs=crs)
    notes: list[str] = []
    if outlines:
        frame = pandas.concat(
            geopandas.read_file(
                path,
                layer=layer,
                bbox=_grow(shapely.total_bounds(np.array(near, dtype=object))),
                columns=[column],
                fid_as_index=True,
            )
            for near in outlines.values()
        )
        # In the order of the layer, which a spatial index does not keep.
        frame = frame[~frame.index.duplicated()].sort_index()
        values = [_value_text(value) for value in frame[column]]
        shapes = frame.geometry.to_numpy()
        found = geopandas.GeoDataFrame({"value": values}, geometry=shapes, crs=crs)
        check_places(path, found.geometry)
        found, notes = _repair(found)
        every = shapely.union_all([o for near in outlines.values() for o in near])
        found = found[found.intersects(every)]
    if found.empty:
        region = shapely.total_bounds(np.array(outlines.get(0.0, []), dtype=object))
        raise DataError(_elsewhere(path, layer, count, region))
    if len(found) < count:
        where = "scene" if len(grids) == 1 else "scenes"
        notes.append(f"{len(found)} of the {count} shapes lie on the {where}.")
    return found, notes


def _look(labels: LabelSource) -> tuple[str, Any, int]:
    """Return name, reference system and number of shapes of the layer that is meant."""
    require("pyogrio")
    import pyogrio

    path = labels.labels
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind]
    layer = None if labels.layer is None else str(labels.layer)
    if (layer is None and len(layers) != 1) or (layer and layer not in layers):
        hint = suggest(layer or "", layers)
        raise ConfigError(
            f"{path} has the layers {', '.join(layers) or '(none)'}: name one of them "
            f"with --layer (found: {layer}{hint})."
        )
    layer = layer or layers[0]
    info = pyogrio.read_info(path, layer=layer)
    columns = [str(name) for name in info["fields"]]
    if labels.class_column is None:
        raise ConfigError(
            f"{path}: which column holds the classes? Name it with --class-column "
            f"(columns: {', '.join(columns) or 'none'})."
        )
    if labels.class_column not in columns:
        hint = suggest(labels.class_column, columns)
        raise ConfigError(
            f"{path}, layer {layer}, has no column '{labels.class_column}'{hint} "
            f"(columns: {', '.join(columns) or 'none'}). Name another: --class-column."
        )
    # A GeoPackage without one may say so in words.
    if not info["crs"] or "undefined" in str(info["crs"]).lower():
        raise DataError(
            f"{path}, layer {layer}, has no reference system (CRS), so its place is "
            "unknown. Set one with ogr2ogr -a_srs."
        )
    return layer, info["crs"], int(info["features"])


def _repair(frame: "GeoDataFrame") -> tuple["GeoDataFrame", list[str]]:
    """Mend shapes that cross themselves, and count those without a value."""
    import shapely

    notes = []
    frame, wide = _take_the_short_way(frame)
    if wide:
        notes.append(
            f"{wide} shapes span over half the globe, and are taken to cross 180 "
            "degrees."
        )
    wrong = ~frame.geometry.is_valid
    if wrong.any():
        mended = shapely.make_valid(
            frame.geometry.to_numpy()[wrong], method="structure", keep_collapsed=False
        )
        frame = frame.copy()
        frame.loc[wrong, "geometry"] = mended
        frame = frame[~frame.geometry.is_empty]
        notes.append(f"{int(wrong.sum())} shapes crossed themselves and were mended.")
    unnamed = int((frame["value"] == "").sum())
    if unnamed:
        notes.append(f"{unnamed} shapes name no class: what they cover is no label.")
    return frame, notes


def _take_the_short_way(frame: "GeoDataFrame") -> tuple["GeoDataFrame", int]:
    """Join shapes that were drawn across 180 degrees without being cut there.

    They jump from one end of the globe to the other. Those that touch both ends, such
    as a background of the whole globe, are left alone.
    """
    import shapely

    turn = turn_of(str(frame.crs))
    shapes = frame.geometry.to_numpy()
    west, _, east, _ = shapely.bounds(shapes).T
    is_wide = (east - west > turn / 2) & ~((west <= -turn / 2) & (east >= turn / 2))
    is_wide &= np.isin(shapely.get_type_id(shapes), _WHOLE_SHAPES)
    if not is_wide.any():
        return frame, 0

    def eastward(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return at + np.where(at[:, :1] < 0, (turn, 0.0), (0.0, 0.0))

    joined = shapes.copy()
    joined[is_wide] = shapely.transform(shapes[is_wide], eastward)
    frame = frame.set_geometry(joined, crs=frame.crs)
    return frame, int(is_wide.sum())


def _grow(bounds: Sequence[float]) -> tuple[float, float, float, float]:
    low_x, low_y, high_x, high_y = map(float, bounds)
    more = _MARGIN * max(high_x - low_x, high_y - low_y)
    return low_x - more, low_y - more, high_x + more, high_y + more


def _elsewhere(path: Path, layer: str, count: int, region: Sequence[float]) -> str:
    require("pyogrio")
    import pyogrio

    info = pyogrio.read_info(path, layer=layer, force_total_bounds=True)
    found = info["total_bounds"]
    shown = [
        f"x {b[0]:.6g} to {b[2]:.6g}, y {b[1]:.6g} to {b[3]:.6g}"
        for b in (region, found if found is not None else [np.nan] * 4)
    ]
    return (
        f"{path}: none of the {count} shapes of layer {layer} lies on a scene (scenes: "
        f"{shown[0]}; labels: {shown[1]}, in {info['crs']}). Check the reference "
        "systems, or take other scenes."
    )
