"""From plain values, as YAML or the command line gives them, to dataclasses: strictly.

Recipes, runs, descriptions of data sets and manifests are all read here: by the names
and types of the fields, so that no mistake becomes a default.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spectralgpt.errors import ConfigError
from spectralgpt.yaml_files import check_keys, read_mapping

__all__ = ["build_config", "changed_settings", "read_config"]

Config = TypeVar("Config")
_WRONG: Any = object()


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration file strictly.

    Raises:
        ConfigError: an unknown key, named with the nearest known one, or a bad value.
    """
    return build_config(read_mapping(path), kind, str(path))


def build_config(
    values: Any,
    kind: type[Config],
    where: str,
    default: Config | None = None,
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
        made[name] = _fit(value, hint)
        if made[name] is _WRONG:
            raise ConfigError(
                f"{where}: '{name}' must be {_say(hint)}, found {value!r:.80}."
            )
    try:
        return kind(**(kept | made))
    except TypeError as error:
        raise ConfigError(f"{where}: a value has the wrong type: {error}.") from error


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
    kind = origin or hint
    if isinstance(value, bool) and kind is not bool:
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
}


def _say(hint: Any) -> str:
    """Say in words what a value must be."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_say(each) for each in choices if each is not NoneType)
    if origin is Literal:
        return " or ".join(map(str, choices))
    if origin is tuple and choices[-1] is Ellipsis:
        word = _say(choices[0]).removeprefix("a ")
        return f"a list of {word}s"
    if origin is tuple:
        return f"a list of {len(choices)}: {', '.join(map(_say, choices))}"
    return _WORDS.get(hint, "keys with values")
