"""Where a run keeps its things, and which process may write them."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from spectralgpt.config import read_mapping
from spectralgpt.errors import ConfigError
from spectralgpt.files import (
    check_replaceable,
    is_first_process,
    make_folder,
    remove_if_empty,
    remove_leftovers,
    write_text,
)

_log = logging.getLogger(__name__)
_SECTIONS = {"model", "data", "optimizer", "trainer", "seed"}
_FOLDERS = ("checkpoints", "figures", "tensorboard", "wandb")
_FILES = (
    "metrics.csv",
    "metrics.json",
    "validation.json",
    "stages.json",
    "table.csv",
    "classes.csv",
    "confusion.png",
    "report.html",
)
_MACHINE = (
    *("batch_size", "accumulate", "accelerator", "devices", "num_nodes", "strategy"),
    *("workers", "recompute_activations", "compile"),
    *("log_every_steps", "checkpoint_every_steps", "export_every_epochs", "loggers"),
)
_FREE = {*(f"trainer.{name}" for name in _MACHINE), "data.memory_mb"}
"""Settings that a resumed run takes from the call, and that change no weight."""
_UNTYPED = ("settings.", "stages.", "data.mixture.")
"""Sections that hold what was stated only; others may gain settings with a version."""


class RunFolder:
    """Where a run keeps its things.

    Args:
        root: the folder that was asked for with --output.

    Attributes:
        config: the resolved configuration, as YAML.
        metrics: the table of losses and metrics.
        last: the checkpoint to resume from.
        model: the model in our own format.
        scores: errors of held-out images, as JSON.
        again: of a stage, its model's errors on what the stages before it held out.
        figures: drawn while the run goes on.
        report: the self-contained report.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.csv"
        self.last = root / "checkpoints" / "last.ckpt"
        self.model = root / "checkpoints" / "model"
        self.scores = root / "validation.json"
        self.again = root / "stages.json"
        self.figures = root / "figures"
        self.report = root / "report.html"

    @property
    def stages(self) -> list[Path]:
        """Folders of the stages of a run of several, in order of their names."""
        return sorted(path for path in self.root.glob("stage-*") if path.is_dir())

    def check_free(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse a folder that already holds a run.

        Args:
            overwrite: replace a run in the folder.
            resume: go on with a run in the folder.

        Raises:
            ConfigError: both flags are given; or there is a run and neither is.
        """
        if overwrite and resume:
            raise ConfigError("give --overwrite or --resume, not both.")
        if is_first_process() and not overwrite and not resume and self._is_ours():
            raise ConfigError(
                f"{self.root} holds a run already (found: {self.config.name}). Go on "
                "with --resume, replace it with --overwrite, or name another --output."
            )

    def check(
        self, config: Mapping[str, Any], *, overwrite: bool, resume: bool
    ) -> None:
        """Refuse a folder that holds a run, or one that cannot be continued like this.

        Args:
            config: of the run that is to begin or to go on, as `plain_config` gives it.
            overwrite: replace a run in the folder.
            resume: go on with a run in the folder.

        Raises:
            ConfigError: both flags are given; there is a run and neither is, or it has
                other settings; or there is what no run of ours has left.
        """
        self.check_free(overwrite=overwrite, resume=resume)
        if not is_first_process():
            return
        if resume and self.config.exists():
            self._check_same(config)
        elif not resume:
            results = [path.name for path in self._results() if path.exists()]
            strange = [] if self._is_ours() else results
            check_replaceable(self.root, "run of this package", strange)
            self._check_inputs(config)

    def prepare(
        self, config: Mapping[str, Any], *, overwrite: bool, resume: bool
    ) -> None:
        """Make the folder ready to be written to, and write the configuration.

        Files that are not a run's are never removed. Call it after everything that can
        fail before the training, as it removes the results of an earlier run.

        Args:
            config: of the run, as `plain_config` gives it.
            overwrite: replace a run in the folder.
            resume: go on with a run in the folder.

        Raises:
            ConfigError: the folder cannot be made.
            OSError: it cannot be written.
        """
        if not is_first_process():
            return
        make_folder(self.root)
        for folder in (self.root, self.model.parent):
            remove_leftovers(folder)
        if not resume:
            self._clear()
        text = yaml.safe_dump(dict(config), sort_keys=False)
        write_text(self.config, text)
        runs = (self, *map(RunFolder, self.stages))
        if resume and not any(run.last.exists() for run in runs):
            _log.warning("no checkpoint in %s, starting anew", self.root)

    def describe_rest(self) -> str:
        """Say from which checkpoint a stopped run can continue."""
        runs = (*map(RunFolder, reversed(self.stages)), self)
        for run in runs:
            if run.last.exists():
                return f"--resume goes on from {run.last}"
        if not self.config.exists():
            return ""
        return f"{self.root} has no checkpoint yet: begin anew with --overwrite"

    def _is_ours(self) -> bool:
        """Tell a run of ours from what other programs call config.yaml."""
        try:
            config = read_mapping(self.config)
        except ConfigError:
            return False
        trainer = config.get("trainer")
        return (
            config.keys() >= _SECTIONS
            and isinstance(trainer, dict)
            and ("checkpoint_every_steps" in trainer)
        )

    def _check_same(self, config: Mapping[str, Any]) -> None:
        """Refuse to go on with settings that the run was not begun with."""
        found, now = (
            {name: value for name, value in _leaves(values) if value != {}}
            for values in (read_mapping(self.config), config)
        )
        differing = [
            f"{name} {found.get(name)!r} (now {now.get(name)!r})"
            for name in {**found, **now}
            if name not in _FREE
            and (name.startswith(_UNTYPED) or (name in found and name in now))
            and not _alike(now.get(name), found.get(name))
        ]
        if differing:
            raise ConfigError(
                f"{self.root} was begun with other settings: {', '.join(differing)}. "
                "Resume with those of its config.yaml, or name another --output."
            )

    def _check_inputs(self, config: Mapping[str, Any]) -> None:
        """Refuse to remove what the run begins with."""
        root = self.root.resolve()
        gone = [path.resolve() for path in self._results() if path.exists()]
        for name, value in _leaves(config):
            if not isinstance(value, str) or value in ("", ".") or not gone:
                continue
            path = Path(value)
            if path.exists() and (
                path.resolve() == root or any(map(path.resolve().is_relative_to, gone))
            ):
                raise ConfigError(
                    f"{name} {value} lies in {self.root}, which --overwrite empties. "
                    "Name another --output."
                )

    def _results(self) -> list[Path]:
        """Return all that a run may leave here, its configuration last."""
        names = (*_FOLDERS, *_FILES, self.config.name)
        return [*self.stages, *(self.root / name for name in names)]

    def _clear(self) -> None:
        """Remove what a run leaves here; its configuration is to be replaced."""
        for stage in self.stages:
            run = RunFolder(stage)
            run._clear()
            run.config.unlink(missing_ok=True)
            remove_if_empty([stage])
        for name in _FOLDERS:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in _FILES:
            (self.root / name).unlink(missing_ok=True)


def plain_config(config: Any) -> dict[str, Any]:
    """Turn a configuration into what YAML has: lists for tuples, text for paths."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return plain


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a configuration by their names, such as `trainer.epochs`.

    Entries of lists of sections are numbered.
    """
    if isinstance(values, list) and any(isinstance(each, Mapping) for each in values):
        yield f"{prefix}entries", len(values)
        values = {str(number): each for number, each in enumerate(values, start=1)}
    if not isinstance(values, Mapping) or not values:
        yield prefix.rstrip("."), values
        return
    for name, value in values.items():
        yield from _leaves(value, f"{prefix}{name}.")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other or Path(one).resolve() == Path(other).resolve()
    return bool(one == other)
