"""The one reader of configurations: recipes, runs, sensors, descriptions, manifests.

YAML is bounded in size and depth before anything is built, with all that aliases stand
for: a text of a few lines can stand for more than memory holds. Values then become
dataclasses by the names and types of the fields, and an unknown key is an error that
suggests the nearest known one, so that no mistake becomes a default.
"""

import difflib
import inspect
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from spectralgpt.errors import ConfigError

Config = TypeVar("Config")
_WRONG: Any = object()
_SIGNS = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}
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


def list_yaml(*folders: str) -> list[str]:
    """Return the names of the YAML files in a folder of the package, sorted.

    Args:
        *folders: the way to it, such as `data`, `archives`.
    """
    entries = files("spectralgpt").joinpath(*folders).iterdir()
    names = (entry.name for entry in entries)
    return sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml"))


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration file strictly.

    Raises:
        ConfigError: an unknown key, named with the nearest known one, or a bad value.
    """
    return build_config(read_mapping(path), kind, str(path))


def build_config(
    values: Any, kind: type[Config], where: str, default: Config | None = None
) -> Config:
    """Build a tree of configuration dataclasses from nested plain values.

    Args:
        values: fields by name; those left out keep their defaults, in a section those
            that the configuration around it gives them.
        kind: the dataclass.
        where: file or option prefix, for messages.
        default: what gives the fields that are left out; None takes those of the class.

    Raises:
        ConfigError: an unknown key, or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys with values, found {values!r:.80}.")
    hints: dict[str, Any] = get_type_hints(kind)
    kept = _defaults(kind, default)
    needed = [name for name in hints if name not in kept]
    check_keys(values, where, required=needed, optional=list(kept))
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        inner = next(filter(is_dataclass, (hint, *get_args(hint))), None)
        if isinstance(inner, type) and isinstance(value, Mapping):
            section = kept.get(name)
            usual = section if isinstance(section, inner) else None
            made[name] = build_config(value, inner, f"{where}, {name}", usual)
            continue
        made[name] = _fitted(value, hint, f"{where}: '{name}'")
    try:
        return kind(**(kept | made))
    except TypeError as error:
        raise ConfigError(f"{where}: a value has the wrong type: {error}.") from error


