"""Options and steps that the commands on image files share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from rich.console import Console

from spectralgpt.cli.options import from_options
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.preprocessing import Preprocessing
    from spectralgpt.rasters import Bounds, Stated


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
    add_format_options(parser)
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


def add_format_options(parser: ArgumentParser) -> None:
    """Add what may be stated about images; `stated_of` and `format_of` read it."""
    from spectralgpt.rasters import Stated

    parser.add_class_arguments(Stated, as_group=False)


def stated_of(args: Namespace) -> "Stated":
    """Return what the options of `add_format_options` state."""
    from spectralgpt.rasters import Stated

    return from_options(Stated, args)


def format_of(args: Namespace) -> "ImageFormat":
    """Return what the options state about the images, and their area."""
    from spectralgpt.data.formats import ImageFormat

    area = _area_of(args) if "bounds" in args else None
    return ImageFormat(**stated_of(args).facts, area=area)


def list_stated(
    args: Namespace, preprocessing: "Preprocessing | None"
) -> "tuple[list[Path], ImageFormat]":
    """Return the images that the options name, and what they state about them."""
    from spectralgpt.scenes.inputs import list_inputs, over_area

    paths = list_inputs(args.inputs, args.sensor, preprocessing)
    return over_area(paths, format_of(args))


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
    from spectralgpt.outputs import make_folder

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
