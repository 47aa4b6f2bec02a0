"""One stage of pretraining, or a run of one: model, training, export, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import default_collate

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.data.pretraining import MixedDataset
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.files import write_json
from spectralgpt.models.building import build_autoencoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.sizes import model_size
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.reports.reconstructions import (
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.scenes.reconstruction import Reconstruction
from spectralgpt.tasks.pretraining import (
    PretrainingTask,
    pixel_mask,
    score_reconstructions,
)
from spectralgpt.training.checkpointing import LastCheckpoint
from spectralgpt.training.fit import check_checkpoint, fit, full_state_dict, processes
from spectralgpt.training.loading import SampleKey, build_loader, sample_seed
from spectralgpt.training.mixing import HeldOutBatches, KeyedMixture, MixedBatchSampler
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.pretrain_config import ModelConfig, PretrainConfig
from spectralgpt.training.pretrain_data import (
    PretrainingData,
    load_pretraining_data,
    spread,
)
from spectralgpt.training.run_folder import RunFolder, plain_config


def run_stage(
    config: PretrainConfig,
    folder: RunFolder,
    data: PretrainingData | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a masked autoencoder as a configuration without stages says.

    Args:
        config: the stage, or the whole run.
        folder: gets all that `spectralgpt.training.pretraining.pretrain` lists.
        data: as `load_pretraining_data` gives it for this configuration; None loads it.
        overwrite: replace a run that is there.
        resume: go on with a run that is there.
        callbacks: more to do while training.

    Raises:
        ConfigError: the configuration is wrong, or a run is in the way.
        DataError: there are no usable images.
        CheckpointError: weights cannot be read or written.
        TrainingError: the loss is not finite.
    """
    check_schedule(config)
    data = data or load_pretraining_data(config)
    check_data(config, data)
    primary = data.train.parts[0].dataset
    task = PretrainingTask(
        build_model(config, data.preprocessing, data.has_series),
        config.masking.ratio,
        config.masking.style,
        data.train.names,
        primary.groups if len(data.train.parts) > 1 else None,
    )
    module = build_training_module(
        config,
        task,
        build_batches(config, data.train.sizes, data.train.weights),
        data.sample,
    )
    drawn = _figures(config, folder, task, data)
    # Only now, so that a configuration that cannot work leaves nothing behind.
    if resume:
        check_checkpoint(module, folder)
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    _run(config, folder, module, data, resume, [*callbacks, *drawn])


def check_schedule(config: PretrainConfig) -> None:
    """Refuse a warm-up that does not end.

    Raises:
        ConfigError: it is as long as the training or longer.
    """
    warmup, epochs = config.optimizer.warmup_epochs, config.trainer.epochs
    if warmup >= epochs:
        raise ConfigError(
            f"optimizer.warmup_epochs is {warmup:g}, trainer.epochs {epochs}: the "
            "warm-up must end before the training does. Lower it."
        )


def check_data(config: PretrainConfig, data: PretrainingData) -> None:
    """Refuse a configuration that does not fit its data.

    Raises:
        ConfigError: an epoch fills no optimizer step, or no image is there to draw.
    """
    build_batches(config, data.train.sizes, data.train.weights)
    _shown(config, data)


def build_training_module(
    config: PretrainConfig,
    task: PretrainingTask,
    batches: MixedBatchSampler,
    data: str = "",
) -> TrainingModule:
    """Build what `fit` trains: the task with its optimizer, schedule and batches."""
    settings = config.trainer
    return TrainingModule(
        task,
        config.optimizer,
        settings.epochs,
        settings.batch_size * settings.accumulate * processes(settings),
        batches,
        settings.log_every_steps,
        data,
    )


