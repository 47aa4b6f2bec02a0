"""`spectralgpt predict`: classify images with a fine-tuned model."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import add_device, add_image_options, add_output

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Classify images with a fine-tuned model: a CSV of classes and probabilities."
_TABLE = "predictions.csv"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="fine-tuned checkpoint: the run folder, a model folder, file or Hub name",
    )
    add_image_options(parser)
    add_output(parser)
    add_device(parser)


def run(args: Namespace) -> Path:
    """Classify the inputs; returns the table."""
    from rich.console import Console

    from spectralgpt.cli.images import (
        counting,
        format_of,
        load_on_device,
        prepare_output,
    )
    from spectralgpt.cli.results import print_failures
    from spectralgpt.scenes.inputs import list_inputs
    from spectralgpt.scenes.runs import predict_files

    console = Console(stderr=True)
    loaded = load_on_device(args.model, args.device)
    prepare_output(args.output, _TABLE, args.overwrite)
    paths = list_inputs(args.inputs, args.sensor, loaded.preprocessing)
    with counting(console, "classifying", len(paths)) as progress:
        made = predict_files(
            loaded,
            args.model,
            paths,
            args.output,
            image_format=format_of(args),
            fit=args.fit,
            batch_size=args.batch_size,
            strict=args.strict,
            progress=progress,
        )
    print_failures(made.failures, args.output, console)
    console.print(f"{made.rows} predictions for {len(paths)} files")
    return made.path
