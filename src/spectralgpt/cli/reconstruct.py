"""`spectralgpt reconstruct`: what a model rebuilds of an image at a mask ratio."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import AREA, DEVICE, OF_MAPS, OUTPUT, add_format_options
from spectralgpt.cli.options import CHECKPOINT, add_options, counting
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.checkpoints import LoadedModel
    from spectralgpt.rasters import Grid, RasterFile

_MAP = "reconstruction_error.tif"
HELP = "Show what a pretrained model rebuilds of an image at a mask ratio."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("input", type=Path, help="image file, or folder of its bands")
    add_options(
        parser,
        model=(
            str,
            ...,
            f"pretrained checkpoint: {CHECKPOINT}",
        ),
    )
    add_format_options(parser)
    add_options(
        parser,
        **AREA,
        size_px=(
            int,
            512,
            "side of the part in the middle of the image that is shown, px",
        ),
        mask_ratio=(float, 0.75, "share of hidden tokens, 0..1"),
        seed=(int, 0, "seed of the mask"),
        test_flips=OF_MAPS["test_flips"],
        all_bands="draw every band; without it at most 24, spread over the spectrum",
        map="write a GeoTIFF with the error of each pixel of the whole image, too",
    )
    for name, place in (("pixels", "row,column"), ("points", "x,y in its CRS")):
        parser.add_argument(
            f"--{name}",
            type=str,
            action="append",
            default=[],
            help=f"places of the image whose spectra are drawn: {place}; several with "
            f'blanks between, as in --{name}="120,80 7,300", or the option again',
        )
    add_options(parser, **OUTPUT, **DEVICE)


def run(args: Namespace) -> Path:
    """Rebuild and draw; returns the report."""
    from spectralgpt.cli.images import format_of, prepare_output
    from spectralgpt.reports.reconstructions import write_rebuilt_report
    from spectralgpt.resampling import resampling_of
    from spectralgpt.scenes import reconstruction
    from spectralgpt.scenes.inputs import describe_input, find_input
    from spectralgpt.scenes.loading import load_on_device
    from spectralgpt.scenes.windows import choose_bands

    for name in ("report.html", _MAP):
        prepare_output(args.output, name, args.overwrite)
    loaded = load_on_device(args.model, args.device, args.sensor)
    model, contract = reconstruction.rebuilding_model(loaded, args.model)
    path = find_input(args.input, args.sensor, contract)
    item = describe_input(path, format_of(args), contract)
    bands = choose_bands(contract, item)
    pixels = _chosen_pixels(args.pixels, args.points, item.grid(bands))
    window = reconstruction.centre_window(
        item, bands, args.size_px, contract.image_size, pixels
    )
    rebuilt = reconstruction.rebuild_window(
        model,
        contract,
        item,
        window,
        args.mask_ratio,
        args.seed,
        args.batch_size,
        args.test_flips,
    )
    if args.map:
        _map_errors(args, loaded, item)
    facts = {
        "model": args.model,
        "mask_ratio": args.mask_ratio,
        "seed": args.seed,
        "test_flips": args.test_flips,
        "window": vars(window),
    }
    facts |= {name.lower(): text for name, text in resampling_of([item]).items()}
    return write_rebuilt_report(
        args.output, rebuilt, path.name, facts, pixels, args.all_bands
    )


def _map_errors(args: Namespace, loaded: "LoadedModel", item: "RasterFile") -> None:
    from spectralgpt.scenes.reconstruction import map_errors

    model: Any = loaded.model
    contract: Any = loaded.preprocessing
    with counting("mapping errors", 1) as update:
        map_errors(
            model,
            contract,
            item,
            args.output / _MAP,
            mask_ratio=args.mask_ratio,
            seed=args.seed,
            batch_size=args.batch_size,
            flips=args.test_flips,
            name=Path(args.model).name,
            overwrite=args.overwrite,
            progress=lambda share: update(completed=share),
        )


def _chosen_pixels(
    pixels: Sequence[str], points: Sequence[str], grid: "Grid"
) -> list[tuple[int, int]]:
    """Return (row, column) of what --pixels and --points name."""
    wanted = _read_pairs(pixels, "--pixels row,column")
    fractional = [pair for pair in wanted if any(value % 1 for value in pair)]
    if fractional:
        row, column = fractional[0]
        raise ConfigError(f"--pixels {row:g},{column:g}: rows and columns are whole.")
    places = [(int(row), int(column)) for row, column in wanted]
    return places + [
        grid.pixel_at(x, y) for x, y in _read_pairs(points, "--points x,y")
    ]


def _read_pairs(texts: Sequence[str], option: str) -> list[tuple[float, float]]:
    pairs = []
    for text in " ".join(texts).split():
        try:
            first, second = map(float, text.split(","))
        except ValueError:
            raise ConfigError(f"'{text}' is no place: write {option}.") from None
        pairs.append((first, second))
    return pairs
