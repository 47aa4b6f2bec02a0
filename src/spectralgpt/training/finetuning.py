"""Fine-tuning: from a checkpoint and labels to a model that predicts.

Classes of whole images and maps differ in their labels, their head and their scores.
The way is the same: the val split chooses the weights, the test split is scored once,
at the end.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectralgpt.building import merge_adapters
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.data.classes import find_positive
from spectralgpt.data.datasets import (
    DenseAugmentationConfig,
    DenseDataset,
    LabelledDataset,
)
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.identity import SeenImages, sample_data
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.masks import balanced_class_weights, describe_target
from spectralgpt.data.samples import CHANGE, REGRESSION, SPLITS, SampleSet
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    HeadKind,
    Pooling,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.resampling import absent_groups
from spectralgpt.tasks.classification import ClassificationTask, RegularizationConfig
from spectralgpt.tasks.dense import (
    HELD_OUT_LOSS,
    NUMBERS_METRIC,
    DenseLossConfig,
    DenseTask,
    RegressionTask,
    ValueLoss,
    leading_metric,
)
from spectralgpt.training.fit import check_checkpoint, fit, full_state_dict
from spectralgpt.training.optim import check_machine
from spectralgpt.training.run_folder import RunFolder, plain_config
from spectralgpt.training.transfer import (
    Start,
    TransferConfig,
    choose_contract,
    load_start,
    start_encoder,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from spectralgpt.training.checkpointing import BestModel
    from spectralgpt.training.module import TrainingModule

_log = logging.getLogger(__name__)

# Every epoch reads the same images again; each loader process keeps its own.
_MEMORY_MB = 1024.0
_EDGES = ("p20", "p40", "p60", "p80")
"""Limits of the ranges that numbers are scored in: fifths of the training targets, or
of their span where many are the same."""


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
    """Fine-tuning for one class per image, or several labels.

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


@dataclass(frozen=True, kw_only=True)
class _MapConfig(TransferConfig):
    """Fine-tuning for maps.

    Args:
        data: images with masks; its `task` says segmentation, change or regression.
        head: `upernet`, as published; `fpn`, a lighter one; `linear`, one linear map
            from the tokens at a position to the pixels of its patch.
        head_channels: width of a convolutional head, a multiple of 32; null follows the
            encoder's width.
        head_dropout: share of the head's channels that a training step leaves out,
            0..1.
        pixel_detail: let the last layers see single pixels beside the patches of the
            encoder: finer borders; the model is then bound to its bands.
        multilevel: let a convolutional head see features of several depths of the
            encoder, of a Swin transformer its stages, not of the last alone.
        augmentation: flips, turns and scale; masks follow.
        test_flips: average predictions for the test split over mirror images.
        floors: print what a random forest on pixels and the best index, or for numbers
            the mean and ridge regression, reach beside the scores; they learn from
            drawn pixels of the training places, in seconds.
    """

    data: DenseDataConfig
    head: HeadKind = "upernet"
    head_channels: int | None = None
    head_dropout: float = 0.1
    pixel_detail: bool = False
    multilevel: bool = False
    augmentation: DenseAugmentationConfig = field(
        default_factory=DenseAugmentationConfig
    )
    test_flips: bool = False
    floors: bool = True


@dataclass(frozen=True, kw_only=True)
class DenseFinetuneConfig(_MapConfig):
    """Fine-tuning for a class of every pixel.

    Args:
        loss: class weights, Dice, smoothing.
    """

    loss: DenseLossConfig = field(default_factory=DenseLossConfig)


@dataclass(frozen=True, kw_only=True)
class RegressionFinetuneConfig(_MapConfig):
    """Fine-tuning for a number of every pixel, such as canopy height.

    Args:
        loss: `mse` (L2), `l1`, or `huber`, which is squared up to an error of one
            standard deviation of the training targets.
    """

    loss: ValueLoss = "mse"


AnyFinetuneConfig = FinetuneConfig | DenseFinetuneConfig | RegressionFinetuneConfig