def build_batches(
    config: PretrainConfig, sizes: Sequence[int], weights: Sequence[float]
) -> MixedBatchSampler:
    """Build the order of a run's batches.

    Args:
        config: length of an epoch, batch size, seed.
        sizes: items in each data set.
        weights: how often each is drawn, relative to each other.

    Raises:
        ConfigError: an epoch does not fill one optimizer step.
    """
    settings = config.trainer
    samples = config.data.samples_per_epoch or sum(sizes)
    if config.steps is not None:
        per_step = settings.batch_size * settings.accumulate * processes(settings)
        samples = config.steps // settings.epochs * per_step
    return MixedBatchSampler(
        sizes,
        weights,
        samples,
        settings.batch_size,
        settings.accumulate,
        config.seed,
        world_size=processes(settings),
    )


def _run(
    config: PretrainConfig,
    folder: RunFolder,
    module: TrainingModule,
    data: PretrainingData,
    resume: bool,
    callbacks: Sequence[Callback],
) -> None:
    settings = config.trainer

    def export(trainer: Trainer, epochs_done: int) -> None:
        every = settings.export_every_epochs
        if every and epochs_done % every == 0:
            _export(config, folder, trainer, module, data.preprocessing)

    scored = HeldOutBatches(data.scored, settings.batch_size, config.seed)
    held_out = None
    if data.held_out is not None:
        held_out = build_loader(KeyedMixture(data.held_out), scored, settings.workers)
    trainer = fit(
        module,
        build_loader(KeyedMixture(data.train), module.batches, settings.workers),
        held_out,
        settings,
        folder,
        resume=resume,
        callbacks=[
            *callbacks,
            LastCheckpoint(folder.last, settings.checkpoint_every_steps, export),
        ],
    )
    model = _export(config, folder, trainer, module, data.preprocessing)
    if trainer.is_global_zero:
        _conclude(config, folder, model, data.held_out, scored)
    # Whatever comes next may read what the first process has written.
    trainer.strategy.barrier("stage concluded")


def _shown(config: PretrainConfig, data: PretrainingData) -> dict[int, str]:
    """Choose the held-out images that are drawn; their names by index."""
    held_out = data.held_out
    if held_out is None or config.report.images == 0:
        return {}
    names = {index: held_out.item_of(index).name for index in range(len(held_out))}
    parts = config.report.items
    fitting = [i for i, n in names.items() if not parts or any(p in n for p in parts)]
    if not fitting:
        raise ConfigError(
            f"report.items {list(parts)} fit no held-out image (found: "
            f"{', '.join(sorted(set(names.values()))[:5])} ...). Change them."
        )
    return {index: names[index] for index in spread(fitting, config.report.images)}


def _figures(
    config: PretrainConfig,
    folder: RunFolder,
    task: PretrainingTask,
    data: PretrainingData,
) -> list[Callback]:

    names = _shown(config, data)
    if data.held_out is None or not names:
        return []
    every = config.report.every_epochs
    return [
        _ReconstructionFigures(
            folder.figures, task, data.held_out, names, every, config.seed
        )
    ]


def _export(
    config: PretrainConfig,
    folder: RunFolder,
    trainer: Trainer,
    module: TrainingModule,
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
    held_out: MixedDataset | None,
    batches: HeldOutBatches,
) -> None:
    """Score the held-out images against simple fillers, and write the report."""
    from spectralgpt.reports.training_reports import write_pretraining_report

    if held_out is not None and model is not None:
        final = PretrainingTask(model, config.masking.ratio, config.masking.style)
        by_name = {
            name: score_reconstructions(
                final, build_loader(KeyedMixture(held_out), part, 0)
            )
            for name, part in zip(held_out.names, batches.parts, strict=True)
        }
        # A run of one data set has one table of scores, not a table of tables.
        single = next(iter(by_name.values())) if len(by_name) == 1 else by_name
        write_json(folder.scores, single)
    write_pretraining_report(folder.root)


