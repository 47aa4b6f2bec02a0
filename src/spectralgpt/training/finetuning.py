"""Fine-tuning a classifier: from a checkpoint and labels to a model that predicts.

The loop is the one of pretraining (`spectralgpt.training.fit`). What is added: the val
split chooses the weights that are kept, and the test split is scored once, at the end.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import torch

from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.data.chips import SPLITS, LabelledSet
from spectralgpt.data.labelled import (
    LabelledDataConfig,
    LabelledDataset,
    read_labelled,
)
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.sizes import SIZES, build_encoder
from spectralgpt.preprocessing import Preprocessing, Scaling, sensor_preprocessing
from spectralgpt.sensors import load_sensor
from spectralgpt.tasks.classification import (
    ClassificationTask,
    RegularizationConfig,
    balanced_weights,
    main_metric,
)
from spectralgpt.training.fit import RunFolder, TrainerConfig, fit, processes
from spectralgpt.training.optim import OptimizerConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from torch.utils.data import DataLoader

__all__ = [
    "AugmentationConfig",
    "FinetuneConfig",
    "build_classifier",
    "finetune",
    "load_start",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AugmentationConfig:
    """What is done to the training images before they are scaled.

    Args:
        crop_low: least share of an image's area that a random square crop covers, 0..1.
        crop_high: largest share; 1 and crop_low 1 take the largest square each time.
        flip: turn images left to right at random.
    """

    crop_low: float = 0.5
    crop_high: float = 1.0
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.crop_low <= self.crop_high <= 1:
            raise ConfigError(
                "augmentation.crop_low and crop_high must be 0 < low <= high <= 1 "
                f"(found: {self.crop_low} and {self.crop_high})."
            )


def _default_optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        base_lr=2e-3, warmup_epochs=5.0, beta2=0.999, layer_decay=0.75
    )


def _default_trainer() -> TrainerConfig:
    return TrainerConfig(epochs=50, batch_size=32)


@dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning run.

    Args:
        model: checkpoint to start from (folder, file, Hub name), or a size (tiny,
            small, base, large, huge) for random weights.
        data: labelled images.
        mode: `full` trains everything, `frozen` only the head (a linear probe).
        sensor: sensor of the model's bands. Needed for random weights; given with a
            checkpoint, its spectral positions are interpolated to the new bands.
        bands: bands of the sensor to use; null takes all.
        exclude_bands: bands of the sensor to leave out, such as B10.
        image_size: side of the model's images, px; null keeps the checkpoint's.
        scaling: how pixels are scaled; null keeps the checkpoint's. Statistics, where
            the scaling needs them, are measured on the training images.
        drop_path: share of residual branches dropped in the last block, 0..1.
        skip_first_token: leave token 0 out of the mean, as the published code does.
        augmentation: crops and flips.
        regularization: mixing, erasing, smoothing, class weights.
        optimizer: AdamW and its schedule.
        trainer: length, batches, machines.
        seed: seed of the head, the order and the augmentation.
    """

    model: str
    data: LabelledDataConfig
    mode: Literal["full", "frozen"] = "full"
    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    exclude_bands: tuple[str, ...] = ()
    image_size: int | None = None
    scaling: Scaling | None = None
    drop_path: float = 0.1
    skip_first_token: bool = False
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    optimizer: OptimizerConfig = field(default_factory=_default_optimizer)
    trainer: TrainerConfig = field(default_factory=_default_trainer)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what the parts cannot see of each other."""
        if self.regularization.mixes and self.trainer.batch_size % 2:
            raise ConfigError(
                "mixup and cutmix pair images, so trainer.batch_size must be even "
                f"(found: {self.trainer.batch_size})."
            )
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


def finetune(
    config: FinetuneConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
) -> Path:
    """Fine-tune a classifier and score it on the test split.

    Args:
        config: what to train on what.
        output: folder of the run.
        overwrite: replace a run in the folder.
        resume: go on with the run in the folder.
        callbacks: further Lightning callbacks, such as a progress display.

    Returns:
        `output`, with config.yaml, metrics.csv, metrics.json, report.html and the best
        model in checkpoints/model.

    Raises:
        ConfigError: settings contradict each other.
        DataError: labels or images are unusable.
    """
    from spectralgpt.training.module import TrainingModule
    from spectralgpt.training.scoring import evaluate_classifier

    folder = RunFolder(output)
    start = load_start(config)
    assert start.preprocessing is not None
    labelled = read_labelled(config.data, assumed_sensor=start.preprocessing.sensor)
    train, val, test = (labelled.select(split) for split in SPLITS)
    preprocessing = _contract(start, config, train)
    folder.prepare(overwrite=overwrite, resume=resume)
    _write_config(folder, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_classifier(start.encoder, len(labelled.class_names), config)
    task = ClassificationTask(
        model,
        labelled.class_names,
        labelled.task,
        config.regularization,
        _class_weights(train, config),
    )
    batches, loader, held_out = _loaders(config, preprocessing, train, val)
    module = TrainingModule(
        task,
        config.optimizer,
        config.trainer.epochs,
        _effective_batch(config.trainer),
        batches,
        config.trainer.log_every_steps,
    )
    extra = _export_info(labelled, config)
    best = _best_callback(folder, task, preprocessing, extra)
    trainer = fit(
        module,
        loader,
        held_out,
        config.trainer,
        folder,
        resume=resume,
        callbacks=[*callbacks, best, _last_callback(folder, config.trainer)],
    )
    if trainer.is_global_zero:
        evaluate_classifier(
            load_model(folder.model),
            str(output),
            test,
            output,
            seed=config.seed,
            batch_size=config.trainer.batch_size,
        )
    return output


def load_start(config: FinetuneConfig) -> LoadedModel:
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
        encoder = build_encoder(
            config.model,
            image_size=contract.image_size,
            num_bands=len(contract.bands),
            wavelengths_nm=contract.wavelengths_nm,
        )
        return LoadedModel(encoder, contract)
    bands = None
    if config.sensor is not None:
        bands = load_sensor(config.sensor).select(names, config.exclude_bands)
    start = load_model(config.model, image_size=config.image_size, bands=bands)
    if start.preprocessing is None:
        raise CheckpointError(
            f"{config.model} does not say which bands and scaling it was trained with: "
            "convert it first with `spectralgpt convert`."
        )
    return start


def build_classifier(
    encoder: SpectralEncoder, num_classes: int, config: FinetuneConfig
) -> ClassificationModel:
    """Put a head on a copy of an encoder, frozen or with stochastic depth."""
    frozen = config.mode == "frozen"
    drop_path = 0.0 if frozen else config.drop_path
    copy = SpectralEncoder(**{**encoder.config, "drop_path": drop_path})
    copy.load_state_dict(encoder.state_dict())
    copy.requires_grad_(not frozen)
    return ClassificationModel(copy, num_classes, config.skip_first_token)


def _contract(
    start: LoadedModel, config: FinetuneConfig, train: LabelledSet
) -> Preprocessing:
    contract = start.preprocessing
    assert contract is not None
    if config.scaling is None or config.scaling == contract.scaling:
        return contract
    if config.scaling == "image-minmax":
        return replace(contract, scaling="image-minmax", statistics=None)
    statistics = band_statistics(
        [chip.item for chip in train.chips],
        contract.bands,
        f"train split of {train.source}",
    )
    return replace(contract, scaling=config.scaling, statistics=statistics)


def _class_weights(train: LabelledSet, config: FinetuneConfig) -> torch.Tensor | None:
    if config.regularization.class_weights == "none":
        return None
    return balanced_weights(train)


def _effective_batch(trainer: TrainerConfig) -> int:
    return trainer.batch_size * trainer.accumulate * processes(trainer)


def _loaders(
    config: FinetuneConfig,
    preprocessing: Preprocessing,
    train: LabelledSet,
    val: LabelledSet,
) -> "tuple[Any, DataLoader[dict[str, Any]], DataLoader[dict[str, Any]]]":
    from spectralgpt.training.loading import (
        EpochBatchSampler,
        FixedBatchSampler,
        build_loader,
    )

    trainer, augmentation = config.trainer, config.augmentation
    crop = (augmentation.crop_low, augmentation.crop_high)
    drawn = LabelledDataset(train, preprocessing, crop, augmentation.flip)
    batches = EpochBatchSampler(
        len(drawn),
        # A set smaller than one step is gone through more than once an epoch.
        max(len(drawn), _effective_batch(trainer)),
        trainer.batch_size,
        trainer.accumulate,
        config.seed,
        world_size=processes(trainer),
    )
    held_out = LabelledDataset(val, preprocessing)
    fixed = FixedBatchSampler(range(len(held_out)), trainer.batch_size, config.seed)
    return (
        batches,
        build_loader(drawn, batches, trainer.workers, trainer.on_gpu),
        build_loader(held_out, fixed, trainer.workers, trainer.on_gpu),
    )


def _export_info(labelled: LabelledSet, config: FinetuneConfig) -> dict[str, Any]:
    return {
        "task": labelled.task,
        "class_names": list(labelled.class_names),
        "trained_on": labelled.source,
        "chip_px": _chip_size(labelled),
        "config": json.loads(json.dumps(asdict(config))),
    }


def _chip_size(labelled: LabelledSet) -> int:
    """Median of the chips' larger sides, px: what one prediction stands for."""
    sides = [
        max(chip.window.height, chip.window.width)
        if chip.window is not None
        else max(chip.item.shape())
        for chip in labelled.chips
    ]
    return int(median(sides))


def _best_callback(
    folder: RunFolder,
    task: ClassificationTask,
    preprocessing: Preprocessing,
    extra: dict[str, Any],
) -> "Callback":
    from spectralgpt.training.best import BestModel

    def export(state: dict[str, torch.Tensor], chosen: dict[str, Any]) -> None:
        encoder = SpectralEncoder(**task.model.encoder.config)
        model = ClassificationModel(
            encoder, task.model.num_classes, task.model.skip_first_token
        )
        model.load_state_dict(state)
        save_model(folder.model, model, preprocessing, {**extra, "chosen": chosen})

    return BestModel(f"val_{main_metric(task.task)}", export)


def _last_callback(folder: RunFolder, trainer: TrainerConfig) -> "Callback":
    from spectralgpt.training.checkpointing import LastCheckpoint

    return LastCheckpoint(folder.last, trainer.checkpoint_every_steps)


def _write_config(folder: RunFolder, config: FinetuneConfig) -> None:
    import yaml

    from spectralgpt.training.fit import is_first_process

    if is_first_process():
        plain = json.loads(json.dumps(asdict(config)))
        text = yaml.safe_dump(plain, sort_keys=False)
        folder.config.write_text(text, encoding="utf-8")