def finetune(
    config: AnyFinetuneConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
) -> Path:
    """Fine-tune a model and score it on the test split.

    Args:
        config: what to train on what.
        output: folder of the run; made only once all that can be wrong with settings,
            images and labels was found.
        overwrite: replace a run in the folder.
        resume: go on with the run in the folder.
        callbacks: further Lightning callbacks, such as a progress display.

    Returns:
        `output`, with config.yaml, metrics.csv, metrics.json, table.csv, report.html
        and the best model in checkpoints/model.

    Raises:
        ConfigError: settings contradict each other.
        DataError: labels or images are unusable.
    """
    from spectralgpt.training.checkpointing import LastCheckpoint
    from spectralgpt.training.loading import (
        EpochBatchSampler,
        FixedBatchSampler,
        build_loader,
    )
    from spectralgpt.training.module import TrainingModule
    from spectralgpt.training.scoring import evaluate

    trainer, folder = config.trainer, RunFolder(output)
    check_machine(trainer)
    folder.check(plain_config(config), overwrite=overwrite, resume=resume)
    start = load_start(config)
    if isinstance(config, FinetuneConfig):
        labelled, train, val, task, facts = _learn_classes(config, start)
    else:
        labelled, train, val, task, facts = _learn_maps(config, start)
    # A set smaller than one step is gone through more than once an epoch.
    samples = max(config.samples_per_epoch or len(train), trainer.effective_batch)
    batches = EpochBatchSampler(
        len(train),
        samples,
        trainer.batch_size,
        trainer.accumulate,
        config.seed,
        world_size=trainer.processes,
    )
    fixed = FixedBatchSampler(len(val), trainer.batch_size, config.seed)
    module = TrainingModule(
        task, config.optimizer, trainer, batches, sample_data(labelled.samples)
    )
    if resume:
        check_checkpoint(module, folder)
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    best = _keep_best(task, start, train.preprocessing, facts, config, folder)
    ran = fit(
        module,
        build_loader(train, batches, trainer.workers, trainer.on_gpu),
        build_loader(val, fixed, trainer.workers, trainer.on_gpu),
        trainer,
        folder,
        resume=resume,
        monitor=(best.metric, "min" if best.lower_is_better else "max"),
        callbacks=[
            *callbacks,
            best,
            LastCheckpoint(folder.last, trainer.checkpoint_every_steps),
        ],
    )
    if ran.is_global_zero:
        options: dict[str, Any] = {}
        if isinstance(config, _MapConfig):
            options["flips"] = config.test_flips
            options["train"] = labelled.select("train") if config.floors else None
        evaluate(
            load_model(folder.model),
            str(folder.root),
            labelled.select("test"),
            folder.root,
            seed=config.seed,
            batch_size=trainer.batch_size,
            **options,
        )
    return output


