"""The report of an arena: tables, curves and rankings that intervals allow."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectralgpt.errors import require
from spectralgpt.files import read_json, write_table
from spectralgpt.reports.html import TEMPLATES, write_report
from spectralgpt.reports.style import category_colours, draw_legend, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVEL = 0.95
_SHOWN_SCORES = 2
_Values = Mapping[str, Sequence[Sequence[float]]]
"""By start: values by pretraining seed, each by seed of the task."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of Student's 95 % interval; NaN of one value."""
    require("scipy")
    from scipy.stats import t

    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return mean, math.nan
    width = t.ppf((1 + _LEVEL) / 2, count - 1) * np.std(values, ddof=1) / count**0.5
    return mean, float(width)


def over_seeds(values: Sequence[Sequence[float]]) -> list[float]:
    """Average over pretraining seeds: a value a seed of the task."""
    found: list[float] = np.mean(np.asarray(values, dtype=float), axis=0).tolist()
    return found


def is_separated(
    one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]
) -> bool:
    """Tell whether two starts differ by more than chance.

    The interval of the differences, seed by seed of the task, must leave out 0; where
    both were pretrained several times, every pretraining of one must lie above all of
    the other in the mean.
    """
    first, second = over_seeds(one), over_seeds(two)
    mean, width = interval(list(np.subtract(first, second)))
    if math.isnan(width) or abs(mean) <= width:
        return False
    means = [sorted(float(np.mean(each)) for each in values) for values in (one, two)]
    low, high = means if mean < 0 else means[::-1]
    return low[-1] < high[0]


def ranked(values: _Values) -> list[str]:
    """Return the starts by their mean, highest first."""
    means = {start: float(np.mean(over_seeds(each))) for start, each in values.items()}
    return sorted(means, key=lambda start: -means[start])


def unseparated(values: _Values) -> list[tuple[str, str]]:
    """Return the pairs of starts that the intervals do not tell apart, best first."""
    return [
        (one, two)
        for one, two in itertools.combinations(ranked(values), 2)
        if not is_separated(values[one], values[two])
    ]


def write_arena_report(folder: Path) -> Path:
    """Write report.html and arena.csv from arena.json.

    Args:
        folder: of an arena.

    Returns:
        The path of the report.
    """
    found = read_json(folder / "arena.json")
    write_table(folder / "arena.csv", _rows(found["scores"]))
    facts = [
        (str(len(found["costs"])), "starts"),
        (f"{found['amount']:g}", f"{found['budget']} each"),
        (str(len(found["pretrain_seeds"])), "pretrainings of each"),
        (str(len(found["seeds"])), "seeds of the tasks"),
    ]
    return _write(folder, "Arena", facts, found)


def write_study_report(folder: Path) -> Path:
    """Write report.html of starts that were not pretrained here, from study.json.

    Args:
        folder: of a study.

    Returns:
        The path of the report.
    """
    scores: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    starts: dict[str, int] = {}
    for share, by_start in read_json(folder / "study.json").items():
        task = scores.setdefault(f"{float(share):.0%} of the labels", {})
        for start, row in by_start.items():
            for metric, entry in row.items():
                task.setdefault(metric, {})[start] = [entry["values"]]
                starts[start] = len(entry["values"])
    facts = [(str(len(starts)), "starts"), (str(max(starts.values())), "seeds")]
    found = {"scores": scores, "curves": {}, "costs": {}, "budget": None}
    return _write(folder, "Study", facts, {**found, "pretrain_seeds": [0]})


def _write(
    folder: Path, title: str, facts: list[tuple[str, str]], found: Mapping[str, Any]
) -> Path:
    tasks = []
    for task, by_score in found["scores"].items():
        curves = found["curves"].get(task)
        tasks.append(
            {
                "name": task,
                "header": ["start", *by_score],
                "rows": _table(by_score),
                "ranks": [_rank(*e) for e in list(by_score.items())[:_SHOWN_SCORES]],
                "curves": _plot_curves(curves, found["budget"]) if curves else None,
                "score": next(iter(by_score)),
            }
        )
    return write_report(
        folder / "report.html",
        TEMPLATES / "arena.html",
        f"{title}: {folder.resolve().name}",
        facts=facts,
        budget=found["budget"],
        several=len(found["pretrain_seeds"]) > 1,
        tasks=tasks,
        costs=[_cost_row(start, cost) for start, cost in found["costs"].items()],
    )


def _rows(scores: Mapping[str, Mapping[str, _Values]]) -> list[dict[str, Any]]:
    rows = []
    for task, by_score in scores.items():
        for score, by_start in by_score.items():
            for start, values in by_start.items():
                mean, width = interval(over_seeds(values))
                means = [float(np.mean(each)) for each in values]
                rows.append(
                    {
                        "task": task,
                        "score": score,
                        "start": start,
                        "mean": f"{mean:.6f}",
                        "half_interval": "" if math.isnan(width) else f"{width:.6f}",
                        "lowest_pretraining": f"{min(means):.6f}",
                        "highest_pretraining": f"{max(means):.6f}",
                        "pretrainings": len(values),
                        "seeds": len(values[0]),
                    }
                )
    return rows


def _table(scores: Mapping[str, _Values]) -> list[list[str]]:
    first = next(iter(scores.values()))
    return [
        [start, *(_cell(by_start.get(start)) for by_start in scores.values())]
        for start in ranked(first)
    ]


def _cell(values: Sequence[Sequence[float]] | None) -> str:
    if values is None:
        return ""
    mean, width = interval(over_seeds(values))
    return f"{mean:.3f}" if math.isnan(width) else f"{mean:.3f} ± {width:.3f}"


def _rank(score: str, values: _Values) -> tuple[str, str]:
    """Say which start leads by a score, and which it is not told apart from."""
    best = ranked(values)[0]
    close = [two for one, two in unseparated(values) if one == best]
    if not close:
        return score, f"{best} is ahead of all others."
    return score, f"{best} is highest, and not told apart from {', '.join(close)}."


def _cost_row(start: str, cost: Mapping[str, Any]) -> list[str]:
    flop, memory = cost["gflop_per_step"], cost["memory_bytes"]
    return [
        start,
        f"{cost['steps']:,}",
        f"{cost['steps'] * cost['batch']:,}",
        f"{cost['seconds_per_step']:.3f}",
        "not counted" if flop is None else f"{flop:.1f}",
        "unknown" if memory is None else f"{memory / 2**20:,.0f}",
        f"{cost['seconds']:,.0f}",
    ]


def _plot_curves(
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], budget: str
) -> "Figure":
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    colours = category_colours(len(curves))
    for (start, by_seed), colour in zip(curves.items(), colours, strict=True):
        for number, points in enumerate(by_seed):
            x, y = zip(*points, strict=True)
            label = start if number == 0 else "_"
            axes.plot(x, y, "o-", color=colour, markersize=3, label=label)
    axes.set_xlabel(budget)
    axes.set_ylabel("score")
    axes.set_xlim(left=0)
    tidy(axes)
    draw_legend(figure, axes.get_legend_handles_labels()[0], 4)
    return figure
