"""Pictures of what a classifier got right and wrong."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ShapeError
from spectralgpt.reports.composites import Stretch, choose_composites, measure_stretch
from spectralgpt.reports.style import hide_ticks, new_figure
from spectralgpt.sensors import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_confusion", "plot_predictions"]

_NUMBERED_CLASSES = 20
_COLUMNS = 4
_RIGHT, _WRONG = "#0072B2", "#D55E00"


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
            colour = "white" if value > top / 2 else "#1c2329"
            text = form.format(value)
            axes.text(
                column, row, text, ha="center", va="center", color=colour, fontsize=8.5
            )


def plot_predictions(
    images: NDArray[np.float32],
    bands: Sequence[Band],
    true_labels: Sequence[str],
    predicted_labels: Sequence[str],
    confidences: Sequence[float],
    stretch: Stretch | None = None,
) -> "Figure":
    """Draw chips with what they are, what was predicted, and how sure the model was.

    Args:
        images: (B, C, H, W), any unit.
        bands: the C bands.
        true_labels: B texts; empty where the truth is not known.
        predicted_labels: B texts.
        confidences: B probabilities of the predicted label, 0..1.
        stretch: values shown darkest and brightest; None measures each chip.

    Raises:
        ShapeError: the lists are not equally long.
    """
    lengths = [len(images), len(true_labels), len(predicted_labels), len(confidences)]
    if len(set(lengths)) > 1 or not len(images):
        raise ShapeError(
            f"found {lengths} images, true labels, predictions and confidences: "
            "give equally many of each, at least one."
        )
    composite = choose_composites(bands)[0]
    rows = math.ceil(len(images) / _COLUMNS)
    figure = new_figure(9.2, 2.85 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    entries = zip(images, true_labels, predicted_labels, confidences, strict=True)
    for axes in grid.flat:
        hide_ticks(axes)
    for axes, (image, truth, predicted, confidence) in zip(
        grid.flat, entries, strict=False
    ):
        chip_stretch = stretch or measure_stretch(image)
        picture = chip_stretch.apply(image, composite)
        axes.imshow(picture if picture.shape[-1] > 1 else picture[..., 0], cmap="gray")
        _write_verdict(axes, truth, predicted, confidence)
    return figure


def _write_verdict(axes: "Axes", truth: str, predicted: str, confidence: float) -> None:
    lines = f"{predicted} {confidence:.0%}"
    colour = "#1c2329"
    if truth:
        # The sign says it too: colour alone would not reach every reader.
        is_right = truth == predicted
        lines = f"{'✓' if is_right else '✗'} {lines}"
        colour = _RIGHT if is_right else _WRONG
        if not is_right:
            lines += f"\ntrue: {truth}"
    axes.set_title(lines, fontsize=9, color=colour, loc="left")
