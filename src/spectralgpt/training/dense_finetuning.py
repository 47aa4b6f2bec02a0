"""Fine-tuning for maps: segmentation, and change between two dates."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.chips import SPLITS
from spectralgpt.data.dense import (
    CHANGE,
    DenseAugmentationConfig,
    DenseDataConfig,
    DenseDataset,
    DenseSet,
    balanced_class_weights,
    dense_statistics,
    find_positive,
    read_dense,
)
from spectralgpt.data.identity import note_seen, sample_data
from spectralgpt.errors import DataError
from spectralgpt.models.dense_heads import HeadKind
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, DenseModel, SegmentationModel
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Stated
from spectralgpt.tasks.dense import (
    HELD_OUT_LOSS,
    DenseLossConfig,
    DenseTask,
    leading_metric,
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

__all__ = ["DenseFinetuneConfig", "build_dense_model", "finetune_dense"]

_log = logging.getLogger(__name__)

# Every epoch reads the same images again; each loader process keeps its own.
_MEMORY_MB = 1024.0


@dataclass(frozen=True, kw_only=True)
class DenseFinetuneConfig(TransferConfig):
    """Fine-tuning for a class of every pixel.

    Args:
        data: images with masks; its `task` says segmentation or change.
        head: `upernet`, as published; `fpn`, a lighter one; `linear`, one linear map
            from the tokens at a position to the pixels of its patch.
        head_channels: width of a convolutional head, a multiple of 32; null follows the
            encoder's width.
        head_dropout: share of the head's channels that a training step leaves out,
            0..1.
        pixel_detail: let the last layers see single pixels beside the patches of the
            encoder: finer borders; the model is then bound to its bands.
        loss: class weights, Dice, smoothing.
        augmentation: flips, turns and scale; masks follow.
        test_flips: average predictions for the test split over mirror images.
        floors: print what a random forest on pixels and the best index reach beside the
            scores; they learn from drawn pixels of the training places, in seconds.
    """

    data: DenseDataConfig
    head: HeadKind = "upernet"
    head_channels: int | None = None
    head_dropout: float = 0.1
    pixel_detail: bool = False
    loss: DenseLossConfig = field(default_factory=DenseLossConfig)
    augmentation: DenseAugmentationConfig = field(
        default_factory=DenseAugmentationConfig
    )
    test_flips: bool = False
    floors: bool = True


def finetune_dense(
    config: DenseFinetuneConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
) -> Path:
    """Fine-tune a model for maps and score it on the test split.

    Args:
        config: what to train on what.
        output: folder of the run.
        overwrite: replace a run in the folder.
        resume: go on with the run in the folder.
        callbacks: further Lightning callbacks, such as a progress display.

    Returns:
        `output`, with config.yaml, metrics.csv, metrics.json, table.csv, report.html
        and the best model in checkpoints/model.

    Raises:
        ConfigError: settings contradict each other.
        DataError: masks or images are unusable.
    """
    check_machine(config.trainer)
    RunFolder(output).check(plain_config(config), overwrite=overwrite, resume=resume)
    start = load_start(config)
    dense = read_dense(config.data, assumed=Stated(sensor=start.preprocessing.sensor))
    preprocessing = choose_contract(
        start,
        config,
        lambda bands: dense_statistics(dense.select("train"), bands, seed=config.seed),
        dense.stated,
    )
    job = _job(config, start, dense, preprocessing, output)
    return run_job(
        job, config, output, overwrite=overwrite, resume=resume, callbacks=callbacks
    )


def build_dense_model(
    encoder: SpectralEncoder, num_classes: int, config: DenseFinetuneConfig
) -> DenseModel:
    """Put a map head on a copy of an encoder; the seed draws the head."""
    kind = ChangeModel if config.data.task == CHANGE else SegmentationModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return kind(
            start_encoder(encoder, config),
            num_classes,
            config.head,
            config.head_channels,
            config.head_dropout,
            pixel_detail=config.pixel_detail,
        )


def _job(
    config: DenseFinetuneConfig,
    start: Start,
    dense: DenseSet,
    preprocessing: Preprocessing,
    output: Path,
) -> FinetuneJob:
    names = dense.class_names
    positive = find_positive(names, dense.task, dense.positive)
    train, val, test = (
        DenseDataset(dense.select(split), preprocessing, memory_mb=_MEMORY_MB)
        for split in SPLITS
    )
    train.augmentation = config.augmentation
    for dataset, split in zip((train, val, test), SPLITS, strict=True):
        _check_labelled(dataset, split)

    def build() -> DenseModel:
        return build_dense_model(start.encoder, len(names), config)

    def evaluate(loaded: LoadedModel) -> Any:
        from spectralgpt.training.dense_scoring import evaluate_dense

        return evaluate_dense(
            loaded,
            str(output),
            test.dense,
            output,
            seed=config.seed,
            flips=config.test_flips,
            batch_size=config.trainer.batch_size,
            train=train.dense if config.floors else None,
        )

    metric = _choose_metric(positive, val)
    return FinetuneJob(
        DenseTask(build(), names, positive, config.loss, _class_weights(config, train)),
        preprocessing,
        build,
        train,
        val,
        metric,
        {
            "task": dense.task,
            "class_names": list(names),
            "positive": positive,
            "colours": list(dense.colours) if dense.colours else None,
            "trained_on": dense.source,
            # Maps of scenes are made from windows like the images seen in training.
            "window_px": train.shared_side,
            "seen": note_seen(
                {"train": train.dense.chips, "val": val.dense.chips}, start.seen
            ),
        },
        evaluate,
        lower_is_better=metric == HELD_OUT_LOSS,
        positive=None if metric == HELD_OUT_LOSS else positive,
        data=sample_data(dense.chips),
    )


def _class_weights(
    config: DenseFinetuneConfig, train: DenseDataset
) -> torch.Tensor | None:
    if config.loss.class_weights == "none":
        return None
    return torch.tensor(balanced_class_weights(train.dense))


def _check_labelled(dataset: DenseDataset, split: str) -> None:
    """Find a split that cannot be learnt from or scored before it is trained for.

    Raises:
        DataError: no pixel that the images show has a label.
    """
    if not _holds(dataset, None):
        raise DataError(
            f"{dataset.dense.source}: split {split} has no labelled pixel in its "
            f"{len(dataset.dense.chips)} images. Split otherwise (data.split, "
            "data.fractions, data.split_seed), or check data.classes and data.ignored."
        )


def _choose_metric(positive: str | None, val: DenseDataset) -> str:
    """Name what the weights are chosen by: a score that the val split can tell."""
    if positive is None or _holds(val, val.dense.class_names.index(positive)):
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
    targets = (dataset.chip(n).target for n in range(len(dataset.dense.chips)))
    if class_index is None:
        return any(bool((target >= 0).any()) for target in targets)
    return any(bool((target == class_index).any()) for target in targets)
