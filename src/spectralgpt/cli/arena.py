"""`spectralgpt arena`: pretraining on equal budgets, scored by the same tasks."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    add_study_options,
    change_settings,
    error_console,
    plain_values,
)

HELP = (
    "Pretrain several objectives, or variants of one, on equal budgets, and score them "
    "by the same tasks."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.arena import ArenaConfig

    add_study_options(
        parser,
        ArenaConfig,
        "folder; what is finished there is not done again",
        "pretrain.data.root=FOLDER",
        pretrain="settings of `spectralgpt pretrain` that all share",
        starts="what each start changes of them, by its name",
        tasks="what scores them, by name",
    )


def run(args: Namespace) -> Path:
    """Run the arena; returns its folder with arena.json, arena.csv and report.html."""
    from spectralgpt.cli.results import print_arena
    from spectralgpt.config import build_config
    from spectralgpt.training.arena import ArenaConfig, run_arena

    console = error_console()
    values = plain_values(args)
    change_settings(values, values.pop("set"))
    folder = run_arena(
        build_config(values, ArenaConfig, "the command line"),
        args.output,
        lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    print_arena(folder, console)
    return folder