def fit_arguments(
    kind: type[Any], values: Mapping[str, Any], where: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Return plain values as the types that a constructor asks for.

    Args:
        kind: the class.
        values: arguments by name.
        where: what they are of, for messages.
        given: further arguments, which are there and not looked at.

    Raises:
        ConfigError: an unknown argument, a missing one, or one of another type.
    """
    known = inspect.signature(kind).parameters
    needed = {name for name, each in known.items() if each.default is each.empty}
    check_keys(values, where, required=needed - set(given), optional=list(known))
    hints = get_type_hints(kind.__init__)
    return {
        name: _fitted(value, hints[name], f"{where}: '{name}'")
        for name, value in values.items()
    }


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], section: str = ""
) -> list[str]:
    """Name the settings that differ between two resolved configurations.

    Args:
        before: nested plain values, as YAML or JSON gives them.
        now: likewise.
        section: name of the section that they are, with a dot.

    Returns:
        Lines such as "optimizer.base_lr 0.1 (now 0.2)".
    """
    changed = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += changed_settings(old, new, f"{section}{name}.")
        elif old != new:
            changed.append(f"{section}{name} {old} (now {new})")
    return changed


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
    """Return the number under `key`.

    Args:
        mapping: holds the key.
        key: names the value, in the message too.
        where: file, or the place in it, for the message.

    Raises:
        ConfigError: the value is no number.
    """
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
    """Return the text under `key`; for the arguments see `take_number`.

    Raises:
        ConfigError: the value is no text, or blank.
    """
    value = mapping[key]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: '{key}' must be text, found {value!r:.80}.")
    return value


def check_range(rule: str, values: object, *names: str, section: str = "") -> None:
    """Refuse numbers outside of a range; None is not looked at.

    Args:
        rule: as messages say it, such as `above 0 and at most 1`.
        values: what holds the numbers, or a table of them.
        *names: theirs; all of a table.
        section: put before names in messages, such as `trainer.`.

    Raises:
        ConfigError: one is outside, or no finite number.
    """
    table = values if isinstance(values, Mapping) else vars(values)
    parts = f"{rule} and above -inf and below inf".split(" and ")
    bounds = [part.rsplit(" ", 1) for part in parts]
    for name in names or table:
        value = table[name]
        if value is not None and not (
            isinstance(value, Real)
            and all(_SIGNS[sign](value, float(bound)) for sign, bound in bounds)
        ):
            raise ConfigError(f"{section}{name} is {value!s:.40}; it must be {rule}.")


def suggest(word: str, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the known word nearest to `word`, or ""."""
    lowered = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean '{lowered[nearest[0]]}'?" if nearest else ""


def _defaults(kind: type[Any], default: object | None) -> dict[str, Any]:
    """Return fields by name, of an instance or of the class, as far as it has any."""
    found = {}
    for each in fields(kind):
        if default is not None:
            found[each.name] = getattr(default, each.name)
        elif each.default is not MISSING:
            found[each.name] = each.default
        elif each.default_factory is not MISSING:
            found[each.name] = each.default_factory()
    return found


def _fitted(value: Any, hint: Any, name: str) -> Any:
    fitted = _fit(value, hint)
    if fitted is _WRONG:
        raise ConfigError(f"{name} must be {say_type(hint)}, found {value!r:.80}.")
    return fitted


def _fit(value: Any, hint: Any) -> Any:
    """Return a plain value as the type that a field asks for, `_WRONG` if it is none.

    Lists become tuples, text becomes paths, and numbers are read where YAML sees text,
    as in 1e-4.
    """
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        fitted = (_fit(value, choice) for choice in choices)
        return next((found for found in fitted if found is not _WRONG), _WRONG)
    if origin is Literal:
        return value if value in choices else _WRONG
    if origin is tuple:
        return _fit_tuple(value, choices)
    if hint is float:
        return _fit_number(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    kind = Integral if hint is int else origin or hint
    if isinstance(value, bool) and kind is not bool:
        return _WRONG
    if isinstance(value, str) and kind is Sequence:
        return _WRONG
    return value if isinstance(value, kind) else _WRONG


def _fit_tuple(value: Any, choices: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    if choices[-1] is Ellipsis:
        choices = choices[:1] * len(value)
    if len(choices) != len(value):
        return _WRONG
    fitted = tuple(_fit(v, choice) for v, choice in zip(value, choices, strict=True))
    return _WRONG if any(found is _WRONG for found in fitted) else fitted


def _fit_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _WRONG
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _WRONG
    if isinstance(value, str):
        return number if math.isfinite(number) else _WRONG
    return value


_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Sequence: "a list",
    list: "a list",
}
_RESTRICTED = {
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number from 0 on",
    "NonNegativeFloat": "a number from 0 on",
}
"""Types of jsonargparse, by name."""


def say_type(hint: Any) -> str:
    """Say in words what a value must be."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(say_type(each) for each in choices if each is not NoneType)
    if origin is Literal:
        return " or ".join(map(str, choices))
    if origin is tuple and choices[-1] is Ellipsis:
        word = say_type(choices[0]).removeprefix("a ")
        return f"a list of {word.removesuffix('s')}s"
    if origin is tuple:
        return f"a list of {len(choices)}: {', '.join(map(say_type, choices))}"
    restricted = _RESTRICTED.get(getattr(hint, "__name__", ""))
    return restricted or _WORDS.get(origin or hint, "keys with values")


@dataclass
class _Node:
    """A value in the making, with all that its aliases stand for, itself included."""

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
