"""`spectralgpt resample`: bring an image into the bands of another sensor."""

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


def run(args: Namespace) -> Path:
    """Resample and write; returns the file."""
    from spectralgpt.resampling import write_resampled

    prepare_geotiff(args.output, args.overwrite)
    item = resample_input(args.input, args.to, args)
    print_sources(item)
    with counting("resampling", 1) as update:
        return write_resampled(item, args.output, lambda share: update(completed=share))


def resample_input(path: Path, to: str, args: Namespace) -> "ResampledFile":
    """Describe an image in the bands of a sensor or model.

    Args:
        path: the image.
        to: the sensor, or the model.
        args: what is stated of the image.

    Raises:
        CheckpointError: the model does not say which bands it takes.
    """
    from spectralgpt.checkpoints import load_model
    from spectralgpt.rasters import Assumed
    from spectralgpt.resampling import resample_file
    from spectralgpt.scenes.loading import stated_contract
    from spectralgpt.sensors import find_sensor, list_sensors

    (path, *others), stated = list_stated([path], args, None)
    if others:
        raise ConfigError(f"{path.parent} holds several images: name one of them.")
    item = stated.describe(path)
    if to in list_sensors() or to.endswith(".yaml"):
        wanted = find_sensor(to)
        bands = wanted.select()
        return resample_file(item, Assumed(sensor=to, model_bands=bands), wanted)
    return resample_file(item, stated_contract(load_model(to), to).unstated)


def print_sources(item: "ResampledFile") -> None:
    """Print how each band is had, a line a band."""
    for source in item.resampling.sources:
        print(source)
