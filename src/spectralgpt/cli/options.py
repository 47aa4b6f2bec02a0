"""Options that several commands share."""

import argparse
import contextlib
import functools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
)

from spectralgpt.cli.completion import PrintSchema
from spectralgpt.cli.spelling import (
    WordsFormatter,
    give_truths,
    spell_inside,
    spell_outside,
)
from spectralgpt.config import (
    VALUE_ERRORS,
    check_keys,
    check_yaml,
    parse_yaml,
    read_mapping,
    say_type,
    suggest,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.sizes import find_weights
from spectralgpt.recipes import find_recipe
from spectralgpt.sensors import find_sensor

if TYPE_CHECKING:
    from rich.console import Console

Settings = TypeVar("Settings")
Option = str | tuple[Any, str] | tuple[Any, Any, str]
"""The help of what is only said, or not; type and help of what is null by default;
type, default (... where a value must be given) and help."""
Options = dict[str, Option]
# Options of a run that are no part of its configuration.
_RUN_OPTIONS = (
    *("config", "output", "overwrite", "resume", "find_lr"),
    *("debug", "verbose", "quiet"),
)
_FILE_NOTE = "__path__"
_WRONG_VALUE = re.compile(
    r'Parser key "(?P<name>[^"]+)":\s.*(?:(?:Got|Given) value: |type \w+: '
    r"(?:[^\n:]*: ')?)(?P<value>[^\n]*?)(?:'?(?:\n|$)| does not conform)",
    re.DOTALL,
)
_NESTED = re.compile(r"NestedArg\(key='([^']*)'")
# As newer and older versions of jsonargparse say it.
_LACKING = re.compile(
    r"the following arguments are required: (?P<names>.*)"
    r"|Option '(?P<name>[^']*)' is required"
)
_UNKNOWN = re.compile(r"[Uu]nrecognized arguments: (?P<words>.*)", re.DOTALL)
_LIST_OPTION = re.compile(
    r"(?P<name>--([\w.]+\.)?(((use|exclude|input)_)?bands|nodata))(=(?P<value>.*))?"
)
_COORDINATES = re.compile(r"^-[\d.][^,]*,")
"""Words such as -3.7,40.3 are values; argparse takes what has no space for an option.
"""
# Options that name files to be read.
_FILES = ("input", "inputs", "scenes", "paths", "before", "after", "masks")


class CommandParser(ArgumentParser):
    """A parser in which single options override files, wherever they stand.

    jsonargparse takes words in turn, so that a file would undo options before it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, formatter_class=WordsFormatter, **options)

    def add_config(self) -> None:
        """Let a file give the options, of each sub-command if there are any."""
        if self._subcommands_action is not None:
            for part in self._subcommands_action.choices.values():
                part.add_config()
            return
        if "--config" not in self._option_string_actions:
            help_text = "YAML file of options, with underscores in their names"
            self.add_argument("--config", action=ConfigFile, help=help_text)
        self.add_argument("--print_completion", action=PrintSchema)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str], *more: Any, **options: Any
    ) -> Namespace:
        """Parse words, those of files first, lists and coordinates as a user writes.

        Raises:
            ConfigError: a number is too large for any option.
        """
        _bound_yaml()
        inside = spell_inside(args)
        actions = self._actions_of(inside)
        spelled = _spell_lists(give_truths(inside, actions))
        spelled = [_COORDINATES.sub(r" \g<0>", word) for word in spelled]
        words = self._files_first(spelled)
        try:
            return super().parse_args(words, *more, **options)
        except ArgumentError as error:
            said = self._reworded(str(error), actions)
            raise ArgumentError(None, spell_outside(said)) from None
        except OverflowError as error:
            raise ConfigError(f"a number is out of all bounds: {error}.") from None

    def _actions_of(self, words: Sequence[str]) -> list[argparse.Action]:
        """Return all options that words may use, those of a sub-command, too."""
        parts = self._subcommands_action.choices if self._subcommands_action else {}
        named = next((parts[word] for word in words if word in parts), None)
        inner = [] if named is None else named._actions_of(words)
        return [*self._actions, *inner]

    def _reworded(self, text: str, actions: Sequence[argparse.Action]) -> str:
        """Say what is wrong with an option in words, as our own messages do."""
        if found := _WRONG_VALUE.search(text):
            name, value = self._option(found["name"]), found["value"]
            kind = self._kind(found["name"], actions)
            if part := _NESTED.match(value):
                return f"{name}.{part[1]}: no such option, for {name} is {kind}"
            return f"{name} must be {kind}, found {value}"
        if found := _LACKING.search(text):
            lacking = found["names"] or found["name"]
            names = map(self._option, lacking.split(", "))
            return f"{', '.join(names)}: required and not given"
        found = _UNKNOWN.search(text)
        if found is None or "did you mean" in text:
            return text
        unknown = [w for w in found["words"].split() if w.startswith("-")]
        if not unknown:
            return f"more words than the command takes: {found['words']}"
        name = unknown[0].partition("=")[0]
        known = [each for action in actions for each in action.option_strings]
        return f"no such option: {name}{suggest(name, known)}"

    def _kind(self, name: str, actions: Sequence[argparse.Action]) -> str:
        """Say what a value must be, by the name that it has, also within a part."""
        hints = (
            getattr(action, "_typehint", None)
            for action in actions
            if f".{name}".endswith(f".{action.dest}")
        )
        return next((say_type(hint) for hint in hints if hint), "another")

    def _option(self, name: str) -> str:
        """Return an option as it is written, by the name that its value has."""
        parts = self._subcommands_action.choices if self._subcommands_action else {}
        part, _, rest = name.partition(".")
        if part in parts:
            inner: str = parts[part]._option(rest)
            return inner
        words = [each.dest for each in self._actions if not each.option_strings]
        return name if name in words else f"--{name}"

    def _files_first(self, words: list[str]) -> list[str]:
        known = self.get_defaults(skip_validation=True)
        sections = [
            name
            for name in known.keys(branches=True)
            if isinstance(known[name], Namespace)
        ]
        # A file of a section says more than one of all, of a smaller one still more.
        sections.sort(key=lambda name: name.count("."))
        files = [
            word
            for name in (*(["config"] if "config" in known else []), *sections)
            for word in _take(words, f"--{name}")
        ]
        return files + words


def _take(words: list[str], option: str) -> list[str]:
    """Take an option, each time with its value, out of the words of a command."""
    taken: list[str] = []
    at = 0
    while at < len(words):
        following = words[at + 1 :] or ["--"]
        is_pair = words[at] == option and not following[0].startswith("--")
        size = 2 if is_pair else int(words[at].startswith(f"{option}="))
        taken += words[at : at + size]
        del words[at : at + size]
        at += not size
    return taken


class ConfigFile(ActionConfigFile):
    """`--config`: a YAML file or the name of a recipe, read strictly."""

    def __call__(  # type: ignore[override]
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str,
        option_string: str | None = None,
    ) -> None:
        """Read the file into the namespace.

        Raises:
            ConfigError: no such file or recipe, or a key that no option has; names the
                nearest known key.
        """
        path = find_recipe(values)
        known = parser.get_defaults(skip_validation=True).as_dict()
        _check_tree(read_mapping(path), known, str(path))
        self.apply_config(parser, namespace, self.dest, str(path))


@functools.cache
def _bound_yaml() -> None:
    """Let jsonargparse read YAML, of files and of options, within our bounds only."""
    load = get_loader("yaml")

    def load_bounded(text: str) -> Any:
        check_yaml(text, "the YAML")
        return load(text)

    set_loader("yaml", load_bounded, (yaml.YAMLError, *VALUE_ERRORS))


def _check_tree(
    values: Mapping[str, Any], known: Mapping[str, Any], where: str
) -> None:
    check_keys(values, where, optional=tuple(known))
    for name, value in values.items():
        # Empty by default are free tables, which what takes them checks.
        below = known[name]
        if isinstance(value, Mapping) and isinstance(below, Mapping) and below:
            _check_tree(value, below, f"{where}, {name}")


def error_console() -> "Console":
    """Return what writes to stderr, and nothing with --quiet."""
    from rich.console import Console

    is_quiet = not logging.getLogger().isEnabledFor(logging.WARNING)
    return Console(stderr=True, quiet=is_quiet)


@contextlib.contextmanager
def counting(
    what: str, total: float | None = None, *, is_numbered: bool = False
) -> Iterator[Callable[..., None]]:
    """Show how much is done and the time left, on a terminal only.

    Args:
        what: is being done.
        total: all there is to do; None where that is not known yet.
        is_numbered: show numbers, not a bar, and nothing in the end.

    Yields:
        What takes `advance`, or `completed`, `total` and `description`.
    """
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", MofNCompleteColumn(), TimeRemainingColumn())
    console = error_console()
    with Progress(
        *(columns if is_numbered else Progress.get_default_columns()),
        console=console,
        transient=is_numbered,
        disable=console.quiet or not console.is_terminal,
    ) as bar:
        yield functools.partial(bar.update, bar.add_task(what, total=total))


def _spell_lists(words: Sequence[str]) -> list[str]:
    """Write lists of bands and numbers as YAML does: `--bands B1,B2` as `[B1, B2]`.

    Negative numbers are then not mistaken for options, either.
    """
    spelled: list[str] = []
    rest = iter(words)
    for word in rest:
        found = _LIST_OPTION.fullmatch(word)
        value = None if found is None else found["value"] or next(rest, None)
        if found is None or value is None:
            spelled.append(word)
            continue
        if not (value.startswith("[") or value in ("auto", "null", "None")):
            items = [item for item in re.split(r"[,\s]+", value) if item]
            numbers = found["name"].endswith("nodata")
            value = f"[{', '.join(items)}]" if numbers else json.dumps(items)
        spelled.append(f"{found['name']}={value}")
    return spelled


def plain_values(args: Namespace) -> dict[str, Any]:
    """Return what was configured, without the options of the run itself.

    A section that came from a file of its own, as in `--trainer FILE`, is noted by
    jsonargparse with that file's path, which is no setting.
    """
    values = _without_notes(args.as_dict())
    return {name: v for name, v in values.items() if name not in _RUN_OPTIONS}


def add_options(parser: ArgumentParser, note: str = "", /, **options: Option) -> None:
    """Add options by name.

    Args:
        parser: of the command.
        note: begins each help text.
        **options: see `Option`.
    """
    for name, option in options.items():
        known: dict[str, Any] = {}
        match option:
            case (kind, default, text):
                wanted = {"required": True} if default is ... else {"default": default}
                known = {"type": kind, **wanted}
            case (kind, text):
                known = {"type": kind | None, "default": None}
            case text:
                known = {"action": "store_true"}
        parser.add_argument(f"--{name}", help=f"{note}{text}", **known)


def from_options(kind: type[Settings], args: Namespace, **stated: Any) -> Settings:
    """Build a dataclass whose fields are options of the same names.

    Args:
        kind: the dataclass.
        args: of the command.
        stated: fields that are no options, or not as they were given.
    """
    names = {each.name for each in fields(cast(Any, kind))} - stated.keys()
    return kind(**stated, **{name: args[name] for name in names})


def file_of(section: Mapping[str, Any]) -> Path | None:
    """Return the file that a section of the arguments was read from, if any."""
    note = section.get(_FILE_NOTE)
    return None if note is None else Path(str(note))


def _without_notes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_notes(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name != _FILE_NOTE
    }


def add_run_options(parser: ArgumentParser) -> None:
    """Add --config, --output, --overwrite, --resume and --find-lr."""
    parser.add_argument(
        "--config",
        action=ConfigFile,
        help="YAML file or name of a recipe (see spectralgpt recipes)",
    )
    add_options(
        parser,
        output=(Path, ..., "folder that gets all of the run"),
        overwrite="replace a run in the output folder",
        resume="go on from the last checkpoint in the output folder, if there is one",
        find_lr="begin no run: try rising learning rates in a short trial, suggest an "
        "optimizer.base_lr, and write the loss at each rate into the output folder",
    )


def read_early(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Read what can be checked before a command's own parser is there.

    Args:
        name: of the command.
        words: after it.

    Returns:
        Options by name; nothing if help is asked for, or the words are wrong.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    # What pretraining calls model is a section.
    model = "--model.start_from" if name == "pretrain" else "--model"
    parser.add_argument(model, dest="model")
    parser.add_argument("--config")
    for option in ("output", "json", "masks", "data.root"):
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--scenes", type=Path, nargs="+")
    for option in ("overwrite", "resume", "find_lr"):
        parser.add_argument(f"--{option}", action="store_true")
    if {"-h", "--help"} & set(words):
        return {}
    try:
        return vars(parser.parse_known_args(list(words))[0])
    except argparse.ArgumentError:
        # The command's own parser says what is wrong.
        return {}


def check_run(early: Mapping[str, Any]) -> None:
    """Refuse a folder that already holds a run; `early` is what `read_early` gives.

    Raises:
        ConfigError: it holds a run, which was not to be replaced or continued.
    """
    from spectralgpt.training.run_folder import RunFolder

    # A trial of rates leaves a run in the folder as it is.
    if early["output"] is not None and not early["find_lr"]:
        run = RunFolder(early["output"])
        run.check_free(overwrite=early["overwrite"], resume=early["resume"])


def check_stated(options: Namespace | Mapping[str, Any]) -> None:
    """Find wrong names of models, sensors and files before anything slow is done.

    What needs to be opened is left to the commands.

    Args:
        options: of any command; what it does not have is not looked at.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: there is no such sensor, or no such recipe or file of settings.
        DataError: none of the files that are to be read exists.
    """
    if isinstance(options.get("config"), str):
        read_mapping(find_recipe(options["config"]))
    for name in ("model", "source"):
        if isinstance(options.get(name), str):
            find_weights(options[name], is_needed=False)
    named = [path for name in _FILES for path in _paths_in(options.get(name))]
    if named and isinstance(options.get("sensor"), str):
        find_sensor(options["sensor"])
    # Of several, those that are there are done, and the others reported.
    if named and not any(map(_may_exist, named)):
        raise DataError(f"{named[0]} does not exist. Check the path.")
    root = options.get("data.root")
    if isinstance(root, Path) and not root.exists():
        raise DataError(f"{root} does not exist (option data.root). Check the path.")


def _paths_in(value: Any) -> list[Path]:
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, Path)]


def _may_exist(path: Path) -> bool:
    # Parts of a file are named below it, as in COLLECTION.json/ITEM.
    return path.exists() or any(parent.is_file() for parent in path.parents)


CHECKPOINT = (
    "a run folder, a file, or a name (of `spectralgpt weights list`, or owner/name of "
    "the Hub)"
)
"""What a model is named by, in help."""


class _Mapping:
    """Type of an option: a mapping of settings, as YAML or as it is."""

    def __call__(self, value: Any) -> dict[str, Any]:
        found = parse_yaml(value, "a mapping") if isinstance(value, str) else value
        if not isinstance(found, Mapping):
            raise argparse.ArgumentTypeError(
                f"it takes a mapping of settings, found {value!r}; one setting is "
                "changed by --set SECTION.KEY=VALUE."
            )
        return dict(found)

    def __repr__(self) -> str:
        return "mapping of settings"


def add_study_options(
    parser: ArgumentParser, kind: type, output: str, example: str, **tables: str
) -> None:
    """Add the options of a file of settings that single options change.

    Args:
        parser: of the command.
        kind: class of the settings.
        output: help of the folder that it makes.
        example: a setting to change, as `--set` takes it.
        **tables: help of those settings that are tables of any keys. As mappings,
            `--TABLE.data.X` would replace all of `data`.
    """
    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file of settings, or a recipe's name"
    )
    add_options(parser, output=(Path, ..., output))
    parser.add_class_arguments(kind, as_group=False, skip=set(tables))
    own = {name: (_Mapping(), ..., text) for name, text in tables.items()}
    add_options(parser, **own)
    parser.add_argument(
        "--set",
        type=str,
        action="append",
        default=[],
        help=f"change one setting of the file: --set {example}; may be given again",
    )


def change_settings(values: dict[str, Any], changes: Sequence[str]) -> None:
    """Set what `--set a.b.c=VALUE` says, in place; VALUE is YAML."""
    for change in changes:
        path, is_set, text = change.partition("=")
        *sections, name = path.split(".")
        at: Any = values
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if not is_set or not isinstance(at, dict) or (not sections and name not in at):
            raise ConfigError(
                f"--set {change}: write KEY=VALUE, with sections that the file has, "
                f"such as finetune.trainer.epochs=5; it has {', '.join(values)}."
            )
        at[name] = parse_yaml(text, f"--set {change[:80]}")
