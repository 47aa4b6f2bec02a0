"""What `predict` does with models that make maps."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.checkpoints import LoadedModel
    from spectralgpt.data.formats import ImageFormat

__all__ = ["map_images"]


def map_images(args: Namespace, loaded: "LoadedModel", console: Console) -> Path:
    """Map the inputs of `predict`; returns the table of what was made."""
    from spectralgpt.cli.images import counting, job_of
    from spectralgpt.cli.results import print_failures
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.jobs.kinds import PredictJob
    from spectralgpt.jobs.running import run_listed

    if args.fit != "auto":
        raise ConfigError("--fit is for classes of whole images: leave it out of maps.")
    job = job_of(PredictJob, args, ImageFormat())
    ready = job.prepare(loaded, args.overwrite)
    inputs, stated = _list_inputs(args, loaded, ready.num_dates)
    with counting(console, "mapping", len(inputs)) as progress:
        made = run_listed(
            replace(ready, image_format=stated),
            inputs,
            args.output,
            overwrite=args.overwrite,
            strict=args.strict,
            progress=progress,
        )
    print_failures(made.failures, args.output, console)
    console.print(f"{made.rows} maps of {len(inputs)} images")
    return made.path


def _list_inputs(
    args: Namespace, loaded: "LoadedModel", num_dates: int
) -> tuple[list[tuple[Path, ...]], "ImageFormat"]:
    from spectralgpt.cli.images import check_dates, format_of, list_stated
    from spectralgpt.scenes.inputs import list_inputs, match_pairs

    check_dates(args.model, num_dates, args.inputs, args)
    if num_dates == 1:
        paths, image_format = list_stated(args, loaded.preprocessing)
        return [(path,) for path in paths], image_format
    first, second = (
        list_inputs([root], args.sensor, loaded.preprocessing)
        for root in (args.before, args.after)
    )
    pairs = match_pairs(args.before, first, args.after, second)
    return pairs, format_of(args)
