"""`spectralgpt batch`: map or embed many scenes, each once."""

from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import add_actions

__all__ = ["ACTIONS", "HELP", "add_arguments", "run"]

HELP = (
    "Do the same with many scenes: every scene once, failures noted and tried again, "
    "interrupted work continued, with a manifest and a STAC item collection."
)
_PREFIX = "spectralgpt.cli.batch_"
ACTIONS = {
    "predict": "map every scene with a fine-tuned segmentation model",
    "embed": "write a raster of embeddings of every scene",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands, each in a module of its own."""
    add_actions(parser, _PREFIX, ACTIONS)


def run(args: Namespace) -> Path:
    """Run the sub-command; returns the manifest."""
    made: Path = import_module(_PREFIX + args.action).run(args[args.action])
    return made
