"""What shells and editors complete: commands, options, their values; settings in files.

The script for a shell is made once, from the parsers themselves: to ask the command at
each key would take seconds.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from spectralgpt.cli.spelling import choices_of, names_of
from spectralgpt.config import list_yaml, read_mapping
from spectralgpt.recipes import find_recipe, list_recipes
from spectralgpt.weights import list_weights

# The bash of a Mac is old: no tables. Where nothing fits, files do.
_BASH = """\
_spectralgpt_words() {
    case "$1" in
%s
    *) return 1 ;;
    esac
}
_spectralgpt() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local place=spectralgpt each words
    [[ $before == '=' ]] && before=${COMP_WORDS[COMP_CWORD-2]}
    [[ $word == '=' ]] && word=
    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $each != -* ]] && _spectralgpt_words "$place $each" > /dev/null &&
            place="$place $each"
    done
    words=$(_spectralgpt_words "$place $before") || {
        [[ $word == -* ]] && place="$place -"
        words=$(_spectralgpt_words "$place")
    }
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o bashdefault -o default -F _spectralgpt spectralgpt
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
"""
SHELLS = {"bash": _BASH, "zsh": _ZSH + _BASH}


def write_script(shell: str, parsers: Mapping[str, ArgumentParser | None]) -> str:
    """Return the script that lets one of `SHELLS` complete the command line.

    Args:
        shell: its name.
        parsers: of the commands, by name; None where one could not be made.
    """
    lines: list[tuple[str, Iterable[str]]] = [
        ("spectralgpt", parsers),
        ("spectralgpt -", ["--help", "--version", "--print-completion"]),
        ("spectralgpt --print-completion", SHELLS),
    ]
    for name, parser in parsers.items():
        lines += [] if parser is None else _lines(parser, f"spectralgpt {name}")
    return SHELLS[shell] % "\n".join(
        f"    {shlex.quote(place)}) echo {shlex.quote(' '.join(words))} ;;"
        for place, words in lines
    )


def _lines(parser: ArgumentParser, place: str) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield what may follow a command, then each of its options, then its parts."""
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    options = [a for a in actions if a.option_strings]
    parts = parser._subcommands_action.choices if parser._subcommands_action else {}
    yield place, parts
    yield f"{place} -", [name for action in options for name in names_of(action)]
    for action in options:
        known = choices_of(action)
        if hasattr(action, "_typehint") and not known:
            known = _named(action.dest.rpartition(".")[2])
        elif isinstance(action, ActionConfigFile):
            settings = {each.dest for each in actions}
            known = [name for name, keys in _recipes().items() if keys <= settings]
        if known and action.nargs != 0:
            yield from ((f"{place} {name}", known) for name in names_of(action))
    for name, part in parts.items():
        yield from _lines(part, f"{place} {name}")


@cache
def _recipes() -> dict[str, set[str]]:
    """Return the settings of each recipe: those of a command are among its options."""
    return {name: set(read_mapping(find_recipe(name))) for name in list_recipes()}


def _named(option: str) -> list[str]:
    """Return what an option names, where we know some: files may be named as well."""
    from spectralgpt import objectives  # brings torch

    if option in ("model", "start_from"):
        return list(list_weights())
    if option == "sensor":
        return list_yaml("sensors")
    return list(objectives.names()) if option == "objective" else []


class PrintSchema(argparse._VersionAction):
    """Print a JSON Schema of a command's file in place of any work, like a version."""

    def __init__(self, option_strings: list[str], dest: str, **_: Any) -> None:
        text = "print a JSON Schema of that file, for editors"
        super().__init__(option_strings, help=text)
        self.nargs, self.choices = None, ["jsonschema"]

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print, and end; it is no error where nobody reads all of it."""
        assert isinstance(parser, ArgumentParser)
        schema = _of_files(json.loads(parser.get_completion_script("jsonschema")))
        parser._print_message(f"{json.dumps(schema, indent=2)}\n", sys.stdout)
        parser.exit()


def _of_files(node: Any, name: str = "") -> Any:
    """Leave out what a file need not hold, as options may say it, and may not."""
    if isinstance(node, list):
        return [_of_files(each) for each in node]
    if not isinstance(node, dict):
        return node
    dropped = "$schema" if name == "properties" else "required"
    return {key: _of_files(v, key) for key, v in node.items() if key != dropped}
