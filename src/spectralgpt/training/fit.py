"""Run a task through Lightning's Trainer, in a folder, resumably.

Pretraining and fine-tuning both come through `fit`; they differ in the task they hand
in. Nothing here knows what is learned.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu import keep_freed_memory
from spectralgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    from spectralgpt.training.module import TrainingModule

_log = logging.getLogger(__name__)

_PRECISIONS: dict[str, Any] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


@dataclass(frozen=True)
class TrainerConfig:
    """Length of the run, its batches and its machines.

    Args:
        epochs: passes over samples_per_epoch draws.
        batch_size: images of one process in one micro-batch.
        accumulate: micro-batches whose gradients make one optimizer step.
        precision: fp32, bf16 or fp16 arithmetic; weights stay fp32.
        accelerator: auto, cpu, gpu or mps.
        devices: processes on each node, one a device; auto takes what is there.
        num_nodes: machines.
        strategy: auto, ddp (each process holds the model) or fsdp (parameters,
            gradients and optimizer state are sharded over the processes).
        recompute_activations: keep only what goes into each transformer block, and run
            the block once more in the backward pass: less memory, more time.
        compile: compile each transformer block with torch.compile, where that works;
            for GPUs: on processors it is slower.
        workers: loader processes of each training process; 0 loads in the process.
        log_every_steps: optimizer steps between rows of metrics.csv.
        checkpoint_every_steps: optimizer steps between writes of last.ckpt inside an
            epoch; 0 writes at the end of each epoch only.
        export_every_epochs: epochs between exports of checkpoints/model; 0 exports at
            the end only.
        validate_every_epochs: epochs between scores of the held-out images; 0 scores at
            the end only.
    """

    epochs: int = 200
    batch_size: int = 16
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    recompute_activations: bool = False
    compile: bool = False
    workers: int = 2
    log_every_steps: int = 1
    checkpoint_every_steps: int = 100
    export_every_epochs: int = 1
    validate_every_epochs: int = 1

    def __post_init__(self) -> None:
        """Check the ranges, and that the precision fits the device."""
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "num_nodes",
            "log_every_steps",
        ):
            self._check_at_least(name, 1)
        for name in ("workers", "checkpoint_every_steps", "export_every_epochs"):
            self._check_at_least(name, 0)
        self._check_at_least("validate_every_epochs", 0)
        if self.devices != "auto":
            self._check_at_least("devices", 1)
        if self.precision not in _PRECISIONS:
            raise ConfigError(
                f"trainer.precision is {self.precision!r}; use one of "
                f"{', '.join(_PRECISIONS)}."
            )
        if self.precision == "fp16" and not self.on_gpu:
            raise ConfigError(
                "trainer.precision fp16 needs a GPU (found: none in use). Use bf16 or "
                "fp32 on this machine."
            )
        if self.precision == "fp16" and self.strategy == "fsdp":
            raise ConfigError(
                "trainer.precision fp16 does not go with strategy fsdp. Use bf16."
            )

    def _check_at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ConfigError(
                f"trainer.{name} is {getattr(self, name)}; it must be at least {least}."
            )

    @property
    def on_gpu(self) -> bool:
        """Whether the accelerator is one that does half precision."""
        if self.accelerator == "auto":
            return torch.cuda.is_available() or torch.backends.mps.is_available()
        return self.accelerator != "cpu"


def check_seed(seed: int) -> None:
    """Refuse a seed that the generators do not take.

    Raises:
        ConfigError: it is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")


