"""`spectralgpt finetune TASK`: train a pretrained encoder for a task, from labels."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    CommandParser,
    add_run_options,
    check_run,
    error_console,
    file_of,
    plain_values,
)
from spectralgpt.cli.pretrain import try_rates

HELP = "Train a pretrained encoder for a task, from labels."
_TASKS = {
    "classification": "one class an image, or several labels",
    "segmentation": "a class for every pixel",
    "regression": "a number for every pixel, such as canopy height",
    "change": "what changed between two dates, for every pixel",
}


check_early = check_run


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    commands = parser.add_subcommands(dest="task")
    for task, help_text in _TASKS.items():
        commands.add_subcommand(task, _task_parser(task), help=help_text)


def run(args: Namespace) -> Path | str:
    """Fine-tune; returns the folder of the run, or what --find-lr found."""
    from spectralgpt.cli.results import print_test_scores
    from spectralgpt.config import build_config
    from spectralgpt.files import is_first_process
    from spectralgpt.training.finetuning import finetune
    from spectralgpt.training.logs import ProgressDisplay

    options = args[args.task]
    values = plain_values(options)
    values["data"] = _data_values(options)
    if args.task != "classification":
        values["data"]["task"] = args.task
    config = build_config(values, _config_kind(args.task), "the command line")
    if options.find_lr:
        return try_rates(finetune, config, options)
    console = error_console()
    folder = finetune(
        config,
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


def _data_values(options: Namespace) -> dict[str, Any]:
    """Return the settings of the data; paths from `--data FILE` lie beside that file.

    What the command line says beside the file stays relative to where it runs.
    """
    from spectralgpt.config import read_mapping

    data: dict[str, Any] = plain_values(options)["data"]
    file = file_of(options.data.as_dict())
    if file is None:
        return data
    stated = read_mapping(file)
    names = ["root"]
    if str(stated.get("sensor")).endswith(".yaml"):
        names.append("sensor")
    beside = {
        name: str(file.parent / stated[name])
        for name in names
        if name in stated and data[name] == stated[name]
    }
    return data | beside


def _task_parser(task: str) -> ArgumentParser:
    parser = CommandParser(
        prog=f"spectralgpt finetune {task}",
        description=f"Fine-tune a model for {_TASKS[task]}: the best weights on val "
        "are kept, test is scored once.",
    )
    add_run_options(parser)
    parser.add_class_arguments(_config_kind(task), as_group=False)
    return parser


def _config_kind(task: str) -> type[Any]:
    from spectralgpt.training import finetuning

    kinds = {
        "classification": finetuning.FinetuneConfig,
        "regression": finetuning.RegressionFinetuneConfig,
    }
    return kinds.get(task, finetuning.DenseFinetuneConfig)
