"""Pretraining from a configuration to a folder, in one stage or progressively.

Stages run in turn, each from the weights of the one before. Each is a run of its own in
a folder of its own; positions are interpolated to its image size and bands when its
weights are loaded. A stage is done when its report is written, which is the last thing
that it does.

Source: Hong et al. 2024, arXiv:2311.07113, progressive pretraining.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import default_collate

from spectralgpt.checkpoints import CONFIG_FILE, load_model, save_model
from spectralgpt.config import changed_settings, read_mapping
from spectralgpt.data.pretraining import MixedDataset
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
from spectralgpt.files import is_first_process, write_file, write_json
from spectralgpt.models.objective import Objective
from spectralgpt.models.sizes import WEIGHTS_FILE
from spectralgpt.objectives import OURS, objective_class
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.reports.reconstructions import (
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.scenes.reconstruction import Reconstruction
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.checkpointing import LastCheckpoint, read_checkpoint
from spectralgpt.training.fit import check_checkpoint, fit, full_state_dict
from spectralgpt.training.held_out import load_batches, score_again, score_held_out
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    KeyedDataset,
    SampleKey,
    sample_seed,
)
from spectralgpt.training.module import DATA, PROGRESS, TrainingModule
from spectralgpt.training.optim import check_machine
from spectralgpt.training.pretrain_config import PretrainConfig, stages_of
from spectralgpt.training.pretrain_data import (
    PretrainingData,
    load_pretraining_data,
    spread,
)
from spectralgpt.training.pretrain_models import build_model
from spectralgpt.training.run_folder import RunFolder, plain_config

_LEARNED_WITH = (
    *("epochs", "batch_size", "accumulate", "precision"),
    *("patience", "ema_decay"),
)
"""Settings of the trainer that weights depend on."""
_SHOWN = 3

_log = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Pretrain a model on images without labels.

    Args:
        config: the whole run.
        output: folder for config.yaml, metrics.csv, validation.json, figures/,
            tensorboard/, checkpoints/last.ckpt, checkpoints/model/ and report.html. A
            run of stages has all of this for each in stage-N-NAME/, and in the folder
            itself config.yaml, checkpoints/model/, the last stage's, and report.html.
        overwrite: replace an existing run.
        resume: go on with an existing run, in the stage that was interrupted; it
            ends up as if it had never stopped.
        callbacks: more to do while training, such as showing progress. Of those that
            go by scores each stage begins with a copy.
        announce: called with a line as each stage begins.

    Returns:
        The folder.

    Raises:
        ConfigError: the configuration is wrong, or a run is in the way.
        DataError: there are no usable images.
        CheckpointError: weights cannot be read or written.
        TrainingError: the loss is not finite.
    """
    check_machine(config.trainer)
    folder = RunFolder(output)
    folder.check(plain_config(config), overwrite=overwrite, resume=resume)
    if config.stages:
        _run_stages(
            config,
            folder,
            overwrite=overwrite,
            resume=resume,
            callbacks=callbacks,
            announce=announce,
        )
    else:
        _run_stage(
            config, folder, overwrite=overwrite, resume=resume, callbacks=callbacks
        )
    return output


def _run_stages(
    config: PretrainConfig,
    folder: RunFolder,
    *,
    overwrite: bool,
    resume: bool,
    callbacks: Sequence[Callback],
    announce: Callable[[str], None] | None,
) -> None:
    """Run all stages that are not done yet; see `pretrain`."""
    stages = stages_of(config)
    runs = {
        name: RunFolder(folder.root / f"stage-{number}-{name}")
        for number, name in enumerate(stages, start=1)
    }
    due = [n for n, run in runs.items() if overwrite or not run.report.exists()]
    for name, stage in stages.items():
        if name not in due:
            _check_finished(name, stage, runs[name])
            _check_same_data(name, stage, runs[name])
    # A mistake in the last stage is not to be found after days of the first.
    data = {name: _load(name, stages[name]) for name in due}
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    start = config.model.start_from
    for number, (name, stage) in enumerate(stages.items(), start=1):
        run = runs[name]
        if name in due:
            text = f"stage {number} of {len(stages)}: {name}"
            _log.info("%s", text)
            if announce is not None and is_first_process():
                announce(text)
            _run_stage(
                replace(stage, model=replace(stage.model, start_from=start)),
                run,
                data[name],
                overwrite=overwrite,
                # A stage that has not begun has nothing to go on with.
                resume=resume and run.config.exists(),
                callbacks=[_own(each) for each in callbacks],
            )
        if is_first_process() and number > 1 and not run.again.is_file():
            _score_again(run, dict(list(stages.items())[: number - 1]), data)
        # The last one again: the run may have been killed before its model was copied.
        if is_first_process() and (name in due or number == len(stages)):
            _hand_over(run, folder)
        start = str(run.model)


def _own(callback: Callback) -> Callback:
    """Copy what remembers scores: those of another stage are of other images."""
    remembers = isinstance(callback, EarlyStopping | ModelCheckpoint)
    return deepcopy(callback) if remembers else callback


