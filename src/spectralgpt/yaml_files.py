"""Strict reading of the YAML tables that describe sensors and data sets.

A key nobody knows is an error that suggests the nearest known one, so a typing mistake
never turns into a default. What the values mean is left to the callers.
"""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from spectralgpt.errors import ConfigError

__all__ = ["check_keys", "read_mapping", "suggest", "take_number", "take_text"]


def suggest(word: str, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the known word nearest to `word`, or ""."""
    lowered = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean '{lowered[nearest[0]]}'?" if nearest else ""


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with text keys.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {problem}") from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise ConfigError(
            f"{path} must hold keys with values, found {type(content).__name__}."
        )
    return content


def check_keys(
    mapping: Mapping[str, Any],
    where: str,
    *,
    required: Collection[str] = (),
    optional: Collection[str] = (),
) -> None:
    """Refuse unknown and missing keys.

    Args:
        mapping: what was read.
        where: file and place, for the message.
        required: keys that must be there.
        optional: keys that may be there.

    Raises:
        ConfigError: names the file, the key and the nearest known key.
    """
    known = [*required, *optional]
    for key in mapping:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key '{key}'{suggest(str(key), known)} "
                f"(known: {', '.join(known)})."
            )
    missing = [key for key in required if key not in mapping]
    if missing:
        raise ConfigError(f"{where}: key '{missing[0]}' is missing. Add it.")


def take_number(mapping: Mapping[str, Any], key: str, where: str) -> float:
    """Return the number under `key`, or say which file and key hold something else."""
    value = mapping[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: '{key}' must be a number, found {value!r}.")
    return float(value)


def take_text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text under `key`, or say which file and key hold something else."""
    value = mapping[key]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: '{key}' must be text, found {value!r}.")
    return value
