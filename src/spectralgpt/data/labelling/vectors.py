"""Layers of polygons: read where the scenes lie, repaired, and painted on a grid."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.labelling.classes import LabelClasses, value_text
from spectralgpt.data.labelling.config import UNLABELLED, LabelSource
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.rasters import Grid, Window
from spectralgpt.rasters.geometry import apply
from spectralgpt.rasters.painting import paint_shapes
from spectralgpt.yaml_files import suggest

if TYPE_CHECKING:
    from geopandas import GeoDataFrame, GeoSeries

__all__ = ["VECTOR_SUFFIXES", "PaintedScene", "VectorLabels", "read_vectors"]

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
_PARTS = 256
"""Parts that the edge of a scene, and long edges of polygons, are cut into: straight
lines of one reference system are curved in another."""
_MARGIN = 0.05


@dataclass(frozen=True)
class PaintedScene:
    """Shapes in the reference system of a scene, ready to be painted.

    Args:
        grid: of the scene.
        shapes: geometries in the order of the layer.
        codes: number of each.
        fill: number where there is none.
        all_touched: see `LabelSource`.
    """

    grid: Grid
    shapes: NDArray[Any]
    codes: NDArray[np.uint8]
    fill: int
    all_touched: bool

    def paint(self, window: Window) -> tuple[NDArray[np.uint8], int]:
        """Paint a window; returns it, and the pixels that lie in several classes."""
        import shapely

        part = self.grid.part(window)
        corners = shapely.box(*shapely.total_bounds(_outline(part)))
        near = np.flatnonzero(shapely.intersects(self.shapes, corners))
        chosen = list(zip(self.shapes[near], map(int, self.codes[near]), strict=True))
        painted = paint_shapes(chosen, part, self.fill, self.all_touched)
        classes = sorted({code for _, code in chosen} - {UNLABELLED})
        if len(classes) < 2:
            return painted, 0
        covered = np.zeros(painted.shape, np.uint8)
        for code in classes:
            same = [(shape, 1) for shape, other in chosen if other == code]
            covered += paint_shapes(same, part, 0, self.all_touched)
        return painted, int((covered > 1).sum())


@dataclass(frozen=True)
class VectorLabels:
    """A layer of shapes with the values of one column.

    Args:
        frame: columns value and geometry, valid, in the layer's reference system.
        labels: what is stated about them.
        notes: what was repaired or left out, for people.
        class_names: such a layer states none.
    """

    frame: "GeoDataFrame"
    labels: LabelSource
    notes: tuple[str, ...]
    class_names: tuple[tuple[str, str], ...] = ()

    def values(self) -> dict[str, int]:
        """Shapes by their value."""
        return dict(Counter(self.frame["value"]))

    def on(self, grid: Grid, classes: LabelClasses) -> PaintedScene:
        """Bring the shapes that lie on a scene to its reference system."""
        import shapely

        frame = self.frame
        region = _outlines([grid], frame.crs)
        near = frame[frame.intersects(region.union_all())]
        shapes = near.geometry
        if frame.crs != grid.crs and len(near):
            low_x, low_y, high_x, high_y = region.total_bounds
            side = max(high_x - low_x, high_y - low_y)
            wide = _grow((low_x, low_y, high_x, high_y))
            # Cut first: a polygon of a whole country would fall into many parts.
            shapes = shapes.clip_by_rect(*wide).segmentize(side / _PARTS)
            shapes = shapes.to_crs(grid.crs)
        codes = [classes.code_of[value] for value in near["value"]]
        there = ~shapely.is_empty(shapes.to_numpy())
        return PaintedScene(
            grid,
            np.asarray(shapes.to_numpy()[there]),
            np.array(codes, np.uint8)[there],
            classes.fill,
            self.labels.all_touched,
        )


def _outlines(grids: Sequence[Grid], crs: Any) -> "GeoSeries":
    """Return the outlines of those grids that can be shown in a reference system."""
    import geopandas

    series = [geopandas.GeoSeries([_outline(g)], crs=g.crs).to_crs(crs) for g in grids]
    shown = [s.iloc[0] for s in series if np.isfinite(s.total_bounds).all()]
    return geopandas.GeoSeries(shown, crs=crs)


def _outline(grid: Grid) -> Any:
    """Return the outline of a grid, with points all along its edges."""
    import shapely

    assert grid.transform is not None
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    ring = shapely.Polygon([apply(grid.transform, *corner) for corner in corners])
    return shapely.segmentize(ring, ring.length / _PARTS)


def read_vectors(labels: LabelSource, grids: Sequence[Grid]) -> VectorLabels:
    """Read the shapes of a layer that lie on scenes.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: the layer or column is not there, or not said.
        DataError: the file cannot be read, has no reference system, or lies elsewhere.
    """
    from pyogrio.errors import DataSourceError

    path = labels.labels
    if not path.exists():
        raise DatasetNotFoundError(f"There is no layer of labels at {path}.")
    try:
        # What GDAL finds odd of a file becomes a note, or part of the error.
        with warnings.catch_warnings(record=True) as odd:
            warnings.simplefilter("always", RuntimeWarning)
            frame, notes = _load(labels, grids)
    except (DataSourceError, OSError, RuntimeError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read as a layer of shapes: {reason}"
        ) from None
    notes += sorted({" ".join(str(warning.message).split()) for warning in odd})
    return VectorLabels(frame.reset_index(drop=True), labels, tuple(notes))


def _load(
    labels: LabelSource, grids: Sequence[Grid]
) -> tuple["GeoDataFrame", list[str]]:
    """Read values and geometries of the shapes that lie on scenes, and mend them."""
    import geopandas

    path = labels.labels
    layer, crs, count = _look(labels)
    column = str(labels.class_column)
    outlines = _outlines(grids, crs)
    found = geopandas.GeoDataFrame({"value": []}, geometry=[], crs=crs)
    notes: list[str] = []
    if len(outlines):
        # In the order of the layer, which a spatial index does not keep.
        frame = geopandas.read_file(
            path,
            layer=layer,
            bbox=_grow(outlines.total_bounds),
            columns=[column],
            fid_as_index=True,
        ).sort_index()
        values = [value_text(value) for value in frame[column]]
        shapes = frame.geometry.to_numpy()
        found = geopandas.GeoDataFrame({"value": values}, geometry=shapes, crs=crs)
        found, notes = _repair(found)
        found = found[found.intersects(outlines.union_all())]
    if found.empty:
        raise DataError(_elsewhere(path, layer, count, outlines.total_bounds))
    return found, notes


def _look(labels: LabelSource) -> tuple[str, Any, int]:
    """Return name, reference system and number of shapes of the layer that is meant."""
    import pyogrio

    path = labels.labels
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind]
    layer = None if labels.layer is None else str(labels.layer)
    if (layer is None and len(layers) != 1) or (layer and layer not in layers):
        hint = suggest(layer or "", layers)
        raise ConfigError(
            f"{path} has the layers {', '.join(layers) or '(none)'}: name one of them "
            f"with layer (found: {layer}{hint})."
        )
    layer = layer or layers[0]
    info = pyogrio.read_info(path, layer=layer)
    columns = [str(name) for name in info["fields"]]
    if labels.class_column is None:
        raise ConfigError(
            f"{path}: which column holds the classes? Name it with class_column "
            f"(columns: {', '.join(columns) or 'none'})."
        )
    if labels.class_column not in columns:
        hint = suggest(labels.class_column, columns)
        raise ConfigError(
            f"{path}, layer {layer}, has no column '{labels.class_column}'{hint} "
            f"(columns: {', '.join(columns) or 'none'}). Name another in class_column."
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


def _grow(bounds: Sequence[float]) -> tuple[float, float, float, float]:
    low_x, low_y, high_x, high_y = map(float, bounds)
    more = _MARGIN * max(high_x - low_x, high_y - low_y)
    return low_x - more, low_y - more, high_x + more, high_y + more


def _elsewhere(path: Path, layer: str, count: int, region: Sequence[float]) -> str:
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
