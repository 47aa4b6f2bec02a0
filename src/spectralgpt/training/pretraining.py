"""Pretraining from a configuration to a folder, in one stage or in several."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt.training.fit import RunFolder, check_machine
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_stage import run_stage
from spectralgpt.training.run_folder import plain_config
from spectralgpt.training.stages import run_stages

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["pretrain"]


def pretrain(
    config: PretrainConfig,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
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
        run_stages(
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
