"""The report of a classification: scores, confusion, curves and example predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.metrics import Interval, Scores
from spectralgpt.reports.classification import plot_confusion, plot_predictions
from spectralgpt.reports.curves import describe_divergence, plot_curves
from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.sensors import Band

__all__ = ["Examples", "write_classification_report"]


@dataclass(frozen=True)
class Examples:
    """Some images with what was predicted for them.

    Args:
        images: (B, C, H, W), any unit.
        bands: the C bands.
        true_labels: B texts; empty where the truth is not known.
        predicted_labels: B texts.
        confidences: B probabilities of the predicted label, 0..1.
    """

    images: NDArray[np.float32]
    bands: Sequence[Band]
    true_labels: Sequence[str]
    predicted_labels: Sequence[str]
    confidences: Sequence[float]


def write_classification_report(
    run: Path,
    title: str,
    scores: Mapping[str, Scores],
    *,
    summary: str = "",
    intervals: Mapping[str, Interval] | None = None,
    examples: Examples | None = None,
) -> Path:
    """Write `report.html` of a fine-tuning or an evaluation.

    Args:
        run: folder of the run; its metrics.csv is drawn if there is one.
        title: heading.
        scores: scores by what was scored, such as `test` or `linear probe`; the first
            one is shown in detail.
        summary: paragraphs on what was trained on what, and scored on what.
        intervals: intervals of the first one's summary scores, by score name.
        examples: images to show.

    Returns:
        The path of the report.
    """
    first = next(iter(scores.values()))
    sections = [_scores_section(scores, intervals or {})]
    sections += _confusion_section(first)
    sections.append(Section("Each class", tables=[_class_table(first)]))
    if examples is not None:
        sections.append(_examples_section(examples))
    if (run / "metrics.csv").is_file():
        curves = Picture(
            plot_curves(run / "metrics.csv"),
            "Training and validation curves over optimizer steps.",
        )
        sections.append(Section("Training curves", figures=[curves]))
    facts = [(f"{value:.1%}", _spell(name)) for name, value in first.summary.items()]
    summary += describe_divergence(run / "metrics.csv")
    return write_report(
        run / "report.html", title, sections, summary=summary, facts=facts[:4]
    )


def _spell(name: str) -> str:
    return name.replace("_", " ")


def _scores_section(
    scores: Mapping[str, Scores], intervals: Mapping[str, Interval]
) -> Section:
    names = list(next(iter(scores.values())).summary)
    rows = [
        [label, *(f"{entry.summary.get(name, np.nan):.4f}" for name in names)]
        for label, entry in scores.items()
    ]
    for end in ("low", "high") if intervals else ():
        level = next(iter(intervals.values())).level
        values = [
            f"{getattr(intervals[name], end):.4f}" if name in intervals else ""
            for name in names
        ]
        rows.append(
            [f"{next(iter(scores))}: {end} end of {level:.0%} interval", *values]
        )
    table = Table(["", *map(_spell, names)], rows)
    text = (
        "Intervals come from resampling the images: they hold for other images like "
        "these, not for other places or seasons."
        if intervals
        else ""
    )
    return Section("Scores", text, tables=[table])


def _confusion_section(scores: Scores) -> list[Section]:
    if scores.confusion is None:
        return []
    names = [entry.name for entry in scores.per_class]
    picture = Picture(
        plot_confusion(scores.confusion, names),
        "Confusion matrix: true classes in rows, predicted ones in columns.",
        "Left: numbers of images. Right: the same, as a share of each true class.",
    )
    return [Section("What is taken for what", figures=[picture])]


def _class_table(scores: Scores) -> Table:
    header = ["class", "images", "predicted", "precision", "recall", "F1"]
    has_precision = any(
        np.isfinite(entry.average_precision) for entry in scores.per_class
    )
    rows = []
    for entry in scores.per_class:
        row = [entry.name, f"{entry.support}", f"{entry.predicted}"]
        row += [f"{v:.3f}" for v in (entry.precision, entry.recall, entry.f1)]
        if has_precision:
            row.append(f"{entry.average_precision:.3f}")
        rows.append(row)
    return Table([*header, *(["average precision"] if has_precision else [])], rows)


def _examples_section(examples: Examples) -> Section:
    picture = Picture(
        plot_predictions(
            examples.images,
            examples.bands,
            examples.true_labels,
            examples.predicted_labels,
            examples.confidences,
        ),
        "Example images with predicted labels and confidence: "
        + "; ".join(examples.predicted_labels)
        + ".",
        "Each title is the prediction and its probability; a tick is right, a cross "
        "wrong, with the true class below. Each image is stretched for itself, so "
        "brightness cannot be compared between them.",
    )
    return Section("Example predictions", figures=[picture])
