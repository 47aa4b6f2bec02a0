"""Tables of results on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from spectralgpt.cli.options import error_console
from spectralgpt.files import read_json, write_table
from spectralgpt.metrics import POSITIVE_SCORES

if TYPE_CHECKING:
    from spectralgpt.scenes.inputs import Outcome

_MOST_FAILURES = 10


def print_test_scores(folder: Path, console: Console) -> None:
    """Print the scores of metrics.json with their intervals."""
    found = read_json(folder / "metrics.json")
    title = f"{found['images']} images"
    floors = found.get("floors", {})
    table = Table("score", "value", "95 % interval", *floors, title=title)
    for name, value in found["test"].items():
        interval = found["intervals"].get(name)
        between = "unknown"
        if interval is not None:
            between = f"{interval['low']:.4f} to {interval['high']:.4f}"
        beside = [
            f"{floor['scores'][name]:.4f}" if name in floor["scores"] else ""
            for floor in floors.values()
        ]
        label = _spell(name, found.get("positive"))
        if "unit" in found and name != "r2":
            label += f" ({found['unit']})"
        table.add_row(label, f"{value:.4f}", between, *beside)
    console.print(table)


def print_study(folder: Path, console: Console) -> None:
    """Print the leading scores of each start, by the share of labels used."""
    found = read_json(folder / "study.json")
    for fraction, by_start in found.items():
        first = next(iter(by_start.values()))
        metrics = list(first)[:4]
        title = f"{float(fraction):.0%} of the training labels"
        names = [_spell(m, first[m]["class"]) for m in metrics]
        # Names fold, and are not cut.
        table = Table(Column("start", overflow="fold"), "seeds", *names, title=title)
        for start, row in by_start.items():
            cells = [f"{row[m]['mean']:.4f} ± {row[m]['std']:.4f}" for m in metrics]
            table.add_row(start, str(len(row[metrics[0]]["values"])), *cells)
        console.print(table)


def print_arena(folder: Path, console: Console) -> None:
    """Print the first score of each task."""
    from spectralgpt.reports.arena import interval, over_seeds

    for task, scores in read_json(folder / "arena.json")["scores"].items():
        name, by_start = next(iter(scores.items()))
        first = Column("start", overflow="fold")
        table = Table(first, "mean", "95 % interval", title=f"{task}: {name}")
        found = {start: interval(over_seeds(v)) for start, v in by_start.items()}
        for start in sorted(found, key=lambda start: -found[start][0]):
            mean, width = found[start]
            known = width == width
            between = f"{mean - width:.4f} to {mean + width:.4f}" if known else ""
            table.add_row(start, f"{mean:.4f}", between)
        console.print(table)


def _spell(metric: str, positive: str | None = None) -> str:
    of = f" of {positive}" if positive and metric in POSITIVE_SCORES else ""
    return metric.replace("_", " ") + of


def print_outcome(made: "Outcome", what: str) -> Path:
    """Print how many there are of what was made, and why files could not be used.

    All that could not be used are listed in skipped.csv beside the table; a list of an
    earlier run is replaced. Returns the table.
    """
    console = error_console()
    failures, table = made.failures, made.path.with_name("skipped.csv")
    table.unlink(missing_ok=True)
    for _, reason in failures[:_MOST_FAILURES]:
        console.print(f"skipped: {reason}", markup=False, soft_wrap=True)
    if len(failures) > _MOST_FAILURES:
        console.print(f"and {len(failures) - _MOST_FAILURES} more")
    if failures:
        rows = [{"path": path, "reason": reason} for path, reason in failures]
        write_table(table, rows)
        console.print(
            f"{len(failures)} files were skipped; {table} lists them.", soft_wrap=True
        )
    console.print(f"{made.rows} {what}")
    return made.path
