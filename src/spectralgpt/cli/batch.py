"""`spectralgpt batch`: map or embed many scenes, each once."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.images import (
    AFTER,
    ARITHMETIC,
    DEVICE,
    IMAGE_SIZE,
    OF_EMBEDDINGS,
    OF_MAPS,
    OUTPUT,
    add_format_options,
    check_dates,
    format_of,
)
from spectralgpt.cli.options import (
    CHECKPOINT,
    CommandParser,
    add_options,
    counting,
    error_console,
    from_options,
)
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
_ACTIONS = {
    "predict": (
        "Map every scene, as `spectralgpt predict` maps one.",
        "map every scene with a fine-tuned segmentation model",
        f"model fine-tuned for segmentation or change: {CHECKPOINT}",
    ),
    "embed": (
        "Embed every scene, as `spectralgpt embed --format geotiff` embeds one.",
        "write a raster of embeddings of every scene",
        f"checkpoint: {CHECKPOINT}",
    ),
}
"""Description of a sub-command, its line in the help of this one, and of its model."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    added = parser.add_subcommands(dest="action")
    for action, (about, short, model) in _ACTIONS.items():
        sub = CommandParser(description=about, exit_on_error=False)
        add_options(sub, model=(str, ..., model))
        if action == "predict":
            first = (
                "for models of change: the first date, as scenes are named; lines of "
                "two text files belong together"
            )
            add_options(sub, before=(Path, first), **AFTER, **OF_MAPS)
        else:
            add_options(sub, **OF_EMBEDDINGS, **IMAGE_SIZE)
        _add_job_options(sub, inputs="*" if action == "predict" else "+")
        added.add_subcommand(action, sub, help=short)


def run(args: Namespace) -> Path:
    """Map or embed the scenes; returns the manifest."""
    from spectralgpt.jobs.kinds import EmbedJob, PredictJob

    options = args[args.action]
    kind: type[Job] = PredictJob if args.action == "predict" else EmbedJob
    job = from_options(kind, options, image_format=_shared_format(options))
    return _run_and_report(job, options)


def _add_job_options(parser: ArgumentParser, inputs: str = "+") -> None:
    """Add scenes, as many as `nargs` says, what is stated of them, and how it runs."""
    parser.add_argument(
        "scenes",
        type=Path,
        nargs=inputs,
        help="scenes, folders of them, text files (.txt) with a path a line, or STAC "
        "collections and item collections (.json)",
    )
    add_format_options(parser)
    add_options(
        parser,
        retries=(
            NonNegativeInt,
            2,
            "further attempts at a scene that failed for a reason that may pass",
        ),
        pause_s=(
            NonNegativeFloat,
            5.0,
            "seconds before the first further attempts; later ones wait longer",
        ),
        workers=(
            NonNegativeInt,
            0,
            "processes on this machine, by Dask; 0 does all in this one",
        ),
        scheduler=(
            str,
            "address, or scheduler file, of a Dask cluster that does the work",
        ),
        **OUTPUT,
        **DEVICE,
        **ARITHMETIC,
    )


def _shared_format(args: Namespace) -> "ImageFormat":
    """Return what is stated about the scenes, for processes in other folders, too."""
    stated = format_of(args)
    if stated.sensor is None or not Path(stated.sensor).is_file():
        return stated
    return replace(stated, sensor=str(Path(stated.sensor).absolute()))


def _run_and_report(job: "Job", args: Namespace) -> Path:
    """Run a job, and print what became of the scenes; returns the manifest."""
    from spectralgpt.jobs.kinds import Plan, load_job
    from spectralgpt.jobs.running import run_job

    console = error_console()
    plan = Plan.of(job, args.output)
    scenes = _list_scenes(args, load_job(plan.job))
    with _engine(args) as engine, counting("scenes", len(scenes)) as update:
        outcome = run_job(
            plan,
            scenes,
            retries=args.retries,
            pause_s=args.pause_s,
            overwrite=args.overwrite,
            engine=engine,
            progress=lambda share: update(advance=share),
        )
    _print_outcome(outcome, console)
    if outcome.failures:
        raise DataError(
            f"{len(outcome.failures)} of {len(scenes)} scenes failed; "
            f"{outcome.manifest} says why. The same command tries them again."
        )
    return outcome.manifest


def _list_scenes(args: Namespace, job: "ReadyJob") -> list[tuple[Path, ...]]:
    """Return the dates of each scene that the user names."""
    from spectralgpt.scenes.inputs import list_pairs, list_scenes

    check_dates(args.model, job.num_dates, args.scenes, args)
    if job.num_dates == 2:
        return list_pairs(args.before, args.after, args.sensor, job.contract)
    scenes = list_scenes(args.scenes, args.sensor, job.contract)
    return [(scene,) for scene in scenes]


def _engine(args: Namespace) -> "AbstractContextManager[Engine | None]":
    """Return the engine of a cluster, or None to do the scenes here."""
    from spectralgpt.jobs.running import on_dask

    if args.workers and args.scheduler is not None:
        raise ConfigError("give --workers or --scheduler, not both.")
    if not args.workers and args.scheduler is None:
        return nullcontext()
    return on_dask(args.workers, args.scheduler)


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
