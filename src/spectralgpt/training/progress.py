"""What a run shows on the terminal: images per second, loss terms, time left."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
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

from spectralgpt.training.module import TrainingModule

__all__ = ["ProgressDisplay"]

# Where the output is no terminal, a line is written at most this often.
_SECONDS_BETWEEN_LINES = 10.0


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
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
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
        facts = self._facts(trainer, pl_module)
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

    def _facts(self, trainer: Trainer, module: TrainingModule) -> str:
        terms = " ".join(f"{n} {v:.4f}" for n, v in module.last_terms.items())
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        return f"{epoch} {terms} {self._speed:.0f} images/s"


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