def _score_again(
    run: RunFolder,
    before: Mapping[str, PretrainConfig],
    data: dict[str, PretrainingData],
) -> None:
    """Score a finished stage's model on what the stages before it held out.

    Args:
        run: the stage's folder.
        before: those stages.
        data: images of stages that are loaded already, by name; gets others.
    """
    loaded = load_model(run.model)
    assert loaded.preprocessing is not None, "pretraining states it"
    assert isinstance(loaded.model, Objective), "pretraining saves it"
    for name in before.keys() - data.keys():
        data[name] = _load(name, before[name])
    stages = {name: (stage, data[name]) for name, stage in before.items()}
    again = score_again(loaded.model.eval(), loaded.preprocessing, stages)
    write_json(run.again, again)


def _load(name: str, stage: PretrainConfig) -> PretrainingData:
    """Find a stage's images, and all that can be wrong with it before it starts."""
    try:
        return _load_checked(stage)
    except (ConfigError, BandError, DataError, DatasetNotFoundError) as error:
        raise type(error)(f"stage {name!r}: {error}") from None


def _check_finished(name: str, stage: PretrainConfig, folder: RunFolder) -> None:
    """Refuse to go on from a stage that was trained with other settings.

    Raises:
        ConfigError: they differ in what its weights depend on, or are lost.
    """
    if not folder.config.is_file():
        raise ConfigError(
            f"{folder.root} is finished, but its {folder.config.name} is gone, so "
            "nothing says what it learned. Train anew with --overwrite."
        )
    # Runs of before there were others say no objective.
    before = {"objective": OURS, "settings": {}, **read_mapping(folder.config)}
    before["optimizer"] = {"algorithm": "adamw", **before.get("optimizer", {})}
    now = plain_config(stage)
    before["trainer"] = {"patience": 0, "ema_decay": 0.0, **before.get("trainer", {})}
    for plain in (before, now):
        plain.pop("report", None)
        plain["model"] = {**plain.get("model", {}), "start_from": None}
        trainer = plain.get("trainer", {}).items()
        plain["trainer"] = {k: v for k, v in trainer if k in _LEARNED_WITH}
    changed = changed_settings(before, now)
    if changed:
        raise ConfigError(
            f"stage {name!r} was finished with other settings: "
            f"{', '.join(changed[:_SHOWN])}. Resume with those it was trained with, "
            "or train anew with --overwrite."
        )


def _check_same_data(name: str, stage: PretrainConfig, folder: RunFolder) -> None:
    """Refuse to go on from a stage that learned from other images than are there now.

    Raises:
        ConfigError: some of them changed.
    """
    try:
        before = read_checkpoint(folder.last, mmap=True)[PROGRESS][DATA]
        now = _load(name, stage).sample
    except (SpectralGPTError, KeyError, TypeError) as error:
        _log.warning(
            "stage %r is finished, and whether its images are still the same cannot be "
            "told (%s).",
            name,
            error,
        )
        return
    if now != before:
        raise ConfigError(
            f"stage {name!r} was finished with other images than are there now. "
            "Put those back, or train anew with --overwrite."
        )


def _hand_over(stage: RunFolder, run: RunFolder) -> None:
    """Make a finished stage's model that of the run, and write the run's report."""
    from spectralgpt.reports.training_reports import write_stages_report

    for name in (WEIGHTS_FILE, CONFIG_FILE):
        write_file(run.model / name, partial(shutil.copyfile, stage.model / name))
    write_stages_report(run.root)


