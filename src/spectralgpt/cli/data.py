"""`spectralgpt data`: known archives, whether one is whole, and making one's own."""

from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import add_actions

__all__ = ["ACTIONS", "HELP", "add_arguments", "run"]

HELP = "Say which archives are known; check, pack or label data."
_PREFIX = "spectralgpt.cli.data_"
ACTIONS = {
    "list": "list the archives and layouts that are known, or describe one",
    "check": "open every image of an archive and say what is there and what is wrong",
    "pack": "pack the images of a data set into shards made for training",
    "label": "make a labelled data set from scenes and a layer of labels",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands, each in a module of its own."""
    add_actions(parser, _PREFIX, ACTIONS)


def run(args: Namespace) -> Path | str:
    """Run the sub-command; returns what it made."""
    made: Path | str = import_module(_PREFIX + args.action).run(args[args.action])
    return made
