"""Checkpoints for exact resumption: written whole or not at all, read without pickle.

These files hold everything a run needs to go on (weights, optimizer, position in the
epoch). Weights for use elsewhere are exported by `spectralgpt.checkpoints`.
"""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spectralgpt.checkpoints import save_torch
from spectralgpt.errors import CheckpointError, OutputError
from spectralgpt.files import write_file
from spectralgpt.models.weights import check_finite
from spectralgpt.published import read_torch_file
from spectralgpt.training.module import TrainingModule

_log = logging.getLogger(__name__)

_WARM_UP_STEPS = 10
# What must be there for a run to go on.
_ENTRIES: dict[str, type] = {
    "state_dict": dict,
    "global_step": int,
    "epoch": int,
    "loops": dict,
    "optimizer_states": list,
}


def read_checkpoint(
    path: Path, *, mmap: bool = False, resumable: bool = False
) -> dict[str, Any]:
    """Read a training checkpoint on the CPU; code in it is refused, never run.

    Args:
        path: a `last.ckpt`.
        mmap: leave tensors on disk until they are used.
        resumable: insist on all that a run needs to go on, with finite values.

    Raises:
        CheckpointError: the file is missing, truncated, holds pickled code, or is not
            what a run writes; names the entry that is missing or of another type.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist. Name a run folder that holds checkpoints."
        )
    try:
        checkpoint = read_torch_file(path, mmap=mmap)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Restore it from a copy, or start anew with --overwrite."
        ) from error
    for name, kind in _ENTRIES.items():
        if resumable or name == "state_dict":
            _check_entry(checkpoint, name, kind, path)
    if resumable:
        check_finite(_named_state(checkpoint), f"{path} was not read, for values are")
    return checkpoint


def _check_entry(checkpoint: dict[str, Any], name: str, kind: type, path: Path) -> None:
    found = checkpoint.get(name)
    if not isinstance(found, kind):
        what = (
            f"its {name!r} is {found!r:.40}"
            if name in checkpoint
            else (f"it has no {name!r}")
        )
        raise CheckpointError(
            f"{path} is not a training checkpoint: {what}. Use a last.ckpt that "
            "`spectralgpt` wrote."
        )


def _named_state(checkpoint: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield weights and what optimizers remember of them, with names."""
    tables = {"": checkpoint["state_dict"]}
    for optimizer in checkpoint["optimizer_states"]:
        states = optimizer.get("state") if isinstance(optimizer, dict) else None
        if isinstance(states, dict):
            tables |= {f"optimizer {index} ": state for index, state in states.items()}
    for prefix, table in tables.items():
        for name, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value


class AtomicCheckpointIO(CheckpointIO):
    """Replace checkpoints atomically, and read them without pickle."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save whole or not at all.

        Raises:
            OutputError: the disk is full or the file cannot be written; an earlier
                checkpoint at `path` is untouched.
        """
        target = Path(path)
        try:
            write_file(target, lambda file: save_torch(checkpoint, file))
        except OutputError as error:
            raise OutputError(
                f"{error} Free some space and go on with --resume."
            ) from error

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint without running code, whatever `weights_only` says."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint if it exists."""
        Path(path).unlink(missing_ok=True)


class AverageWeights(Callback):
    """Keep a moving average of the weights, which is what is scored and exported.

    It is part of the training checkpoint. Buffers are those of the model.

    Args:
        decay: share of the average that a step keeps; less in the first steps, of
            which the average would otherwise hold too much.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}
        self._last_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Give the average so far."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the average of the interrupted run."""
        self.average = state_dict["average"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, or go on with the run's average."""
        self._last_step = trainer.global_step
        for name, weight in _weights_of(pl_module).items():
            kept = self.average.get(name, weight)
            self.average[name] = kept.to(weight.device, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        """Take in the weights, when a step was made."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        decay = min(self.decay, (1 + step) / (_WARM_UP_STEPS + step))
        weights = list(_weights_of(pl_module).values())
        get_ema_multi_avg_fn(decay)(list(self.average.values()), weights, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the average."""
        self._swap(pl_module)

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Go on with the weights that are trained."""
        self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        for name, weight in _weights_of(module).items():
            trained = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(trained)


def _weights_of(module: LightningModule) -> dict[str, torch.Tensor]:
    assert isinstance(module, TrainingModule)
    return {name: each.detach() for name, each in module.model.named_parameters()}


class LastCheckpoint(Checkpoint):
    """Write `last.ckpt` every so many optimizer steps and after each epoch.

    Lightning calls it after all that is no checkpoint, so that it holds their state.

    Args:
        path: the file, replaced each time.
        every_steps: optimizer steps between writes inside an epoch; 0 for none.
        on_epoch: called after each epoch's checkpoint with (trainer, epochs done).
    """

    def __init__(
        self,
        path: Path,
        every_steps: int,
        on_epoch: Callable[[Trainer, int], None] | None = None,
    ) -> None:
        self.path = path
        self.every_steps = every_steps
        self.on_epoch = on_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        """Save between optimizer steps, except after the epoch's last batch."""
        *_, batch_idx = batch
        if not self.every_steps or trainer.is_last_batch:
            return
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every_steps == 0:
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the boundary between two epochs."""
        self._save(trainer, pl_module)
        if self.on_epoch is not None:
            self.on_epoch(trainer, trainer.current_epoch + 1)

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        module.check_state()
        trainer.save_checkpoint(self.path)


class BestModel(Callback):
    """Export the model whenever a validation metric is better than ever before.

    The best value is part of the training checkpoint, so that a resumed run does not
    replace better weights by worse ones. Equal scores keep the earlier weights.

    Args:
        metric: name of the logged metric.
        export: called on every process with the trainer, the module, and what its
            weights were chosen by.
        lower_is_better: whether that is an error or a loss.
        of_class: the class that the metric is about, for logs and reports.
    """

    def __init__(
        self,
        metric: str,
        export: Callable[[Trainer, TrainingModule, dict[str, Any]], None],
        *,
        lower_is_better: bool = False,
        of_class: str | None = None,
    ) -> None:
        self.metric = metric
        self.export = export
        self.lower_is_better = lower_is_better
        self.of_class = of_class
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Give the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best value of the interrupted run."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and export if better.

        Raises:
            TrainingError: the weights are not finite; what was exported stays.
        """
        assert isinstance(pl_module, TrainingModule)
        value = pl_module.last_terms[self.metric]
        if self.best is not None and not self._is_better(value, self.best):
            return
        pl_module.check_state()
        self.best = value
        epoch = trainer.current_epoch + 1
        chosen = {"metric": self.metric, "value": value, "epoch": epoch}
        self.export(trainer, pl_module, {**chosen, "class": self.of_class})
        if trainer.is_global_zero:
            of = "" if self.of_class is None else f" of {self.of_class}"
            _log.info("epoch %d: %s%s %.4f is the best", epoch, self.metric, of, value)

    def _is_better(self, value: float, best: float) -> bool:
        # An undefined score is better than none, and any is better than it.
        if math.isnan(best):
            return not math.isnan(value)
        return value < best if self.lower_is_better else value > best