def _add_head(
    encoder: Encoder, num_classes: int, config: AnyFinetuneConfig
) -> ClassificationModel | ChangeModel | SegmentationModel | RegressionModel:
    """Put a head on a copy of an encoder, as the mode asks; the seed draws the head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        own = start_encoder(encoder, config)
        if isinstance(config, FinetuneConfig):
            skip, pooling = config.skip_first_token, config.pooling
            return ClassificationModel(own, num_classes, skip, pooling)
        kinds: dict[str, Any] = {CHANGE: ChangeModel, REGRESSION: RegressionModel}
        kind = kinds.get(config.data.task, SegmentationModel)
        made: ChangeModel | SegmentationModel | RegressionModel = kind(
            own,
            num_classes,
            config.head,
            config.head_channels,
            config.head_dropout,
            pixel_detail=config.pixel_detail,
            multilevel=config.multilevel,
        )
        return made


_Labelled = LabelledDataset | DenseDataset
_Task = ClassificationTask | DenseTask | RegressionTask
_Learning = tuple[SampleSet, _Labelled, _Labelled, _Task, dict[str, Any]]
"""All images with their labels; training samples; those of the val split, drawn without
chance; model, loss and metrics; what the checkpoint says of the model beside its
contract."""


def _learn_classes(config: FinetuneConfig, start: Start) -> _Learning:
    labelled = read_labelled(config.data, assumed=start.preprocessing.unstated)
    start.encoder.absent_groups = absent_groups(labelled.items)
    measure = partial(sample_statistics, labelled.select("train"))
    preprocessing = choose_contract(start, config, measure, labelled.stated)
    train, val, test = (labelled.select(split) for split in SPLITS)
    for part, split in zip((train, val, test), SPLITS, strict=True):
        if not any(sample.labels for sample in part.samples):
            raise DataError(
                f"{labelled.source}: no image of split {split} has any label. Split "
                "otherwise (data.split, data.fractions, data.split_seed)."
            )
    names, augmentation = labelled.class_names, config.augmentation
    model = _add_head(start.encoder, len(names), config)
    assert isinstance(model, ClassificationModel)
    weights = None
    if config.regularization.class_weights == "balanced":
        weights = torch.tensor(balanced_class_weights(train))
    crop = (augmentation.crop_low, augmentation.crop_high)
    facts = {
        "task": labelled.task,
        "class_names": list(names),
        "trained_on": labelled.source,
        "chip_px": _sample_side(labelled),
        "seen": _note_seen(train, val, start),
    }
    return (
        labelled,
        LabelledDataset(train, preprocessing, crop, augmentation.flip),
        LabelledDataset(val, preprocessing),
        ClassificationTask(model, names, labelled.task, config.regularization, weights),
        facts,
    )


def _learn_maps(
    config: DenseFinetuneConfig | RegressionFinetuneConfig, start: Start
) -> _Learning:
    dense = read_dense(config.data, assumed=start.preprocessing.unstated)
    start.encoder.absent_groups = absent_groups(dense.items)
    measure = partial(sample_statistics, dense.select("train"), seed=config.seed)
    preprocessing = choose_contract(start, config, measure, dense.stated)
    train, val, test = (
        DenseDataset(dense.select(split), preprocessing, memory_mb=_MEMORY_MB)
        for split in SPLITS
    )
    train.augmentation = config.augmentation
    for dataset, split in zip((train, val, test), SPLITS, strict=True):
        _check_labelled(dataset, split)
    if (dense.target is None) == isinstance(config, RegressionFinetuneConfig):
        raise ConfigError(f"data.task {dense.task} is for another finetune command.")
    model = _add_head(start.encoder, dense.num_classes, config)
    task: DenseTask | RegressionTask
    if isinstance(config, RegressionFinetuneConfig):
        task, own = _number_task(config, model, train.sample_set)
    else:
        task, own = _class_task(config, model, train.sample_set, val)
    facts = {
        "task": dense.task,
        "class_names": list(dense.class_names),
        **own,
        "trained_on": dense.source,
        # Maps of scenes are made from windows like the images seen in training.
        "window_px": train.shared_side,
        "seen": _note_seen(train.sample_set, val.sample_set, start),
    }
    return dense, train, val, task, facts


def _class_task(
    config: DenseFinetuneConfig, model: Any, dense: SampleSet, val: DenseDataset
) -> tuple[DenseTask, dict[str, Any]]:
    """Return the task, and what the checkpoint says of it."""
    names = dense.class_names
    positive = find_positive(names, dense.task, dense.positive)
    weights = None
    if config.loss.class_weights == "balanced":
        weights = torch.tensor(balanced_class_weights(dense))
    colours = list(dense.colours) if dense.colours else None
    metric = _choose_metric(positive, val)
    task = DenseTask(model, names, positive, config.loss, weights, metric)
    return task, {"positive": positive, "colours": colours}


def _number_task(
    config: RegressionFinetuneConfig, model: Any, train: SampleSet
) -> tuple[RegressionTask, dict[str, Any]]:
    """Return the task, its model's target standardised, and what is said of it."""
    target, found = train.target, describe_target(train)
    assert target is not None
    if not found["std"]:
        raise DataError(
            f"{train.source}: all numbers of split train are {found['mean']:g} "
            f"{target.unit}: there is nothing to learn. Check the masks."
        )
    model.target_mean.fill_(found["mean"])
    model.target_std.fill_(found["std"])
    fifths = [found[name] for name in _EDGES]
    if len({found["least"], *fifths}) <= len(_EDGES):
        fifths = np.linspace(found["p1"], found["p99"], len(_EDGES) + 2)[1:-1].tolist()
    edges = sorted({float(f"{edge:.3g}") for edge in fifths})
    facts = {"unit": target.unit, "range": target.range, "edges": edges}
    return RegressionTask(model, target.name, config.loss), {"target": facts}


