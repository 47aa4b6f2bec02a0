"""`spectralgpt predict`: classify or map images with a fine-tuned model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import (
    AFTER,
    ARITHMETIC,
    DEVICE,
    OF_MAPS,
    OUTPUT,
    OVERLAP,
    add_image_options,
    check_dates,
    format_of,
    list_stated,
    prepare_output,
)
from spectralgpt.cli.options import CHECKPOINT, add_options, counting, from_options
from spectralgpt.cli.spelling import spell_outside
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.checkpoints import LoadedModel
    from spectralgpt.data.formats import ImageFormat

HELP = (
    "Apply a fine-tuned model: a CSV of classes and probabilities, or for maps a "
    "GeoTIFF of classes, or of a target's numbers, on each image's own pixels."
)
_TABLE = "predictions.csv"
_MAP_TABLE = "maps.csv"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_options(
        parser,
        model=(
            str,
            ...,
            f"fine-tuned checkpoint: {CHECKPOINT}",
        ),
    )
    add_image_options(parser, inputs="*")
    first = "for models of change: the first date, a file or a folder"
    add_options(parser, before=(Path, first), **AFTER)
    add_options(parser, "for maps: ", **OF_MAPS)
    add_options(parser, **OUTPUT, **DEVICE, **ARITHMETIC)


def run(args: Namespace) -> Path:
    """Classify or map the inputs; returns the table."""
    from spectralgpt.models.heads import DenseModel
    from spectralgpt.scenes.loading import in_precision, load_on_device

    for table in (_TABLE, _MAP_TABLE):
        prepare_output(args.output, table, args.overwrite)
    loaded = load_on_device(args.model, args.device, quantize=args.quantize)
    work = _map if isinstance(loaded.model, DenseModel) else _classify
    with in_precision(loaded, args.precision):
        return work(args, loaded)


def _classify(args: Namespace, loaded: "LoadedModel") -> Path:
    from spectralgpt.cli.results import print_outcome
    from spectralgpt.scenes.tables import predict_files

    of_maps = ("before", "after", "probabilities", "polygons", "test_flips")
    given = [spell_outside(f"--{name}") for name in of_maps if getattr(args, name)]
    given += ["--overlap"] if args.overlap != OVERLAP else []
    if given:
        raise ConfigError(
            f"{args.model} makes no maps, which {', '.join(given)} is for: leave it "
            "out, or name another model."
        )
    if not args.inputs:
        raise ConfigError("name image files, or folders of them.")
    paths, stated = list_stated(args.inputs, args, loaded.preprocessing)
    with counting("classifying", len(paths)) as update:
        made = predict_files(
            loaded,
            args.model,
            paths,
            args.output,
            image_format=stated,
            fit=args.fit,
            batch_size=args.batch_size,
            strict=args.strict,
            progress=lambda share: update(advance=share),
        )
    return print_outcome(made, f"predictions for {len(paths)} files")


def _map(args: Namespace, loaded: "LoadedModel") -> Path:
    """Map the inputs of `predict`; returns the table of what was made."""
    from spectralgpt.cli.results import print_outcome
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.jobs.kinds import PredictJob
    from spectralgpt.jobs.listed import run_listed

    if args.fit != "auto":
        raise ConfigError("--fit is for classes of whole images: leave it out of maps.")
    job = from_options(PredictJob, args, image_format=ImageFormat())
    ready = job.prepare(loaded, args.overwrite)
    inputs, stated = _list_inputs(args, loaded, ready.num_dates)
    with counting("mapping", len(inputs)) as update:
        made = run_listed(
            replace(ready, image_format=stated),
            inputs,
            args.output,
            overwrite=args.overwrite,
            strict=args.strict,
            progress=lambda share: update(advance=share),
        )
    return print_outcome(made, f"maps of {len(inputs)} images")


def _list_inputs(
    args: Namespace, loaded: "LoadedModel", num_dates: int
) -> tuple[list[tuple[Path, ...]], "ImageFormat"]:
    from spectralgpt.scenes.inputs import list_inputs, match_pairs

    check_dates(args.model, num_dates, args.inputs, args)
    if num_dates == 1:
        paths, image_format = list_stated(args.inputs, args, loaded.preprocessing)
        return [(path,) for path in paths], image_format
    first, second = (
        list_inputs([root], args.sensor, loaded.preprocessing)
        for root in (args.before, args.after)
    )
    pairs = match_pairs(args.before, first, args.after, second)
    return pairs, format_of(args)
