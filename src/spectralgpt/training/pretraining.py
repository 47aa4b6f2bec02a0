"""Pretraining from a configuration to a folder: data, model, training, report."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from spectralgpt.checkpoints import load_model, save_model, write_atomically
from spectralgpt.data.listings import Index
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.sizes import build_autoencoder, model_size
from spectralgpt.preprocessing import Preprocessing, sensor_preprocessing
from spectralgpt.rasters import RasterItem
from spectralgpt.tasks.pretraining import PretrainingTask, score_reconstructions
from spectralgpt.training.fit import (
    RunFolder,
    fit,
    full_state_dict,
    is_first_process,
    processes,
)
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    KeyedDataset,
    build_loader,
)
from spectralgpt.training.pretrain_config import DataConfig, ModelConfig, PretrainConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from spectralgpt.training.module import TrainingModule

__all__ = ["find_pretraining_items", "pretrain"]

_log = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
) -> Path:
    """Pretrain a masked autoencoder.

    Args:
        config: the whole run.
        output: folder for config.yaml, metrics.csv, validation.json, figures/,
            tensorboard/, checkpoints/last.ckpt, checkpoints/model/ and report.html.
        overwrite: replace a run that is there.
        resume: go on with a run that is there; it ends up as if it had never stopped.
        callbacks: more to do while training, such as showing progress.

    Returns:
        The folder.

    Raises:
        ConfigError: the configuration is wrong, or a run is in the way.
        DataError: there are no usable images.
        CheckpointError: weights cannot be read or written.
        TrainingError: the loss is not finite.
    """
    folder = RunFolder(output)
    _check_warmup(config)
    items = find_pretraining_items(config.data)
    preprocessing = _contract(config, items)
    train = _dataset(items, preprocessing, config.data, "train")
    held_out = _held_out(items, preprocessing, config.data)
    task = PretrainingTask(
        _build_model(config, preprocessing), config.masking.ratio, config.masking.style
    )
    module = _build_module(config, task, len(train))
    drawn = _figures(config, folder, task, held_out)
    # Only now, so that a configuration that cannot work leaves nothing behind.
    folder.prepare(overwrite=overwrite, resume=resume)
    if is_first_process():
        write_atomically(folder.config, lambda path: _write_config(config, path))
    _run(config, folder, module, train, held_out, resume, [*callbacks, *drawn])
    return output


def find_pretraining_items(data: DataConfig) -> list[RasterItem]:
    """Find the images that a configuration names.

    Raises:
        ConfigError: a description does not exist or is wrong.
        DataError: there are no images.
    """
    sources = [read_source(path) for path in _descriptions(data.sources)]
    if not sources:
        index = Index(data.index, data.index_column) if data.index else None
        sources = [Source(name="images", sensor=data.sensor, index=index)]
    return find_items(sources, data.root, data.max_bad_share)


def _descriptions(sources: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for source in map(Path, sources):
        found = sorted(source.glob("*.yaml")) if source.is_dir() else [source]
        if not found:
            raise ConfigError(f"data.sources: {source} holds no .yaml description.")
        paths += found
    return paths


def _check_warmup(config: PretrainConfig) -> None:
    warmup, epochs = config.optimizer.warmup_epochs, config.trainer.epochs
    if warmup >= epochs:
        raise ConfigError(
            f"optimizer.warmup_epochs is {warmup:g}, trainer.epochs {epochs}: the "
            "warm-up must end before the training does. Lower it."
        )


def _contract(config: PretrainConfig, items: Sequence[RasterItem]) -> Preprocessing:
    data, statistics = config.data, None
    bands = sensor_preprocessing(data.sensor, data.bands, data.exclude_bands).bands
    if data.scaling != "image-minmax":
        statistics = band_statistics(
            items, bands, f"{len(items)} images under {data.root}", seed=config.seed
        )
    return sensor_preprocessing(
        data.sensor,
        data.bands,
        data.exclude_bands,
        scaling=data.scaling,
        statistics=statistics,
        image_size=data.image_size,
        patch_size=config.model.patch_size,
        bands_per_token=config.model.bands_per_token,
    )


def _dataset(
    items: Sequence[RasterItem],
    preprocessing: Preprocessing,
    data: DataConfig,
    split: str,
) -> PretrainingDataset:
    return PretrainingDataset(
        items, preprocessing, split, data.crops, data.max_bad_share
    )


def _held_out(
    items: Sequence[RasterItem], preprocessing: Preprocessing, data: DataConfig
) -> PretrainingDataset | None:
    if data.crops.val_share == 0:
        return None
    return _dataset(items, preprocessing, data, "val")


def _build_model(
    config: PretrainConfig, preprocessing: Preprocessing
) -> MaskedAutoencoder:
    if config.model.start_from is not None:
        return _load_start(config.model, preprocessing)
    # Processes that shard the model must all start from the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_autoencoder(
            config.model.size,
            image_size=config.data.image_size,
            num_bands=len(preprocessing.bands),
            wavelengths_nm=preprocessing.wavelengths_nm,
            **config.model.settings(),
        )


def _load_start(config: ModelConfig, preprocessing: Preprocessing) -> MaskedAutoencoder:
    assert config.start_from is not None
    model = load_model(
        config.start_from,
        image_size=preprocessing.image_size,
        bands=preprocessing.bands,
    ).model
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(
            f"{config.start_from} holds a {type(model).__name__}; pretraining starts "
            "from a masked autoencoder. Name the checkpoint of a pretraining run."
        )
    wanted = {"embed_dim": model_size(config.size).embed_dim} | config.settings()
    for name, value in wanted.items():
        if name in model.config and model.config[name] != value:
            raise ConfigError(
                f"model.{name} is {value} (size {config.size}), but "
                f"{config.start_from} has {model.config[name]}. Set it to that."
            )
    return model.train()


def _build_module(
    config: PretrainConfig, task: PretrainingTask, num_items: int
) -> "TrainingModule":
    from spectralgpt.training.module import TrainingModule

    settings = config.trainer
    batches = EpochBatchSampler(
        num_items,
        config.data.samples_per_epoch or num_items,
        settings.batch_size,
        settings.accumulate,
        config.seed,
        world_size=processes(settings),
    )
    return TrainingModule(
        task,
        config.optimizer,
        settings.epochs,
        settings.batch_size * settings.accumulate * processes(settings),
        batches,
        settings.log_every_steps,
    )


def _run(
    config: PretrainConfig,
    folder: RunFolder,
    module: "TrainingModule",
    train: PretrainingDataset,
    held_out: PretrainingDataset | None,
    resume: bool,
    callbacks: Sequence["Callback"],
) -> None:
    from spectralgpt.training.checkpointing import LastCheckpoint

    settings = config.trainer

    def export(trainer: "Trainer", epochs_done: int) -> None:
        every = settings.export_every_epochs
        if every and epochs_done % every == 0:
            _export(config, folder, trainer, module, train.preprocessing)

    scored = _scored_batches(config, held_out)
    trainer = fit(
        module,
        build_loader(train, module.batches, settings.workers),
        None if held_out is None else build_loader(held_out, scored, settings.workers),
        settings,
        folder,
        resume=resume,
        callbacks=[
            *callbacks,
            LastCheckpoint(folder.last, settings.checkpoint_every_steps, export),
        ],
    )
    model = _export(config, folder, trainer, module, train.preprocessing)
    if trainer.is_global_zero:
        _conclude(config, folder, model, held_out, scored)


def _scored_batches(
    config: PretrainConfig, held_out: PretrainingDataset | None
) -> FixedBatchSampler:
    count = 0 if held_out is None else len(held_out)
    chosen = _spread(range(count), config.data.max_held_out)
    return FixedBatchSampler(chosen, config.trainer.batch_size, config.seed)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """Choose up to `most` of them, evenly from first to last."""
    places = np.linspace(0, len(indices) - 1, min(most, len(indices)))
    return [indices[round(place)] for place in places]


def _figures(
    config: PretrainConfig,
    folder: RunFolder,
    task: PretrainingTask,
    held_out: PretrainingDataset | None,
) -> list["Callback"]:
    from spectralgpt.training.figures import ReconstructionFigures

    if held_out is None or config.report.images == 0:
        return []
    names = {index: held_out.item_of(index).name for index in range(len(held_out))}
    parts = config.report.items
    fitting = [i for i, n in names.items() if not parts or any(p in n for p in parts)]
    if not fitting:
        raise ConfigError(
            f"report.items {list(parts)} fit no held-out image (found: "
            f"{', '.join(sorted(set(names.values()))[:5])} ...). Change them."
        )
    chosen = _spread(fitting, config.report.images)
    return [
        ReconstructionFigures(
            folder.figures,
            task,
            KeyedDataset(held_out),
            {index: names[index] for index in chosen},
            held_out.preprocessing.bands,
            config.report.every_epochs,
            config.seed,
        )
    ]


def _export(
    config: PretrainConfig,
    folder: RunFolder,
    trainer: "Trainer",
    module: "TrainingModule",
    preprocessing: Preprocessing,
) -> MaskedAutoencoder | None:
    """Save the model in our own format; returns an unsharded copy on rank 0."""
    state = full_state_dict(trainer, module)
    if not trainer.is_global_zero:
        return None
    assert isinstance(module.model, MaskedAutoencoder)
    copy = MaskedAutoencoder(**module.model.config)
    copy.load_state_dict(state)
    extra = {
        "task": "pretraining",
        "step": trainer.global_step,
        "masking": asdict(config.masking),
    }
    save_model(folder.model, copy, preprocessing, extra)
    return copy.eval()


def _conclude(
    config: PretrainConfig,
    folder: RunFolder,
    model: MaskedAutoencoder | None,
    held_out: PretrainingDataset | None,
    batches: FixedBatchSampler,
) -> None:
    """Score the held-out images against simple fillers, and write the report."""
    from spectralgpt.reports.pretraining import write_pretraining_report

    if held_out is not None and model is not None:
        final = PretrainingTask(model, config.masking.ratio, config.masking.style)
        scores = score_reconstructions(final, build_loader(held_out, batches, 0))
        text = json.dumps(scores, indent=2) + "\n"
        write_atomically(
            folder.root / "validation.json", lambda path: _write_text(path, text)
        )
    write_pretraining_report(folder.root)


def _write_config(config: PretrainConfig, path: Path) -> None:
    _write_text(path, yaml.safe_dump(_plain(asdict(config)), sort_keys=False))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Turn tuples into lists and paths into text, as YAML has them."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
