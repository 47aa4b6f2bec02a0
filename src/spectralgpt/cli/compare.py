"""`spectralgpt compare`: the same task from several starts, over labels and seeds."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    ConfigFile,
    add_options,
    change_settings,
    mapping,
    plain_values,
)

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
            mapping,
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


def run(args: Namespace) -> Path:
    """Run the study; returns its folder with study.json and report.html."""
    from rich.console import Console

    from spectralgpt.cli.results import print_study
    from spectralgpt.config import build_config
    from spectralgpt.reports.arena import write_study_report
    from spectralgpt.training.study import StudyConfig, run_study

    console = Console(stderr=True)
    values = plain_values(args)
    change_settings(values, values.pop("set"))
    folder = run_study(
        build_config(values, StudyConfig, "the command line"),
        args.output,
        lambda name, number, total: console.print(f"run {number + 1}/{total}: {name}"),
    )
    write_study_report(folder)
    print_study(folder, console)
    return folder
