"""`spectralgpt embed`: write embeddings of images to GeoParquet or npz."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import add_device, add_image_options, add_output

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Write embeddings of images, with coordinates, to GeoParquet or npz."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="checkpoint: a folder, file or Hub name, or a size for random weights",
    )
    add_image_options(parser)
    parser.add_argument(
        "--format",
        type=Literal["geoparquet", "npz"],
        default="geoparquet",
        help="geoparquet (embeddings.parquet, footprints in EPSG:4326) or npz",
    )
    parser.add_argument(
        "--level",
        type=Literal["image", "token"],
        default="image",
        help="image: a row a file or window; token: a row a patch of the whole scene",
    )
    add_output(parser)
    add_device(parser)


def run(args: Namespace) -> Path:
    """Embed the inputs; returns the table."""
    from rich.console import Console

    from spectralgpt.cli.images import (
        counting,
        format_of,
        load_on_device,
        prepare_output,
    )
    from spectralgpt.cli.results import print_failures
    from spectralgpt.scenes.inputs import list_inputs, over_area
    from spectralgpt.scenes.runs import embed_files
    from spectralgpt.scenes.tables import table_path

    console = Console(stderr=True)
    loaded = load_on_device(args.model, args.device, args.sensor)
    prepare_output(
        args.output, table_path(args.output, args.format).name, args.overwrite
    )
    paths, stated = over_area(
        list_inputs(args.inputs, args.sensor, loaded.preprocessing), format_of(args)
    )
    with counting(console, "embedding", len(paths)) as progress:
        made = embed_files(
            loaded,
            paths,
            args.output,
            image_format=stated,
            table_format=args.format,
            level=args.level,
            fit=args.fit,
            batch_size=args.batch_size,
            strict=args.strict,
            progress=progress,
        )
    print_failures(made.failures, args.output, console)
    console.print(f"{made.rows} embeddings of {len(paths)} files")
    return made.path