def build_model(
    config: PretrainConfig, preprocessing: Preprocessing, has_series: bool = False
) -> MaskedAutoencoder:
    """Build the model of a run, or load it with positions for the run's images.

    Args:
        config: names the size and the checkpoint, if there is one.
        preprocessing: bands and image size that its positions are for.
        has_series: whether it is told dates; a checkpoint without date embedding gains
            one of zeros.

    Raises:
        CheckpointError: the checkpoint is missing, or no masked autoencoder.
        ConfigError: it has another size than the configuration says.
    """
    if config.model.start_from is not None:
        model = _load_start(config.model, preprocessing)
        if has_series:
            model.add_date_embedding()
        if not config.model.keep_positions:
            fresh = _build_random(config, preprocessing, has_series)
            model.encoder.positions.load_state_dict(
                fresh.encoder.positions.state_dict()
            )
            model.decoder.positions.load_state_dict(
                fresh.decoder.positions.state_dict()
            )
        return model
    return _build_random(config, preprocessing, has_series)


def _build_random(
    config: PretrainConfig, preprocessing: Preprocessing, has_series: bool
) -> MaskedAutoencoder:
    # Processes that shard the model must all start from the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_autoencoder(
            config.model.size,
            image_size=preprocessing.image_size,
            num_bands=len(preprocessing.bands),
            wavelengths_nm=preprocessing.wavelengths_nm,
            date_embedding=has_series,
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


class _ReconstructionFigures(Callback):
    """Draw the same held-out images, with the same masks, at chosen epochs.

    Args:
        folder: gets reconstruction_epoch_EEEE_image_I.png.
        task: rebuilds the images.
        images: held-out images.
        names: which of them are drawn, by index, with the names shown.
        every_epochs: epochs between drawings; 0 draws at the end only.
        seed: seed of the masks.
    """

    def __init__(
        self,
        folder: Path,
        task: PretrainingTask,
        images: MixedDataset,
        names: Mapping[int, str],
        every_epochs: int,
        seed: int,
    ) -> None:
        self.folder = folder
        self.task = task
        self.images = images
        self.names = names
        self.every_epochs = every_epochs
        self.seed = seed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw if this epoch is one of the chosen, or the last."""
        epoch = trainer.current_epoch + 1
        chosen = self.every_epochs > 0 and epoch % self.every_epochs == 0
        if chosen or epoch == trainer.max_epochs:
            self.draw(trainer, pl_module, epoch)

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Rebuild the images on every process, and draw them on the first."""
        shown = dict(enumerate(self.names))
        parts = {index: self.images.place_of(index)[0] for index in self.names}
        for part in sorted(set(parts.values())):
            # Images of one data set have one shape, and go through the model together.
            chosen = {i: n for i, n in shown.items() if parts[n] == part}
            self._draw_together(trainer, pl_module, epoch, chosen)

    def _draw_together(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        epoch: int,
        chosen: Mapping[int, int],
    ) -> None:
        """Draw images of one data set: number of the figure to index of the image."""
        keyed = KeyedMixture(self.images)
        keys = [SampleKey(i, sample_seed(self.seed, 0, i)) for i in chosen.values()]
        batch: dict[str, Any] = default_collate([keyed[key] for key in keys])
        placed = {name: value.to(pl_module.device) for name, value in batch.items()}
        was_training = self.task.model.training
        self.task.model.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            output = self.task.forward(placed)
        self.task.model.train(was_training)
        if not trainer.is_global_zero:
            return
        # Of a series the last date is drawn.
        rebuilt, masked, images = (
            tensor[:, -1] if output.grid.num_dates else tensor
            for tensor in (
                self.task.model.reconstruct(output).float().cpu(),
                pixel_mask(output.mask, output.grid).cpu(),
                batch["images"],
            )
        )
        for at, (number, index) in enumerate(chosen.items()):
            self._save(
                f"epoch_{epoch:04d}_image_{number}",
                Reconstruction(
                    images[at].numpy(),
                    rebuilt[at].numpy(),
                    masked[at].numpy(),
                    self.images.contract_of(index).bands,
                    f"{self.names[index]}, epoch {epoch}",
                ),
            )

    def _save(self, name: str, reconstruction: Reconstruction) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        plot_reconstruction(reconstruction).savefig(
            self.folder / f"reconstruction_{name}.png"
        )
        plot_spectra(reconstruction).savefig(self.folder / f"spectra_{name}.png")
