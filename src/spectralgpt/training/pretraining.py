"""Pretraining from a configuration to a folder, in one stage or progressively.

Stages run in turn, each from the weights of the one before. Each is a run of its own in
a folder of its own; positions are interpolated to its image size and bands when its
weights are loaded. A stage is done when its report is written, which is the last thing
that it does.

Source: Hong et al. 2024, arXiv:2311.07113, progressive pretraining.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Callback

from spectralgpt.checkpoints import CONFIG_FILE
from spectralgpt.config import changed_settings, read_mapping
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
from spectralgpt.files import write_file
from spectralgpt.models.sizes import WEIGHTS_FILE
from spectralgpt.training.checkpointing import read_checkpoint
from spectralgpt.training.fit import check_machine
from spectralgpt.training.module import DATA, PROGRESS
from spectralgpt.training.pretrain_config import PretrainConfig, StageConfig, stages_of
from spectralgpt.training.pretrain_data import PretrainingData, load_pretraining_data
from spectralgpt.training.pretrain_stage import (
    check_data,
    check_schedule,
    run_stage,
)
from spectralgpt.training.run_folder import RunFolder, is_first_process, plain_config

_LEARNED_WITH = ("epochs", "batch_size", "accumulate", "precision")
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
    """Pretrain a masked autoencoder.

    Args:
        config: the whole run.
        output: folder for config.yaml, metrics.csv, validation.json, figures/,
            tensorboard/, checkpoints/last.ckpt, checkpoints/model/ and report.html. A
            run of stages has all of this for each in stage-N-NAME/, and in the folder
            itself config.yaml, checkpoints/model/, the last stage's, and report.html.
        overwrite: replace a run that is there.
        resume: go on with a run that is there, in the stage that was interrupted; it
            ends up as if it had never stopped.
        callbacks: more to do while training, such as showing progress.
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
        run_stage(
            config, folder, overwrite=overwrite, resume=resume, callbacks=callbacks
        )
    return output


def _run_stages(
    config: PretrainConfig,
    folder: RunFolder,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    announce: Callable[[str], None] | None = None,
) -> None:
    """Run all stages that are not done yet.

    Args:
        config: the whole run.
        folder: of the run; each stage gets a folder in it.
        overwrite: replace a run that is there.
        resume: go on with a run that is there.
        callbacks: more to do while each stage trains.
        announce: called with a line as each stage begins.

    Raises:
        ConfigError: the configuration is wrong, or a run is in the way.
        DataError: there are no usable images.
        CheckpointError: weights cannot be read or written.
        TrainingError: the loss is not finite.
    """
    stages = stages_of(config)
    due = [s for s in stages if overwrite or not _of(s, folder).report.exists()]
    for stage in stages:
        if stage not in due:
            _check_finished(stage, _of(stage, folder))
            _check_same_data(stage, _of(stage, folder))
    # A mistake in the last stage is not to be found after days of the first.
    data = {stage.number: _load(stage) for stage in due}
    folder.prepare(plain_config(config), overwrite=overwrite, resume=resume)
    start = config.model.start_from
    for stage in stages:
        own = _of(stage, folder)
        if stage in due:
            text = f"stage {stage.number} of {len(stages)}: {stage.name}"
            _log.info("%s", text)
            if announce is not None and is_first_process():
                announce(text)
            run_stage(
                _starting_from(stage.config, start),
                own,
                data.pop(stage.number),
                overwrite=overwrite,
                # A stage that has not begun has nothing to go on with.
                resume=resume and own.config.exists(),
                callbacks=callbacks,
            )
        # The last one again: the run may have been killed before its model was copied.
        if is_first_process() and (stage in due or stage is stages[-1]):
            _hand_over(own, folder)
        start = str(own.model)


def _starting_from(config: PretrainConfig, start: str | None) -> PretrainConfig:
    return replace(config, model=replace(config.model, start_from=start))


def _of(stage: StageConfig, folder: RunFolder) -> RunFolder:
    return RunFolder(folder.root / stage.folder)


def _load(stage: StageConfig) -> PretrainingData:
    """Find a stage's images, and all that can be wrong with it before it starts."""
    try:
        check_schedule(stage.config)
        data = load_pretraining_data(stage.config)
        check_data(stage.config, data)
    except (ConfigError, BandError, DataError, DatasetNotFoundError) as error:
        raise type(error)(f"stage {stage.name!r}: {error}") from None
    return data


def _check_finished(stage: StageConfig, folder: RunFolder) -> None:
    """Refuse to go on from a stage that was trained with other settings.

    Raises:
        ConfigError: they differ in what its weights depend on, or are lost.
    """
    if not folder.config.is_file():
        raise ConfigError(
            f"{folder.root} is finished, but its {folder.config.name} is gone, so "
            "nothing says what it learned. Train anew with --overwrite."
        )
    before, now = dict(read_mapping(folder.config)), plain_config(stage.config)
    for plain in (before, now):
        plain.pop("report", None)
        plain["model"] = {**plain.get("model", {}), "start_from": None}
        trainer = plain.get("trainer", {}).items()
        plain["trainer"] = {k: v for k, v in trainer if k in _LEARNED_WITH}
    changed = changed_settings(before, now)
    if changed:
        raise ConfigError(
            f"stage {stage.name!r} was finished with other settings: "
            f"{', '.join(changed[:_SHOWN])}. Resume with those it was trained with, "
            "or train anew with --overwrite."
        )


def _check_same_data(stage: StageConfig, folder: RunFolder) -> None:
    """Refuse to go on from a stage that learned from other images than are there now.

    Raises:
        ConfigError: some of them changed.
    """
    try:
        before = read_checkpoint(folder.last, mmap=True)[PROGRESS][DATA]
        now = _load(stage).sample
    except (SpectralGPTError, KeyError, TypeError) as error:
        _log.warning(
            "stage %r is finished, and whether its images are still the same cannot be "
            "told (%s).",
            stage.name,
            error,
        )
        return
    if now != before:
        raise ConfigError(
            f"stage {stage.name!r} was finished with other images than are there now. "
            "Put those back, or train anew with --overwrite."
        )


def _hand_over(stage: RunFolder, run: RunFolder) -> None:
    """Make a finished stage's model that of the run, and write the run's report."""
    from spectralgpt.reports.training_reports import write_stages_report

    for name in (WEIGHTS_FILE, CONFIG_FILE):
        _copy(stage.model / name, run.model / name)
    write_stages_report(run.root)


def _copy(source: Path, target: Path) -> None:
    def copy(path: Path) -> None:
        shutil.copyfile(source, path)

    write_file(target, copy)
