"""Fine-tuning a classifier: from a checkpoint and labels to a model that predicts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.chips import SPLITS, LabelledSet
from spectralgpt.data.identity import note_seen, sample_data
from spectralgpt.data.labelled import (
    LabelledDataConfig,
    LabelledDataset,
    read_labelled,
    train_statistics,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel, Pooling
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Stated
from spectralgpt.tasks.classification import (
    ClassificationTask,
    RegularizationConfig,
    balanced_weights,
    main_metric,
)
from spectralgpt.training.finetune_job import FinetuneJob, run_job
from spectralgpt.training.fit import check_machine
from spectralgpt.training.run_folder import RunFolder, plain_config
from spectralgpt.training.transfer import (
    Start,
    TransferConfig,
    choose_contract,
    load_start,
    start_encoder,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["AugmentationConfig", "FinetuneConfig", "build_classifier", "finetune"]


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


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TransferConfig):
    """Fine-tuning for one class an image, or several labels.

    Args:
        data: labelled images.
        skip_first_token: leave token 0 out of the mean, as the published code does.
        pooling: `tokens`, the mean over all tokens, as published; `groups`, the means
            of each band group side by side, which keep the parts of the spectrum apart.
        augmentation: crops and flips.
        regularization: mixing, erasing, smoothing, class weights.
    """

    data: LabelledDataConfig
    skip_first_token: bool = False
    pooling: Pooling = "tokens"
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)

    def __post_init__(self) -> None:
        """Check what the parts cannot see of each other."""
        super().__post_init__()
        if self.regularization.mixes and self.trainer.batch_size % 2:
            raise ConfigError(
                "mixup and cutmix pair images, so trainer.batch_size must be even "
                f"(found: {self.trainer.batch_size})."
            )


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
    check_machine(config.trainer)
    RunFolder(output).check(plain_config(config), overwrite=overwrite, resume=resume)
    start = load_start(config)
    labelled = read_labelled(
        config.data, assumed=Stated(sensor=start.preprocessing.sensor)
    )
    preprocessing = choose_contract(
        start,
        config,
        lambda bands: train_statistics(labelled, bands),
        labelled.stated,
    )
    job = _job(config, start, labelled, preprocessing, output)
    return run_job(
        job, config, output, overwrite=overwrite, resume=resume, callbacks=callbacks
    )


def build_classifier(
    encoder: SpectralEncoder, num_classes: int, config: FinetuneConfig
) -> ClassificationModel:
    """Put a head on a copy of an encoder, as the mode asks; the seed draws the head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ClassificationModel(
            start_encoder(encoder, config),
            num_classes,
            config.skip_first_token,
            config.pooling,
        )


def _job(
    config: FinetuneConfig,
    start: Start,
    labelled: LabelledSet,
    preprocessing: Preprocessing,
    output: Path,
) -> FinetuneJob:
    train, val, test = (labelled.select(split) for split in SPLITS)
    for part, split in zip((train, val, test), SPLITS, strict=True):
        if not any(chip.labels for chip in part.chips):
            raise DataError(
                f"{labelled.source}: no image of split {split} has any label. Split "
                "otherwise (data.split, data.fractions, data.split_seed)."
            )
    names, augmentation = labelled.class_names, config.augmentation

    def build() -> ClassificationModel:
        return build_classifier(start.encoder, len(names), config)

    def evaluate(loaded: LoadedModel) -> Any:
        from spectralgpt.training.scoring import evaluate_classifier

        batch_size, seed = config.trainer.batch_size, config.seed
        return evaluate_classifier(
            loaded, str(output), test, output, seed=seed, batch_size=batch_size
        )

    weights = None
    if config.regularization.class_weights == "balanced":
        weights = balanced_weights(train)
    crop = (augmentation.crop_low, augmentation.crop_high)
    return FinetuneJob(
        ClassificationTask(
            build(), names, labelled.task, config.regularization, weights
        ),
        preprocessing,
        build,
        LabelledDataset(train, preprocessing, crop, augmentation.flip),
        LabelledDataset(val, preprocessing),
        main_metric(labelled.task),
        {
            "task": labelled.task,
            "class_names": list(names),
            "trained_on": labelled.source,
            "chip_px": _chip_size(labelled),
            "seen": note_seen({"train": train.chips, "val": val.chips}, start.seen),
        },
        evaluate,
        data=sample_data(labelled.chips),
    )


def _chip_size(labelled: LabelledSet) -> int:
    """Median of the chips' larger sides, px: what one prediction stands for."""
    sides = [
        max(chip.window.height, chip.window.width)
        if chip.window is not None
        else max(chip.item.shape())
        for chip in labelled.chips
    ]
    return int(median(sides))