def check_machine(config: TrainerConfig) -> None:
    """Refuse devices that this machine does not have.

    Not part of the configuration's own checks: it may be read on another machine.

    Raises:
        ConfigError: there is no such accelerator, or there are fewer devices.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    wanted = {"gpu": ("cuda", "mps"), "mps": ("mps",)}.get(config.accelerator, ())
    found = max((counts[kind] for kind in wanted), default=0)
    if wanted and not found:
        raise ConfigError(
            f"trainer.accelerator is {config.accelerator!r}, and this machine has "
            "none that torch can use. Set it to auto or cpu."
        )
    # With auto, Lightning takes a GPU wherever there is one.
    on_gpu = wanted or (config.accelerator == "auto" and any(counts.values()))
    found = found or max(counts.values())
    if on_gpu and config.devices != "auto" and config.devices > found:
        raise ConfigError(
            f"trainer.devices is {config.devices}, and this machine has {found}. "
            "Lower it, or set trainer.accelerator to cpu."
        )


def check_checkpoint(module: "TrainingModule", folder: RunFolder) -> None:
    """Refuse to go on from a checkpoint that does not fit; nothing is changed.

    Raises:
        CheckpointError: it cannot be read, or is of a run split into other batches.
    """
    from spectralgpt.training.checkpointing import read_resumable

    if folder.last.exists():
        module.on_load_checkpoint(read_resumable(folder.last))


def fit(
    module: "TrainingModule",
    train: "DataLoader[dict[str, Any]]",
    held_out: "DataLoader[dict[str, Any]] | None",
    config: TrainerConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
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

    Raises:
        TrainingError: loss, gradients or weights are not finite; the last checkpoint
            is from before that.
        CheckpointError: the checkpoint cannot be read, or not be written.
    """
    from spectralgpt.reports.training_reports import describe_divergence
    from spectralgpt.training.checkpointing import read_resumable
    from spectralgpt.training.loading import WholeSteps
    from spectralgpt.training.logs import quiet_lightning
    from spectralgpt.training.module import (
        CompileBlocks,
        KeepSignals,
        recompute_activations,
    )

    if config.recompute_activations:
        recompute_activations(module)
    if config.compile:
        callbacks = [CompileBlocks(), *callbacks]
    callbacks = [KeepSignals(), *callbacks]
    if not config.on_gpu and keep_freed_memory():
        _log.info("freed memory is kept for the next tensors, which is faster.")
    resumed = folder.last if resume and folder.last.exists() else None
    first_step = 0
    if resumed is not None:
        first_step = int(read_resumable(resumed)["global_step"])
        _log.info("resuming %s at step %d", folder.root, first_step)
    batches = WholeSteps(train, config.accumulate) if config.accumulate > 1 else train
    with quiet_lightning():
        trainer = _build_trainer(config, folder, first_step, callbacks, held_out)
        trainer.fit(module, batches, held_out, ckpt_path=resumed)
    if trainer.is_global_zero and (found := describe_divergence(folder.metrics)):
        _log.warning("%s:%s", folder.root, found)
    return trainer


def _build_trainer(
    config: TrainerConfig,
    folder: RunFolder,
    first_step: int,
    callbacks: Sequence["Callback"],
    held_out: object,
) -> "Trainer":
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from spectralgpt.training.checkpointing import AtomicCheckpointIO
    from spectralgpt.training.logs import MetricsTable

    board = TensorBoardLogger(
        folder.root, name="tensorboard", version="", purge_step=first_step + 1
    )
    validates = held_out is not None and config.validate_every_epochs > 0
    return Trainer(
        default_root_dir=folder.root,
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(config),
        precision=_PRECISIONS[config.precision],
        accumulate_grad_batches=config.accumulate,
        check_val_every_n_epoch=config.validate_every_epochs if validates else 1,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        logger=[MetricsTable(folder.metrics, first_step), board],
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Lightning's own interval is for `self.log`, which is not used here.
        log_every_n_steps=1,
    )


def _strategy(config: TrainerConfig) -> Any:
    if config.strategy != "fsdp":
        return config.strategy
    from lightning.pytorch.strategies import ModelParallelStrategy

    # Lightning's FSDPStrategy insists on CUDA; this is FSDP2 and runs on any device.
    return ModelParallelStrategy(
        data_parallel_size=processes(config),
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
    )


def processes(config: TrainerConfig) -> int:
    """Count the training processes over all nodes."""
    return local_devices(config) * config.num_nodes


def local_devices(config: TrainerConfig) -> int:
    """Count the training processes on one node."""
    if config.devices != "auto":
        return int(config.devices)
    if config.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1


def full_state_dict(trainer: "Trainer", module: "TrainingModule") -> dict[str, Any]:
    """Gather the model's whole state on the CPU, also when it is sharded.

    Every process must call this; only rank 0 may use what it returns.
    """
    prefix = "model."
    state = trainer.strategy.lightning_module_state_dict()
    return {
        name.removeprefix(prefix): value.detach().cpu()
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, torch.Tensor)
    }
