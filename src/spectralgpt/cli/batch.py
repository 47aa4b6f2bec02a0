"""`spectralgpt batch`: map or embed many scenes, each once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.embed import add_raster_options
from spectralgpt.cli.images import (
    add_arithmetic,
    add_device,
    add_format_options,
    add_output,
    check_dates,
    counting,
    format_of,
)
from spectralgpt.cli.options import CommandParser, from_options
from spectralgpt.cli.predict import add_dates, add_map_options
from spectralgpt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.jobs.kinds import Job, ReadyJob
    from spectralgpt.jobs.running import Engine, JobOutcome

HELP = (
    "Do the same with many scenes: every scene once, failures noted and tried again, "
    "interrupted work continued, with a manifest and a STAC item collection."
)
_MOST_FAILURES = 10


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    added = parser.add_subcommands(dest="action")
    about = "Map every scene, as `spectralgpt predict` maps one."
    predict = CommandParser(description=about, exit_on_error=False)
    predict.add_argument(
        "--model",
        type=str,
        required=True,
        help="model fine-tuned for segmentation or change: the run folder, a file or "
        "Hub name",
    )
    add_dates(predict, "as scenes are named; lines of two text files belong together")
    add_map_options(predict)
    _add_job_options(predict, inputs="*")
    about = "map every scene with a fine-tuned segmentation model"
    added.add_subcommand("predict", predict, help=about)
    about = "Embed every scene, as `spectralgpt embed --format geotiff` embeds one."
    embed = CommandParser(description=about, exit_on_error=False)
    embed.add_argument(
        "--model",
        type=str,
        required=True,
        help="checkpoint: a folder, file or Hub name",
    )
    add_raster_options(embed)
    _add_job_options(embed)
    about = "write a raster of embeddings of every scene"
    added.add_subcommand("embed", embed, help=about)


def run(args: Namespace) -> Path:
    """Map or embed the scenes; returns the manifest."""
    from spectralgpt.jobs.kinds import EmbedJob, PredictJob

    options = args[args.action]
    stated = _shared_format(options)
    if args.action == "predict":
        return _run_and_report(
            from_options(PredictJob, options, image_format=stated), options
        )
    return _run_and_report(
        from_options(EmbedJob, options, image_format=stated), options
    )


def _add_job_options(parser: ArgumentParser, inputs: str = "+") -> None:
    """Add scenes, what is stated about them, and how the job is run.

    Args:
        parser: of the command.
        inputs: how many scenes there must be, as argparse's `nargs`.
    """
    parser.add_argument(
        "scenes",
        type=Path,
        nargs=inputs,
        help="scenes, folders of them, text files (.txt) with a path a line, or STAC "
        "collections and item collections (.json)",
    )
    add_format_options(parser)
    parser.add_argument(
        "--retries",
        type=NonNegativeInt,
        default=2,
        help="further attempts at a scene that failed for a reason that may pass",
    )
    parser.add_argument(
        "--pause_s",
        type=NonNegativeFloat,
        default=5.0,
        help="seconds before the first further attempts; later ones wait longer",
    )
    parser.add_argument(
        "--workers",
        type=NonNegativeInt,
        default=0,
        help="processes on this machine, by Dask; 0 does all in this one",
    )
    parser.add_argument(
        "--scheduler",
        type=str | None,
        default=None,
        help="address, or scheduler file, of a Dask cluster that does the work",
    )
    add_output(parser)
    add_device(parser)
    add_arithmetic(parser)


def _shared_format(args: Namespace) -> "ImageFormat":
    """Return what is stated about the scenes, for processes in other folders, too."""
    stated = format_of(args)
    if stated.sensor is None or not Path(stated.sensor).is_file():
        return stated
    return replace(stated, sensor=str(Path(stated.sensor).absolute()))


def _run_and_report(job: "Job", args: Namespace) -> Path:
    """Run a job, and print what became of the scenes; returns the manifest.

    Raises:
        DataError: scenes failed.
    """
    from spectralgpt.jobs.kinds import load_job
    from spectralgpt.jobs.running import plan_job, run_job

    console = Console(stderr=True)
    plan = plan_job(job, args.output)
    scenes = _list_scenes(args, load_job(plan.job))
    with _engine(args) as engine, counting(console, "scenes", len(scenes)) as progress:
        outcome = run_job(
            plan,
            scenes,
            retries=args.retries,
            pause_s=args.pause_s,
            overwrite=args.overwrite,
            engine=engine,
            progress=progress,
        )
    _print_outcome(outcome, console)
    if outcome.failures:
        raise DataError(
            f"{len(outcome.failures)} of {len(scenes)} scenes failed; "
            f"{outcome.manifest} says why. The same command tries them again."
        )
    return outcome.manifest


def _list_scenes(args: Namespace, job: "ReadyJob") -> list[tuple[Path, ...]]:
    """Return the dates of each scene that the user names.

    Raises:
        ConfigError: the job is for another number of dates.
    """
    from spectralgpt.scenes.inputs import list_pairs, list_scenes

    check_dates(args.model, job.num_dates, args.scenes, args)
    if job.num_dates == 2:
        return list_pairs(args.before, args.after, args.sensor, job.contract)
    scenes = list_scenes(args.scenes, args.sensor, job.contract)
    return [(scene,) for scene in scenes]


@contextmanager
def _engine(args: Namespace) -> "Iterator[Engine]":
    from spectralgpt.jobs.running import in_this_process, on_dask

    if args.workers and args.scheduler is not None:
        raise ConfigError("give --workers or --scheduler, not both.")
    if not args.workers and args.scheduler is None:
        yield in_this_process
        return
    with on_dask(args.workers, args.scheduler) as engine:
        yield engine


def _print_outcome(outcome: "JobOutcome", console: Console) -> None:
    table = Table("scenes", "number")
    for what, number in outcome.counts.items():
        table.add_row(what, str(number))
    table.add_row("in items.json", str(outcome.items))
    console.print(table)
    for record in outcome.failures[:_MOST_FAILURES]:
        reason = record.error or "another run has it, or nothing began it"
        where = "" if record.scene in reason else f"{record.scene}: "
        text = f"{record.status}: {where}{reason}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if len(outcome.failures) > _MOST_FAILURES:
        console.print(f"and {len(outcome.failures) - _MOST_FAILURES} more")
