"""How options are written: hyphens for people, underscores inside, as in YAML.

Every option is known to its parser by the name of its value, `--trainer.batch_size`;
people read and write `--trainer.batch-size`, and older spellings are taken, too.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

from spectralgpt.config import say_type

_SHORT = {"-o": "--output", "-m": "--model"}
_SHORT_WORD = re.compile(r"(-[om])(?:=?(?P<value>.+))?", re.DOTALL)
_OPTION = re.compile(r"--[A-Za-z][\w.-]*")
_TRUTHS = {"true", "false", "yes", "no", "null", "none"}
_NO = "--no_"
_NOTHING: tuple[Any, ...] = (None, "", (), [], argparse.SUPPRESS)


def spell_inside(words: Iterable[str]) -> list[str]:
    """Return the words of a command with options as parsers know them.

    What follows a bare `--` is left alone, as are values.
    """
    spelled: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*spelled, word, *rest]
        if found := _SHORT_WORD.fullmatch(word):
            value = found["value"]
            spelled += [_SHORT[found[1]], *([] if value is None else [value])]
            continue
        name, is_given, value = word.partition("=")
        if _OPTION.fullmatch(name):
            name = f"--{name[2:].replace('-', '_')}"
        spelled.append(f"{name}{is_given}{value}")
    return spelled


def spell_outside(text: str) -> str:
    """Return a text with options as people write them."""
    return _OPTION.sub(lambda found: found[0].replace("_", "-"), text)


def give_truths(words: Sequence[str], actions: Iterable[argparse.Action]) -> list[str]:
    """Write true and false out: `--flip` as `--flip=true`, `--no_flip` as false.

    Args:
        words: as `spell_inside` gives them.
        actions: of the options.
    """
    truths = {
        option
        for action in actions
        if _is_truth(action)
        for option in action.option_strings
    }
    given: list[str] = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        negated = f"--{word.removeprefix(_NO)}"
        if word in truths and following.lower() not in _TRUTHS:
            given.append(f"{word}=true")
        elif word.startswith(_NO) and negated in truths:
            given.append(f"{negated}=false")
        else:
            given.append(word)
    return given


def names_of(action: argparse.Action) -> list[str]:
    """Return an option's names as people write them, short ones first."""
    names = [spell_outside(option) for option in action.option_strings]
    if hasattr(action, "_typehint"):
        # Sections have none, and no short name.
        names = [*(k for k, v in _SHORT.items() if v in names), *names]
    if _is_truth(action):
        names += [f"--no-{name.removeprefix('--')}" for name in names]
    return names


def choices_of(action: argparse.Action) -> list[str]:
    """Return the words that an option takes, as far as they are known."""
    return [
        str(w) for w in action.choices or _words_in(getattr(action, "_typehint", None))
    ]


def _words_in(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for inner in get_args(hint) for word in _words_in(inner)]


def _is_truth(action: argparse.Action) -> bool:
    hint = getattr(action, "_typehint", None)
    return hint is bool or set(get_args(hint)) == {bool, NoneType}


class WordsFormatter(DefaultHelpFormatter):
    """Help in words: a line of usage, options as people write them, no Python types."""

    def _format_usage(
        self, usage: Any, actions: Any, *args: Any, **options: Any
    ) -> str:
        needed = [a for a in actions if a.required or not a.option_strings]
        # Of a sub-command, where the options of the command would stand.
        self._prog = self._prog.replace(" [options]", "")
        text = spell_outside(super()._format_usage(usage, needed, *args, **options))
        return text.replace(self._prog, f"{self._prog} [options]", 1)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(super()._format_action_invocation(action))
        names = names_of(action)
        if action.nargs != 0 and not _is_truth(action):
            metavar = self._get_default_metavar_for_optional(action)
            names[-1] += f" {self._format_args(action, metavar)}"
        return ", ".join(names)

    def _get_help_string(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._HelpAction) or action.help is None:
            return str(super()._get_help_string(action))
        notes = ["required"] if action.required else []
        notes += filter(None, [self._get_type_str(action)])
        if _is_truth(action):
            usual = "null" if action.default is None else str(action.default).lower()
            notes.append(f"default: {usual}")
        elif action.default not in _NOTHING and action.default is not False:
            notes.append("default: %(default)s")
        about = f" ({'; '.join(notes)})" if notes else ""
        return f"{spell_outside(action.help)}{about}"

    def _get_type_str(self, action: argparse.Action) -> str | None:
        hint = getattr(action, "_typehint", None) or action.type
        is_shown = _is_truth(action) or get_origin(hint) is Literal
        if hint is None or is_shown or hint is Any:
            return None
        is_type = isinstance(hint, type) or get_origin(hint) is not None
        return say_type(hint) if is_type else repr(hint)
