"""`spectralgpt embed`: write embeddings of images to GeoParquet, npz or GeoTIFF."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import (
    ARITHMETIC,
    DEVICE,
    IMAGE_SIZE,
    OF_EMBEDDINGS,
    OUTPUT,
    add_image_options,
    list_stated,
    prepare_output,
)
from spectralgpt.cli.options import CHECKPOINT, add_options, counting, from_options
from spectralgpt.errors import ConfigError

_RASTER_TABLE = "embeddings.csv"
HELP = (
    "Write embeddings of images, with coordinates, to GeoParquet or npz, or of every "
    "token of scenes to GeoTIFFs with a layer a dimension."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_options(
        parser,
        model=(
            str,
            ...,
            f"checkpoint: {CHECKPOINT}; or a size for random weights",
        ),
    )
    add_image_options(parser)
    add_options(
        parser,
        format=(
            Literal["geoparquet", "npz", "geotiff"],
            "geoparquet",
            "geoparquet (embeddings.parquet, footprints in EPSG:4326), npz, or "
            "geotiff (a raster of token embeddings a scene, and its picture)",
        ),
    )
    add_options(parser, "geotiff: ", **OF_EMBEDDINGS)
    add_options(
        parser,
        level=(
            Literal["image", "token"],
            "image",
            "image: a row a file or window; token: a row a patch of the whole scene",
        ),
        **IMAGE_SIZE,
        **OUTPUT,
        **DEVICE,
        **ARITHMETIC,
    )


def run(args: Namespace) -> Path:
    """Embed the inputs; returns the table, or the folder of rasters."""
    from spectralgpt.cli.results import print_outcome
    from spectralgpt.jobs.kinds import EmbedJob
    from spectralgpt.jobs.listed import run_listed
    from spectralgpt.scenes.loading import in_precision, load_on_device
    from spectralgpt.scenes.tables import TABLES, embed_files

    is_raster = args.format == "geotiff"
    if is_raster and (args.level != "image" or args.fit != "auto"):
        raise ConfigError(
            "--level and --fit are for tables: leave them out of rasters."
        )
    if not is_raster and args.cell_px is not None:
        raise ConfigError("--cell-px is for rasters: add --format geotiff.")
    table = _RASTER_TABLE if is_raster else TABLES[args.format]
    prepare_output(args.output, table, args.overwrite)
    loaded = load_on_device(
        args.model, args.device, args.sensor, args.image_size, args.quantize
    )
    paths, stated = list_stated(args.inputs, args, loaded.preprocessing)
    with counting("embedding", len(paths)) as update:
        options: dict[str, Any] = {
            "strict": args.strict,
            "progress": lambda share: update(advance=share),
        }
        if is_raster:
            job = from_options(EmbedJob, args, image_format=stated).prepare(loaded)
            scenes = [(path,) for path in paths]
            options["overwrite"] = args.overwrite
            made = run_listed(job, scenes, args.output, **options)
        else:
            with in_precision(loaded, args.precision):
                made = embed_files(
                    loaded,
                    paths,
                    args.output,
                    image_format=stated,
                    table_format=args.format,
                    level=args.level,
                    fit=args.fit,
                    batch_size=args.batch_size,
                    **options,
                )
    what = "rasters of {} scenes" if is_raster else "embeddings of {} files"
    written = print_outcome(made, what.format(len(paths)))
    return args.output if is_raster else written