def _run_stage(
    config: PretrainConfig,
    folder: RunFolder,
    data: PretrainingData | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train as a configuration without stages says.

    Args:
        config: the stage, or the whole run.
        folder: gets all that `pretrain` lists.
        data: as `load_pretraining_data` gives it for this configuration; None loads it.
        overwrite: replace an existing run.
        resume: go on with an existing run.
        callbacks: more to do while training.
    """
    if resume:
        config, data = _as_begun(config, folder), None
    data = data or _load_checked(config)
    primary = data.train.datasets[0]
    model = build_model(config, data.preprocessing, data.has_series)
    model.check_batch(config.trainer.batch_size * config.trainer.processes)
    contract = replace(
        data.preprocessing,
        patch_size=model.encoder.patch_size,
        bands_per_token=model.encoder.bands_per_token,
    )
    data = replace(data, preprocessing=contract)
    task = PretrainingTask(
        model,
        config.masking.ratio,
        config.masking.style,
        data.train.names,
        primary.groups if len(data.train.datasets) > 1 else None,
    )
    batches = build_batches(config, data.train.sizes, data.train.weights)
    module = TrainingModule(
        task, config.optimizer, config.trainer, batches, data.sample
    )
    drawn, names = [], _shown(config, data)
    if data.held_out is not None and names:
        every = config.report.every_epochs
        drawn = [
            _ReconstructionFigures(
                folder.figures, task, data.held_out, names, every, config.seed
            )
        ]
    # Only now, so that a configuration that cannot work leaves nothing behind.
    if resume:
        check_checkpoint(module, folder)
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    _run(config, folder, module, data, resume, [*callbacks, *drawn])


def _as_begun(config: PretrainConfig, folder: RunFolder) -> PretrainConfig:
    """Return the configuration with what was no choice yet when the run began."""
    begun = read_mapping(folder.config) if folder.config.is_file() else {}
    model = begun.get("model")
    if not isinstance(model, Mapping) or "tokenizer" in model:
        return config
    return replace(config, model=replace(config.model, tokenizer="linear"))


def _load_checked(config: PretrainConfig) -> PretrainingData:
    """Find the images, and refuse a configuration that does not fit them.

    Raises:
        ConfigError: the warm-up does not end, an epoch fills no optimizer step, or no
            image is there to draw.
    """
    warmup, epochs = config.optimizer.warmup_epochs, config.trainer.epochs
    if warmup >= epochs:
        raise ConfigError(
            f"optimizer.warmup_epochs is {warmup:g}, trainer.epochs {epochs}: the "
            "warm-up must end before the training does. Lower it."
        )
    data = load_pretraining_data(config)
    _check_suits(config, data)
    build_batches(config, data.train.sizes, data.train.weights)
    _shown(config, data)
    return data


def _check_suits(config: PretrainConfig, data: PretrainingData) -> None:
    """Refuse images that another objective than ours cannot take.

    Raises:
        ConfigError: they are of several sensors, or series.
    """
    if config.objective == OURS:
        return
    if data.preprocessing.others:
        raise ConfigError(
            f"objective {config.objective} takes images of one sensor, and "
            f"data.mixture has several: use objective {OURS}, or one sensor."
        )
    chosen = objective_class(config.objective)
    is_temporal = chosen.takes_series or config.settings.get("temporal")
    if is_temporal and not data.has_series:
        _log.warning(
            "objective %s learns from series, and these are single dates: each stands "
            "for a whole series. State `series` in the description of the images.",
            config.objective,
        )
    if data.has_series and not is_temporal:
        raise ConfigError(
            f"objective {config.objective} takes single dates, and these are series: "
            "leave `series` out of their description, or use st-mae, spectralgpt, or "
            "satmae with settings.temporal true."
        )
    if chosen.sees_pairs and config.trainer.accumulate > 1:
        _log.warning(
            "objective %s compares images within a micro-batch only: "
            "trainer.accumulate %d gives each the others of %d images, not of %d.",
            config.objective,
            config.trainer.accumulate,
            config.trainer.batch_size * config.trainer.processes,
            config.trainer.effective_batch,
        )


def build_batches(
    config: PretrainConfig, sizes: Sequence[int], weights: Sequence[float]
) -> EpochBatchSampler:
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
        samples = config.steps // settings.epochs * settings.effective_batch
    return EpochBatchSampler(
        sizes,
        samples,
        settings.batch_size,
        settings.accumulate,
        config.seed,
        world_size=settings.processes,
        weights=weights,
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

    scored = FixedBatchSampler(data.scored, settings.batch_size, config.seed)
    held_out = None
    if data.held_out is not None:
        held_out = load_batches(data.held_out, scored, settings.workers)
    trainer = fit(
        module,
        load_batches(data.train, module.batches, settings.workers),
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
        _conclude(config, folder, model, data.held_out, data.scored)
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


def _export(
    config: PretrainConfig,
    folder: RunFolder,
    trainer: Trainer,
    module: TrainingModule,
    preprocessing: Preprocessing,
) -> Objective | None:
    """Save the model in our own format; returns an unsharded copy on rank 0."""
    state = full_state_dict(trainer, module)
    if not trainer.is_global_zero:
        return None
    assert isinstance(module.model, Objective)
    copy = type(module.model)(**module.model.config)
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
    model: Objective | None,
    held_out: MixedDataset | None,
    parts: Sequence[Sequence[int]],
) -> None:
    """Score the held-out images against simple fillers, and write the report."""
    from spectralgpt.reports.training_reports import write_pretraining_report

    if held_out is not None and model is not None:
        by_name = score_held_out(model, config, held_out, parts)
        # A run of one data set has one table of scores, not a table of tables; an
        # objective that rebuilds nothing has none.
        single = next(iter(by_name.values())) if len(by_name) == 1 else by_name
        if any(by_name.values()):
            write_json(folder.scores, single)
    write_pretraining_report(folder.root)


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
        """Draw if this epoch is one of the chosen, or the last.

        The images are rebuilt on every process, and drawn on the first.
        """
        epoch = trainer.current_epoch + 1
        is_chosen = self.every_epochs > 0 and epoch % self.every_epochs == 0
        is_last = epoch == trainer.max_epochs or trainer.should_stop
        if not is_chosen and not is_last:
            return
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
        keyed = KeyedDataset(self.images, by_batch=True)
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
        made = self.task.model.reconstruct(output)
        hidden = self.task.model.hidden_pixels(output)
        if made is None or hidden is None:
            return
        # Of a series the last date is drawn.
        rebuilt, masked, images = (
            tensor[:, -1] if tensor.ndim == 5 else tensor
            for tensor in (made.float().cpu(), hidden.cpu(), batch["images"])
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
