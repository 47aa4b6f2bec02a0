"""The loop of every fine-tuning: a task hands in a job, the best weights are kept.

The val split chooses the weights; the test split is scored once, at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.models.adapters import merge_adapters
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.training.fit import (
    TrainerConfig,
    check_checkpoint,
    fit,
    processes,
)
from spectralgpt.training.run_folder import RunFolder, plain_config
from spectralgpt.training.transfer import TransferConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from spectralgpt.tasks import Task
    from spectralgpt.training.loading import Drawable, EpochBatchSampler

__all__ = ["FinetuneJob", "run_job"]


@dataclass(frozen=True)
class FinetuneJob:
    """What a task hands to the loop.

    Args:
        task: model, loss and metrics.
        preprocessing: the contract that goes with the weights.
        build: builds the task's model anew, to take up the best weights.
        train: training samples.
        held_out: samples of the val split; drawn without chance.
        metric: score of the val split that chooses the weights.
        extra: what the checkpoint says of the model beside its contract.
        evaluate: scores the exported model on the test split and writes it down.
        lower_is_better: whether the metric is a loss.
        positive: the class that the metric is about; None if it is about all.
        data: tells images and labels from others.
    """

    task: "Task"
    preprocessing: Preprocessing
    build: Callable[[], nn.Module]
    train: "Drawable"
    held_out: "Drawable"
    metric: str
    extra: dict[str, Any]
    evaluate: Callable[[LoadedModel], Any]
    lower_is_better: bool = False
    positive: str | None = None
    data: str = ""


def run_job(
    job: FinetuneJob,
    config: TransferConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
) -> Path:
    """Train, keep the best weights, and score them once.

    Args:
        job: what is trained.
        config: how.
        output: folder of the run; made only now, so that a job that cannot be built
            leaves nothing behind.
        overwrite: replace a run in the folder.
        resume: go on with the run in the folder.
        callbacks: further Lightning callbacks, such as a progress display.

    Returns:
        `output`.
    """
    from spectralgpt.training.loading import FixedBatchSampler, build_loader
    from spectralgpt.training.module import TrainingModule

    trainer, folder = config.trainer, RunFolder(output)
    batches = _batches(job, config)
    fixed = FixedBatchSampler(len(job.held_out), trainer.batch_size, config.seed)
    module = TrainingModule(
        job.task,
        config.optimizer,
        trainer.epochs,
        config.effective_batch,
        batches,
        trainer.log_every_steps,
        job.data,
    )
    if resume:
        check_checkpoint(module, folder)
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    ran = fit(
        module,
        build_loader(job.train, batches, trainer.workers, trainer.on_gpu),
        build_loader(job.held_out, fixed, trainer.workers, trainer.on_gpu),
        trainer,
        folder,
        resume=resume,
        callbacks=[
            *callbacks,
            _best_callback(job, config, folder),
            _last_callback(folder, trainer),
        ],
    )
    if ran.is_global_zero:
        job.evaluate(load_model(folder.model))
    return output


def _batches(job: FinetuneJob, config: TransferConfig) -> "EpochBatchSampler":
    from spectralgpt.training.loading import EpochBatchSampler

    trainer = config.trainer
    return EpochBatchSampler(
        len(job.train),
        # A set smaller than one step is gone through more than once an epoch.
        max(config.samples_per_epoch or len(job.train), config.effective_batch),
        trainer.batch_size,
        trainer.accumulate,
        config.seed,
        world_size=processes(trainer),
    )


def _best_callback(
    job: FinetuneJob, config: TransferConfig, folder: RunFolder
) -> "Callback":
    from spectralgpt.training.best import BestModel

    extra = {**job.extra, "config": plain_config(config)}

    def export(state: dict[str, torch.Tensor], chosen: dict[str, Any]) -> None:
        model = job.build()
        model.load_state_dict(state)
        plain: Any = merge_adapters(model)
        save_model(folder.model, plain, job.preprocessing, {**extra, "chosen": chosen})

    return BestModel(
        f"val_{job.metric}",
        export,
        lower_is_better=job.lower_is_better,
        of_class=job.positive,
    )


def _last_callback(folder: RunFolder, trainer: TrainerConfig) -> "Callback":
    from spectralgpt.training.checkpointing import LastCheckpoint

    return LastCheckpoint(folder.last, trainer.checkpoint_every_steps)
