"""`spectralgpt compare`: the same task from several starts, over labels and seeds."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import ConfigFile, plain_values

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Compare starts of a task, such as pretrained and random, over labels and seeds."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.study import StudyConfig

    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file of the study, or a recipe's name"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of the study; runs that are finished there are not run again",
    )
    parser.add_class_arguments(StudyConfig, as_group=False)


def run(args: Namespace) -> Path:
    """Run the study; returns its folder with study.json and study.csv."""
    from rich.console import Console

    from spectralgpt.cli.results import print_study
    from spectralgpt.training.configuration import build_config
    from spectralgpt.training.study import StudyConfig, run_study

    console = Console(stderr=True)
    folder = run_study(
        build_config(plain_values(args), StudyConfig, "the command line"),
        args.output,
        lambda name, number, total: console.print(f"run {number + 1}/{total}: {name}"),
    )
    print_study(folder, console)
    return folder
