"""`spectralgpt compare`: the same task from several starts, over labels and seeds."""

from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import ConfigFile, add_options, plain_values
from spectralgpt.config import parse_yaml
from spectralgpt.errors import ConfigError

HELP = "Compare starts of a task, such as pretrained and random, over labels and seeds."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.study import StudyConfig

    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file of the study, or a recipe's name"
    )
    add_options(
        parser,
        output=(
            Path,
            ...,
            "folder of the study; runs that are finished there are not run again",
        ),
    )
    parser.add_class_arguments(StudyConfig, as_group=False, skip={"finetune"})
    # Of its own type: as a mapping, --finetune.data.X would replace all of `data`.
    add_options(
        parser,
        finetune=(
            _mapping,
            ...,
            "settings of `spectralgpt finetune TASK` that all starts share",
        ),
    )
    parser.add_argument(
        "--set",
        type=str,
        action="append",
        default=[],
        help="change one setting of the file: --set finetune.data.label_share=0.1; may "
        "be given again",
    )


def _mapping(value: Any) -> dict[str, Any]:
    found = parse_yaml(value, "a mapping") if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise ArgumentTypeError(
            f"it takes a mapping of settings, found {value!r}; one setting is changed "
            "by --set finetune.KEY=VALUE."
        )
    return dict(found)


def run(args: Namespace) -> Path:
    """Run the study; returns its folder with study.json and study.csv."""
    from rich.console import Console

    from spectralgpt.cli.results import print_study
    from spectralgpt.config import build_config
    from spectralgpt.training.study import StudyConfig, run_study

    console = Console(stderr=True)
    values = plain_values(args)
    _change(values, values.pop("set"))
    folder = run_study(
        build_config(values, StudyConfig, "the command line"),
        args.output,
        lambda name, number, total: console.print(f"run {number + 1}/{total}: {name}"),
    )
    print_study(folder, console)
    return folder


def _change(values: dict[str, Any], changes: Sequence[str]) -> None:
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
