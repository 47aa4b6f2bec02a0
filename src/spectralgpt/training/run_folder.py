"""Where a run keeps its things, and which process may write them."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.errors import ConfigError

__all__ = ["RunFolder", "is_first_process", "make_folder"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its things.

    Args:
        root: the folder that was asked for with --output.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, as YAML."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The table of losses and metrics."""
        return self.root / "metrics.csv"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.root / "checkpoints" / "last.ckpt"

    @property
    def model(self) -> Path:
        """The model in our own format."""
        return self.root / "checkpoints" / "model"

    @property
    def scores(self) -> Path:
        """Errors of held-out images, as JSON."""
        return self.root / "validation.json"

    @property
    def stages(self) -> list[Path]:
        """Folders of the stages of a run of several, in order of their names."""
        return sorted(path for path in self.root.glob("stage-*") if path.is_dir())

    @property
    def figures(self) -> Path:
        """Figures drawn while the run goes on."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """The self-contained report."""
        return self.root / "report.html"

    def prepare(self, *, overwrite: bool, resume: bool) -> None:
        """Make the folder ready to be written to.

        Files that are not a run's are never removed.

        Raises:
            ConfigError: there is a run already, and neither flag is given, or both, or
                the folder cannot be made.
        """
        self.check(overwrite=overwrite, resume=resume)
        if not is_first_process():
            return
        make_folder(self.root)
        if overwrite:
            self._clear()
        runs = (self, *map(RunFolder, self.stages))
        if resume and not any(run.last.exists() for run in runs):
            _log.warning("no checkpoint in %s, starting anew", self.root)

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse a run that is in the way.

        Raises:
            ConfigError: there is a run already, and neither flag is given, or both.
        """
        if overwrite and resume:
            raise ConfigError("give --overwrite or --resume, not both.")
        if is_first_process() and self.config.exists() and not (overwrite or resume):
            raise ConfigError(
                f"{self.root} holds a run already (found: {self.config.name}). Go on "
                "with --resume, replace it with --overwrite, or name another --output."
            )

    def _clear(self) -> None:
        """Remove what a run leaves here, that of its stages first."""
        for stage in self.stages:
            RunFolder(stage)._clear()
            if not any(stage.iterdir()):
                stage.rmdir()
        for name in ("checkpoints", "figures", "tensorboard"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for path in (self.config, self.metrics, self.scores, self.report):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder for output, with those above it, if it is not there.

    Raises:
        ConfigError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the output folder {folder}: {error.strerror} "
            f"({error.filename}). Name another --output."
        ) from error


def is_first_process() -> bool:
    """Tell whether this process is rank 0, also before the processes have met."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name]) == 0
    ranks = (os.environ.get(name, "0") for name in ("NODE_RANK", "LOCAL_RANK"))
    return all(int(rank) == 0 for rank in ranks)
