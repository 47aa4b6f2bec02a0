"""`spectralgpt weights`: list, download and check weights that have a name."""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Column, Table

from spectralgpt.cli.options import CommandParser
from spectralgpt.config import suggest
from spectralgpt.errors import CheckpointError
from spectralgpt.weights import (
    NamedWeights,
    cache_folder,
    fetch,
    find_named,
    list_weights,
    verify,
)

HELP = "List, download and check the weights that any MODEL may name."
_UNKNOWN = "not known"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    added = parser.add_subcommands(dest="action")
    for name, (_, count, about) in ACTIONS.items():
        sub = CommandParser(description=f"{about}.", exit_on_error=False)
        sub.add_argument("names", type=str, nargs=count, help="as the list has them")
        added.add_subcommand(name, sub, help=f"{about[0].lower()}{about[1:]}")


def run(args: Namespace) -> Path:
    """Run the sub-command; returns the file, or the folder of all."""
    work, _, _ = ACTIONS[args.action]
    return work([_find(name) for name in args[args.action].names or ()])


def _find(name: str) -> NamedWeights:
    named = find_named(name)
    if named is None:
        known = list_weights()
        raise CheckpointError(
            f"no weights are called {name!r} (known: {', '.join(known)})"
            f"{suggest(name, known)}"
        )
    return named


def _list(chosen: list[NamedWeights]) -> Path:
    for named in chosen:
        for key in ("name", "title", "source", "licence", "citation", "url"):
            print(f"{key}: {getattr(named, key) or 'ships with the package'}")
        print(f"size: {_UNKNOWN if named.size is None else f'{named.size:,} bytes'}")
        print(f"hash: {named.hash or f'{_UNKNOWN}; that of the first file is pinned'}")
        for key, value in named.contract.items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    if not chosen:
        name = Column("name", no_wrap=True)
        table = Table(name, "what it is", "MB", "licence", "is here")
        for named in list_weights().values():
            size = _UNKNOWN if named.size is None else f"{named.size / 1e6:,.0f}"
            here = "yes" if named.path.is_file() else "no"
            table.add_row(named.name, named.title, size, named.licence, here)
        Console().print(table)
    return chosen[-1].path if chosen else cache_folder()


def _download(chosen: list[NamedWeights]) -> Path:
    return [fetch(named) for named in chosen][-1]


def _verify(chosen: list[NamedWeights]) -> Path:
    here = [named for named in list_weights().values() if named.path.is_file()]
    if not chosen and not here:
        print("no weights are here yet: spectralgpt weights download gets them")
    faults = []
    for named in chosen or here:
        try:
            known = verify(named)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        origin = "published" if named.hash else f"pinned in {named.pin}"
        print(f"{named.name}: {known}, as {origin}")
    if faults:
        raise CheckpointError(" ".join(faults))
    return cache_folder()


ACTIONS: dict[str, tuple[Callable[[list[NamedWeights]], Path], str, str]] = {
    "list": (_list, "*", "List the weights that have a name, or describe some"),
    "download": (_download, "+", "Download weights, or go on where it broke off"),
    "verify": (_verify, "*", "Compare what is here, or some of it, with its hash"),
}
"""What does a sub-command, how many names it takes, and its help."""
