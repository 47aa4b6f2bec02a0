"""Places that a user names, on the cells of a raster; from a few labels to a map.

Points and shapes are brought onto the cells. Probes are fitted on those with labels.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import check_range
from spectralgpt.data.classes import class_colours
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
    require,
)
from spectralgpt.files import write_json, write_table
from spectralgpt.rasters.embeddings import EmbeddingRaster, EmbeddingSource
from spectralgpt.rasters.footprints import move_near, move_shapes, pixel_size_m
from spectralgpt.rasters.grid import Grid, Window, apply
from spectralgpt.rasters.lookup import paint_shapes
from spectralgpt.scenes.similarity import read_cells, write_class_map
from spectralgpt.tasks.probes import (
    HEADS,
    BlockScores,
    CellFeatures,
    Probe,
    ProbeHead,
    blocks_of,
    fit_probe,
    save_probe,
    score_by_blocks,
)

logger = logging.getLogger(__name__)

_POINTS = ("Point", "MultiPoint")
_FLOOR = "random forest on reflectance"


@dataclass(frozen=True)
class _LabelledCells:
    """N cells with classes: where, index into sorted `names`, number of their shape.

    `centres` (shapes, 2) are x and y in the raster's reference system; `notes` say what
    was mended or left out.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    classes: NDArray[np.int64]
    shapes: NDArray[np.int64]
    centres: NDArray[np.float64]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def _cell_of_point(grid: Grid, x: float, y: float, crs: str) -> tuple[int, int]:
    """Return the (row, column) of the cell that holds a point: easting, northing."""
    require("geopandas", "pyproj")
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


