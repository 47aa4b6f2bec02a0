"""`spectralgpt reconstruct`: what a model rebuilds of an image at a mask ratio."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import add_output

HELP = "Show what a pretrained model rebuilds of an image at a mask ratio."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("input", type=Path, help="image file, or folder of its bands")
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="pretrained checkpoint: a run folder, a file or a Hub name",
    )
    parser.add_argument(
        "--sensor",
        type=str | None,
        default=None,
        help="sensor of the image, if its files do not tell",
    )
    parser.add_argument(
        "--size_px",
        type=int,
        default=512,
        help="side of the part in the middle of the image that is shown, px",
    )
    parser.add_argument(
        "--mask_ratio", type=float, default=0.75, help="share of hidden tokens, 0..1"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the mask")
    add_output(parser)


def run(args: Namespace) -> Path:
    """Rebuild and draw; returns the report."""
    from spectralgpt.cli.images import load_on_device, prepare_output
    from spectralgpt.errors import CheckpointError
    from spectralgpt.models.mae import MaskedAutoencoder
    from spectralgpt.rasters import describe_raster
    from spectralgpt.reports.rebuilt import write_rebuilt_report
    from spectralgpt.scenes.reconstruction import centre_window, rebuild_window

    prepare_output(args.output, "report.html", args.overwrite)
    loaded = load_on_device(args.model, "cpu", args.sensor)
    contract = loaded.preprocessing
    if not isinstance(loaded.model, MaskedAutoencoder) or contract is None:
        raise CheckpointError(
            f"{args.model} cannot rebuild images: name a pretraining run, or a model "
            "with its decoder and contract."
        )
    item = describe_raster(args.input, sensor=args.sensor)
    window = centre_window(item, args.size_px, contract.image_size)
    rebuilt = rebuild_window(
        loaded.model, contract, item, window, args.mask_ratio, args.seed
    )
    return write_rebuilt_report(
        args.output, rebuilt, contract.bands, args.input.name, args.mask_ratio
    )
