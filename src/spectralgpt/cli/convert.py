"""`spectralgpt convert`: between our checkpoints and the published format."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import IMAGE_SIZE
from spectralgpt.cli.options import CHECKPOINT, add_options
from spectralgpt.errors import ConfigError

HELP = "Convert between our checkpoints and the published formats."

PUBLISHED_FILE = "SpectralGPT.pth"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "source",
        type=str,
        help=f"checkpoint to read, ours or published: {CHECKPOINT}",
    )
    add_options(
        parser,
        to=(
            Literal["spectralgpt", "published"],
            "spectralgpt",
            "format to write: spectralgpt is safetensors with configuration, "
            "published is what the published code reads",
        ),
        output=(Path, ..., "folder to write into"),
        **IMAGE_SIZE,
    )
    for name, part in (("num_heads", "encoder"), ("decoder_num_heads", "decoder")):
        parser.add_argument(
            f"--{name}",
            type=int | None,
            default=None,
            help=f"attention heads of the {part} of a published file whose width is "
            "not one of the published; no file says them",
        )
    parser.add_argument(
        "--groups",
        type=list[list[int]] | None,
        default=None,
        help="numbers of the bands of each group of a published SatMAE, such as "
        "[[0, 1], [2, 3]], where they are not the paper's; no file says them",
    )
    parser.add_argument(
        "--num_frames",
        type=int | None,
        default=None,
        help="dates of a published ST-MAE whose places and times share a table",
    )
    add_options(
        parser,
        half="round weights to bfloat16, for a file of half the size (ours only)",
        overwrite="replace a checkpoint in the folder",
    )


def run(args: Namespace) -> Path:
    """Read, convert and write; returns what was written."""
    from spectralgpt.checkpoints import load_model, save_model, save_published
    from spectralgpt.cli.images import prepare_output
    from spectralgpt.models.sizes import WEIGHTS_FILE

    name = PUBLISHED_FILE if args.to == "published" else WEIGHTS_FILE
    prepare_output(args.output, name, args.overwrite)
    names = ("num_heads", "decoder_num_heads", "groups", "num_frames")
    stated = {name: args[name] for name in names if args[name] is not None}
    loaded = load_model(args.source, image_size=args.image_size, stated=stated)
    if args.to == "published":
        if args.half:
            raise ConfigError(
                "published files are of single precision: leave --half out."
            )
        return save_published(args.output / name, loaded.model)
    return save_model(
        args.output, loaded.model, loaded.preprocessing, loaded.extra, half=args.half
    )
