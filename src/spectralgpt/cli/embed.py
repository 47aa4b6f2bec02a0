"""`spectralgpt embed`: write embeddings of images to GeoParquet, npz or GeoTIFF."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from spectralgpt.cli.images import (
    add_arithmetic,
    add_device,
    add_image_options,
    add_output,
)
from spectralgpt.cli.options import from_options
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from spectralgpt.checkpoints import LoadedModel

_RASTER_TABLE = "embeddings.csv"
HELP = (
    "Write embeddings of images, with coordinates, to GeoParquet or npz, or of every "
    "token of scenes to GeoTIFFs with a layer a dimension."
)


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
        type=Literal["geoparquet", "npz", "geotiff"],
        default="geoparquet",
        help="geoparquet (embeddings.parquet, footprints in EPSG:4326), npz, or "
        "geotiff (a raster of token embeddings a scene, and its picture)",
    )
    add_raster_options(parser, "geotiff: ")
    parser.add_argument(
        "--level",
        type=Literal["image", "token"],
        default="image",
        help="image: a row a file or window; token: a row a patch of the whole scene",
    )
    add_output(parser)
    add_device(parser)
    add_arithmetic(parser)


def add_raster_options(parser: ArgumentParser, note: str = "") -> None:
    """Add what rasters of embeddings are to hold; `note` begins each help text."""
    parser.add_argument(
        "--cell_px",
        type=PositiveInt | None,
        default=None,
        help=f"{note}side of a cell in pixels of the scene; it divides the model's "
        "patch, which it is by default. Smaller cells show more, and take longer",
    )
    parser.add_argument(
        "--dtype",
        type=Literal["float16", "int8"],
        default="float16",
        help=f"{note}numbers; int8 has a scale and an offset a layer",
    )
    parser.add_argument(
        "--reflectance",
        type=bool,
        default=True,
        help=f"{note}add layers with the mean reflectance of each cell",
    )


def run(args: Namespace) -> Path:
    """Embed the inputs; returns the table."""
    from rich.console import Console

    from spectralgpt.cli.images import counting, list_stated, prepare_output
    from spectralgpt.cli.results import print_failures
    from spectralgpt.scenes.loading import in_precision, load_on_device
    from spectralgpt.scenes.tables import embed_files, table_path

    console = Console(stderr=True)
    is_raster = args.format == "geotiff"
    if is_raster and (args.level != "image" or args.fit != "auto"):
        raise ConfigError(
            "--level and --fit are for tables: leave them out of rasters."
        )
    if not is_raster and args.cell_px is not None:
        raise ConfigError("--cell_px is for rasters: add --format geotiff.")
    table = _RASTER_TABLE if is_raster else table_path(args.output, args.format).name
    prepare_output(args.output, table, args.overwrite)
    loaded = load_on_device(
        args.model, args.device, args.sensor, quantize=args.quantize
    )
    if is_raster:
        return _to_rasters(args, loaded, console)
    paths, stated = list_stated(args, loaded.preprocessing)
    with (
        counting(console, "embedding", len(paths)) as progress,
        in_precision(loaded, args.precision),
    ):
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


def _to_rasters(args: Namespace, loaded: "LoadedModel", console: "Console") -> Path:
    from spectralgpt.cli.images import counting, list_stated
    from spectralgpt.cli.results import print_failures
    from spectralgpt.jobs.kinds import EmbedJob
    from spectralgpt.jobs.running import run_listed

    paths, stated = list_stated(args, loaded.preprocessing)
    job = from_options(EmbedJob, args, image_format=stated)
    with counting(console, "embedding", len(paths)) as progress:
        made = run_listed(
            job.prepare(loaded),
            [(path,) for path in paths],
            args.output,
            overwrite=args.overwrite,
            strict=args.strict,
            progress=progress,
        )
    print_failures(made.failures, args.output, console)
    console.print(f"{made.rows} rasters of {len(paths)} scenes")
    return made.path