def _note_seen(train: SampleSet, val: SampleSet, start: Start) -> dict[str, Any]:
    """Note the images that the training, and its start, learn from and choose by."""
    found = {"train": SeenImages.of(train.samples), "val": SeenImages.of(val.samples)}
    for split in found.keys() & start.seen.keys():
        found[split] = found[split].joined(start.seen[split])
    return {split: seen.to_dict() for split, seen in found.items()}


def _sample_side(labelled: SampleSet) -> int:
    """Median of the samples' larger sides, px: what one prediction stands for."""
    sides = [
        max(sample.window.height, sample.window.width)
        if sample.window is not None
        else max(sample.item.shape())
        for sample in labelled.samples
    ]
    return int(median(sides))


def _check_labelled(dataset: DenseDataset, split: str) -> None:
    """Find a split that cannot be learnt from or scored before it is trained for."""
    if not _holds(dataset, None):
        numbers = dataset.sample_set.target is not None
        raise DataError(
            f"{dataset.sample_set.source}: split {split} has no "
            f"{'pixel with a number' if numbers else 'labelled pixel'} in its "
            f"{len(dataset.sample_set.samples)} images. Split otherwise (data.split, "
            "data.fractions, data.split_seed), or check "
            f"{'data.target' if numbers else 'data.classes and data.ignored'}."
        )


def _choose_metric(positive: str | None, val: DenseDataset) -> str:
    """Name what the weights are chosen by: a score that the val split can tell."""
    if positive is None or _holds(val, val.sample_set.class_names.index(positive)):
        return leading_metric(positive)
    _log.warning(
        "split val has no pixel of class %r: its F1 says nothing, so the weights are "
        "chosen by the lowest val_%s.",
        positive,
        HELD_OUT_LOSS,
    )
    return HELD_OUT_LOSS


def _holds(dataset: DenseDataset, class_index: int | None) -> bool:
    """Tell whether any pixel has this label, or any at all; stops at the first."""
    patches = (dataset.patch(n) for n in range(len(dataset.sample_set.samples)))
    if class_index is None:
        return any(bool(patch.labelled.any()) for patch in patches)
    return any(bool((patch.target == class_index).any()) for patch in patches)


def _keep_best(
    task: _Task,
    start: Start,
    preprocessing: Preprocessing,
    facts: dict[str, Any],
    config: AnyFinetuneConfig,
    folder: RunFolder,
) -> "BestModel":
    """Export the weights with the best score of the val split."""
    from spectralgpt.training.checkpointing import BestModel

    is_loss = task.metric == HELD_OUT_LOSS
    # The loss is about all classes.
    positive = None if is_loss else facts.get("positive")

    def export(
        trainer: "Trainer", module: "TrainingModule", chosen: dict[str, Any]
    ) -> None:
        state = full_state_dict(trainer, module)
        if not trainer.is_global_zero:
            return
        model = _add_head(start.encoder, len(task.class_names), config)
        model.load_state_dict(state)
        plain = merge_adapters(model)
        extra = {**facts, "config": plain_config(config), "chosen": chosen}
        save_model(folder.model, plain, preprocessing, extra)

    return BestModel(
        f"val_{task.metric}",
        export,
        lower_is_better=is_loss or task.metric == NUMBERS_METRIC,
        of_class=positive,
    )
