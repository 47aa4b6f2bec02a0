"""The one reader of YAML from outside: descriptions, sensors, recipes, runs.

Size and depth are bounded before anything is built, with all that aliases stand for: a
text of a few lines can stand for more than memory holds. A key nobody knows is an error
that suggests the nearest known one, so a typing mistake never turns into a default.
What the values mean is left to the callers.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spectralgpt.errors import ConfigError

__all__ = [
    "VALUE_ERRORS",
    "check_keys",
    "check_yaml",
    "parse_yaml",
    "read_mapping",
    "read_yaml",
    "suggest",
    "take_number",
    "take_text",
]

# Both build plain values only; libyaml is ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_CHARACTERS = 2**20
_MOST_DEPTH = 50
_MOST_VALUES = 2**18
# What building values raises: long numbers, months that are none, tags that do not fit.
VALUE_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)


def suggest(word: str, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the known word nearest to `word`, or ""."""
    lowered = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean '{lowered[nearest[0]]}'?" if nearest else ""


def parse_yaml(text: str, where: str) -> Any:
    """Return the plain values that a YAML text holds.

    Args:
        text: one document.
        where: what it is, for messages.

    Raises:
        ConfigError: it is no YAML, too long, nested deeply, has aliases that multiply,
            or a value that cannot be, such as a 13th month; one line that names
            `where`.
    """
    check_yaml(text, where)
    try:
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, *VALUE_ERRORS) as error:
        raise ConfigError(f"{where} is not valid YAML: {_one_line(error)}") from error


def check_yaml(text: str, where: str) -> None:
    """Refuse a YAML text that could cost much time or memory, before it is built.

    Raises:
        ConfigError: see `parse_yaml`.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(
            f"{where} has {len(text):,} characters, and at most {_MOST_CHARACTERS:,} "
            "are read: is it the right file?"
        )
    try:
        _measure(text, where)
    except (yaml.YAMLError, *VALUE_ERRORS) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where} is not valid YAML: {_one_line(error)}") from error


@dataclass
class _Node:
    """A value in the making, with all that its aliases stand for.

    Attributes:
        anchor: its name for aliases, if it has one.
        values: in it, itself included.
        levels: of nesting in it.
    """

    anchor: str | None = None
    values: int = 1
    levels: int = 0

    def add(self, inner: "_Node") -> None:
        self.values += inner.values
        self.levels = max(self.levels, inner.levels + 1)


def _measure(text: str, where: str) -> None:
    """Walk through a text's events; refuse depth, and aliases that multiply."""
    open_nodes = [_Node()]
    done: dict[str, _Node] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Node(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent | yaml.ScalarEvent):
            if isinstance(event, yaml.ScalarEvent):
                node = _Node(event.anchor)
            else:
                node = open_nodes.pop()
            open_nodes[-1].add(node)
            if node.anchor is not None:
                done[node.anchor] = node
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in done:
                raise ConfigError(
                    f"{where}: the alias *{event.anchor} stands for itself or for "
                    "nothing before it: write the value out in its place."
                )
            open_nodes[-1].add(done[event.anchor])
        top = open_nodes[-1]
        if len(open_nodes) + top.levels > _MOST_DEPTH:
            raise ConfigError(
                f"{where} is nested deeper than {_MOST_DEPTH} levels: it was not read."
            )
        if top.values > _MOST_VALUES:
            raise ConfigError(
                f"{where} has more than {_MOST_VALUES:,} values with those that its "
                "aliases stand for: it was not read. Write out what is meant."
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def read_yaml(path: Path) -> Any:
    """Read a YAML file in UTF-8; see `parse_yaml`.

    Raises:
        ConfigError: the file is missing or unreadable, or see `parse_yaml`.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with text keys.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    content = read_yaml(path)
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
        raise ConfigError(f"{where}: '{key}' must be a number, found {value!r:.80}.")
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{where}: '{key}' is a number of hundreds of digits.") from (
            None
        )


def take_text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text under `key`, or say which file and key hold something else."""
    value = mapping[key]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: '{key}' must be text, found {value!r:.80}.")
    return value
