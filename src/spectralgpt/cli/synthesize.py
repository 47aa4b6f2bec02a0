"""`spectralgpt synthesize`: make bands that an image does not have."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import DEVICE, prepare_geotiff
from spectralgpt.cli.options import CHECKPOINT, add_options, counting, from_options
from spectralgpt.errors import CheckpointError

HELP = (
    "Write bands that an image does not have: from a library of spectra, from pixels "
    "of other imagery or by an autoencoder, whichever is better on held-out pixels."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.rasters import Stated

    parser.add_argument("input", type=Path, help="image file, or folder of its bands")
    add_options(
        parser,
        bands=(
            tuple[str, ...],
            ...,
            "bands to make: names of the image's sensor, or wavelengths such as "
            "1240nm, taken as 10 nm wide, or 1240nm:30",
        ),
        model=(str, f"autoencoder to try, too: {CHECKPOINT}"),
        input_bands=(
            tuple[str, ...],
            (),
            "names of the image's layers in their order, as --bands of other commands",
        ),
        output=(Path, ..., "GeoTIFF to write; NAME_error.tif is written beside it"),
        overwrite="replace the files",
        seed=(int, 0, "of the draw of pixels"),
        **DEVICE,
    )
    parser.add_argument(
        "--like",
        type=Path,
        nargs="+",
        default=[],
        help="images that have both, to learn from and to measure errors on; without "
        "any the library of spectra alone is used",
    )
    parser.add_class_arguments(Stated, as_group=False, skip={"bands"})


def run(args: Namespace) -> Path:
    """Plan, tell and write; returns the file."""
    from spectralgpt.data.formats import ImageFormat
    from spectralgpt.rasters import Stated
    from spectralgpt.scenes.loading import load_on_device
    from spectralgpt.scenes.synthesis import (
        errors_beside,
        find_wanted,
        plan_synthesis,
        write_synthesis,
    )

    prepare_geotiff(args.output, args.overwrite, errors_beside(args.output))
    stated = from_options(Stated, args, bands=args.input_bands or None)
    image_format = ImageFormat(**stated.facts)
    item = image_format.describe(args.input)
    like = [image_format.describe(path) for path in args.like]
    loaded = None
    if args.model is not None:
        loaded = load_on_device(args.model, args.device)
        if loaded.preprocessing is None:
            raise CheckpointError(f"{args.model} does not say which bands it takes.")
    wanted = find_wanted(args.bands, item)
    synthesis = plan_synthesis(item, wanted, like, loaded, args.seed)
    for line in synthesis.lines:
        print(line)
    with counting("making bands", 1) as update:
        return write_synthesis(
            synthesis,
            item,
            args.output,
            args.batch_size,
            lambda share: update(completed=share),
        )[0]
