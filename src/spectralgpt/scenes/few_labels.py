"""From a few labelled places to a map: probes on rasters of embeddings."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import class_colours
from spectralgpt.errors import ConfigError, DataError, RasterError
from spectralgpt.files import write_json, write_table
from spectralgpt.rasters import NO_CLASS, class_layers, writing_map
from spectralgpt.rasters.embeddings import EmbeddingRaster, EmbeddingSource
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.scenes.places import LabelledCells, labelled_cells
from spectralgpt.scenes.similarity import read_cells, write_rows
from spectralgpt.tasks.probes import (
    BlockScores,
    CellFeatures,
    Probe,
    ProbeFacts,
    blocks_of,
    fit_probe,
    save_probe,
    score_by_blocks,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewLabels:
    """A probe, and how good it is.

    Args:
        probe: fitted on all labels.
        facts: what it is of.
        scores: of probes fitted without the blocks they are scored on.
        cells: that were labelled.
    """

    probe: Probe
    facts: ProbeFacts
    scores: BlockScores
    cells: LabelledCells


def probe_labels(
    raster: EmbeddingRaster,
    labels: Path,
    column: str,
    *,
    layer: str | None = None,
    features: CellFeatures = "embedding",
    block_m: float = 1000.0,
) -> FewLabels:
    """Fit a probe on labelled points and polygons, and score it by spatial blocks.

    Args:
        raster: embeddings of the scene.
        labels: GeoJSON, GeoPackage or Shapefile.
        column: with the classes.
        layer: of a file with several.
        features: what of each cell is used.
        block_m: side of the blocks that are held out whole, m.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: the layer or column is not there.
        DataError: labels do not suffice, or the raster holds no reflectance.
        RasterError: the raster has no reference system, or cannot be read.
    """
    size = pixel_size_m(raster.grid)
    transform = raster.grid.transform
    if size is None or transform is None:
        raise RasterError(
            f"{raster.path} has no reference system, so no labels lie on it."
        )
    at = _layers(raster.source, features)
    cells = labelled_cells(labels, column, layer, raster.grid)
    values, valid = _read_labelled(raster, cells)
    cells = _keep(cells, valid, labels)
    values = values[valid][:, at]
    centres = _to_metres(cells.centres, ~transform, size)
    if not block_m > 0:
        raise ConfigError(f"blocks of {block_m:g} m: give --block_m above 0.")
    groups = blocks_of(centres, block_m)[cells.shapes]
    _refuse_single_blocks(cells, groups, block_m)
    if raster.source.trained_on:
        _log.warning(
            "the encoder was fine-tuned on %s: where that shows ground or labels of "
            "these, the scores flatter the probe.",
            raster.source.trained_on,
        )
    scores = score_by_blocks(values, cells.classes, cells.shapes, centres, block_m)
    colours = class_colours(cells.names)
    facts = ProbeFacts(
        class_names=cells.names,
        colours=tuple(colours[name] for name in cells.names),
        features=features,
        encoder=raster.source.encoder,
        cell_px=raster.source.cell_px,
        bands=_band_names(raster.source, features),
    )
    return FewLabels(
        fit_probe(values, cells.classes, cells.shapes, groups), facts, scores, cells
    )


def write_few_labels(found: FewLabels, folder: Path) -> None:
    """Write probe.safetensors, scores.json and confusion.csv.

    Raises:
        OutputError: a file cannot be written.
    """
    save_probe(folder / "probe.safetensors", found.probe, found.facts)
    scores, names = found.scores, found.facts.class_names
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
        "features": found.facts.features,
    }
    write_json(folder / "scores.json", values)
    rows = [
        {"labelled / predicted": name} | dict(zip(names, row, strict=True))
        for name, row in zip(names, scores.confusion.tolist(), strict=True)
    ]
    write_table(folder / "confusion.csv", rows)


def check_probe(facts: ProbeFacts, raster: EmbeddingRaster) -> None:
    """Refuse to apply a probe to embeddings that it was not fitted on.

    Raises:
        DataError: the raster is of another encoder, cell size or bands.
    """
    source = raster.source
    for what, wanted, found in (
        ("encoder", facts.encoder, source.encoder),
        ("cells (px)", facts.cell_px, source.cell_px),
        ("bands", facts.bands, _band_names(source, facts.features)),
    ):
        if wanted != found:
            raise DataError(
                f"{raster.path} does not fit the probe: {what} {found}, the probe was "
                f"fitted on {wanted}. Embed the scene with the same model and options."
            )


def apply_probe(
    raster: EmbeddingRaster, probe: Probe, facts: ProbeFacts, path: Path
) -> NDArray[np.uint8]:
    """Map a raster of embeddings.

    Returns:
        The classes (H, W) that were written to `path`; `NO_CLASS` is nothing.

    Raises:
        DataError: the probe does not fit.
        RasterError: a file cannot be read or written.
    """
    check_probe(facts, raster)
    at = _layers(raster.source, facts.features)

    def work(
        values: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        likeliest = probe.probabilities(values[..., at]).argmax(axis=-1)
        return np.where(valid, likeliest, NO_CLASS).astype(np.uint8)

    names, colours = facts.class_names, facts.colours
    with writing_map(path, raster.grid, class_layers(names, colours)) as write:
        return write_rows(raster, work, write)


def _to_metres(
    centres: NDArray[np.float64], to_cells: Any, size: tuple[float, float]
) -> NDArray[np.float64]:
    """Measure places from the raster's corner, as coordinates may be degrees."""
    x, y = centres.T
    columns = to_cells.a * x + to_cells.b * y + to_cells.c
    rows = to_cells.d * x + to_cells.e * y + to_cells.f
    return np.stack([columns * size[1], rows * size[0]], axis=1)


