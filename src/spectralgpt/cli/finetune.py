"""`spectralgpt finetune`: train a pretrained encoder for a task, from labels."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import RUN_OPTIONS, add_run_options

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Train a pretrained encoder for a task, from labels."
_TASK = "classification"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    commands = parser.add_subcommands(dest="task")
    commands.add_subcommand(
        _TASK, _classification_parser(), help="one class an image, or several labels"
    )


def run(args: Namespace) -> Path:
    """Fine-tune; returns the folder of the run."""
    from rich.console import Console

    from spectralgpt.cli.results import print_test_scores
    from spectralgpt.training.configuration import build_config
    from spectralgpt.training.finetuning import FinetuneConfig, finetune
    from spectralgpt.training.fit import is_first_process
    from spectralgpt.training.progress import ProgressDisplay

    options = args[_TASK]
    values = {k: v for k, v in options.as_dict().items() if k not in RUN_OPTIONS}
    console = Console(stderr=True)
    folder = finetune(
        build_config(values, FinetuneConfig, "the command line"),
        options.output,
        overwrite=options.overwrite,
        resume=options.resume,
        callbacks=[ProgressDisplay(console)],
    )
    if not is_first_process():
        # The folder is printed once, by the process that the user started.
        raise SystemExit(0)
    print_test_scores(folder, console)
    return folder


def _classification_parser() -> ArgumentParser:
    from spectralgpt.training.finetuning import FinetuneConfig

    parser = ArgumentParser(
        prog=f"spectralgpt finetune {_TASK}",
        description="Fine-tune a classifier: the best weights on val are kept, test is "
        "scored once.",
    )
    add_run_options(parser)
    parser.add_class_arguments(FinetuneConfig, as_group=False)
    return parser
