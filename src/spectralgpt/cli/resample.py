"""`spectralgpt resample`: bring an image into the bands of another sensor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import (
    AREA,
    add_format_options,
    list_stated,
    prepare_geotiff,
)
from spectralgpt.cli.options import add_options, counting
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.resampling import ResampledFile

HELP = (
    "Write an image in the bands of another sensor, or of a model: measured, summed "
    "from narrower bands or estimated, each with its expected error."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("input", type=Path, help="image file, or folder of its bands")
    to = "name of the sensor, a .yaml file that describes one, or a model"
    add_options(parser, to=(str, ..., to))
    add_format_options(parser)
    add_options(
        parser,
        **AREA,
        output=(Path, ..., "GeoTIFF to write, of reflectance"),
        overwrite="replace the file",
    )
    parser.add_argument(
        "--like",
        type=Path,
        nargs="+",
        default=[],
        help="images that have the wanted bands, to learn estimates from and measure "
        "their errors on, in place of the library of spectra",
    )


def run(args: Namespace) -> Path:
    """Resample and write; returns the file."""
    from spectralgpt.resampling import write_resampled

    prepare_geotiff(args.output, args.overwrite)
    item = resample_input(args.input, args.to, args, args.like)
    print_sources(item)
    with counting("resampling", 1) as update:
        return write_resampled(item, args.output, lambda share: update(completed=share))


def resample_input(
    path: Path, to: str, args: Namespace, like: Sequence[Path] = ()
) -> "ResampledFile":
    """Describe an image in the bands of a sensor or model.

    Args:
        path: the image.
        to: the sensor, or the model.
        args: what is stated of the image.
        like: images in these bands to learn from; their files say what they hold.

    Raises:
        CheckpointError: the model does not say which bands it takes.
    """
    from spectralgpt.checkpoints import load_model
    from spectralgpt.rasters import Assumed, describe_raster
    from spectralgpt.resampling import resample_file
    from spectralgpt.scenes.loading import stated_contract
    from spectralgpt.scenes.synthesis import draw_imagery
    from spectralgpt.sensors import find_sensor, list_sensors

    (path, *others), stated = list_stated([path], args, None)
    if others:
        raise ConfigError(f"{path.parent} holds several images: name one of them.")
    item, wanted = stated.describe(path), None
    if to in list_sensors() or to.endswith(".yaml"):
        wanted = find_sensor(to)
        assumed = Assumed(sensor=to, model_bands=wanted.select())
    else:
        assumed = stated_contract(load_model(to), to).unstated
    imagery = None
    if like:
        images = [describe_raster(each, assumed=assumed) for each in like]
        imagery = draw_imagery(images, assumed.model_bands)
    return resample_file(item, assumed, wanted, imagery)


def print_sources(item: "ResampledFile") -> None:
    """Print how each band is had, a line a band."""
    for source in item.resampling.sources:
        print(source)
