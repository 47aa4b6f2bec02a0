"""Options and steps that the commands on image files share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from rich.console import Console

from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.rasters import Bounds

__all__ = [
    "add_area_options",
    "add_arithmetic",
    "add_device",
    "add_format_options",
    "add_image_options",
    "add_output",
    "check_dates",
    "counting",
    "format_of",
    "prepare_output",
    "prepare_outputs",
]


def add_output(parser: ArgumentParser) -> None:
    """Add --output and --overwrite."""
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for what is made"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results in the output folder"
    )


def add_embedding_rasters(parser: ArgumentParser, more: str = "") -> None:
    """Add the rasters that maps are made of; `more` says what they are to hold."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        help=f"rasters that `spectralgpt embed --format geotiff` made{more}",
    )


def add_device(parser: ArgumentParser) -> None:
    """Add --device and --batch_size."""
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps",
    )
    parser.add_argument(
        "--batch_size",
        type=PositiveInt,
        default=32,
        help="images the model takes at once",
    )


def add_arithmetic(parser: ArgumentParser) -> None:
    """Add --precision and --quantize."""
    parser.add_argument(
        "--precision",
        type=Literal["fp32", "bf16"],
        default="fp32",
        help="bf16: products of 8 significant bits, faster where the machine has "
        "instructions for them; the last digits differ",
    )
    parser.add_argument(
        "--quantize",
        type=Literal["none", "int8"],
        default="none",
        help="int8: hold the encoder's weights as 8-bit integers, a quarter of the "
        "memory; slower on processors",
    )


def add_image_options(parser: ArgumentParser, inputs: str = "+") -> None:
    """Add the inputs, and what may be stated about them.

    Args:
        parser: of the command.
        inputs: how many there must be, as argparse's `nargs`.
    """
    parser.add_argument(
        "inputs", type=Path, nargs=inputs, help="image files, or folders of them"
    )
    add_format_options(parser, "the files say, or it is the model's")
    add_area_options(parser)
    parser.add_argument(
        "--fit",
        type=Literal["auto", "resize", "windows"],
        default="auto",
        help="how a file becomes images: resize (one), windows (that cover it), auto "
        "(one if it is at most 1.5 windows a side)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first file that is bad"
    )


def add_area_options(parser: ArgumentParser) -> None:
    """Add the area that is read of the inputs; `format_of` reads it."""
    parser.add_argument(
        "--bounds",
        type=str | None,
        default=None,
        help="read this rectangle alone, minx,miny,maxx,maxy; several inputs make one "
        "mosaic, the first on top",
    )
    parser.add_argument(
        "--bounds_crs",
        type=str,
        default="EPSG:4326",
        help="reference system of --bounds; without it longitude and latitude",
    )
    parser.add_argument(
        "--area",
        type=Path | None,
        default=None,
        help="GeoJSON file in place of --bounds: the rectangle around its shapes",
    )


def add_format_options(parser: ArgumentParser, otherwise: str) -> None:
    """Add what may be stated about images; `format_of` reads it.

    Args:
        parser: gets the options.
        otherwise: what tells the sensor if it is not stated.
    """
    parser.add_argument(
        "--sensor",
        type=str | None,
        default=None,
        help=f"sensor of the images; without it {otherwise}",
    )
    parser.add_argument(
        "--bands",
        type=tuple[str, ...] | None,
        default=None,
        help="band names of the files' layers in order, such as [B02,B03]; without "
        "it the files say",
    )
    parser.add_argument(
        "--unit",
        type=Literal["auto", "digital-numbers", "reflectance"],
        default="auto",
        help="unit of the numbers in the files",
    )
    parser.add_argument(
        "--offset",
        type=float | Literal["auto"],
        default="auto",
        help="added to digital numbers before scaling; auto: files or sensor say",
    )
    parser.add_argument(
        "--quantification",
        type=float | Literal["auto"],
        default="auto",
        help="digital numbers per unit of reflectance; auto: the files or sensor say",
    )


def format_of(args: Namespace) -> "ImageFormat":
    """Return what the options state about the images."""
    from spectralgpt.data.formats import ImageFormat

    return ImageFormat(
        args.sensor,
        args.bands,
        args.unit,
        args.offset,
        args.quantification,
        area=_area_of(args) if "bounds" in args else None,
    )


def _area_of(args: Namespace) -> "Bounds | None":
    from spectralgpt.rasters import Bounds, read_area

    if args.area is not None and args.bounds is not None:
        raise ConfigError("give --bounds or --area, not both.")
    if args.area is not None:
        return read_area(args.area)
    if args.bounds is None:
        return None
    try:
        left, bottom, right, top = map(float, args.bounds.split(","))
    except ValueError:
        raise ConfigError(
            f"--bounds '{args.bounds}' is no rectangle: write minx,miny,maxx,maxy."
        ) from None
    return Bounds(left, bottom, right, top, args.bounds_crs)


def check_dates(
    model: str, num_dates: int, inputs: Sequence[Path], args: Namespace
) -> None:
    """Find out whether the images are of as many dates as a model takes.

    Args:
        model: what it is called in the message.
        num_dates: 2 of models of change, else 1.
        inputs: images of one date.
        args: of a command that may have --before and --after.

    Raises:
        ConfigError: they are not.
    """
    given = [bool(inputs), bool(args.get("before")), bool(args.get("after"))]
    if given != ([False, True, True] if num_dates == 2 else [True, False, False]):
        wanted = "--before and --after" if num_dates == 2 else "images, of one date"
        kind = "change" if num_dates == 2 else "one date"
        raise ConfigError(f"{model} is for {kind}: give it {wanted}, and no others.")


def prepare_output(folder: Path, name: str, overwrite: bool) -> None:
    """Find out whether the folder can be made; whatever is written makes it.

    Raises:
        ConfigError: the result is there already, or the folder cannot be made.
    """
    from spectralgpt.training.run_folder import make_folder

    if (folder / name).exists() and not overwrite:
        raise ConfigError(f"{folder / name} is there already: pass --overwrite.")
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    # A command that fails before it has a result leaves no empty folder behind.
    for path in new:
        path.rmdir()


def prepare_outputs(folder: Path, paths: Sequence[Path], overwrite: bool) -> None:
    """Find out whether all files can be made in the folder; see `prepare_output`."""
    for path in paths:
        prepare_output(folder, path.name, overwrite)


@contextmanager
def counting(
    console: Console, what: str, total: int
) -> Iterator[Callable[[float], None]]:
    """Show a progress bar with the time left; yields what adds to the number done."""
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal) as bar:
        task: Any = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, advance=done)
