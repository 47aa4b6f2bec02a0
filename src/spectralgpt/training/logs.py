"""Metrics of a run as a table that survives a resume, and a quiet Lightning."""

import contextlib
import csv
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from spectralgpt.files import write_table

__all__ = ["MetricsTable", "quiet_lightning", "read_metrics"]

_KEYS = ("step", "epoch")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the rows of a metrics.csv as written; a cut-off last line is dropped."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        text = file.read()
    # A killed run may leave half a line: only lines that end are rows.
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines()))


class MetricsTable(Logger):
    """metrics.csv: one row a step that logs anything, columns added as names appear.

    Numbers are written so that they read back bit for bit.

    Args:
        path: the table.
        first_step: steps already done; later rows of an earlier run are removed, so
            that a resumed run repeats no step.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.first_step = first_step
        self._rows: dict[int, dict[str, str]] | None = None
        self._columns: list[str] = list(_KEYS)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """A run has one table."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: config.yaml holds the configuration."""

    @rank_zero_only
    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None
    ) -> None:
        """Add values to the row of `step`."""
        rows = self._load()
        row = rows.setdefault(int(step or 0), {"step": str(int(step or 0))})
        is_last = row is list(rows.values())[-1] and len(row) == 1
        row.update({name: _text(value) for name, value in metrics.items()})
        new = [name for name in row if name not in self._columns]
        self._columns += new
        if new or not is_last or not self.path.exists():
            self._rewrite(rows)
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def _load(self) -> dict[int, dict[str, str]]:
        if self._rows is None:
            kept = [
                {name: value for name, value in row.items() if value}
                for row in read_metrics(self.path)
                if int(row["step"]) <= self.first_step
            ]
            self._rows = {int(row["step"]): row for row in kept}
            names = dict.fromkeys(name for row in kept for name in row)
            self._columns = list(dict.fromkeys([*_KEYS, *names]))
            self._rewrite(self._rows)
        return self._rows

    def _rewrite(self, rows: Mapping[int, Mapping[str, str]]) -> None:
        write_table(self.path, rows.values(), self._columns)


def _text(value: float) -> str:
    # repr of a float is the shortest text that reads back to the same bits.
    return str(value) if isinstance(value, int) else repr(float(value))


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's tips and hints off the terminal while the block runs.

    Warnings about real trouble still come through, as do all errors.
    """
    names = (
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning_utilities",
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Loader workers, logging intervals: these are our settings, made on purpose.
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        # Lightning calls a torch function by a name that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        # Nothing changes a model's output in place, which is what this warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module.*view tensor")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
