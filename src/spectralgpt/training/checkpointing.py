"""Checkpoints for exact resumption: written whole or not at all, read without pickle.

These files hold everything a run needs to go on (weights, optimizer, position in the
epoch). Weights for use elsewhere are exported by `spectralgpt.checkpoints`.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from spectralgpt.checkpoints import save_torch, write_atomically
from spectralgpt.errors import CheckpointError

__all__ = ["AtomicCheckpointIO", "LastCheckpoint", "read_checkpoint"]

_ZIP_START = b"PK"


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a training checkpoint on the CPU; code in it is refused, never run.

    Args:
        path: a `last.ckpt`.
        mmap: leave tensors on disk until they are used.

    Raises:
        CheckpointError: the file is missing, truncated, or holds pickled code.
    """
    try:
        _check_is_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist. Name a run folder that holds checkpoints."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not read: it is no checkpoint, or holds pickled code, which "
            f"is never run ({_first_line(error)}). Use a last.ckpt that `spectralgpt` "
            "wrote."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({_first_line(error)}). Restore it from a "
            "copy, or start anew with --overwrite."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path} is not a training checkpoint: it has no 'state_dict'. Use a "
            "last.ckpt that `spectralgpt` wrote."
        )
    return checkpoint


def _check_is_archive(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_ZIP_START)) != _ZIP_START:
            raise pickle.UnpicklingError("it is no zip archive, as torch writes them")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


class AtomicCheckpointIO(CheckpointIO):
    """Replace checkpoints atomically, and read them without pickle."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save whole or not at all.

        Raises:
            CheckpointError: the disk is full or the file cannot be written; an earlier
                checkpoint at `path` is untouched.
        """
        target = Path(path)
        try:
            write_atomically(target, lambda file: save_torch(checkpoint, file))
        except CheckpointError as error:
            raise CheckpointError(
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


class LastCheckpoint(Callback):
    """Write `last.ckpt` every so many optimizer steps and after each epoch.

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
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save between optimizer steps, except after the epoch's last batch."""
        if not self.every_steps or trainer.is_last_batch:
            return
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every_steps == 0:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the boundary between two epochs."""
        trainer.save_checkpoint(self.path)
        if self.on_epoch is not None:
            self.on_epoch(trainer, trainer.current_epoch + 1)
