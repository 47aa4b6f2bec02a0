"""What a run says: metrics that survive a resume, the terminal, a quiet Lightning."""

import contextlib
import csv
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from spectralgpt.files import write_table
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.run_folder import RunFolder

_KEYS = ("step", "epoch")
# Where the output is no terminal, a line is written at most this often.
_SECONDS_BETWEEN_LINES = 10.0


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
    """metrics.csv: one row per step that logs anything, columns added as names appear.

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
        # repr of a float is the shortest text that reads back to the same bits.
        for name, value in metrics.items():
            row[name] = str(value) if isinstance(value, int) else repr(float(value))
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


def build_loggers(
    names: Sequence[str], folder: RunFolder, first_step: int
) -> list[Logger]:
    """Build what a run's rows are written to.

    Args:
        names: of `TrainerConfig.loggers`. Weights & Biases and MLflow go by their own
            variables of the environment, such as WANDB_MODE.
        folder: of the run.
        first_step: steps already done.
    """
    from lightning.pytorch import loggers

    root, name = folder.root, folder.root.resolve().name
    built: list[Logger] = [MetricsTable(folder.metrics, first_step)]
    if "tensorboard" in names:
        built.append(
            loggers.TensorBoardLogger(
                root, name="tensorboard", version="", purge_step=first_step + 1
            )
        )
    if "wandb" in names:
        built.append(
            loggers.WandbLogger(name=name, save_dir=root, project="spectralgpt")
        )
    if "mlflow" in names:
        # Lightning reads the variable once, when it is imported.
        where = os.environ.get("MLFLOW_TRACKING_URI")
        built.append(
            loggers.MLFlowLogger("spectralgpt", run_name=name, tracking_uri=where)
        )
    return built


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
        # It holds last.ckpt and the model.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* not empty")
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


class _Facts(ProgressColumn):
    """Loss terms and speed, as the callback last set them."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("facts", "")))


class ProgressDisplay(Callback):
    """Show optimizer steps, epoch, loss terms, images per second and time left.

    Only the command line uses this: a library call shows nothing.

    Args:
        console: where to; a live bar on a terminal, plain lines elsewhere.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: Any = None
        self._last = (0.0, 0)
        self._last_line = 0.0
        self._speed = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where the run starts or resumes."""
        self._last = (time.monotonic(), trainer.global_step)
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self._progress = Progress(*_columns(), console=self.console)
        total = int(trainer.estimated_stepping_batches)
        self._task = self._progress.add_task(
            "step", total=total, completed=trainer.global_step
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        """Move on by one step, when one was made."""
        assert isinstance(pl_module, TrainingModule)
        now, step = time.monotonic(), trainer.global_step
        then, before = self._last
        if not trainer.is_global_zero or step == before:
            return
        speed = (step - before) * pl_module.effective_batch / max(now - then, 1e-9)
        # An average over about ten steps: a single one jumps too much to be read.
        self._speed = 0.9 * self._speed + 0.1 * speed if self._speed else speed
        self._last = (now, step)
        terms = " ".join(f"{n} {v:.4f}" for n, v in pl_module.last_terms.items())
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        facts = f"{epoch} {terms} {self._speed:.0f} images/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, facts=facts)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            total = int(trainer.estimated_stepping_batches)
            left = (total - step) * pl_module.effective_batch / max(self._speed, 1e-9)
            line = f"step {step}/{total} {facts} {left:.0f} s left"
            # Not wrapped: whoever reads a log reads one line a time.
            self.console.print(line, soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error is seen."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _columns() -> Sequence[ProgressColumn]:
    return (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _Facts(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
