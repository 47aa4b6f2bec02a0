"""The report of a model that makes maps: scores, classes, and maps beside the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.colours import class_colours
from spectralgpt.metrics import POSITIVE_SCORES, Interval, Scores
from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.curves import describe_divergence, plot_curves
from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.reports.style import hide_ticks, legend_below, new_figure
from spectralgpt.sensors import Band
from spectralgpt.tasks.floors import Floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MapExample", "plot_maps", "write_map_report"]

_BLANK = "#ffffff"
_WRONG = "#D55E00"
_RIGHT = "#d8dcdf"


@dataclass(frozen=True)
class MapExample:
    """A window with its labels and its map.

    Args:
        name: what it shows.
        images: (T, C, H, W), one date, or before and after; any unit.
        valid: (T, C, H, W).
        bands: the C bands.
        truth: (H, W) class indices, negative where there is no label.
        predicted: (H, W) class indices.
    """

    name: str
    images: NDArray[np.float32]
    valid: NDArray[np.bool_]
    bands: Sequence[Band]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]


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

    Returns:
        The path of the report.
    """
    names = [entry.name for entry in scores.per_class]
    sections = [
        _scores_section(scores, intervals, floors),
        Section("Each class", tables=[_class_table(scores)]),
    ]
    if examples:
        picture = Picture(
            plot_maps(examples, names, colours),
            "Windows of the test split with their labels, the map, and its errors.",
            "White has no label. Each image is stretched for itself, so brightness "
            "cannot be compared between them. Of some windows drawn at random, those "
            "with the most classes are shown.",
        )
        sections.append(Section("Maps beside the labels", figures=[picture]))
    if (run / "metrics.csv").is_file():
        curves = Picture(
            plot_curves(run / "metrics.csv"),
            "Training and validation curves over optimizer steps.",
        )
        sections.append(Section("Training curves", figures=[curves]))
    facts = [
        (f"{value:.1%}", _spell(name) + _of_class(name, scores))
        for name, value in scores.summary.items()
    ]
    summary += describe_divergence(run / "metrics.csv")
    return write_report(
        run / "report.html", title, sections, summary=summary, facts=facts[:4]
    )


def plot_maps(
    examples: Sequence[MapExample],
    names: Sequence[str],
    colours: Sequence[str] | None = None,
) -> "Figure":
    """Draw each window's image or images, labels, map and errors in a row.

    Args:
        examples: at least one; all with the same number of dates.
        names: of the classes.
        colours: of the classes; None chooses them.
    """
    from matplotlib.patches import Patch

    dates = len(examples[0].images)
    titles = ["image"] if dates == 1 else ["before", "after"]
    titles += ["labels", "map", "errors"]
    figure = new_figure(2.1 * len(titles), 2.15 * len(examples) + 0.6)
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    palette = list(colours or class_colours(names).values())
    for row, example in zip(grid, examples, strict=True):
        for axes, panel in zip(row, _panels(example, palette), strict=True):
            axes.imshow(panel, interpolation="nearest")
            hide_ticks(axes)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    handles = [Patch(color=c, label=n) for n, c in zip(names, palette, strict=True)]
    handles += [Patch(color=_RIGHT, label="right"), Patch(color=_WRONG, label="wrong")]
    legend_below(figure, handles, 5)
    return figure


def _panels(example: MapExample, palette: Sequence[Any]) -> list[NDArray[Any]]:
    composite = choose_composites(example.bands)[0]
    panels: list[NDArray[Any]] = []
    for image, valid in zip(example.images, example.valid, strict=True):
        picture = measure_stretch(image, valid).apply(image, composite)
        shown = np.broadcast_to(picture, (*picture.shape[:2], 3)).copy()
        shown[~valid.any(axis=0)] = 1
        panels.append(shown)
    labelled = example.truth >= 0
    panels.append(_paint(example.truth, palette))
    panels.append(_paint(example.predicted, palette))
    verdict = np.where(example.truth == example.predicted, 0, 1)
    panels.append(_paint(np.where(labelled, verdict, -1), (_RIGHT, _WRONG)))
    return panels


def _paint(classes: NDArray[np.int64], palette: Sequence[Any]) -> NDArray[np.float64]:
    """Turn class indices into colours (H, W, 3); negative ones are blank."""
    from matplotlib.colors import to_rgb

    table = np.array([*map(to_rgb, palette), to_rgb(_BLANK)])
    return np.asarray(table[np.where(classes < 0, len(palette), classes)])


def _scores_section(
    scores: Scores, intervals: Mapping[str, Interval], floors: Sequence[Floor]
) -> Section:
    rows = []
    for name, value in scores.summary.items():
        of = _of_class(name, scores)
        between = intervals.get(name)
        interval = "" if between is None else f"{between.low:.4f} to {between.high:.4f}"
        beside = [
            f"{floor.scores[name]:.4f}" if name in floor.scores else ""
            for floor in floors
        ]
        rows.append([_spell(name) + of, f"{value:.4f}", interval, *beside])
    header = ["score", "value", "95 % interval", *(floor.name for floor in floors)]
    return Section(
        "Scores",
        "Intervals come from resampling whole places: they hold for other places like "
        "these, not for other regions or seasons." + _describe_floors(floors),
        tables=[Table(header, rows)],
    )


def _describe_floors(floors: Sequence[Floor]) -> str:
    if not floors:
        return ""
    first = floors[0]
    return (
        " Beside them is what methods reach that see single pixels: they learned from "
        f"{first.learned_from:,} drawn pixels of the training places and are scored on "
        f"{first.scored_on:,} of the same images."
    )


def _of_class(name: str, scores: Scores) -> str:
    """Name the class that a score of the summary is about."""
    is_own = name in POSITIVE_SCORES and scores.positive is not None
    return f" of {scores.positive}" if is_own else ""


def _spell(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU").replace("f1", "F1")


def _class_table(scores: Scores) -> Table:
    rows = [
        [
            entry.name,
            f"{entry.support}",
            f"{entry.predicted}",
            *(f"{v:.3f}" for v in (entry.precision, entry.recall, entry.f1)),
            "" if np.isnan(entry.iou) else f"{entry.iou:.3f}",
        ]
        for entry in scores.per_class
    ]
    header = ["class", "pixels", "predicted", "precision", "recall", "F1", "IoU"]
    return Table(header, rows)
