"""Run a task through Lightning's Trainer, in a folder, resumably.

Pretraining and fine-tuning both use `fit`; they differ in the task that they pass.
Nothing here knows what is learned.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from spectralgpt.errors import CheckpointError
from spectralgpt.models.cpu import keep_freed_memory
from spectralgpt.training.optim import PRECISIONS, TrainerConfig
from spectralgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    from spectralgpt.training.module import TrainingModule

_log = logging.getLogger(__name__)


def check_checkpoint(module: "TrainingModule", folder: RunFolder) -> None:
    """Refuse to go on from a checkpoint that does not fit; nothing is changed.

    Raises:
        CheckpointError: it cannot be read, or is of a run split into other batches.
    """
    from spectralgpt.training.checkpointing import read_checkpoint

    if folder.last.exists():
        checkpoint = read_checkpoint(folder.last, mmap=True, resumable=True)
        module.on_load_checkpoint(checkpoint)
        own = module.state_dict()
        for name, value in checkpoint["state_dict"].items():
            if name in own and own[name].shape != value.shape:
                raise CheckpointError(
                    f"{folder.last} holds {name} of shape {tuple(value.shape)}, and "
                    f"config.yaml asks for {tuple(own[name].shape)}: it is of another "
                    "model. Resume with the settings it was started with."
                )


def fit(
    module: "TrainingModule",
    train: "DataLoader[dict[str, Any]]",
    held_out: "DataLoader[dict[str, Any]] | None",
    config: TrainerConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
    monitor: tuple[str, Literal["min", "max"]] = ("val_score", "min"),
) -> "Trainer":
    """Train to the end, or from the last checkpoint to the end.

    A loss that went up for good, but stayed finite, is warned of.

    Args:
        module: what is trained.
        train: batches of this process, from an `EpochBatchSampler`.
        held_out: batches that are scored, or None.
        config: length, batches, machines.
        folder: gets metrics.csv, tensorboard/ and checkpoints/last.ckpt.
        resume: go on from last.ckpt, if there is one.
        callbacks: more to do while training; checkpoints are written after them.
            Lightning's ModelCheckpoint writes beside last.ckpt if it names no folder.
        monitor: the held-out score by which training stops early and epochs are kept,
            and what is better; `val_score` is the first that the task gives.

    Raises:
        TrainingError: loss, gradients or weights are not finite; the last checkpoint
            is from before that.
        CheckpointError: the checkpoint cannot be read, or not be written.
    """
    from spectralgpt.reports.training_reports import describe_divergence
    from spectralgpt.training.checkpointing import read_checkpoint
    from spectralgpt.training.logs import quiet_lightning

    if not config.on_gpu and keep_freed_memory():
        _log.info("freed memory is kept for the next tensors, which is faster.")
    resumed = folder.last if resume and folder.last.exists() else None
    first_step = 0
    if resumed is not None:
        checkpoint = read_checkpoint(resumed, mmap=True, resumable=True)
        first_step = int(checkpoint["global_step"])
        _log.info("resuming %s at step %d", folder.root, first_step)
    batches = _WholeSteps(train, config.accumulate) if config.accumulate > 1 else train
    with quiet_lightning():
        asked = [*_asked_callbacks(config, monitor), *callbacks]
        trainer = _build_trainer(config, folder, first_step, asked, held_out)
        trainer.fit(module, batches, held_out, ckpt_path=resumed)
    if trainer.is_global_zero and (found := describe_divergence(folder.metrics)):
        _log.warning("%s:%s", folder.root, found)
    return trainer


def _asked_callbacks(
    config: TrainerConfig, monitor: tuple[str, Literal["min", "max"]]
) -> "list[Callback]":
    """Build what the configuration asks for."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    from spectralgpt.training.checkpointing import AverageWeights

    name, better = monitor
    asked: list[Callback] = []
    if config.ema_decay:
        asked.append(AverageWeights(config.ema_decay))
    if config.patience:
        # A score that is undefined so far is no reason to stop.
        asked.append(
            EarlyStopping(
                name, patience=config.patience, mode=better, check_finite=False
            )
        )
    if config.save_top_k:
        asked.append(
            ModelCheckpoint(monitor=name, mode=better, save_top_k=config.save_top_k)
        )
    return asked


class _WholeSteps:
    """Micro-batches in order; the first of a step holds all of them under `step`.

    So a loss can average over the whole step before its later micro-batches come.
    """

    def __init__(self, loader: "DataLoader[dict[str, Any]]", accumulate: int) -> None:
        self.loader = loader
        self.accumulate = accumulate

    def __len__(self) -> int:
        """Count the micro-batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the micro-batches, each step's once all of them are read."""
        batches = iter(self.loader)
        while step := list(itertools.islice(batches, self.accumulate)):
            yield {**step[0], "step": step}
            yield from step[1:]


def _build_trainer(
    config: TrainerConfig,
    folder: RunFolder,
    first_step: int,
    callbacks: Sequence["Callback"],
    held_out: object,
) -> "Trainer":
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

    from spectralgpt.training.checkpointing import AtomicCheckpointIO
    from spectralgpt.training.logs import build_loggers

    for each in callbacks:
        if isinstance(each, ModelCheckpoint) and each.dirpath is None:
            each.dirpath = str(folder.last.parent)
    validates = held_out is not None and config.validate_every_epochs > 0
    return Trainer(
        default_root_dir=folder.root,
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(config),
        precision=PRECISIONS[config.precision],
        accumulate_grad_batches=config.accumulate,
        check_val_every_n_epoch=config.validate_every_epochs if validates else 1,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        logger=build_loggers(config.loggers, folder, first_step),
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        # Lightning's own interval is for loggers, to which we write ourselves.
        log_every_n_steps=1,
    )


def _strategy(config: TrainerConfig) -> Any:
    if config.strategy != "fsdp":
        return config.strategy
    from lightning.pytorch.strategies import ModelParallelStrategy

    # Lightning's FSDPStrategy insists on CUDA; this is FSDP2 and runs on any device.
    return ModelParallelStrategy(
        data_parallel_size=config.processes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
    )


def full_state_dict(trainer: "Trainer", module: "TrainingModule") -> dict[str, Any]:
    """Gather the model's whole state on the CPU, also when it is sharded.

    The weights are their moving average, where one is kept.

    Every process must call this; only rank 0 may use what it returns.
    """
    from spectralgpt.training.checkpointing import AverageWeights

    prefix = "model."
    state = trainer.strategy.lightning_module_state_dict()
    own = {
        name.removeprefix(prefix): value.detach().cpu()
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, torch.Tensor)
    }
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, AverageWeights):
            own |= {name: value.cpu() for name, value in each.average.items()}
    return own
