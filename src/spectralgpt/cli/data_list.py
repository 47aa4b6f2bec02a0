"""`spectralgpt data list`: the archives and layouts that are known."""

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

__all__ = ["HELP", "add_arguments", "run"]

HELP = "List the archives and layouts that are known, or describe one of them."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "name", type=str, nargs="?", help="archive to describe; without it, list all"
    )


def run(args: Namespace) -> str:
    """Print the archives; returns what to do next."""
    from spectralgpt.data.archives.registry import Archive, list_archives, load_archive

    if args.name:
        _describe(load_archive(args.name))
        return f"check it with: spectralgpt data check {args.name} FOLDER"
    table = Table("name", "what it is", "tasks", "images", "GB")
    archives: list[Archive] = [load_archive(name) for name in list_archives()]
    for archive in sorted(archives, key=lambda archive: archive.is_own):
        table.add_row(
            archive.name,
            archive.title,
            ", ".join(archive.tasks),
            "" if archive.images is None else f"{archive.images:,}",
            "" if archive.size_gb is None else f"{archive.size_gb:,g}",
        )
    Console().print(table)
    return "spectralgpt data list NAME says how an archive lies on disk and is got"


def _describe(archive: object) -> None:
    for name in ("title", "layout", "splits", "licence", "url", "get"):
        text = getattr(archive, name)
        separator = "\n" if "\n" in text else " "
        print(f"{name}:{separator}{text}")
