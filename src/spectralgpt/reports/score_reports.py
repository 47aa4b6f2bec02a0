"""The report of a model that classifies or maps: scores, classes, examples, curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import class_colours
from spectralgpt.errors import ShapeError
from spectralgpt.metrics import POSITIVE_SCORES, Interval, Scores
from spectralgpt.reports.html import TEMPLATES, write_report
from spectralgpt.reports.style import (
    INK,
    draw_legend,
    hide_ticks,
    new_figure,
    paint_bands,
    paint_classes,
)
from spectralgpt.reports.training_reports import describe_divergence, plot_curves
from spectralgpt.sensors import Band
from spectralgpt.tasks.floors import Floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERED_CLASSES = 20
_COLUMNS = 4
_LEGEND_COLUMNS = 5
_FACTS = 4
_RIGHT, _WRONG = "#0072B2", "#D55E00"
_UNREMARKABLE = "#d8dcdf"

_HEAT, _DIVERGING = "viridis", "RdBu_r"
_NUMBER_SCORES = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "bias": "bias"}
_WIDEST = 98.0
"""Percentile of numbers and errors that colours reach to."""

MapExample = tuple[Sequence[NDArray[np.float32]], NDArray[Any], NDArray[Any]]
"""A window with its labels and its map: one date, or before and after, as pictures
(H, W, 3), see `paint_bands`; class indices (H, W), negative where there is no label, or
numbers, NaN where there is none; and those predicted."""


@dataclass(frozen=True)
class Examples:
    """Some images with what was predicted for them.

    Args:
        images: (B, C, H, W), any unit.
        bands: the C bands.
        true_labels: B texts; empty where the truth is not known.
        predicted_labels: B texts.
        confidences: B probabilities of the predicted label, 0..1.

    Raises:
        ShapeError: there is no image, or the lists are not equally long.
    """

    images: NDArray[np.float32]
    bands: Sequence[Band]
    true_labels: Sequence[str]
    predicted_labels: Sequence[str]
    confidences: Sequence[float]

    def __post_init__(self) -> None:
        """Check that there is as much of each."""
        lists = (self.images, self.true_labels, self.predicted_labels, self.confidences)
        lengths = [len(each) for each in lists]
        if len(set(lengths)) > 1 or not len(self.images):
            raise ShapeError(
                f"found {lengths} images, true labels, predictions and confidences: "
                "give equally many of each, at least one."
            )


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
    class_header, class_rows = _class_table(first, "images", "average_precision")
    names = [entry.name for entry in first.per_class]
    confusion = first.confusion
    return _write(
        run,
        "classification.html",
        title,
        {_spell(name): value for name, value in first.summary.items()},
        summary=summary,
        has_intervals=bool(intervals),
        score_header=["scores of", *map(_spell, first.summary)],
        score_rows=_score_rows(scores, intervals or {}),
        confusion=None if confusion is None else plot_confusion(confusion, names),
        class_header=class_header,
        class_rows=class_rows,
        examples=None if examples is None else _plot_predictions(examples),
        predicted_labels=() if examples is None else examples.predicted_labels,
    )


def write_map_report(
    run: Path,
    title: str,
    scores: Scores,
    *,
    summary: str,
    intervals: Mapping[str, Interval],
    floors: Sequence[Floor] = (),
    examples: Sequence[MapExample],
    colours: Sequence[str] | None = None,
    measured: str | None = None,
    pairs: NDArray[np.float32] | None = None,
) -> Path:
    """Write `report.html` of a fine-tuning or an evaluation of maps.

    Args:
        run: folder of the run; its metrics.csv is drawn if there is one.
        title: heading.
        scores: over all labelled pixels.
        summary: paragraphs on what was trained on what, and scored on what.
        intervals: of the summary scores.
        floors: what simple methods reach on the same images.
        examples: windows to show.
        colours: of the classes; None chooses them.
        measured: what the numbers of a regression are, with their unit; None for
            classes.
        pairs: (2, N) numbers of some pixels, true and estimated.

    Returns:
        The path of the report.
    """
    names = [entry.name for entry in scores.per_class]
    if measured is None:
        class_header, class_rows = _class_table(scores, "pixels", "iou")
        drawn = _plot_maps(examples, names, colours) if examples else None
    else:
        class_header, class_rows = _range_table(scores, measured)
        drawn = _plot_numbers(examples, measured) if examples else None
    return _write(
        run,
        "mapping.html",
        title,
        {_spell_of_map(name, scores): v for name, v in scores.summary.items()},
        summary=summary,
        floors=floors,
        score_rows=_map_score_rows(scores, intervals, floors),
        class_header=class_header,
        class_rows=class_rows,
        measured=measured,
        scatter=None if pairs is None else _plot_scatter(pairs, str(measured)),
        examples=drawn,
    )


def _write(
    run: Path, template: str, title: str, scores: Mapping[str, float], **shown: Any
) -> Path:
    """Write the page, with the first scores above and the run's curves below."""
    metrics = run / "metrics.csv"
    form = ".1%" if shown.get("measured") is None else ".4g"
    facts = [(f"{value:{form}}", name) for name, value in scores.items()]
    return write_report(
        run / "report.html",
        TEMPLATES / template,
        title,
        facts=facts[:_FACTS],
        divergence=describe_divergence(metrics),
        curves=plot_curves(metrics) if metrics.is_file() else None,
        **shown,
    )


