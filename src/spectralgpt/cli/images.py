"""Options and steps that the commands on image files share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from spectralgpt.cli.options import Options, add_options, from_options
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.preprocessing import Preprocessing
    from spectralgpt.rasters import Bounds, Stated
    from spectralgpt.rasters.embeddings import EmbeddingRaster

OVERLAP = 0.5
"""Of windows of maps, where none is stated."""
OUTPUT: Options = {
    "output": (Path, ..., "folder for what is made"),
    "overwrite": "replace results in the output folder",
}
DEVICE: Options = {
    "device": (str, "auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, mps"),
    "batch_size": (PositiveInt, 32, "images the model takes at once"),
}
ARITHMETIC: Options = {
    "precision": (
        Literal["fp32", "bf16"],
        "fp32",
        "bf16: products of 8 significant bits, faster where the machine has "
        "instructions for them; the last digits differ",
    ),
    "quantize": (
        Literal["none", "int8"],
        "none",
        "int8: hold the encoder's weights as 8-bit integers, a quarter of the "
        "memory; slower on processors",
    ),
}
OF_MAPS: Options = {
    "probabilities": "write a GeoTIFF with a layer of probabilities a class, too",
    "polygons": "write a GeoPackage with the outlines of the classes, too",
    "test_flips": (bool, False, "average over mirror images, four times the work"),
    "overlap": (
        float,
        OVERLAP,
        "share of a window that its neighbour covers again, 0 to below "
        "1; less is faster, and shows more of the windows' borders",
    ),
}
"""What is written beside maps, and how they are made."""
IMAGE_SIZE: Options = {
    "image_size": (
        PositiveInt,
        "side of the images or windows that the model sees, px; null keeps the "
        "checkpoint's, which may have been pretrained on smaller crops",
    ),
}
OF_EMBEDDINGS: Options = {
    "cell_px": (
        PositiveInt,
        "side of a cell in pixels of the scene; it divides the model's "
        "patch, which it is by default. Smaller cells show more, and take longer",
    ),
    "dtype": (
        Literal["float16", "int8"],
        "float16",
        "numbers; int8 has a scale and an offset a layer",
    ),
    "reflectance": (bool, True, "add mean and deviation of the reflectance in cells"),
}
"""What rasters of embeddings are to hold."""
AREA: Options = {
    "bounds": (
        str,
        "read this rectangle alone, minx,miny,maxx,maxy; several inputs make one "
        "mosaic, the first on top",
    ),
    "bounds_crs": (
        str,
        "EPSG:4326",
        "reference system of --bounds; without it longitude and latitude",
    ),
    "area": (
        Path,
        "GeoJSON file in place of --bounds: the rectangle around its shapes",
    ),
}
"""What is read of the inputs; `format_of` reads it."""
AFTER: Options = {
    "after": (Path, "the second date; images of folders are matched by their names")
}


def add_embedding_rasters(parser: ArgumentParser, more: str = "") -> None:
    """Add the rasters that maps are made of; `more` says what they are to hold."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        help="rasters that `spectralgpt embed --format geotiff` made, or folders of "
        f"them{more}",
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
    add_options(
        parser,
        **AREA,
        fit=(
            Literal["auto", "resize", "windows"],
            "auto",
            "how a file becomes images: resize (one), windows (that cover it), auto "
            "(one if it is at most 1.5 windows a side)",
        ),
        strict="stop at the first file that is bad",
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
    inputs: Sequence[Path], args: Namespace, preprocessing: "Preprocessing | None"
) -> "tuple[list[Path], ImageFormat]":
    """Return images, see `list_inputs`, and what the options state about them.

    Where they state an area, all images are one mosaic: the first path alone is
    returned, with the others stated to lie below it.
    """
    from spectralgpt.scenes.inputs import list_inputs

    paths, stated = list_inputs(inputs, args.sensor, preprocessing), format_of(args)
    if stated.area is None:
        return paths, stated
    return paths[:1], replace(stated, below=tuple(paths[1:]))


def _area_of(args: Namespace) -> "Bounds | None":
    from spectralgpt.rasters import Bounds

    if args.area is not None and args.bounds is not None:
        raise ConfigError("give --bounds or --area, not both.")
    if args.area is not None:
        return Bounds.of_file(args.area)
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
    """Check that the images are of as many dates as a model takes.

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
    """Check that the folder can be made, and leave none behind.

    Args:
        folder: for the result.
        name: of a file or folder in it that tells of an earlier result.
        overwrite: let an earlier result be replaced.

    Raises:
        ConfigError: the result is there already, or the folder cannot be made.
    """
    from spectralgpt.files import make_folder

    if (folder / name).exists() and not overwrite:
        raise ConfigError(f"{folder / name} is there already: pass --overwrite.")
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    # A command that fails before it has a result leaves no empty folder behind.
    for path in new:
        path.rmdir()


def prepare_geotiff(path: Path, overwrite: bool, *beside: Path) -> None:
    """Check that a GeoTIFF, and what goes beside it, can be written.

    Raises:
        ConfigError: its name is no GeoTIFF's, or a file is there already.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError(f"--output {path} must be a GeoTIFF, ending in .tif.")
    for each in (path, *beside):
        prepare_output(each.parent, each.name, overwrite)


def open_rasters(
    args: Namespace, what: str, *others: Path
) -> "tuple[list[EmbeddingRaster], list[Path]]":
    """Open what `add_embedding_rasters` names.

    Args:
        args: of the command, with --output and --overwrite.
        what: is made of each, for the names of the results.
        others: further files that are to be made.

    Returns:
        The rasters, and the file to make of each, NAME_what.tif.

    Raises:
        ConfigError: a file is there already, or two rasters would share one.
        DataError: the rasters are of different encoders or cells.
        RasterError: one cannot be read, or is none.
    """
    from spectralgpt.rasters.embeddings import list_embeddings
    from spectralgpt.scenes.inputs import name_maps
    from spectralgpt.scenes.similarity import open_alike

    paths = list_embeddings(args.inputs)
    named = name_maps(paths, args.output).values()
    targets = [path.with_name(f"{path.stem}_{what}.tif") for path in named]
    for path in (*others, *targets):
        prepare_output(args.output, path.name, args.overwrite)
    return open_alike(paths), targets
