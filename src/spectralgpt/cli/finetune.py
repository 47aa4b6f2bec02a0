"""`spectralgpt finetune TASK`: train a pretrained encoder for a task, from labels."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import RUN_OPTIONS, add_run_options

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Train a pretrained encoder for a task, from labels."
_TASKS = {
    "classification": "one class an image, or several labels",
    "segmentation": "a class for every pixel",
    "change": "what changed between two dates, for every pixel",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    commands = parser.add_subcommands(dest="task")
    for task, help_text in _TASKS.items():
        commands.add_subcommand(task, _task_parser(task), help=help_text)


def run(args: Namespace) -> Path:
    """Fine-tune; returns the folder of the run."""
    from rich.console import Console

    from spectralgpt.cli.results import print_test_scores
    from spectralgpt.training.configuration import build_config
    from spectralgpt.training.dense_finetuning import finetune_dense
    from spectralgpt.training.finetuning import finetune
    from spectralgpt.training.progress import ProgressDisplay
    from spectralgpt.training.run_folder import is_first_process

    options = args[args.task]
    values = {k: v for k, v in options.as_dict().items() if k not in RUN_OPTIONS}
    values["data"] = _beside_its_file(values["data"])
    if args.task != "classification":
        values["data"]["task"] = args.task
    console = Console(stderr=True)
    train: Any = finetune if args.task == "classification" else finetune_dense
    folder: Path = train(
        build_config(values, _config_kind(args.task), "the command line"),
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


def _beside_its_file(data: dict[str, Any]) -> dict[str, Any]:
    """Resolve paths that a file given as `--data FILE` states, relative to it."""
    from spectralgpt.yaml_files import read_mapping

    values = dict(data)
    file = values.pop("__path__", None)
    if file is None:
        return values
    stated = read_mapping(Path(str(file)))
    for name in ("root", "sensor"):
        # What the command line says beside the file is relative to where it runs.
        from_file = values.get(name) is not None and values[name] == stated.get(name)
        if from_file and (name == "root" or values[name].endswith(".yaml")):
            values[name] = str(Path(str(file)).parent / values[name])
    return values


def _task_parser(task: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"spectralgpt finetune {task}",
        description=f"Fine-tune a model for {_TASKS[task]}: the best weights on val "
        "are kept, test is scored once.",
    )
    add_run_options(parser)
    parser.add_class_arguments(_config_kind(task), as_group=False)
    return parser


def _config_kind(task: str) -> type[Any]:
    from spectralgpt.training.dense_finetuning import DenseFinetuneConfig
    from spectralgpt.training.finetuning import FinetuneConfig

    return FinetuneConfig if task == "classification" else DenseFinetuneConfig