def _layers(source: EmbeddingSource, features: CellFeatures) -> slice:
    if features != "embedding" and not source.bands:
        raise DataError(
            "the raster holds no reflectance: embed the scene with --reflectance true."
        )
    starts = {"embedding": 0, "reflectance": source.width, "both": 0}
    stops = {"embedding": source.width, "reflectance": None, "both": None}
    return slice(starts[features], stops[features])


def _band_names(source: EmbeddingSource, features: CellFeatures) -> tuple[str, ...]:
    if features == "embedding":
        return ()
    return tuple(band.name for band in source.bands)


def _read_labelled(
    raster: EmbeddingRaster, cells: LabelledCells
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read labelled cells: (N, D + C), and which hold something (N,)."""
    values = np.zeros((len(cells.rows), len(raster.source.layer_names)), np.float32)
    valid = np.zeros(len(cells.rows), np.bool_)
    for shape in np.unique(cells.shapes):
        own = cells.shapes == shape
        values[own], valid[own] = read_cells(
            raster, cells.rows[own], cells.columns[own]
        )
    return values, valid


def _refuse_single_blocks(
    cells: LabelledCells, groups: NDArray[np.int64], block_m: float
) -> None:
    """Refuse classes in one block only, which no other block could teach."""
    for number, name in enumerate(cells.names):
        if len(np.unique(groups[cells.classes == number])) < 2:
            raise DataError(
                f"all labels of {name!r} lie in one block of {block_m:g} m, so nothing "
                "tells how well it is found elsewhere: label more places, or take "
                "smaller blocks with --block_m."
            )


def _keep(
    cells: LabelledCells, valid: NDArray[np.bool_], labels: Path
) -> LabelledCells:
    """Leave out labelled cells that show nothing."""
    lost = int((~valid).sum())
    left = np.unique(cells.classes[valid])
    if len(left) < len(cells.names):
        gone = [name for i, name in enumerate(cells.names) if i not in left]
        raise DataError(
            f"{labels}: where it says {', '.join(gone)}, the scene shows nothing. "
            "Label other places."
        )
    notes = cells.notes
    if lost:
        notes += (f"{lost} labelled cells show nothing and were left out.",)
    return replace(
        cells,
        rows=cells.rows[valid],
        columns=cells.columns[valid],
        classes=cells.classes[valid],
        shapes=cells.shapes[valid],
        notes=notes,
    )
