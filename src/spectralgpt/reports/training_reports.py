"""The report of a training run, from the files in its folder; and training curves.

Nothing is computed anew: metrics, scores and figures were written while the run went
on, so the report can also be made of a run that was killed. A run of several stages has
a folder for each, with a report of its own.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralgpt.config import read_yaml
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.files import read_json, read_table
from spectralgpt.reports.html import TEMPLATES, write_report
from spectralgpt.reports.style import category_colours, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Steps and values of one column, without the rows where it is empty.
_Series = tuple[list[int], list[float]]

_AXIS_COLUMNS = ("step", "epoch")
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
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
_CURVES = ("loss", "token_loss", "spectral_loss", "masked_error", "lr", "images_per_s")
QUEUE_FILLED = "queue_filled"
_OF_DATASET = "loss_"
"""What columns of the loss of one data set of a mixture begin with."""
_FIGURE_NAME = re.compile(r"(reconstruction|spectra)_epoch_(\d+)_image_(\d+)")
_FILLERS = {
    "model": "the model",
    "band_mean": "mean of the band's visible pixels",
    "linear_space": "linear interpolation in space",
    "space_spectrum": "linear interpolation in space and spectrum (best width)",
    "token_mean": "each token's own mean, which the model is told too",
}
_STAGE_FOLDER = re.compile(r"stage-(\d+)-(.+)")
_LAST_SHARE = 10
"""The last loss is a mean over this part of the curve: single steps scatter."""


def read_metrics(path: Path) -> dict[str, _Series]:
    """Read the columns of a metrics file, each with the steps where it has a value.

    Args:
        path: `metrics.csv` of a run: step, epoch and named values; cells may be empty.

    Returns:
        Steps and values, by the name of the column.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: a cell is not a number, or there is no `step` column.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist: name a run's metrics.csv.")
    series: dict[str, _Series] = defaultdict(lambda: ([], []))
    for line, row in enumerate(read_table(path)[1], start=2):
        try:
            step = int(float(row["step"]))
            numbers = {name: float(text) for name, text in row.items() if text}
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}, line {line}: found {row}; every row needs a step and numbers."
            ) from error
        for name, value in numbers.items():
            if name not in _AXIS_COLUMNS:
                series[name][0].append(step)
                series[name][1].append(value)
    return dict(series)


def describe_divergence(metrics: Path | Mapping[str, _Series]) -> str:
    """Say in a sentence, with a blank before, that the training loss went up for good.

    Args:
        metrics: a metrics file, or what `read_metrics` gave.

    Returns:
        Nothing if it did not, or if there is no file. Of a mixture each data set's own
        loss counts, for their levels differ. While a queue still holds random keys, the
        loss counts for nothing: it rises as harder ones come.
    """
    if isinstance(metrics, Path):
        metrics = read_metrics(metrics) if metrics.is_file() else {}
    own = {name: each for name, each in metrics.items() if name.startswith(_OF_DATASET)}
    filled = dict(zip(*metrics.get(QUEUE_FILLED, ([], [])), strict=True))
    for name, (steps, found) in (own or metrics).items():
        pairs = zip(steps, found, strict=True)
        values = [value for step, value in pairs if filled.get(step, 1.0) >= 1]
        if name not in ("loss", *own) or not values:
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
                f" The training diverged: {_title(name)} was {first:.3g} at the "
                f"first step, {min(best, first):.3g} at its best and {last:.3g} at the "
                "end. Scores of such weights mean little: lower optimizer.base_lr, or "
                "set optimizer.clip_grad_norm."
            )
    return ""


