"""A study: the same task from several starts, with few and many labels, over seeds.

Answers whether pretraining pays on one's own labels. Each run is an ordinary
fine-tuning in a folder of its own; runs that are finished are not run again, so that a
study can be stopped, extended, or shared between processes.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from spectralgpt.config import build_config, changed_settings
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.identity import digest_data
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.files import (
    digest_of,
    read_json,
    write_json,
    write_table,
)
from spectralgpt.metrics import POSITIVE_SCORES
from spectralgpt.models.sizes import find_weights
from spectralgpt.rasters import Stated
from spectralgpt.training.finetuning import (
    DenseFinetuneConfig,
    FinetuneConfig,
    RegressionFinetuneConfig,
    finetune,
)
from spectralgpt.training.pretrain_config import merge_sections
from spectralgpt.training.run_folder import RunFolder
from spectralgpt.training.scoring import evaluate_forest, spread
from spectralgpt.training.transfer import load_start

_log = logging.getLogger(__name__)

FOREST = "pixel-forest"
_RECORD = "study_run.json"
"""What a run was made from, beside its results."""
_WITHOUT_EFFECT = ("workers", "log_every_steps", "checkpoint_every_steps")
_SHOWN = 3
StudyTask = Literal["classification", "segmentation", "change", "regression"]
_Config = (
    FinetuneConfig | DenseFinetuneConfig | RegressionFinetuneConfig | DenseDataConfig
)
"""Of a fine-tuning; images with masks alone are for a forest."""
_Run = tuple[str, str, dict[str, Any]]
"""Start, share of the labels as text, and settings."""


@dataclass(frozen=True)
class StudyConfig:
    """What is compared.

    Args:
        task: classification, segmentation, change or regression.
        finetune: settings of `spectralgpt finetune TASK` that all starts share.
        starts: what each start changes of them, by its name, such as
            `{pretrained: {model: runs/mine}, random: {model: tiny, sensor: ...}}`; in
            place of a model, `{method: pixel-forest}` fits a random forest on single
            pixels (maps of classes only).
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
            method = self.starts[name]["method"]
            if method != FOREST or self.task in ("classification", "regression"):
                raise ConfigError(
                    f"start {name}: method {method!r} is unknown for {self.task}; maps "
                    f"of classes can be compared with {FOREST}, and each run of "
                    "regression has a forest among its floors."
                )


def _planned_runs(config: StudyConfig) -> dict[str, _Run]:
    """Plan the runs, seed by seed, so that a part of a study compares all starts."""
    return {
        f"{start}/labels-{fraction:g}/seed-{seed}": (
            start,
            f"{fraction:g}",
            _settings(config, start, fraction, seed),
        )
        for seed in config.seeds
        for fraction in config.fractions
        for start in config.starts
    }