def _cells_of_shapes(
    shapes: Sequence[Any], grid: Grid
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the rows and columns of the cells of each of shapely's shapes.

    A cell is a polygon's if its centre lies in it; a polygon without any has those that
    it touches. Points have the cell they lie in.
    """
    cells = []
    for shape in shapes:
        window = _window_around(shape, grid)
        part = grid.part(window)
        is_point = shape.geom_type in _POINTS
        painted = paint_shapes([(shape, 1)], part, 0, all_touched=is_point)
        if not painted.any():
            painted = paint_shapes([(shape, 1)], part, 0, all_touched=True)
        rows, columns = (at.astype(np.int64) for at in np.nonzero(painted))
        cells.append((rows + window.row, columns + window.column))
    return cells


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


def _read_shapes(path: Path, grid: Grid) -> list[Any]:
    """Read the shapes of a file that lie on a raster, in its reference system."""
    require("geopandas")
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
    """Return the rows and columns, (N,) each, of cells at a point or below shapes.

    Args:
        grid: of the cells.
        point: "x,y"; None takes the shapes.
        crs: reference system of the point.
        polygon: file of shapes.

    Raises:
        ConfigError: the point is not two numbers, or has no such reference system.
        RasterError: the point lies outside.
        DatasetNotFoundError: there is no such file.
        DataError: it cannot be read, has no reference system, or lies elsewhere.
    """
    if point is not None:
        try:
            x, y = (float(part) for part in point.split(","))
        except ValueError:
            raise ConfigError(
                f"--point {point!r}: give two numbers such as 103.7,17.9."
            ) from None
        row, column = _cell_of_point(grid, x, y, crs)
        return np.array([row]), np.array([column])
    assert polygon is not None
    found = _cells_of_shapes(_read_shapes(polygon, grid), grid)
    rows, columns = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, columns


def _labelled_cells(
    labels: Path, column: str, layer: str | None, grid: Grid
) -> _LabelledCells:
    """Find the cells below labelled points and polygons, in any reference system."""
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
    places = _cells_of_shapes(named.geometry, grid)
    counts = [len(rows) for rows, _ in places]
    cells = _LabelledCells(
        rows=np.concatenate([rows for rows, _ in places]),
        columns=np.concatenate([columns for _, columns in places]),
        classes=np.repeat([names.index(value) for value in named["value"]], counts),
        shapes=np.repeat(np.arange(len(counts)), counts),
        centres=np.array([(c.x, c.y) for c in named.geometry.centroid]),
        names=names,
        notes=notes,
    )
    return _without_doubt(cells, labels, grid)


def _without_doubt(cells: _LabelledCells, labels: Path, grid: Grid) -> _LabelledCells:
    """Leave out cells of two classes, and count those of two shapes once.

    A cell that two shapes of one class share is the first one's: else it could be
    learnt from in one block and scored in another.
    """
    index = cells.rows * grid.width + cells.columns
    pairs, first = np.unique(
        np.stack([index, cells.classes]), axis=1, return_index=True
    )
    cell, count = np.unique(pairs[0], return_counts=True)
    doubtful = cell[count > 1]
    if not len(doubtful) and len(first) == len(index):
        return cells
    kept = np.sort(first[~np.isin(pairs[0], doubtful)])
    gone = [n for i, n in enumerate(cells.names) if i not in cells.classes[kept]]
    if gone:
        raise DataError(
            f"{labels}: every cell of {', '.join(gone)} is labelled with another class "
            "as well. Move or remove labels, or embed with smaller cells."
        )
    notes = cells.notes
    if len(doubtful):
        row, column = divmod(int(doubtful[0]), grid.width)
        assert grid.transform is not None
        x, y = apply(grid.transform, column + 0.5, row + 0.5)
        notes += (
            f"{len(doubtful)} of {len(cell)} labelled cells are of two classes and "
            f"were left out, such as the one at {x:.7g},{y:.7g} ({grid.crs}).",
        )
    return replace(_take(cells, kept), notes=notes)


def _take(cells: _LabelledCells, at: NDArray[Any]) -> _LabelledCells:
    """Return some of the cells, by their numbers or a mask."""
    parts = ("rows", "columns", "classes", "shapes")
    kept: dict[str, Any] = {name: getattr(cells, name)[at] for name in parts}
    return replace(cells, **kept)


def probe_labels(
    raster: EmbeddingRaster,
    labels: Path,
    column: str,
    folder: Path,
    *,
    layer: str | None = None,
    features: CellFeatures | Literal["auto"] = "auto",
    head: ProbeHead | Literal["auto"] = "auto",
    block_m: float = 1000.0,
) -> tuple[Probe, BlockScores, BlockScores | None, tuple[str, ...]]:
    """Fit a probe on labelled points and polygons, and score it by spatial blocks.

    What is `auto` is chosen by blocks among those that are learnt from, see
    `fit_probe`. Writes probe.safetensors, scores.json and confusion.csv.

    Args:
        raster: embeddings of the scene.
        labels: GeoJSON, GeoPackage or Shapefile.
        column: with the classes.
        folder: for the files.
        layer: of a file with several.
        features: what of each cell is used.
        head: how classes are told apart by it.
        block_m: side of the blocks that are held out whole, m.

    Returns:
        The probe, fitted on all labels; scores of probes that were fitted without the
        blocks they are scored on; those of a random forest on the reflectance alone,
        None if the raster holds none; notes on the labels and scores.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: the layer or column is not there.
        DataError: labels do not suffice, or the raster holds no reflectance.
        RasterError: the raster has no reference system, or cannot be read.
        OutputError: a file cannot be written.
    """
    size = pixel_size_m(raster.grid)
    transform = raster.grid.transform
    if size is None or transform is None:
        raise RasterError(
            f"{raster.path} has no reference system, so no labels lie on it."
        )
    parts = _parts(raster.source, features)
    heads = HEADS if head == "auto" else (head,)
    cells = _labelled_cells(labels, column, layer, raster.grid)
    cells, values = _read_labelled(raster, cells, labels)
    # From the raster's corner, as coordinates may be degrees.
    centres = np.stack(apply(~transform, *cells.centres.T), axis=1) * size[::-1]
    check_range("above 0", {"--block-m": block_m})
    groups = blocks_of(centres, block_m)[cells.shapes]
    _refuse_single_blocks(cells, groups, block_m)
    if raster.source.trained_on:
        logger.warning(
            "the encoder was fine-tuned on %s: where that shows ground or labels of "
            "these, the scores flatter the probe.",
            raster.source.trained_on,
        )
    labelled = (values, cells.classes, cells.shapes)
    scores = score_by_blocks(*labelled, centres, block_m, parts, heads)
    floor, note = _score_floor(raster.source, labelled, centres, block_m, scores)
    notes = (*cells.notes, *note)
    colours = class_colours(cells.names)
    fitted = fit_probe(*labelled, groups, parts, heads)
    probe = replace(
        fitted,
        class_names=cells.names,
        colours=tuple(colours[name] for name in cells.names),
        encoder=raster.source.encoder,
        cell_px=raster.source.cell_px,
        bands=_band_names(raster.source, fitted.features),
    )
    save_probe(folder / "probe.safetensors", probe)
    _write_scores(folder, scores, floor, probe)
    return probe, scores, floor, notes


def _score_floor(
    source: EmbeddingSource,
    labelled: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    centres: NDArray[np.float64],
    block_m: float,
    scores: BlockScores,
) -> tuple[BlockScores | None, tuple[str, ...]]:
    """Score a random forest on reflectance alone; returns what is to be said of it."""
    if not source.bands:
        return None, (
            "the raster holds no reflectance, so no floor stands beside the scores: "
            "embed the scene with --reflectance.",
        )
    alone = _parts(source, "reflectance")
    floor = score_by_blocks(*labelled, centres, block_m, alone, ("forest",))
    if floor.balanced_accuracy <= scores.balanced_accuracy:
        return floor, ()
    return floor, (
        "a random forest on the reflectance alone finds the classes better: these "
        "embeddings do not pay here.",
    )


def _parts(
    source: EmbeddingSource, features: CellFeatures | Literal["auto"]
) -> dict[CellFeatures, slice]:
    """Return which layers of a raster may be looked at."""
    if features != "auto":
        return {features: _layers(source, features)}
    kinds = get_args(CellFeatures) if source.bands else ("embedding",)
    return {kind: _layers(source, kind) for kind in kinds}


def _write_scores(
    folder: Path, scores: BlockScores, floor: BlockScores | None, probe: Probe
) -> None:
    names = probe.class_names
    values = {
        "accuracy": scores.accuracy,
        "label_accuracy": scores.label_accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "recall": dict(zip(names, scores.recalls.tolist(), strict=True)),
        "labels": scores.labels,
        "cells": int(scores.confusion.sum()),
        "blocks": scores.blocks,
        "block_m": scores.block_m,
        "folds": scores.folds,
        "features": probe.features,
        "head": probe.head,
        "setting": probe.setting,
        "chosen": list(scores.chosen),
        "floor": None
        if floor is None
        else {
            "name": _FLOOR,
            "accuracy": floor.accuracy,
            "label_accuracy": floor.label_accuracy,
            "balanced_accuracy": floor.balanced_accuracy,
        },
    }
    write_json(folder / "scores.json", values)
    rows = [
        {"labelled / predicted": name} | dict(zip(names, row, strict=True))
        for name, row in zip(names, scores.confusion.tolist(), strict=True)
    ]
    write_table(folder / "confusion.csv", rows)


def apply_probe(
    rasters: Sequence[EmbeddingRaster], probe: Probe, paths: Sequence[Path]
) -> Iterator[NDArray[np.uint8]]:
    """Map rasters of embeddings.

    Args:
        rasters: the embeddings.
        probe: what maps them.
        paths: the GeoTIFFs to make, one per raster.

    Yields:
        The classes (H, W) that were written; `NO_CLASS` is nothing.

    Raises:
        DataError: the probe does not fit one of the rasters; none is mapped then.
        RasterError: a file cannot be read or written.
    """
    for raster in rasters:
        _check_probe(probe, raster)
    for raster, path in zip(rasters, paths, strict=True):
        at = _layers(raster.source, probe.features)

        def classify(values: NDArray[np.float32], at: slice = at) -> NDArray[np.int64]:
            found: NDArray[np.int64] = probe.probabilities(values[..., at]).argmax(-1)
            return found

        names, colours = probe.class_names, probe.colours
        yield write_class_map(raster, classify, names, colours, path)


def _check_probe(probe: Probe, raster: EmbeddingRaster) -> None:
    """Refuse to apply a probe to embeddings that it was not fitted on."""
    source = raster.source
    for what, wanted, found in (
        ("encoder", probe.encoder, source.encoder),
        ("cells (px)", probe.cell_px, source.cell_px),
        ("bands", probe.bands, _band_names(source, probe.features)),
    ):
        if wanted != found:
            raise DataError(
                f"{raster.path} does not fit the probe: {what} {found}, the probe was "
                f"fitted on {wanted}. Embed the scene with the same model and options."
            )


def _layers(source: EmbeddingSource, features: CellFeatures) -> slice:
    if features != "embedding" and not source.bands:
        raise DataError(
            "the raster holds no reflectance: embed the scene with --reflectance."
        )
    starts = {"embedding": 0, "reflectance": source.width, "both": 0}
    stops = {"embedding": source.width, "reflectance": None, "both": None}
    return slice(starts[features], stops[features])


def _band_names(source: EmbeddingSource, features: CellFeatures) -> tuple[str, ...]:
    if features == "embedding":
        return ()
    return source.layer_names[source.width :]


def _read_labelled(
    raster: EmbeddingRaster, cells: _LabelledCells, labels: Path
) -> tuple[_LabelledCells, NDArray[np.float32]]:
    """Read labelled cells, (N, D + C); those that show nothing are left out."""
    values = np.zeros((len(cells.rows), len(raster.source.layer_names)), np.float32)
    valid = np.zeros(len(cells.rows), np.bool_)
    for shape in np.unique(cells.shapes):
        own = cells.shapes == shape
        values[own], valid[own] = read_cells(
            raster, cells.rows[own], cells.columns[own]
        )
    left = np.unique(cells.classes[valid])
    if len(left) < len(cells.names):
        gone = [name for i, name in enumerate(cells.names) if i not in left]
        raise DataError(
            f"{labels}: where it says {', '.join(gone)}, the scene shows nothing. "
            "Label other places."
        )
    lost, notes = int((~valid).sum()), cells.notes
    if lost:
        notes += (f"{lost} labelled cells show nothing and were left out.",)
    return replace(_take(cells, valid), notes=notes), values[valid]


def _refuse_single_blocks(
    cells: _LabelledCells, groups: NDArray[np.int64], block_m: float
) -> None:
    """Refuse classes in one block only, which no other block could teach."""
    for number, name in enumerate(cells.names):
        own = cells.classes == number
        if len(np.unique(groups[own])) < 2:
            count = len(np.unique(cells.shapes[own]))
            smaller = ", or take smaller blocks with --block-m" if count > 1 else ""
            raise DataError(
                f"{name!r} has {count} label{'s' if count > 1 else ''}, in one block "
                f"of {block_m:g} m, so nothing tells how well it is found elsewhere: "
                f"label it in more places, over {block_m:g} m apart{smaller}."
            )