def plot_curves(
    metrics: Path | Mapping[str, _Series], names: Sequence[str] | None = None
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
    panels: dict[str, dict[str, _Series]] = defaultdict(dict)
    for column, values in series.items():
        split, _, name = column.partition("_")
        if split not in _SPLITS:
            split, name = "train", column
        if names is None or name in names:
            panels[name][split] = values
    if not panels:
        raise DataError(
            f"no metrics to draw (wanted {names or 'any'}, found {sorted(series)})."
        )
    order = [name for name in names or panels if name in panels]
    rows, columns = math.ceil(len(order) / _COLUMNS), min(_COLUMNS, len(order))
    figure = new_figure(4.6 * columns, 3.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, order, strict=False):
        lines = {
            title: panels[name][split]
            for split, title in _SPLITS.items()
            if split in panels[name]
        }
        _draw_lines(axes, lines, _title(name), has_legend=list(lines) != ["training"])
    for axes in list(grid.flat)[len(order) :]:
        axes.set_visible(False)
    return figure


def _title(column: str) -> str:
    """Return what people call a column of metrics.csv."""
    return _TITLES.get(column, column.replace("_", " "))


def _plot_lines(
    lines: Mapping[str, _Series], title: str, boundaries: Sequence[int] = ()
) -> "Figure":
    """Draw several curves in one panel, and dashed lines at some steps."""
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    _draw_lines(axes, lines, title)
    for step in boundaries:
        axes.axvline(step, color="#6b7278", linewidth=0.8, linestyle="--")
    return figure


def _draw_lines(
    axes: "Axes", lines: Mapping[str, _Series], title: str, has_legend: bool = True
) -> None:
    for colour, (label, (steps, values)) in zip(
        category_colours(len(lines)), lines.items(), strict=True
    ):
        many = len(values) > _SMOOTHED_POINTS
        if many:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            values = _smooth(values)
        marker = "" if many else "o"
        axes.plot(steps, values, color=colour, label=label, marker=marker, ms=3.5)
    _scale_axes(axes, lines.values())
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("optimizer step")
    tidy(axes)
    if has_legend:
        axes.legend(frameon=False, fontsize=9)


def _scale_axes(axes: "Axes", drawn: Iterable[_Series]) -> None:
    """Take a logarithmic axis where a linear one would hide the smaller values.

    Around a single step the axes would show fractions of it, and nothing to compare
    with: it gets a tick of its own, above zero.
    """
    from matplotlib.ticker import MaxNLocator

    drawn = list(drawn)
    steps = {step for series, _ in drawn for step in series}
    finite = [v for _, values in drawn for v in values if math.isfinite(v)]
    if len(steps) == 1:
        axes.set_xticks(list(steps))
        if finite and min(finite) >= 0:
            axes.set_ylim(bottom=0)
        return
    if finite and min(finite) > 0 and max(finite) / min(finite) > _LOG_RANGE:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _smooth(values: Sequence[float]) -> list[float]:
    """Return a centred moving average over a thirtieth of the curve."""
    reach = max(1, len(values) // _SMOOTHED_POINTS)
    windows = (
        values[max(0, at - reach) : at + reach + 1] for at, _ in enumerate(values)
    )
    return [sum(window) / len(window) for window in windows]


def write_pretraining_report(run: Path) -> Path:
    """Write `report.html` of a pretraining run.

    Args:
        run: folder with metrics.csv; validation.json, config.yaml and figures/ are used
            if they are there.

    Returns:
        The path of the report.

    Raises:
        DatasetNotFoundError: there is no metrics.csv.
        DataError: validation.json cannot be read.
    """
    series = read_metrics(run / "metrics.csv")
    by_name = _read_scores(run / "validation.json")
    known = [n for n in _CURVES if n in series or f"val_{n}" in series]
    datasets = {
        column.removeprefix(_OF_DATASET): values
        for column, values in series.items()
        if column.startswith(_OF_DATASET)
    }
    epoch, drawn = _find_figures(run / "figures")
    config = run / "config.yaml"
    facts = []
    if "loss" in series:
        steps, values = series["loss"]
        facts.append((f"{steps[-1]:,}", "optimizer steps"))
        change = f"{values[0]:.3f} → {values[-1]:.3f}"
        facts.append((change, "training loss, first → last"))
    if "model" in by_name.get("", {}):
        error = by_name[""]["model"]
        facts.append((f"{error:.4f}", "held-out error (mean squared)"))
    return write_report(
        run / "report.html",
        TEMPLATES / "pretraining.html",
        f"Pretraining: {run.resolve().name}",
        facts=facts,
        divergence=describe_divergence(series),
        curves=plot_curves(series, known or None),
        curve_names=[_title(name) for name in known],
        dataset_rows=[
            [name, str(len(values)), f"{values[0]:.4f}", f"{values[-1]:.4f}"]
            for name, (_, values) in datasets.items()
        ],
        dataset_curves=_plot_lines(datasets, "training loss by data set")
        if datasets
        else None,
        fillers=[
            (name, *describe_fillers(each), each.get("images"))
            for name, each in by_name.items()
        ],
        epoch=epoch,
        drawn=drawn,
        settings=list(_flatten(read_yaml(config) or {})) if config.is_file() else [],
    )


def _read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Read the errors of held-out images in validation.json, by data set.

    The only one of a run is called "". Empty without a file.
    """
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = read_json(path)
        nested = {n: v for n, v in content.items() if isinstance(v, Mapping)}
        return {
            name: {
                key: float(value)
                for key, value in scores.items()
                if isinstance(value, int | float)
            }
            for name, scores in (nested or {"": content}).items()
        }
    except (AttributeError, ValueError) as error:
        raise DataError(f"{path} is no table of scores ({error}).") from error


def describe_fillers(scores: Mapping[str, float]) -> tuple[str, list[list[str]]]:
    """Say how the model stands against the best filler, and against each.

    Returns:
        A sentence, and rows of texts: what fills, its error, and that over the model's.

    Raises:
        DataError: the scores lack the model's, or all fillers'.
    """
    fillers = {n: scores[n] for n in _FILLERS if n in scores and n != "model"}
    if "model" not in scores or not fillers:
        raise DataError(f"found scores of {sorted(scores)}: need model and a filler.")
    best = min(fillers, key=lambda name: fillers[name])
    model, other = scores["model"], fillers[best]
    sentence = (
        f"The model does not beat the best filler ({_FILLERS[best]}): its error is "
        f"{model / max(other, 1e-12):.2f} times as large. It needs longer training."
    )
    if model < other:
        sentence = (
            f"The model's error is {1 - model / other:.0%} below that of the best "
            f"filler ({_FILLERS[best]})."
        )
    rows = []
    for name in (name for name in _FILLERS if name in scores):
        ratio = scores[name] / model if model > 0 else math.nan
        rows.append([_FILLERS[name], f"{scores[name]:.5f}", f"{ratio:.2f}"])
    return sentence, rows


def _find_figures(folder: Path) -> tuple[int, list[tuple[int, str, Path]]]:
    """Return the last epoch drawn, and its figures: image, kind and file of each."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.png")):
        if match := _FIGURE_NAME.fullmatch(path.stem):
            found[int(match[2])].append((int(match[3]), match[1], path))
    last = max(found, default=0)
    return last, sorted(found[last])


