"""`spectralgpt batch predict`: map many scenes, or change between two dates of them."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.job_options import add_job_options, run_and_report, shared_format
from spectralgpt.cli.predict import add_dates, add_map_options

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Map every scene, as `spectralgpt predict` maps one."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="model fine-tuned for segmentation or change: the run folder, a file or "
        "Hub name",
    )
    add_dates(parser, "as scenes are named; lines of two text files belong together")
    add_map_options(parser)
    add_job_options(parser, inputs="*")


def run(args: Namespace) -> Path:
    """Map the scenes; returns the manifest."""
    from spectralgpt.jobs.kinds import PredictJob

    job = PredictJob(
        args.model,
        shared_format(args),
        args.device,
        args.batch_size,
        args.probabilities,
        args.polygons,
        args.test_flips,
        args.overlap,
        args.precision,
        args.quantize,
    )
    return run_and_report(job, args)
