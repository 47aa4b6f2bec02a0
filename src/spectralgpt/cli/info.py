"""`spectralgpt info`: say what a checkpoint, an image or a sensor is."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.images import AREA, add_format_options, format_of, list_stated
from spectralgpt.cli.options import add_options
from spectralgpt.cli.resample import print_sources, resample_input
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.sensors import Sensor

HELP = "Say what a checkpoint, an exported model, an image or a sensor is."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "target",
        type=str,
        help="a sensor's name or .yaml file, an image file or folder, or a checkpoint "
        "(folder, .safetensors, .pth, name of `spectralgpt weights list` or the Hub, "
        "size), or an exported .onnx or .pt2",
    )
    add_format_options(parser)
    resampled = "of an image: say how it gives each band of this sensor or model"
    add_options(parser, **{"for": (str, resampled)}, **AREA)


def run(args: Namespace) -> Path:
    """Print what is known of the target; returns the target."""
    from spectralgpt.sensors import find_sensor, list_sensors

    is_image = _is_raster(Path(args.target))
    if args["for"] is not None and not is_image:
        raise ConfigError(f"--for is of images, and {args.target} is none.")
    if args.target in list_sensors() or args.target.endswith(".yaml"):
        _print_sensor(find_sensor(args.target))
    elif is_image:
        _print_raster(Path(args.target), args)
    elif Path(args.target).suffix in (".onnx", ".pt2"):
        _print_exported(Path(args.target))
    else:
        _print_model(args.target)
    return Path(args.target)


def _is_raster(path: Path) -> bool:
    from spectralgpt.rasters import is_product, walk

    suffixes = (".tif", ".tiff", ".jp2", ".img")
    if is_product(path):
        return True
    if path.is_dir():
        return any(entry.suffix.lower() in suffixes for entry in walk(path))
    return path.suffix.lower() in (*suffixes, ".npy")


def _print_sensor(sensor: "Sensor") -> None:
    _print_bands(sensor.title, sensor.bands)
    scale, rule = sensor.quantification, sensor.baseline
    offset = f"{sensor.offset:g}"
    if rule is not None:
        since = f"processing baseline {rule.since / 100:05.2f} on"
        offset = f"{rule.offset:g} from {since}, {rule.offset_before:g} before"
    if scale is None:
        print("products have no common scale: state --unit, or --quantification")
    else:
        print(f"reflectance = (number + offset) / {scale:g}, offset {offset}")
    print(f"nodata: {'none' if sensor.nodata is None else f'{sensor.nodata:g}'}")
    print(f"source: {sensor.source}")


def _print_bands(title: str, bands: object) -> None:
    table = Table("band", "centre (nm)", "width (nm)", "GSD (m)", title=title)
    for band in bands:  # type: ignore[attr-defined]
        table.add_row(
            band.name,
            f"{band.wavelength_nm:g}",
            f"{band.width_nm:g}",
            f"{band.gsd_m:g}",
        )
    Console().print(table)


def _print_raster(path: Path, args: Namespace) -> None:
    from spectralgpt.rasters import summarise

    if args["for"] is not None:
        print_sources(resample_input(path, args["for"], args))
        return
    stated = format_of(args)
    if stated.area is not None:
        (path,), stated = list_stated([path], args, None)
    item = stated.describe(path)
    facts = summarise(item)
    _print_bands(item.name, item.bands)
    for name, value in facts.items():
        print(f"{name}: {value}")


def _print_model(target: str) -> None:
    from spectralgpt.checkpoints import load_model

    loaded = load_model(target)
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    encoder = loaded.encoder
    print(f"{type(loaded.model).__name__}, {count:,} parameters")
    print(
        f"encoder: features of width {encoder.embed_dim}, depth {encoder.depth}, "
        f"{encoder.num_heads} heads, images of {encoder.image_size} px, tokens of "
        f"{encoder.patch_size} x {encoder.patch_size} px x {encoder.bands_per_token} "
        "bands"
    )
    if loaded.unit is not None:
        names = ", ".join(loaded.extra.get("class_names", []))
        print(f"maps {names}, in {loaded.unit}")
    contract = loaded.preprocessing
    if contract is None:
        print("no preprocessing contract: bands and scaling are up to you")
        return
    print(f"sensor {contract.sensor}, scaling {contract.scaling}")
    print(contract.offset_rule)
    for fact, value in contract.stated.facts.items():
        print(f"images like those that it learned from: {fact} {value}")
    _print_bands("bands", contract.bands)


def _print_exported(path: Path) -> None:
    from spectralgpt.exporting import read_description

    described = read_description(path)
    takes = described["input"]
    print(f"takes {takes['name']} {takes['shape']}: {', '.join(takes['axes'])}")
    print(f"bands {', '.join(takes['bands'])}, {takes['unit']}; {takes['offset_rule']}")
    print(f"scaling {takes['scaling']}; no data: {takes['no_data']}")
    for name, axes in described["outputs"].items():
        print(f"gives {name} {axes}")
    if described.get("class_names"):
        names = ", ".join(described["class_names"])
        unit = described.get("target", {}).get("unit")
        print(f"target {names}, in {unit}" if unit else f"classes {names}")
