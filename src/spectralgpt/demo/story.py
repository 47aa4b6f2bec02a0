"""The demo's report: what each picture shows, and what it does not prove."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.imagery import CellLabels, Imagery
from spectralgpt.metrics import Scores
from spectralgpt.reports.html import write_report
from spectralgpt.reports.reconstructions import (
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.reports.scene_pictures import plot_class_map, plot_embedding_map
from spectralgpt.reports.score_reports import plot_confusion
from spectralgpt.reports.style import Stretch, choose_composites, measure_stretch
from spectralgpt.reports.training_reports import (
    describe_fillers,
    filler_rows,
    plot_curves,
    read_metrics,
)
from spectralgpt.scenes.reconstruction import Reconstruction
from spectralgpt.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEIGHBOURS = 5

# Kind of features to method, knn or probe, to the scores of each seed.
Compared = dict[str, dict[str, list[Scores]]]


@dataclass(frozen=True)
class Findings:
    """All that the demo found.

    Args:
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

    imagery: Imagery
    config: PretrainConfig
    run: Path
    scores: dict[str, float]
    crops: list[Reconstruction]
    pixels: NDArray[np.float32]
    cells: NDArray[np.float32]
    random_cells: NDArray[np.float32]
    clusters: tuple[NDArray[np.int64], tuple[str, ...]]
    labels: CellLabels | None
    compared: Compared
    classes: NDArray[np.int64] | None

    @property
    def stretch(self) -> Stretch:
        """One stretch for every picture of the scene and of its crops."""
        return measure_stretch(self.pixels)

    @property
    def picture(self) -> NDArray[np.float32]:
        """The scene in true colour, or in grey where the sensor sees none."""
        composite = choose_composites(self.crops[0].bands)[0]
        return self.stretch.apply(np.nan_to_num(self.pixels), composite.indices)


def write_demo_report(path: Path, found: Findings) -> Path:
    """Write the report; returns its path."""
    series = read_metrics(found.run / "metrics.csv")
    index, names = found.clusters
    labels = found.labels
    return write_report(
        path,
        Path(__file__).with_suffix(".html"),
        "SpectralGPT: a first run",
        facts=_facts(found, series["loss"][0][-1]),
        found=found,
        labelled_cells=labels
        and _map(found, labels.classes, labels.class_names, "labelled cells"),
        against_fillers=describe_fillers(found.scores),
        filler_rows=filler_rows(found.scores),
        curves=plot_curves(
            series, ("loss", "token_loss", "spectral_loss", "masked_error")
        ),
        crops=[
            (crop.name, plot_reconstruction(crop, found.stretch))
            for crop in found.crops
        ],
        spectra=plot_spectra(found.crops[0]),
        embeddings=plot_embedding_map(
            found.picture,
            [("pretrained", found.cells), ("random weights", found.random_cells)],
        ),
        clusters=_map(found, index, names, "clusters of embeddings"),
        compared=labels and _compare(found, labels),
    )


def _facts(found: Findings, steps: int) -> list[tuple[str, str]]:
    images = steps * found.config.trainer.batch_size
    facts = [(f"{images:,}", f"crops seen in {steps:,} optimizer steps")]
    fillers = found.scores.keys() - {"model", "images"}
    ratio = found.scores["model"] / min(found.scores[name] for name in fillers)
    facts.append((f"{ratio:.2f}", "times the held-out error of the best simple filler"))
    if found.compared:
        ours, untrained, _ = (
            _mean_and_range(by_method["probe"]) for by_method in found.compared.values()
        )
        facts.append((ours[0], "accuracy of a linear probe on the frozen encoder"))
        facts.append((untrained[0], f"the same with random weights ({untrained[1]})"))
    return facts


def _map(
    found: Findings, classes: NDArray[np.int64], names: Sequence[str], title: str
) -> "Figure":
    """Draw classes of cells (rows, columns) beside the scene."""
    return plot_class_map(
        found.picture,
        classes,
        names,
        title=title,
        pixel_width_m=found.imagery.pixel_width_m,
        dashed_rows=found.imagery.borders,
    )


def _compare(found: Findings, labels: CellLabels) -> dict[str, Any]:
    """Return what the report says of pretrained, random and no embeddings."""
    assert found.classes is not None
    pretrained, untrained, spectrum = found.compared.values()
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
        "rows": [_method_row(name, each) for name, each in found.compared.items()],
        "seeds": len(untrained["probe"]),
        "class_rows": [_class_row(labels, name) for name in names],
        "confusion": plot_confusion(confusion, names),
        "classes": _map(found, found.classes, names, "classes by the linear probe"),
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