def _flatten(content: object, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, str(content)


@dataclass(frozen=True)
class _Stage:
    """What a stage left; its loss is counted from its own beginning."""

    title: str
    name: str
    folder: Path
    loss: _Series
    config: Mapping[str, Any]
    contracts: Mapping[str, Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return self.loss[0][-1]


def write_stages_report(run: Path) -> Path:
    """Write `report.html` of a run of stages, whether or not all are done.

    Args:
        run: folder with a folder `stage-N-NAME` for each stage.

    Returns:
        The path of the report.

    Raises:
        DataError: no stage has begun, or a stage's files cannot be read.
    """
    stages = _read_stages(run)
    if not stages:
        raise DataError(f"{run} holds no stage that has begun.")
    return write_report(
        run / "report.html",
        TEMPLATES / "stages.html",
        f"Progressive pretraining: {run.resolve().name}",
        facts=[
            (str(len(stages)), "stages"),
            (f"{sum(stage.steps for stage in stages):,}", "optimizer steps"),
        ],
        stages=[(stage.title, stage.folder.name) for stage in stages],
        rows=[_stage_row(stage) for stage in stages],
        dataset_rows=[row for stage in stages for row in _dataset_rows(stage)],
        **_kept(stages),
        curves=_plot_stages(stages),
    )


def _read_stages(run: Path) -> list[_Stage]:
    found = []
    matches = (_STAGE_FOLDER.fullmatch(path.name) for path in run.glob("stage-*"))
    for number, name, at in sorted((int(m[1]), m[2], m[0]) for m in matches if m):
        folder = run / at
        if not (folder / "metrics.csv").is_file():
            continue
        loss = read_metrics(folder / "metrics.csv").get("loss")
        if loss is None:
            continue
        config = read_yaml(folder / "config.yaml")
        if not isinstance(config, Mapping) or "data" not in config:
            raise DataError(
                f"{folder / 'config.yaml'} is no configuration of a stage: it has no "
                "'data'."
            )
        contracts = _read_contracts(folder / "checkpoints" / "model" / "config.json")
        found.append(_Stage(f"{number}, {name}", name, folder, loss, config, contracts))
    return found


def _read_contracts(path: Path) -> dict[str, Mapping[str, Any]]:
    if not path.is_file():
        return {}
    try:
        contract = read_json(path)["preprocessing"]
        both = [contract, *contract.get("others", ())]
        return {each["sensor"]: each for each in both}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no model's configuration ({error}).") from error


def _stage_row(stage: _Stage) -> list[str]:
    values = stage.loss[1]
    last = values[-max(1, len(values) // _LAST_SHARE) :]
    scores = _read_scores(stage.folder / "validation.json")
    errors = [
        f"{name} {each['model']:.4f}".strip()
        for name, each in scores.items()
        if "model" in each
    ]
    return [
        stage.title,
        str(stage.config["masking"]["ratio"]),
        str(stage.config["trainer"]["epochs"]),
        f"{stage.steps:,}",
        f"{stage.config['optimizer']['base_lr']:g}",
        f"{values[0]:.4f}",
        f"{sum(last) / len(last):.4f}",
        ", ".join(errors) or "not scored",
    ]


def _kept(stages: Sequence[_Stage]) -> dict[str, list[Any]]:
    """Return the table of what each stage's model makes of the stages up to it."""
    found = {stage.title: _scores_upto(stage) for stage in stages}
    seen = list(dict.fromkeys(name for scores in found.values() for name in scores))
    rows = []
    for title, scores in found.items():
        cells = []
        for name in seen:
            errors = scores.get(name, {})
            others = [errors[n] for n in _FILLERS if n in errors and n != "model"]
            is_known = "model" in errors and others
            cells.append(f"{errors['model'] / min(others):.2f}" if is_known else "-")
        rows.append([title, *cells])
    return {"kept_header": ["after stage", *seen], "kept_rows": rows if seen else []}


def _scores_upto(stage: _Stage) -> dict[str, dict[str, float]]:
    """Return a model's errors on what its stage and those before it held out."""
    own = {
        f"{stage.name}, {part}" if part else stage.name: errors
        for part, errors in _read_scores(stage.folder / "validation.json").items()
    }
    both = _read_scores(stage.folder / "stages.json") | own
    return {name: errors for name, errors in both.items() if errors}


def _dataset_rows(stage: _Stage) -> Iterable[list[str]]:
    own = stage.config["data"]
    for entry in own.get("mixture") or [{}]:
        data = {**own, "name": stage.name, "weight": 1.0, **entry}
        contract = stage.contracts.get(data["sensor"])
        bands = tokens = "not saved yet"
        if contract is not None:
            bands = str(len(contract["bands"]))
            positions = (data["image_size"] // contract["patch_size"]) ** 2
            groups = -(-len(contract["bands"]) // contract["bands_per_token"])
            budget = data.get("token_budget")
            if budget is not None:
                groups = min(groups, budget // positions)
            tokens = f"{groups * positions:,}"
        row = [stage.title, str(data["name"]), str(data["sensor"]), bands]
        yield [*row, f"{data['image_size']} px", tokens, f"{data['weight']:g}"]


def _plot_stages(stages: Sequence[_Stage]) -> "Figure":
    lines: dict[str, _Series] = {}
    before = 0
    boundaries = []
    for stage in stages:
        steps, values = stage.loss
        lines[stage.title] = ([before + step for step in steps], values)
        before += stage.steps
        boundaries.append(before)
    return _plot_lines(lines, "training loss", boundaries[:-1])
