"""Training curves from a run's metrics file."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.reports.style import (
    CATEGORY_COLOURS,
    category_colours,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Series",
    "describe_divergence",
    "metric_title",
    "plot_curves",
    "plot_lines",
    "read_metrics",
]

# Steps and values of one column, without the rows where it is empty.
Series = tuple[list[int], list[float]]

_AXIS_COLUMNS = ("step", "epoch")
_SPLITS = ("train", "val", "test")
_COLUMNS = 2
# On a linear axis a range this wide hides the later, smaller values.
_LOG_RANGE = 4.0
_SMOOTHED_POINTS = 60
# The end of a curve is a mean over this part of it, and so many steps: single steps
# scatter.
_END_PART = 10
_END_STEPS = 4
_FAR = 2.0
_FAR_FROM_ONE_STEP = 10.0
_TITLES = {"lr": "learning rate", "images_per_s": "images/s"}


def read_metrics(path: Path) -> dict[str, Series]:
    """Read the columns of a metrics file, each with the steps where it has a value.

    Args:
        path: `metrics.csv` of a run: step, epoch and named values; cells may be empty.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: a cell is not a number, or there is no `step` column.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist: name a run's metrics.csv.")
    series: dict[str, Series] = defaultdict(lambda: ([], []))
    with path.open(newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream), start=2):
            try:
                step = int(float(row["step"]))
                numbers = {name: float(text) for name, text in row.items() if text}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}, line {line}: found {row}; every row needs a step and "
                    "numbers."
                ) from error
            for name, value in numbers.items():
                if name not in _AXIS_COLUMNS:
                    series[name][0].append(step)
                    series[name][1].append(value)
    return dict(series)


def describe_divergence(metrics: Path | Mapping[str, Series]) -> str:
    """Say in a sentence, with a blank before, that the training loss went up for good.

    Args:
        metrics: a metrics file, or what `read_metrics` gave.

    Returns:
        Nothing if it did not, or if there is no file. Of a mixture each data set's own
        loss counts, for their levels differ.
    """
    if isinstance(metrics, Path):
        metrics = read_metrics(metrics) if metrics.is_file() else {}
    own = {name: each for name, each in metrics.items() if name.startswith("loss_")}
    for name, (_, values) in (own or metrics).items():
        if name not in ("loss", *own):
            continue
        size = max(_END_STEPS, len(values) // _END_PART)
        ends = range(len(values), size - 1, -size)
        means = [sum(values[end - size : end]) / size for end in ends]
        first = values[0]
        last = means[0] if means else sum(values) / len(values)
        best = min(means, default=last)
        is_lost = last > _FAR * best and last - best > (first - best) / 2
        if is_lost or last > _FAR_FROM_ONE_STEP * first:
            return (
                f" The training diverged: {metric_title(name)} was {first:.3g} at the "
                f"first step, {min(best, first):.3g} at its best and {last:.3g} at the "
                "end. Scores of such weights mean little: lower optimizer.base_lr, or "
                "set optimizer.clip_grad_norm."
            )
    return ""


def metric_title(name: str) -> str:
    """Return what people call a column of metrics.csv."""
    return _TITLES.get(name, name.replace("_", " "))


def plot_curves(
    metrics: Path | Mapping[str, Series], names: Sequence[str] | None = None
) -> "Figure":
    """Draw each metric in its own panel, training and validation together.

    Columns NAME (or `train_NAME`) and `val_NAME` share the panel NAME.

    Args:
        metrics: a metrics file, or what `read_metrics` gave.
        names: the panels to draw, without the split; None draws all.

    Raises:
        DataError: there is nothing to draw.
    """
    series = read_metrics(metrics) if isinstance(metrics, Path) else metrics
    panels: dict[str, dict[str, Series]] = defaultdict(dict)
    for column, values in series.items():
        split, name = _split_name(column)
        if names is None or name in names:
            panels[name][split] = values
    if not panels:
        raise DataError(
            f"no metrics to draw (wanted {names or 'any'}, found {sorted(series)})."
        )
    order = [name for name in names or panels if name in panels]
    rows = math.ceil(len(order) / _COLUMNS)
    columns = min(_COLUMNS, len(order))
    figure = new_figure(4.6 * columns, 3.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, order, strict=False):
        _draw_panel(axes, name, panels[name])
    for axes in list(grid.flat)[len(order) :]:
        axes.set_visible(False)
    return figure


def plot_lines(
    lines: Mapping[str, Series], title: str, boundaries: Sequence[int] = ()
) -> "Figure":
    """Draw several curves in one panel, each in its colour.

    Args:
        lines: steps and values by the label of the curve.
        title: of the panel.
        boundaries: steps at which a line is drawn across.

    Raises:
        DataError: there is nothing to draw.
    """
    if not lines:
        raise DataError(f"no curve to draw for {title!r}.")
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    for colour, (label, (steps, values)) in zip(
        category_colours(len(lines)), lines.items(), strict=True
    ):
        many = len(values) > _SMOOTHED_POINTS
        if many:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            values = _smooth(values)
        marker = "" if many else "o"
        axes.plot(steps, values, color=colour, label=label, marker=marker, ms=3.5)
    for step in boundaries:
        axes.axvline(step, color="#6b7278", linewidth=0.8, linestyle="--")
    _scale_axes(axes, lines.values())
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("optimizer step")
    tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _split_name(column: str) -> tuple[str, str]:
    for split in _SPLITS:
        if column.startswith(f"{split}_"):
            return split, column.removeprefix(f"{split}_")
    return _SPLITS[0], column


def _draw_panel(axes: "Axes", name: str, by_split: Mapping[str, Series]) -> None:
    for number, split in enumerate(sorted(by_split, key=_SPLITS.index)):
        steps, values = by_split[split]
        colour = CATEGORY_COLOURS[number]
        many = len(values) > _SMOOTHED_POINTS
        marker = "" if many else "o"
        if many:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            values = _smooth(values)
        label = {"train": "training", "val": "validation"}.get(split, split)
        axes.plot(
            steps, values, color=colour, label=label, marker=marker, markersize=3.5
        )
    _scale_axes(axes, by_split.values())
    axes.set_title(metric_title(name), loc="left", fontsize=11)
    axes.set_xlabel("optimizer step")
    tidy(axes)
    if set(by_split) != {_SPLITS[0]}:
        axes.legend(frameon=False, fontsize=9)


def _scale_axes(axes: "Axes", drawn: Iterable[Series]) -> None:
    """Take a logarithmic axis where a linear one would hide the smaller values.

    Around a single step the axes would show fractions of it, and nothing to compare
    with: it gets a tick of its own, above zero.
    """
    from matplotlib.ticker import MaxNLocator

    drawn = list(drawn)
    steps = {step for series, _ in drawn for step in series}
    values = [value for _, series in drawn for value in series]
    finite = [value for value in values if math.isfinite(value)]
    if len(steps) == 1:
        axes.set_xticks(list(steps))
        if finite and min(finite) >= 0:
            axes.set_ylim(bottom=0)
        return
    is_positive = bool(finite) and min(finite) > 0
    if is_positive and max(finite) / min(finite) > _LOG_RANGE:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _smooth(values: Sequence[float]) -> list[float]:
    """Return a centred moving average over a thirtieth of the curve."""
    reach = max(1, len(values) // _SMOOTHED_POINTS)
    windows = (
        values[max(0, at - reach) : at + reach + 1] for at, _ in enumerate(values)
    )
    return [sum(window) / len(window) for window in windows]
