"""The demo's report: what each picture shows, and what it does not prove."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.imagery import CellLabels, Imagery
from spectralgpt.metrics import Scores
from spectralgpt.reports.html import write_report
from spectralgpt.reports.reconstructions import plot_reconstruction, plot_spectra
from spectralgpt.reports.scene_pictures import plot_class_map, plot_embedding_map
from spectralgpt.reports.score_reports import plot_confusion
from spectralgpt.reports.style import choose_composites, measure_stretch
from spectralgpt.reports.training_reports import (
    describe_fillers,
    plot_curves,
    read_metrics,
)
from spectralgpt.scenes.reconstruction import Reconstruction
from spectralgpt.training.pretrain_config import PretrainConfig

NEIGHBOURS = 5

# Kind of features to method, knn or probe, to the scores of each seed.
Compared = dict[str, dict[str, list[Scores]]]


def write_demo_report(
    path: Path,
    *,
    imagery: Imagery,
    config: PretrainConfig,
    run: Path,
    scores: dict[str, float],
    crops: list[Reconstruction],
    pixels: NDArray[np.float32],
    cells: NDArray[np.float32],
    random_cells: NDArray[np.float32],
    clusters: tuple[NDArray[np.int64], tuple[str, ...]],
    labels: CellLabels | None,
    compared: Compared,
    classes: NDArray[np.int64] | None,
) -> Path:
    """Write the report of all that the demo found; returns its path.

    Args:
        path: the page.
        imagery: what it ran on.
        config: of the pretraining.
        run: folder of the pretraining.
        scores: held-out errors of the model and of simple fillers.
        crops: held-out crops, rebuilt.
        pixels: (C, H, W) reflectance of the mapped scene, NaN without data.
        cells: (rows, columns, D) embeddings of the scene.
        random_cells: the same from random weights.
        clusters: (rows, columns) group of each cell, and what groups are called.
        labels: known land cover, None without.
        compared: scores by kind of features, none without labels.
        classes: (rows, columns) class map, None without labels.
    """
    series = read_metrics(run / "metrics.csv")
    against_fillers, filler_rows = describe_fillers(scores)
    # One stretch for every picture of the scene and of its crops.
    stretch = measure_stretch(pixels)
    # In true colour, or in grey where the sensor sees none.
    composite = choose_composites(crops[0].bands)[0]
    picture = stretch.apply(np.nan_to_num(pixels), composite.indices)
    draw = partial(
        plot_class_map,
        picture,
        pixel_width_m=imagery.pixel_width_m,
        dashed_rows=imagery.borders,
    )
    return write_report(
        path,
        Path(__file__).with_suffix(".html"),
        "SpectralGPT: a first run",
        facts=_facts(config, scores, compared, series["loss"][0][-1]),
        imagery=imagery,
        config=config,
        run=run,
        labels=labels,
        scene_px=pixels.shape[1:],
        width=cells.shape[-1],
        cluster_names=clusters[1],
        labelled_cells=labels
        and draw(labels.classes, labels.class_names, title="labelled cells"),
        against_fillers=against_fillers,
        filler_rows=filler_rows,
        images=scores.get("images"),
        curves=plot_curves(
            series, ("loss", "pixel_loss", "feature_loss", "masked_error")
        ),
        crops=[(crop.name, plot_reconstruction(crop, stretch)) for crop in crops],
        spectra=plot_spectra(crops[0]),
        embeddings=plot_embedding_map(
            picture, [("pretrained", cells), ("random weights", random_cells)]
        ),
        clusters=draw(*clusters, title="clusters of embeddings"),
        compared=labels and _compare(compared, labels),
        class_map=None
        if labels is None or classes is None
        else draw(classes, labels.class_names, title="classes by the linear probe"),
    )


def _facts(
    config: PretrainConfig, scores: dict[str, float], compared: Compared, steps: int
) -> list[tuple[str, str]]:
    images = steps * config.trainer.batch_size
    facts = [(f"{images:,}", f"crops seen in {steps:,} optimizer steps")]
    fillers = scores.keys() - {"model", "images"}
    ratio = scores["model"] / min(scores[name] for name in fillers)
    facts.append((f"{ratio:.2f}", "times the held-out error of the best simple filler"))
    if compared:
        ours, untrained, *_ = (
            _mean_and_range(by_method["probe"]) for by_method in compared.values()
        )
        facts.append((ours[0], "accuracy of a linear probe on the frozen encoder"))
        facts.append((untrained[0], f"the same with random weights ({untrained[1]})"))
    return facts


def _compare(compared: Compared, labels: CellLabels) -> dict[str, Any]:
    """Return what the report says of pretrained, random and no embeddings."""
    pretrained, untrained, spectrum, *_ = compared.values()
    confusion = pretrained["probe"][0].confusion
    assert confusion is not None
    verdicts = []
    for method, title in (("probe", "linear probe"), ("knn", "nearest neighbours")):
        ours, others = (_values(by[method]) for by in (pretrained, untrained))
        verdict = (
            "more than with any of the random seeds"
            if ours[0] > max(others)
            else "less than with every random seed"
            if ours[0] < min(others)
            else "within the range of the random seeds, so no gain is shown"
        )
        verdicts.append((title, f"{ours[0]:.1%}", verdict))
    by_spectrum, by_embeddings = (
        max(_values(scores)[0] for scores in by.values())
        for by in (spectrum, pretrained)
    )
    cells, rectangles = labels.count("test")
    names = labels.class_names
    return {
        "neighbours": NEIGHBOURS,
        "cells": cells,
        "rectangles": rectangles,
        "verdicts": verdicts,
        "by_spectrum": f"{by_spectrum:.1%}",
        "by_embeddings": f"{by_embeddings:.1%}",
        "how": "no worse" if by_spectrum >= by_embeddings else "worse",
        "rows": [_method_row(name, each) for name, each in compared.items()],
        "seeds": len(untrained["probe"]),
        "class_rows": [_class_row(labels, name) for name in names],
        "confusion": plot_confusion(confusion, names),
    }


def _method_row(name: str, by_method: dict[str, list[Scores]]) -> list[str]:
    row = [name]
    for scores in by_method.values():
        for score in ("accuracy", "macro_accuracy"):
            mean, between = _mean_and_range(scores, score)
            row.append(f"{mean} ({between})" if between else mean)
    return row


def _class_row(labels: CellLabels, name: str) -> list[str]:
    counts = (labels.count(split, name) for split in ("train", "val", "test"))
    return [name, *(f"{cells} in {parts}" for cells, parts in counts)]


def _values(scores: Sequence[Scores], name: str = "accuracy") -> list[float]:
    return [each.summary[name] for each in scores]


def _mean_and_range(
    scores: Sequence[Scores], name: str = "accuracy"
) -> tuple[str, str]:
    """Write a score's mean over the seeds, and its range; that is empty for one run."""
    values = _values(scores, name)
    between = f"{min(values):.1%} to {max(values):.1%}" if len(values) > 1 else ""
    return f"{np.mean(values):.1%}", between
