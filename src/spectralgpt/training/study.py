"""A study: the same task from several starts, with few and many labels, over seeds.

Answers whether pretraining pays on one's own labels. Each run is an ordinary
fine-tuning in a folder of its own; runs that are finished are not run again, so that a
study can be stopped, extended, or shared between processes.
"""

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spectralgpt.checkpoints import write_atomically
from spectralgpt.errors import ConfigError
from spectralgpt.json_files import read_json
from spectralgpt.training.configuration import build_config
from spectralgpt.training.overrides import merge_sections
from spectralgpt.training.run_folder import RunFolder
from spectralgpt.training.scoring import write_json

__all__ = ["StudyConfig", "StudyRun", "planned_runs", "run_study", "summarise_study"]

_log = logging.getLogger(__name__)

FOREST = "pixel-forest"
StudyTask = Literal["classification", "segmentation", "change"]


@dataclass(frozen=True)
class StudyConfig:
    """What is compared.

    Args:
        task: classification, segmentation or change.
        finetune: settings of `spectralgpt finetune TASK` that all starts share.
        starts: what each start changes of them, by its name, such as
            `{pretrained: {model: runs/mine}, random: {model: tiny, sensor: ...}}`; in
            place of a model, `{method: pixel-forest}` fits a random forest on single
            pixels (maps only).
        fractions: shares of the training images, or places, that are used, 0..1.
        seeds: one repetition each: split (unless the archive gives one), training
            subset, head and order. With data.split `folds` the folds are the same for
            all, and each seed in turn leaves out the next one.
        root: folder of the labelled data; null takes that of `finetune`, below which a
            relative root of a start lies.
    """

    task: StudyTask
    finetune: dict[str, Any]
    starts: dict[str, dict[str, Any]]
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    root: str | None = None

    def __post_init__(self) -> None:
        """Check that there is something to compare."""
        if not self.starts or not self.seeds or not self.fractions:
            raise ConfigError("a study needs starts, fractions and seeds: state them.")
        wrong = [
            name for name in self.starts if not name.replace("-", "_").isidentifier()
        ]
        if wrong:
            raise ConfigError(
                f"start {wrong[0]!r} names a folder: use letters, digits, - and _."
            )
        forests = [n for n, start in self.starts.items() if start.get("method")]
        for name in forests:
            if self.starts[name]["method"] != FOREST or self.task == "classification":
                raise ConfigError(
                    f"start {name}: method {self.starts[name]['method']!r} is unknown "
                    f"for {self.task}; maps can be compared with {FOREST}."
                )


@dataclass(frozen=True)
class StudyRun:
    """One start with one share of the labels and one seed."""

    start: str
    fraction: float
    seed: int
    settings: Mapping[str, Any] = field(compare=False)

    @property
    def name(self) -> str:
        """Folder of the run, below that of the study."""
        return f"{self.start}/labels-{self.fraction:g}/seed-{self.seed}"


def planned_runs(config: StudyConfig) -> list[StudyRun]:
    """List the runs, seed by seed, so that a part of a study compares all starts."""
    return [
        StudyRun(start, fraction, seed, _settings(config, start, fraction, seed))
        for seed in config.seeds
        for fraction in config.fractions
        for start in config.starts
    ]


def run_study(
    config: StudyConfig,
    output: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Run what is not finished yet, and write study.json and study.csv.

    Args:
        config: what is compared.
        output: folder of the study.
        progress: called with (name of the run, its number, runs in all) before each.

    Returns:
        `output`.

    Raises:
        ConfigError: settings of a start are wrong; found before anything runs.
    """
    runs = planned_runs(config)
    prepared = {run: _prepare(config.task, run) for run in runs}
    for number, run in enumerate(runs):
        folder = output / run.name
        if (folder / "metrics.json").exists():
            continue
        if progress is not None:
            progress(run.name, number, len(runs))
        # A run that was cut off goes on where it was.
        resuming = {"resume": True} if RunFolder(folder).last.exists() else {}
        prepared[run](folder, **resuming)
    summarise_study(output, config.starts)
    return output


def summarise_study(output: Path, starts: Sequence[str] | Mapping[str, Any]) -> Path:
    """Write study.json and study.csv from the runs that are finished."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for start in starts:
        for path in sorted((output / start).glob("labels-*/seed-*/metrics.json")):
            scores = read_json(path)["test"]
            fraction = path.parent.parent.name.removeprefix("labels-")
            found.setdefault(fraction, {}).setdefault(start, []).append(scores)
    table = {
        fraction: {start: _spread(scores) for start, scores in by_start.items()}
        for fraction, by_start in found.items()
    }
    write_json(output / "study.json", table)
    write_atomically(output / "study.csv", lambda path: _write_table(path, table))
    return output


def _settings(
    config: StudyConfig, start: str, fraction: float, seed: int
) -> dict[str, Any]:
    merged = merge_sections(config.finetune, config.starts[start])
    data = {**merged.get("data", {}), "train_fraction": fraction, "split_seed": seed}
    if data.get("split") == "folds":
        data["split_seed"] = config.seeds[0]
        data["fold"] = config.seeds.index(seed)
    if config.root is not None:
        data["root"] = config.root
    if "root" in data:
        data["root"] = str(data["root"])
    if config.task != "classification":
        data["task"] = config.task
    return {**merged, "data": data, "seed": seed}


def _prepare(task: StudyTask, run: StudyRun) -> Callable[[Path], Any]:
    """Return what makes a run in a folder; mistakes in its settings are found here."""
    from spectralgpt.data.dense import DenseDataConfig
    from spectralgpt.training.dense_finetuning import (
        DenseFinetuneConfig,
        finetune_dense,
    )
    from spectralgpt.training.dense_scoring import evaluate_forest
    from spectralgpt.training.finetuning import FinetuneConfig, finetune

    where = f"start {run.start}"
    if run.settings.get("method") == FOREST:
        data = build_config(run.settings["data"], DenseDataConfig, f"{where}, data")
        sensor = run.settings.get("sensor")
        return partial(evaluate_forest, data, sensor=sensor, seed=run.seed)
    if task == "classification":
        return partial(finetune, build_config(run.settings, FinetuneConfig, where))
    config = build_config(run.settings, DenseFinetuneConfig, where)
    return partial(finetune_dense, config)


def _spread(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    spread = {}
    for metric in scores[0]:
        values = np.array([entry[metric] for entry in scores])
        spread[metric] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            "values": values.tolist(),
        }
    return spread


def _write_table(path: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["labels", "start", "seeds", "score", "mean", "std"])
        for fraction, by_start in table.items():
            for start, scores in by_start.items():
                for metric, entry in scores.items():
                    numbers = [f"{entry[part]:.6f}" for part in ("mean", "std")]
                    seeds = len(entry["values"])
                    writer.writerow([fraction, start, seeds, metric, *numbers])
