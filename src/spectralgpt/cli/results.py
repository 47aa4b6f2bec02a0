"""Tables of results on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spectralgpt.files import read_json, write_table
from spectralgpt.metrics import POSITIVE_SCORES
from spectralgpt.scenes.inputs import Failure
from spectralgpt.tasks.probes import BlockScores

_MOST_FAILURES = 10


def print_test_scores(folder: Path, console: Console) -> None:
    """Print the scores of metrics.json with their intervals."""
    found = _read(folder)
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
        table.add_row(label, f"{value:.4f}", between, *beside)
    console.print(table)


def print_comparison(folder: Path, console: Console) -> None:
    """Print mean and standard deviation over seeds of each kind of features."""
    found = _read(folder)
    kinds = found["features"]
    metrics = list(next(iter(kinds.values())))
    title = f"{found['method']}, {found['seeds']} seeds"
    table = Table("features", *(m.replace("_", " ") for m in metrics), title=title)
    for kind, row in kinds.items():
        cells = [f"{row[m]['mean']:.4f} ± {row[m]['std']:.4f}" for m in metrics]
        table.add_row(kind, *cells)
    console.print(table)


def print_study(folder: Path, console: Console) -> None:
    """Print the leading scores of each start, by the share of labels used."""
    found = read_json(folder / "study.json")
    for fraction, by_start in found.items():
        first = next(iter(by_start.values()))
        metrics = list(first)[:4]
        title = f"{float(fraction):.0%} of the training labels"
        names = [_spell(m, first[m]["class"]) for m in metrics]
        table = Table("start", "seeds", *names, title=title)
        for start, row in by_start.items():
            cells = [f"{row[m]['mean']:.4f} ± {row[m]['std']:.4f}" for m in metrics]
            table.add_row(start, str(len(row[metrics[0]]["values"])), *cells)
        console.print(table)


def _spell(metric: str, positive: str | None = None) -> str:
    of = f" of {positive}" if positive and metric in POSITIVE_SCORES else ""
    return metric.replace("_", " ") + of


def print_block_scores(
    scores: BlockScores, names: Sequence[str], console: Console
) -> None:
    """Print the confusion table of blocks that were held out."""
    title = (
        f"accuracy {scores.accuracy:.3f}, labels weighing alike "
        f"{scores.label_accuracy:.3f}, classes weighing alike "
        f"{scores.balanced_accuracy:.3f}: {scores.confusion.sum()} cells of "
        f"{scores.labels} labels in {scores.blocks} blocks of {scores.block_m:g} m, "
        f"{scores.folds} folds"
    )
    table = Table("labelled", *names, "told right", title=title)
    for name, row, recall in zip(
        names, scores.confusion.tolist(), scores.recalls.tolist(), strict=True
    ):
        table.add_row(name, *map(str, row), f"{recall:.3f}")
    console.print(table)


def print_failures(failures: list[Failure], folder: Path, console: Console) -> None:
    """Print why files could not be used, and list all of them in skipped.csv.

    Args:
        failures: of all files.
        folder: of the result; a list of an earlier run is replaced.
        console: shows the first of them, and how many there are.
    """
    table = folder / "skipped.csv"
    table.unlink(missing_ok=True)
    for failure in failures[:_MOST_FAILURES]:
        console.print(f"skipped: {failure.reason}", markup=False, soft_wrap=True)
    if len(failures) > _MOST_FAILURES:
        console.print(f"and {len(failures) - _MOST_FAILURES} more")
    if failures:
        rows = [{"path": each.path, "reason": each.reason} for each in failures]
        write_table(table, rows)
        console.print(
            f"{len(failures)} files were skipped; {table} lists them.", soft_wrap=True
        )


def _read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = read_json(folder / "metrics.json")
    return values
