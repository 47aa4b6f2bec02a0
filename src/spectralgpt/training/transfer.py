"""Where a fine-tuning starts: settings that all tasks share, weights and contract."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from spectralgpt.building import add_adapters, add_windows, build_encoder
from spectralgpt.checkpoints import LoadedModel, load_model, move_model
from spectralgpt.config import check_range
from spectralgpt.data.identity import SeenImages, read_seen
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.sizes import SIZES
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    Scaling,
    sensor_preprocessing,
)
from spectralgpt.rasters import Stated
from spectralgpt.sensors import Band, find_sensor
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig

_log = logging.getLogger(__name__)
# Training images with less than half of the spread, or more than twice, give a warning.
_FAR = 2.0
_OPTIMIZER = partial(
    OptimizerConfig, base_lr=2e-3, warmup_epochs=5.0, beta2=0.999, layer_decay=0.75
)
_TRAINER = partial(TrainerConfig, epochs=50, batch_size=32)


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What is fine-tuned, from which weights, and how long.

    Args:
        model: checkpoint to start from (folder, file, name of `spectralgpt weights
            list` or the Hub), or a size (tiny, small, base, large, huge) for random
            weights.
        mode: `full` trains everything, `frozen` only the head, `adapters` the head and
            low-rank adapters in the encoder's attention (needs the extra `adapters`).
        adapter_rank: columns of the adapters' narrow matrices.
        adapter_alpha: an adapter's product counts adapter_alpha / adapter_rank.
        attention: `rvsa` lets two of three blocks attend within rotated windows of
            varied size, which mode `full` trains; null keeps the checkpoint's.
        window_size: most patches along a side of those windows; null is 7, or the
            checkpoint's.
        sensor: sensor of the model's bands. Needed for random weights; given with a
            checkpoint, its spectral positions are interpolated to the new bands.
        use_bands: bands of the sensor to use; null takes all. (What the layers of
            files are called is `data.bands`.)
        exclude_bands: bands of the sensor to leave out, such as B10.
        image_size: side of the model's images, px; null keeps the checkpoint's.
        patch_size: side of a token of random weights, px; a checkpoint brings its own.
        scaling: how pixels are scaled; null keeps the checkpoint's.
        statistics: the band statistics of that scaling: checkpoint keeps those of the
            pretraining where they are known, training measures them on the training
            images.
        drop_path: share of residual branches dropped in the last block, 0..1.
        samples_per_epoch: training images, or crops of them, in an epoch, so that runs
            on few and on many labels take equally many steps; null takes each once.
        optimizer: AdamW or LARS, and its schedule.
        trainer: length, batches, machines.
        seed: seed of the head, the order and the augmentation.
    """

    model: str
    mode: Literal["full", "frozen", "adapters"] = "full"
    adapter_rank: int = 8
    adapter_alpha: int = 16
    attention: Literal["rvsa"] | None = None
    window_size: int | None = None
    sensor: str | None = None
    use_bands: tuple[str, ...] | None = None
    exclude_bands: tuple[str, ...] = ()
    image_size: int | None = None
    patch_size: int | None = None
    scaling: Scaling | None = None
    statistics: Literal["checkpoint", "training"] = "checkpoint"
    drop_path: float = 0.1
    samples_per_epoch: int | None = None
    optimizer: OptimizerConfig = field(default_factory=_OPTIMIZER)
    trainer: TrainerConfig = field(default_factory=_TRAINER)
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
        if self.trainer.validate_every_epochs > epochs:
            raise ConfigError(
                f"trainer.validate_every_epochs ({self.trainer.validate_every_epochs}) "
                f"is above trainer.epochs ({epochs}): no weights would ever be kept. "
                "Lower it."
            )
        sizes = ("samples_per_epoch", "patch_size", "window_size")
        check_range("at least 1", self, *sizes)
        if self.attention is not None and self.mode != "full":
            raise ConfigError(
                f"attention: {self.attention} has new weights, which mode {self.mode} "
                "would not train: take mode: full."
            )
        if self.window_size is not None and self.attention is None:
            raise ConfigError("window_size is for attention: rvsa: set it as well.")
        check_range("at least 0", self, "seed")
        if self.sensor is None and (self.use_bands is not None or self.exclude_bands):
            raise ConfigError(
                "use_bands and exclude_bands need a sensor: set it as well."
            )


@dataclass(frozen=True)
class Start:
    """The weights that a fine-tuning starts from.

    Args:
        encoder: at the image size and bands of the fine-tuning.
        preprocessing: their contract; scaled per image where the statistics that the
            wanted scaling needs are not known yet.
        scaling: that of the checkpoint, to be taken up again with statistics.
        seen: images that it was fine-tuned on before, by split.
    """

    encoder: Encoder
    preprocessing: Preprocessing
    scaling: Scaling
    seen: Mapping[str, SeenImages] = field(default_factory=dict)


