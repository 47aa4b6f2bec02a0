"""`spectralgpt batch embed`: rasters of embeddings of many scenes."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.embed import add_raster_options
from spectralgpt.cli.job_options import add_job_options, run_and_report, shared_format

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Embed every scene, as `spectralgpt embed --format geotiff` embeds one."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="checkpoint: a folder, file or Hub name",
    )
    add_raster_options(parser)
    add_job_options(parser)


def run(args: Namespace) -> Path:
    """Embed the scenes; returns the manifest."""
    from spectralgpt.jobs.kinds import EmbedJob

    job = EmbedJob(
        args.model,
        shared_format(args),
        args.device,
        args.batch_size,
        args.cell_px,
        args.dtype,
        args.reflectance,
        args.precision,
        args.quantize,
    )
    return run_and_report(job, args)
