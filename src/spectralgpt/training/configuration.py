"""From plain values, as YAML or the command line gives them, to configurations."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from spectralgpt.errors import ConfigError
from spectralgpt.yaml_files import check_keys, read_mapping

__all__ = ["build_config", "read_config"]

Config = TypeVar("Config")


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration file strictly.

    Raises:
        ConfigError: an unknown key, named with the nearest known one, or a bad value.
    """
    return build_config(read_mapping(path), kind, str(path))


def build_config(values: Mapping[str, Any], kind: type[Config], where: str) -> Config:
    """Build a tree of configuration dataclasses from nested plain values.

    Args:
        values: fields by name; those left out keep their defaults.
        kind: the dataclass.
        where: file or option prefix, for messages.

    Raises:
        ConfigError: an unknown key, or a value that the dataclass refuses.
    """
    hints: dict[str, Any] = get_type_hints(kind)
    check_keys(values, where, optional=tuple(hints))
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
            made[name] = build_config(value, hint, f"{where}, {name}")
        elif isinstance(value, list):
            made[name] = tuple(value)
        elif hint is Path:
            made[name] = Path(value)
        else:
            made[name] = value
    try:
        return kind(**made)
    except TypeError as error:
        raise ConfigError(f"{where}: a value has the wrong type: {error}.") from error
