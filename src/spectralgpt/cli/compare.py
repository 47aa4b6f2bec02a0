"""`spectralgpt compare`: the same task from several starts, over labels and seeds."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    add_study_options,
    change_settings,
    error_console,
    plain_values,
)

HELP = "Compare starts of a task, such as pretrained and random, over labels and seeds."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.study import StudyConfig

    add_study_options(
        parser,
        StudyConfig,
        "folder of the study; runs that are finished there are not run again",
        "finetune.data.label_share=0.1",
        finetune="settings of `spectralgpt finetune TASK` that all starts share",
    )


def run(args: Namespace) -> Path:
    """Run the study; returns its folder with study.json and report.html."""
    from spectralgpt.cli.results import print_study
    from spectralgpt.config import build_config
    from spectralgpt.reports.arena import write_study_report
    from spectralgpt.training.study import StudyConfig, lines_of_runs, run_study

    console = error_console()
    values = plain_values(args)
    change_settings(values, values.pop("set"))
    folder = run_study(
        build_config(values, StudyConfig, "the command line"),
        args.output,
        lines_of_runs(
            lambda line: console.print(line, highlight=False, soft_wrap=True)
        ),
    )
    write_study_report(folder)
    print_study(folder, console)
    return folder
