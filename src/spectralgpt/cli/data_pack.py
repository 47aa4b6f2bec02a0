"""`spectralgpt data pack`: images of a data set as shards made for training."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import add_format_options, stated_of
from spectralgpt.cli.options import counting

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Pack the images of a data set into shards that training reads fast, with the same "
    "numbers. Goes on where it was interrupted."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.data.packing.writing import PackOptions

    parser.add_argument(
        "source",
        type=str,
        help="description of the images, as data.sources of pretraining takes it: a "
        "YAML file or archive:NAME; or a folder of images",
    )
    parser.add_argument(
        "root", type=Path, nargs="?", default=Path(), help="the data folder"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    add_format_options(parser)
    for option, kind, text in (
        ("shard_mb", float, "numbers in a shard, MiB"),
        ("workers", int, "threads that read"),
        ("max_bad_share", float, "largest share of images that may be left out, 0..1"),
    ):
        spellings = dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}"))
        default = getattr(PackOptions, option)
        parser.add_argument(*spellings, type=kind, default=default, help=text)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a pack, finished or not"
    )


def run(args: Namespace) -> Path:
    """Pack the images; returns the pack's folder."""
    from spectralgpt.data.packing.writing import (
        PackOptions,
        find_source,
        pack_images,
    )

    source, root = find_source(args.source, args.root, stated_of(args))
    options = PackOptions(args.shard_mb, args.workers, args.max_bad_share)
    with counting("packing images") as report:
        made = pack_images(
            source,
            root,
            args.output,
            options,
            overwrite=args.overwrite,
            report=report,
        )
    size = sum(shard.bytes for shard in made.shards)
    print(f"{made.name}: {made.images:,} images, {len(made.shards)} shards")
    print(f"{size / 1e9:.3g} GB; left out as bad: {len(made.left_out)}")
    return args.output