def load_start(config: TransferConfig) -> Start:
    """Load the weights to start from, at the image size and bands asked for.

    Raises:
        ConfigError: random weights without a sensor, or a patch size for a
            checkpoint.
        CheckpointError: the checkpoint has no contract and no sensor is given.
    """
    names = config.use_bands
    if config.model in SIZES and not Path(config.model).exists():
        if config.sensor is None:
            raise ConfigError(
                f"model {config.model!r} has random weights, so its bands are up to "
                "you: set sensor (and use_bands or exclude_bands), or name a "
                "checkpoint."
            )
        contract = sensor_preprocessing(config.sensor, names, config.exclude_bands)
        contract = contract.for_images(config.image_size)
        if config.patch_size is not None:
            contract = replace(contract, patch_size=config.patch_size)
        _log.warning("model %r has random weights: it starts untrained.", config.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = build_encoder(
                config.model,
                image_size=contract.image_size,
                patch_size=contract.patch_size,
                num_bands=len(contract.bands),
                wavelengths_nm=contract.wavelengths_nm,
            )
        return Start(encoder, contract, contract.scaling)
    if config.patch_size is not None:
        raise ConfigError(
            f"patch_size is for random weights; {config.model} brings its own: leave "
            "it out."
        )
    bands = None
    if config.sensor is not None:
        bands = find_sensor(config.sensor).select(names, config.exclude_bands)
    loaded = load_model(config.model)
    if loaded.preprocessing is None:
        return _start_bare(loaded, config, bands)
    return _start_at(loaded, config.image_size, bands, config.model)


def _start_bare(
    loaded: LoadedModel, config: TransferConfig, bands: Sequence[Band] | None
) -> Start:
    """Take weights without a contract for the bands that are stated, in their order."""
    if config.sensor is None or bands is None:
        raise CheckpointError(
            f"{config.model} does not say which bands and scaling it was trained with: "
            "state them by sensor (use_bands, exclude_bands) and scaling."
        )
    encoder = move_model(loaded, image_size=config.image_size, bands=bands).encoder
    contract = replace(
        sensor_preprocessing(config.sensor, config.use_bands, config.exclude_bands),
        image_size=encoder.image_size,
        patch_size=encoder.patch_size,
        bands_per_token=encoder.bands_per_token,
    )
    return Start(encoder, contract, contract.scaling)


def _start_at(
    loaded: LoadedModel, image_size: int | None, bands: Sequence[Band] | None, name: str
) -> Start:
    """Move a checkpoint with a contract to an image size and bands."""
    contract = loaded.preprocessing
    assert contract is not None
    scaling = contract.scaling
    if bands is not None:
        contract = contract.for_bands(bands)
        scaling, known = contract.scaling, contract.statistics
        if known is not None and any(band.name not in known.mean for band in bands):
            contract = replace(contract, scaling="image-minmax", statistics=None)
    # The other sensors of a mixture are not fine-tuned on.
    loaded = replace(loaded, preprocessing=replace(contract, others=()))
    moved = move_model(loaded, image_size=image_size, bands=bands)
    assert moved.preprocessing is not None
    seen = read_seen(loaded.extra, name)
    return Start(moved.encoder, moved.preprocessing, scaling, seen or {})


def choose_contract(
    start: Start,
    config: TransferConfig,
    measure: Callable[[Sequence[Band]], BandStatistics],
    stated: Stated | None = None,
) -> Preprocessing:
    """Return the contract of the fine-tuned model.

    Args:
        start: the weights it starts from.
        config: may ask for another scaling or other statistics.
        measure: statistics of the training images.
        stated: what was stated of the images, kept with the model.
    """
    scaling = config.scaling or start.scaling
    measured = measure(start.preprocessing.bands)
    contract = start.preprocessing.trained_on(stated or Stated(), measured)
    if scaling == "image-minmax":
        return replace(contract, scaling=scaling, statistics=None)
    if scaling != contract.scaling or config.statistics == "training":
        lacking = [name for name, std in measured.std.items() if not std >= 0]
        if lacking:
            raise ConfigError(
                f"the images lack {', '.join(lacking)}, so that their statistics "
                "cannot be measured: take scaling: image-minmax, or statistics: "
                "checkpoint."
            )
        return replace(contract, scaling=scaling, statistics=measured)
    assert contract.statistics is not None
    _tell_if_far(contract.statistics, measured)
    return contract


def _tell_if_far(kept: BandStatistics, measured: BandStatistics) -> None:
    """Warn where the kept statistics squeeze or stretch the training images."""
    spreads = {name: std for name, std in measured.std.items() if std >= 0}
    stretch = median(std / kept.std[name] for name, std in spreads.items())
    if 1 / _FAR < stretch < _FAR:
        return
    _log.warning(
        "scaled by the checkpoint's band statistics, the training images have %.2g of "
        "the spread that it was pretrained with. With statistics: training they are "
        "measured on these images.",
        stretch,
    )


def start_encoder(encoder: Encoder, config: TransferConfig) -> Encoder:
    """Copy an encoder for the mode: trainable, frozen, or with adapters.

    Raises:
        ConfigError: the encoder cannot take the attention asked for.
    """
    if config.attention == "rvsa":
        encoder = add_windows(encoder, config.window_size)
    drop_path = config.drop_path if config.mode == "full" else 0.0
    copy = type(encoder)(**{**encoder.config, "drop_path": drop_path})
    copy.load_state_dict(encoder.state_dict())
    copy.absent_groups = encoder.absent_groups
    copy.requires_grad_(config.mode == "full")
    if config.mode == "adapters":
        add_adapters(copy, config.adapter_rank, config.adapter_alpha)
    return copy