def run_study(
    config: StudyConfig,
    output: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Run what is not finished yet, and write study.json and study.csv.

    Finished runs are taken over only if settings, weights and data are the same.

    Args:
        config: what is compared.
        output: folder of the study.
        progress: called with (name of the run, its number, runs in all) before each.

    Returns:
        `output`.

    Raises:
        ConfigError: settings of a start are wrong, or runs with other settings are in
            the way; found before anything runs.
    """
    runs = _planned_runs(config)
    configs = {
        name: _resolve(config.task, start, settings)
        for name, (start, _, settings) in runs.items()
    }
    known: dict[str, str] = {}
    records = {
        name: _record(configs[name], settings, known)
        for name, (*_, settings) in runs.items()
    }
    for name, record in records.items():
        _check_record(output / name, record)
    for number, (name, (*_, settings)) in enumerate(runs.items()):
        folder = output / name
        if (folder / "metrics.json").exists():
            continue
        if progress is not None:
            progress(name, number, len(runs))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _RECORD, records[name])
        _run(configs[name], settings, folder)
    _summarise(output, runs)
    return output


def lines_of_runs(tell: Callable[[str], object]) -> Callable[[str, int, int], None]:
    """Return what tells each run of `run_study` in a line, with the time that is left.

    That is taken from the runs before it that were not there already.

    Args:
        tell: takes a line.
    """
    started: list[float] = []

    def progress(name: str, number: int, total: int) -> None:
        started.append(time.monotonic())
        left = ""
        if len(started) > 1:
            each = (started[-1] - started[0]) / (len(started) - 1)
            left = f", about {timedelta(seconds=round(each * (total - number)))} left"
        tell(f"run {number + 1}/{total}{left}: {name}")

    return progress


def _record(
    config: _Config, settings: Mapping[str, Any], known: dict[str, str]
) -> dict[str, Any]:
    """Say what the scores of a run depend on; `known` digests are not read again."""
    plain = json.loads(json.dumps(asdict(config)))
    data = plain if isinstance(config, DenseDataConfig) else plain["data"]
    data.pop("root")  # The data count by what they are, not by where they lie.
    record: dict[str, Any] = {"settings": plain}
    if not isinstance(config, DenseDataConfig):
        for name in _WITHOUT_EFFECT:
            plain["trainer"].pop(name)
        weights = find_weights(config.model)
        if weights is not None:
            plain.pop("model")
            record["weights"] = _once(
                known, f"weights {weights}", lambda: digest_of(weights)
            )
    else:
        plain["seed"] = settings["seed"]
        plain["sensor of files"] = settings.get("sensor")
    record["data"] = _once(
        known, _name_of_data(config, settings), lambda: _digest_data(config, settings)
    )
    return record


def _once(known: dict[str, str], name: str, find: Callable[[], str]) -> str:
    if name not in known:
        known[name] = find()
    return known[name]


def _name_of_data(config: _Config, settings: Mapping[str, Any]) -> str:
    """Name the same data alike, whatever split and share of them is used."""
    plain = {
        **asdict(_data_of(config)),
        "train_fraction": 1.0,
        "split_seed": 0,
        "fold": 0,
    }
    return f"data {plain} {settings.get('sensor')} {settings.get('model')}"


def _data_of(config: _Config) -> LabelledDataConfig | DenseDataConfig:
    return config if isinstance(config, DenseDataConfig) else config.data


def _digest_data(config: _Config, settings: Mapping[str, Any]) -> str:
    data, assumed = _data_of(config), Stated(sensor=settings.get("sensor"))
    if not isinstance(config, DenseDataConfig):
        assumed = load_start(config).preprocessing.unstated
    if isinstance(data, DenseDataConfig):
        return digest_data(read_dense(data, assumed=assumed, divided=False).samples)
    return digest_data(read_labelled(data, assumed=assumed, divided=False).samples)


def _check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse an existing run that would be mistaken for this one."""
    run, path = RunFolder(folder), folder / _RECORD
    if not (folder / "metrics.json").exists() and not run.config.exists():
        return
    advice = "Name another --output, or remove that folder to run it anew."
    try:
        before = read_json(path)
        changed = changed_settings(before["settings"], record["settings"])
        changed += [
            f"other {name}"
            for name in ("weights", "data")
            if before.get(name) != record.get(name)
        ]
    except (OSError, DataError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{folder} holds a run that does not say what it was made from ({_RECORD} "
            f"is missing or damaged), so its scores cannot be taken over. {advice}"
        ) from None
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings: {', '.join(changed[:_SHOWN])}. "
            f"{advice}"
        )


def _summarise(output: Path, runs: Mapping[str, _Run]) -> None:
    """Write study.json and study.csv of these runs, and of no other in the folder."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, (start, fraction, _) in runs.items():
        by_start = found.setdefault(fraction, {})
        scores = read_json(output / name / "metrics.json")
        by_start.setdefault(start, []).append(scores)
    table = {
        fraction: {start: _spread(scores) for start, scores in by_start.items()}
        for fraction, by_start in found.items()
    }
    write_json(output / "study.json", table)
    write_table(output / "study.csv", _rows(table))


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
        # A study compares with a forest of its own, which is fitted once; of classes.
        merged = {"floors": config.task == "regression", **merged}
    return {**merged, "data": data, "seed": seed}


def _resolve(task: StudyTask, start: str, settings: Mapping[str, Any]) -> _Config:
    """Build the configuration of a run; mistakes in its settings are found here."""
    where = f"start {start}"
    if settings.get("method") == FOREST:
        return build_config(settings["data"], DenseDataConfig, f"{where}, data")
    if task == "classification":
        return build_config(settings, FinetuneConfig, where)
    if task == "regression":
        return build_config(settings, RegressionFinetuneConfig, where)
    return build_config(settings, DenseFinetuneConfig, where)


def _run(config: _Config, settings: Mapping[str, Any], folder: Path) -> None:
    if isinstance(config, DenseDataConfig):
        sensor, seed = settings.get("sensor"), settings["seed"]
        evaluate_forest(config, folder, sensor=sensor, seed=seed)
        return
    # A run that was cut off goes on where it was.
    finetune(config, folder, resume=RunFolder(folder).config.exists())


def _spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spread of each score over runs, with the class that it is about, if any."""
    positive = runs[0].get("positive")
    return {
        metric: {
            **spread([run["test"][metric] for run in runs]),
            "class": positive if metric in POSITIVE_SCORES else None,
        }
        for metric in runs[0]["test"]
    }


def _rows(table: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "labels": fraction,
            "start": start,
            "seeds": len(entry["values"]),
            "score": metric,
            "mean": f"{entry['mean']:.6f}",
            "std": f"{entry['std']:.6f}",
            "class": entry["class"],
        }
        for fraction, by_start in table.items()
        for start, scores in by_start.items()
        for metric, entry in scores.items()
    ]
