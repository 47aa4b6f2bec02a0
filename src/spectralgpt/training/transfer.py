"""What every fine-tuning shares: where it starts, what is trained, and the loop.

A task brings a `FinetuneJob`: model, loss, data and how it is scored. The val split
chooses the weights that are kept; the test split is scored once, at the end.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.adapters import add_adapters, merge_adapters
from spectralgpt.models.building import resize_model
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.sizes import SIZES, build_encoder
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    Scaling,
    sensor_preprocessing,
)
from spectralgpt.sensors import Band, find_sensor
from spectralgpt.training.fit import TrainerConfig, fit, processes
from spectralgpt.training.optim import OptimizerConfig
from spectralgpt.training.run_folder import RunFolder, is_first_process

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from spectralgpt.training.loading import Drawable, EpochBatchSampler
    from spectralgpt.training.module import Task

__all__ = [
    "FinetuneJob",
    "TransferConfig",
    "choose_contract",
    "load_start",
    "run_job",
    "start_encoder",
]

logger = logging.getLogger(__name__)

# In what a start says of itself: the scaling whose statistics are yet to be measured.
_SCALING = "scaling_to_measure"


def _default_optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        base_lr=2e-3, warmup_epochs=5.0, beta2=0.999, layer_decay=0.75
    )


def _default_trainer() -> TrainerConfig:
    return TrainerConfig(epochs=50, batch_size=32)


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What is fine-tuned, from which weights, and how long.

    Args:
        model: checkpoint to start from (folder, file, Hub name), or a size (tiny,
            small, base, large, huge) for random weights.
        mode: `full` trains everything, `frozen` only the head, `adapters` the head and
            low-rank adapters in the encoder's attention (needs the extra `adapters`).
        adapter_rank: columns of the adapters' narrow matrices.
        adapter_alpha: an adapter's product counts adapter_alpha / adapter_rank.
        sensor: sensor of the model's bands. Needed for random weights; given with a
            checkpoint, its spectral positions are interpolated to the new bands.
        bands: bands of the sensor to use; null takes all.
        exclude_bands: bands of the sensor to leave out, such as B10.
        image_size: side of the model's images, px; null keeps the checkpoint's.
        scaling: how pixels are scaled; null keeps the checkpoint's. Statistics, where
            the scaling needs them, are measured on the training images.
        drop_path: share of residual branches dropped in the last block, 0..1.
        optimizer: AdamW and its schedule.
        trainer: length, batches, machines.
        seed: seed of the head, the order and the augmentation.
    """

    model: str
    mode: Literal["full", "frozen", "adapters"] = "full"
    adapter_rank: int = 8
    adapter_alpha: int = 16
    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    exclude_bands: tuple[str, ...] = ()
    image_size: int | None = None
    scaling: Scaling | None = None
    drop_path: float = 0.1
    optimizer: OptimizerConfig = field(default_factory=_default_optimizer)
    trainer: TrainerConfig = field(default_factory=_default_trainer)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what the parts cannot see of each other."""
        warmup, epochs = self.optimizer.warmup_epochs, self.trainer.epochs
        if warmup >= epochs:
            raise ConfigError(
                f"optimizer.warmup_epochs ({warmup:g}) must be below trainer.epochs "
                f"({epochs}). Lower it."
            )
        if self.trainer.validate_every_epochs < 1:
            raise ConfigError(
                "trainer.validate_every_epochs must be at least 1: the val split "
                "chooses the weights that are kept."
            )
        if self.sensor is None and (self.bands is not None or self.exclude_bands):
            raise ConfigError("bands and exclude_bands need a sensor: set it as well.")

    @property
    def effective_batch(self) -> int:
        """Images in one optimizer step, over all processes."""
        trainer = self.trainer
        return trainer.batch_size * trainer.accumulate * processes(trainer)


@dataclass(frozen=True)
class FinetuneJob:
    """What a task hands to the loop.

    Args:
        task: model, loss and metrics.
        build: builds the task's model anew, to take up the best weights.
        train: training samples.
        held_out: samples of the val split; drawn without chance.
        metric: score of the val split that chooses the weights, higher is better.
        extra: what the checkpoint says of the model beside its contract.
        evaluate: scores the exported model on the test split and writes it down.
    """

    task: "Task"
    build: Callable[[], nn.Module]
    train: "Drawable"
    held_out: "Drawable"
    metric: str
    extra: dict[str, Any]
    evaluate: Callable[[LoadedModel], Any]


def load_start(config: TransferConfig) -> LoadedModel:
    """Load the weights to start from, at the image size and bands asked for.

    Raises:
        ConfigError: random weights without a sensor.
        CheckpointError: the checkpoint has no contract and no sensor is given.
    """
    names = config.bands
    if config.model in SIZES and not Path(config.model).exists():
        if config.sensor is None:
            raise ConfigError(
                f"model {config.model!r} has random weights, so its bands are up to "
                "you: set sensor (and bands or exclude_bands), or name a checkpoint."
            )
        contract = sensor_preprocessing(config.sensor, names, config.exclude_bands)
        contract = contract.for_images(config.image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = build_encoder(
                config.model,
                image_size=contract.image_size,
                num_bands=len(contract.bands),
                wavelengths_nm=contract.wavelengths_nm,
            )
        return LoadedModel(encoder, contract)
    bands = None
    if config.sensor is not None:
        bands = find_sensor(config.sensor).select(names, config.exclude_bands)
    plain = load_model(config.model)
    own = plain.preprocessing
    if own is None:
        raise CheckpointError(
            f"{config.model} does not say which bands and scaling it was trained with: "
            "convert it first with `spectralgpt convert`."
        )
    if bands is not None and not _knows(own, bands):
        return _move_unmeasured(plain, own, bands, config.image_size)
    return load_model(config.model, image_size=config.image_size, bands=bands)


def _knows(contract: Preprocessing, bands: Sequence[Band]) -> bool:
    """Tell whether scaling these bands needs no statistics but those that are there."""
    known = contract.statistics
    return known is None or all(band.name in known.mean for band in bands)


def _move_unmeasured(
    plain: LoadedModel,
    contract: Preprocessing,
    bands: Sequence[Band],
    image_size: int | None,
) -> LoadedModel:
    """Move a model to bands that it has no statistics of: they are to be measured."""
    wavelengths = [band.wavelength_nm for band in bands]
    model = resize_model(plain.model, image_size, wavelengths)
    unscaled = replace(contract, scaling="image-minmax", statistics=None)
    extra = {**plain.extra, _SCALING: contract.scaling}
    return LoadedModel(model, unscaled.for_images(image_size, bands), extra)


def choose_contract(
    start: LoadedModel,
    config: TransferConfig,
    measure: Callable[[Sequence[Band]], BandStatistics],
) -> Preprocessing:
    """Return the contract of the fine-tuned model.

    Args:
        start: the weights it starts from.
        config: may ask for another scaling.
        measure: statistics of the training images, where that scaling needs them.
    """
    contract = start.preprocessing
    assert contract is not None
    if config.scaling is None or config.scaling == contract.scaling:
        return contract
    if config.scaling == "image-minmax":
        return replace(contract, scaling="image-minmax", statistics=None)
    return replace(contract, scaling=config.scaling, statistics=measure(contract.bands))


def start_encoder(encoder: SpectralEncoder, config: TransferConfig) -> SpectralEncoder:
    """Copy an encoder for the mode: trainable, frozen, or with adapters."""
    drop_path = config.drop_path if config.mode == "full" else 0.0
    copy = SpectralEncoder(**{**encoder.config, "drop_path": drop_path})
    copy.load_state_dict(encoder.state_dict())
    copy.requires_grad_(config.mode == "full")
    if config.mode == "adapters":
        add_adapters(copy, config.adapter_rank, config.adapter_alpha)
    return copy


def run_job(
    job: FinetuneJob,
    config: TransferConfig,
    preprocessing: Preprocessing,
    folder: RunFolder,
    *,
    resume: bool,
    callbacks: Sequence["Callback"] = (),
) -> None:
    """Train, keep the best weights, and score them once.

    Args:
        job: what is trained.
        config: how.
        preprocessing: the contract that goes with the weights.
        folder: prepared already.
        resume: go on from the last checkpoint.
        callbacks: further Lightning callbacks.
    """
    from spectralgpt.training.loading import FixedBatchSampler, build_loader
    from spectralgpt.training.module import TrainingModule

    trainer = config.trainer
    if is_first_process():
        _write_config(folder, config)
    batches = _batches(job, config)
    fixed = FixedBatchSampler(len(job.held_out), trainer.batch_size, config.seed)
    module = TrainingModule(
        job.task,
        config.optimizer,
        trainer.epochs,
        config.effective_batch,
        batches,
        trainer.log_every_steps,
    )
    ran = fit(
        module,
        build_loader(job.train, batches, trainer.workers, trainer.on_gpu),
        build_loader(job.held_out, fixed, trainer.workers, trainer.on_gpu),
        trainer,
        folder,
        resume=resume,
        callbacks=[
            *callbacks,
            _best_callback(job, config, preprocessing, folder),
            _last_callback(folder, trainer),
        ],
    )
    if ran.is_global_zero:
        job.evaluate(load_model(folder.model))


def _batches(job: FinetuneJob, config: TransferConfig) -> "EpochBatchSampler":
    from spectralgpt.training.loading import EpochBatchSampler

    trainer = config.trainer
    return EpochBatchSampler(
        len(job.train),
        # A set smaller than one step is gone through more than once an epoch.
        max(len(job.train), config.effective_batch),
        trainer.batch_size,
        trainer.accumulate,
        config.seed,
        world_size=processes(trainer),
    )


def _best_callback(
    job: FinetuneJob,
    config: TransferConfig,
    preprocessing: Preprocessing,
    folder: RunFolder,
) -> "Callback":
    from spectralgpt.training.best import BestModel

    extra = {**job.extra, "config": json.loads(json.dumps(asdict(config)))}

    def export(state: dict[str, torch.Tensor], chosen: dict[str, Any]) -> None:
        model = job.build()
        model.load_state_dict(state)
        plain: Any = merge_adapters(model)
        save_model(folder.model, plain, preprocessing, {**extra, "chosen": chosen})

    return BestModel(f"val_{job.metric}", export)


def _last_callback(folder: RunFolder, trainer: TrainerConfig) -> "Callback":
    from spectralgpt.training.checkpointing import LastCheckpoint

    return LastCheckpoint(folder.last, trainer.checkpoint_every_steps)


def _write_config(folder: RunFolder, config: TransferConfig) -> None:
    import yaml

    plain = json.loads(json.dumps(asdict(config)))
    text = yaml.safe_dump(plain, sort_keys=False)
    folder.config.write_text(text, encoding="utf-8")
