"""Parts of a configuration that say only what differs from the level above.

Stages take from the run what they do not say, data sets of a mixture from `data`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spectralgpt.config import build_config, check_keys
from spectralgpt.errors import ConfigError
from spectralgpt.training.pretrain_config import DataConfig, PretrainConfig

__all__ = [
    "DatasetConfig",
    "StageConfig",
    "check_name",
    "datasets_of",
    "merge_sections",
    "stages_of",
]

# Names become columns of tables and folders: nothing that leaves a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECTIONS = ("data", "masking", "optimizer", "trainer", "report")
_WHOLE_RUN = ("accelerator", "devices", "num_nodes", "strategy")
"""Settings of the processes, which are started once for all stages."""


@dataclass(frozen=True)
class DatasetConfig:
    """One data set of a run.

    Args:
        name: in metrics and reports.
        data: its whole configuration, without a mixture.
        weight: how often it is drawn, relative to the others.
    """

    name: str
    data: DataConfig
    weight: float = 1.0


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run.

    Args:
        number: from 1.
        name: as the configuration gives it.
        config: its whole configuration, that of a run without stages.
    """

    number: int
    name: str
    config: PretrainConfig

    @property
    def folder(self) -> str:
        """Name of its folder in that of the run."""
        return f"stage-{self.number}-{self.name}"


def datasets_of(data: DataConfig, where: str = "data") -> list[DatasetConfig]:
    """Return the data sets of a run; without a mixture there is one.

    Args:
        data: of the run or stage.
        where: of `data`, for messages.

    Raises:
        ConfigError: an unknown key or bad value, a missing or doubled name, or a weight
            that is not above 0.
    """
    if not data.mixture:
        return [DatasetConfig(Path(data.root).resolve().name or "images", data)]
    base = asdict(data)
    for name in ("mixture", "samples_per_epoch"):
        del base[name]
    known = (*base, "weight")
    found = []
    for number, entry in enumerate(data.mixture, start=1):
        place = f"{where}.mixture, entry {number}"
        values = _check_entry(entry, place, known)
        name, weight = values.pop("name"), values.pop("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{place} ({name}): weight is {weight!r}; use above 0.")
        own = build_config(
            merge_sections(base, values), DataConfig, f"{place} ({name})"
        )
        found.append(DatasetConfig(name, own, weight))
    _refuse_doubles([each.name for each in found], f"{where}.mixture")
    return found


def stages_of(config: PretrainConfig) -> list[StageConfig]:
    """Return the stages of a run, each with its whole configuration.

    Raises:
        ConfigError: an unknown key or bad value, a missing or doubled name, a stage
            without data, or one that wants other machines than the run.
    """
    base = asdict(config)
    for name in ("stages", "model"):
        del base[name]
    found = []
    for number, entry in enumerate(config.stages, start=1):
        place = f"stages, entry {number}"
        values = _check_entry(entry, place, (*_SECTIONS, "seed", "steps"))
        name = values.pop("name")
        place = f"stage {name!r}"
        _check_machines(values.get("trainer", {}), place)
        merged = merge_sections(_without_length(base, values), values)
        own = replace(build_config(merged, PretrainConfig, place), model=config.model)
        _check_data(own.data, place)
        found.append(StageConfig(number, name, own))
    _refuse_doubles([stage.name for stage in found], "stages")
    return found


def _without_length(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what the run says of an epoch's length, if the stage says it otherwise."""
    data = own.get("data", {})
    kept = dict(base)
    if own.get("steps") is not None:
        kept["data"] = {**base["data"], "samples_per_epoch": None}
    elif isinstance(data, Mapping) and data.get("samples_per_epoch") is not None:
        kept["steps"] = None
    return kept


def _check_entry(entry: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: expected keys with values, found {entry!r}.")
    check_keys(entry, where, required=("name",), optional=known)
    check_name(entry["name"], where)
    return dict(entry)


def check_name(name: Any, where: str) -> None:
    """Refuse what cannot name a column of a table, or a folder.

    Raises:
        ConfigError: it holds other than letters, digits, "-", "_" and ".".
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: name is {name!r}; use letters, digits, '-', '_' and '.'."
        )


def _check_machines(trainer: Any, where: str) -> None:
    if not isinstance(trainer, Mapping):
        raise ConfigError(f"{where}: trainer must hold keys, found {trainer!r}.")
    for name in _WHOLE_RUN:
        if name in trainer:
            raise ConfigError(
                f"{where}: trainer.{name} holds for all stages. Set it at the top "
                "level of the run."
            )


def _check_data(data: DataConfig, where: str) -> None:
    for each in datasets_of(data, f"{where}, data"):
        if each.data.root == Path() and not (each.data.sources or each.data.index):
            raise ConfigError(
                f"{where} has no data. Name data.root, data.sources or data.mixture, "
                "there or at the top level."
            )


def _refuse_doubles(names: Sequence[str], where: str) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{where}: the name {doubled[0]!r} is there twice.")


def merge_sections(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put `own` over `base`, section by section; a relative root goes below.

    Neither is changed.
    """
    merged = dict(base)
    for name, value in own.items():
        below = base.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[name] = merge_sections(below, value)
        elif name == "root" and below is not None and isinstance(value, str | Path):
            merged[name] = Path(below) / value
        else:
            merged[name] = value
    return merged