def _spell(name: str) -> str:
    return name.replace("_", " ")


def _spell_of_map(name: str, scores: Scores) -> str:
    """Spell a score of the summary, and the class that it is about."""
    name = _NUMBER_SCORES.get(name, name)
    is_own = name in POSITIVE_SCORES and scores.positive is not None
    spelled = _spell(name).replace("iou", "IoU").replace("f1", "F1")
    return spelled + (f" of {scores.positive}" if is_own else "")


def _score_rows(
    scores: Mapping[str, Scores], intervals: Mapping[str, Interval]
) -> list[list[str]]:
    label, first = next(iter(scores.items()))
    rows = [
        [name, *(f"{entry.summary.get(each, np.nan):.4f}" for each in first.summary)]
        for name, entry in scores.items()
    ]
    for end in ("low", "high") if intervals else ():
        level = next(iter(intervals.values())).level
        values = [
            f"{getattr(intervals[name], end):.4f}" if name in intervals else ""
            for name in first.summary
        ]
        rows.append([f"{label}: {end} end of {level:.0%} interval", *values])
    return rows


def _map_score_rows(
    scores: Scores, intervals: Mapping[str, Interval], floors: Sequence[Floor]
) -> list[list[str]]:
    rows = []
    for name, value in scores.summary.items():
        between = intervals.get(name)
        form = ".4g" if name in _NUMBER_SCORES else ".4f"
        interval = (
            "" if between is None else f"{between.low:{form}} to {between.high:{form}}"
        )
        beside = [
            f"{floor.scores[name]:{form}}" if name in floor.scores else ""
            for floor in floors
        ]
        rows.append([_spell_of_map(name, scores), f"{value:{form}}", interval, *beside])
    return rows


def _class_table(
    scores: Scores, counted: str, last: str
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows; the last column is there if a class has that score."""
    header = ["class", counted, "predicted", "precision", "recall", "F1"]
    rows = [
        [
            entry.name,
            f"{entry.support}",
            f"{entry.predicted}",
            *(f"{v:.3f}" for v in (entry.precision, entry.recall, entry.f1)),
        ]
        for entry in scores.per_class
    ]
    values = [getattr(entry, last) for entry in scores.per_class]
    if np.isfinite(values).any():
        header.append("IoU" if last == "iou" else _spell(last))
        for row, value in zip(rows, values, strict=True):
            row.append("" if np.isnan(value) else f"{value:.3f}")
    return header, rows


def _range_table(scores: Scores, measured: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the scores by ranges of the truth."""
    rows = []
    for entry in scores.per_range:
        low, high = f"{entry['least']:.3g}", f"{entry['below']:.3g}"
        name = f"{low} to below {high}".replace("-inf to ", "")
        name = name.replace("to below inf", "and above")
        values = (entry["rmse"], entry["bias"])
        shown = ("" if math.isnan(value) else f"{value:.4g}" for value in values)
        rows.append([name, f"{entry['pixels']:.0f}", *shown])
    return [f"true {measured}", "pixels", "RMSE", "bias"], rows


def plot_confusion(counts: NDArray[np.int64], class_names: Sequence[str]) -> "Figure":
    """Draw a confusion matrix twice: as counts, and as shares of each true class.

    Args:
        counts: (K, K), rows are truth, columns are prediction.
        class_names: K names.

    Raises:
        ShapeError: the matrix does not fit the names.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(class_names), len(class_names)):
        raise ShapeError(
            f"the confusion matrix has shape {counts.shape}, but there are "
            f"{len(class_names)} class names."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(
        counts, totals, where=totals > 0, out=np.full(counts.shape, np.nan)
    )
    side = 2.2 + 0.42 * len(class_names)
    figure = new_figure(2 * side, side)
    left, right = figure.subplots(1, 2)
    _draw_matrix(left, counts.astype(float), class_names, "{:.0f}", "counts")
    _draw_matrix(right, shares, class_names, "{:.2f}", "share of the true class")
    right.set_yticklabels([])
    right.set_ylabel("")
    return figure


def _draw_matrix(
    axes: "Axes",
    values: NDArray[np.float64],
    names: Sequence[str],
    form: str,
    title: str,
) -> None:
    top = max(float(np.nanmax(values)), 1e-9) if np.isfinite(values).any() else 1.0
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(ticks, names, fontsize=9)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    if len(names) > _NUMBERED_CLASSES:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and value > 0:
            colour = "white" if value > top / 2 else INK
            text = form.format(value)
            axes.text(
                column, row, text, ha="center", va="center", color=colour, fontsize=8.5
            )


def _plot_predictions(examples: Examples) -> "Figure":
    """Draw images with what they are, what was predicted, and how sure the model was.

    Each image is stretched for itself.
    """
    rows = math.ceil(len(examples.images) / _COLUMNS)
    figure = new_figure(9.2, 2.85 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        hide_ticks(axes)
    for axes, image, truth, predicted, confidence in zip(
        grid.flat,
        examples.images,
        examples.true_labels,
        examples.predicted_labels,
        examples.confidences,
        strict=False,
    ):
        axes.imshow(paint_bands(image, np.isfinite(image), examples.bands))
        title, colour = f"{predicted} {confidence:.0%}", INK
        if truth:
            # The sign says it too: colour alone would not reach every reader.
            is_right = truth == predicted
            title = f"✓ {title}" if is_right else f"✗ {title}\ntrue: {truth}"
            colour = _RIGHT if is_right else _WRONG
        axes.set_title(title, fontsize=9, color=colour, loc="left")
    return figure


def _plot_maps(
    examples: Sequence[MapExample],
    names: Sequence[str],
    colours: Sequence[str] | None = None,
) -> "Figure":
    """Draw each window's image or images, labels, map and errors in a row."""
    from matplotlib.patches import Patch

    titles = ["image"] if len(examples[0][0]) == 1 else ["before", "after"]
    titles += ["labels", "map", "errors"]
    figure = new_figure(2.1 * len(titles), 2.15 * len(examples) + 0.6)
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    palette = list(colours or class_colours(names).values())
    for row, (dates, truth, predicted) in zip(grid, examples, strict=True):
        pictures: list[NDArray[Any]] = [*dates]
        verdict = np.where(truth == predicted, 0, 1)
        verdict[truth < 0] = -1
        pictures.append(paint_classes(truth, palette))
        pictures.append(paint_classes(predicted, palette))
        pictures.append(paint_classes(verdict, (_UNREMARKABLE, _WRONG)))
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            hide_ticks(axes)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    handles = [Patch(color=c, label=n) for n, c in zip(names, palette, strict=True)]
    handles.append(Patch(color=_UNREMARKABLE, label="right"))
    handles.append(Patch(color=_WRONG, label="wrong"))
    draw_legend(figure, handles, _LEGEND_COLUMNS)
    return figure


def _plot_numbers(examples: Sequence[MapExample], measured: str) -> "Figure":
    """Draw each window's image, true numbers, map and difference in a row."""
    titles = ["image", "truth", "map", "map less truth"]
    figure = new_figure(2.3 * len(titles), 2.15 * len(examples) + 0.9)
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    every = np.concatenate([truth[np.isfinite(truth)] for _, truth, _ in examples])
    errors = [abs(found - truth)[np.isfinite(truth)] for _, truth, found in examples]
    low, high = np.percentile(every, (100 - _WIDEST, _WIDEST))
    most = max(float(np.percentile(np.concatenate(errors), _WIDEST)), 1e-12)
    heat: dict[str, Any] = {"cmap": _HEAT, "vmin": low, "vmax": high}
    both: dict[str, Any] = {"cmap": _DIVERGING, "vmin": -most, "vmax": most}
    for row, (dates, truth, found) in zip(grid, examples, strict=True):
        row[0].imshow(dates[-1], interpolation="nearest")
        for axes, numbers, options in (
            (row[1], truth, heat),
            (row[2], found, heat),
            (row[3], found - truth, both),
        ):
            shown = axes.imshow(numbers, interpolation="nearest", **options)
    for axes in grid.flat:
        hide_ticks(axes)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    below: dict[str, Any] = {"location": "bottom", "shrink": 0.8, "extend": "both"}
    mapped = grid[-1][2].images[0]
    figure.colorbar(mapped, ax=grid[:, :3], label=measured, **below)
    figure.colorbar(shown, ax=grid[:, 3], label="difference", **below)
    return figure


def _plot_scatter(pairs: NDArray[np.float32], measured: str) -> "Figure":
    """Draw how often which number was estimated for which true one."""
    figure = new_figure(5.4, 4.6)
    axes = figure.subplots()
    drawn = axes.hexbin(*pairs, gridsize=50, bins="log", mincnt=1, cmap=_HEAT)
    ends = float(pairs.min()), float(pairs.max())
    axes.plot(ends, ends, color=_WRONG, linewidth=1)
    axes.set_xlabel(f"true {measured}")
    axes.set_ylabel("estimated")
    axes.set_aspect("equal", adjustable="datalim")
    figure.colorbar(drawn, label="pixels")
    return figure
