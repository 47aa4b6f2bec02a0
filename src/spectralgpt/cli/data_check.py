"""`spectralgpt data check`: what is in an archive, and what is wrong with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.images import add_format_options, prepare_output, stated_of
from spectralgpt.cli.options import counting

if TYPE_CHECKING:
    from spectralgpt.data.findings import ArchiveCheck

__all__ = ["HELP", "add_arguments", "run"]

_MOST_BANDS = 16
_TABLE = "check.json"
HELP = (
    "Open every image of an archive: what is there, missing or corrupt, classes, band "
    "statistics, splits and their overlap. Writes check.json and chips.png. The exit "
    "status is 1 if there are faults."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "target",
        type=str,
        help="an archive or layout (see spectralgpt data list); a YAML file: a "
        "description of images, or settings of labelled data; or a pack",
    )
    parser.add_argument("root", type=Path, nargs="?", help="the archive's folder")
    parser.add_argument(
        "--output", type=Path | None, default=None, help="default: check-NAME"
    )
    parser.add_argument(
        "--limit", type=int | None, default=None, help="open so many images, drawn"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    add_format_options(parser)
    parser.add_argument(
        "--labels", type=str | None, default=None, help="table of layout csv"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a check in the output folder"
    )


def run(args: Namespace) -> Path:
    """Check, write and print; returns the folder of the results.

    Raises:
        DataError: there are faults.
    """
    from spectralgpt.data.archives.checks import CheckOptions, check_archive
    from spectralgpt.data.findings import fault_lines
    from spectralgpt.data.packing import is_pack
    from spectralgpt.errors import DataError

    if is_pack(args.target):
        return _check_pack(args.target)
    options = CheckOptions(
        args.limit,
        args.seed,
        args.workers,
        stated_of(args),
        args.labels,
    )
    if args.output is not None:
        prepare_output(args.output, _TABLE, args.overwrite)
    with counting("reading images") as report:
        found = check_archive(args.target, args.root, options, report)
    folder = args.output or Path(f"check-{found.name}")
    prepare_output(folder, _TABLE, args.overwrite)
    _write(found, folder)
    _print(found)
    lines = fault_lines(found.faults)
    for line in lines:
        print(line)
    if lines:
        raise DataError(
            f"faults in {found.root}: {len(found.faults)}. {folder / _TABLE} has all "
            "of them."
        )
    print("no faults")
    return folder


def _check_pack(location: str) -> Path:
    """Compare the files of a pack with their checksums; returns where it is.

    Raises:
        DataError: some differ.
    """
    from spectralgpt.data.packing import verify_pack
    from spectralgpt.errors import DataError

    with counting("reading shards") as report:
        manifest, faults = verify_pack(location, report)
    print(f"{manifest.name}: {manifest.images:,} images, left out as bad:")
    print("\n".join(manifest.left_out) or "none")
    if faults:
        print("\n".join(faults[1:]))
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)
    print("no faults: all checksums agree")
    return Path(location)


def _write(found: "ArchiveCheck", folder: Path) -> None:
    from spectralgpt.outputs import make_folder
    from spectralgpt.reports.data_sets import plot_contact_sheet

    make_folder(folder)
    text = json.dumps(found.as_table(), indent=2, ensure_ascii=False)
    (folder / _TABLE).write_text(text + "\n", encoding="utf-8")
    picture = folder / "chips.png"
    picture.unlink(missing_ok=True)
    if found.examples:
        heading = f"{found.name}: {found.num_listed:,} images"
        chips = [(example.raster, example.title) for example in found.examples]
        plot_contact_sheet(chips, heading).savefig(picture, dpi=150)


def _print(found: "ArchiveCheck") -> None:
    console = Console()
    listed, checked = found.num_listed, found.num_checked
    print(f"{found.name} at {found.root}: {listed:,} images, {checked:,} read")
    for what, counts in (("size", found.sizes), ("split", found.split_counts)):
        shown = [f"{name or 'none'}: {count:,}" for name, count in counts.items()]
        if shown:
            print(f"images by {what}: {'; '.join(shown[:8])}")
    for pair, count in found.overlaps.items():
        print(f"images on places of both splits, {pair}: {count:,}")
    if found.num_overlapping:
        print(
            f"images that show ground of another one: {found.num_overlapping:,}; a "
            "split at random would test on ground that was learned: set data.split "
            "blocks, or state places"
        )
    for note in found.notes:
        print(f"note: {note}")
    for title, table in (
        ("images of a class", found.class_counts),
        ("pixels of a class", found.pixel_counts),
    ):
        if table:
            console.print(_class_table(title, table))
    if found.statistics is not None:
        console.print(_band_table(found))


def _class_table(title: str, rows: Mapping[str, Mapping[str, int]]) -> Table:
    splits = list(rows)
    table = Table("class", *(split or "all" for split in splits), title=title)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    for name in names:
        numbers = [rows[split].get(name, 0) for split in splits]
        if any(numbers):
            table.add_row(name, *(f"{number:,}" for number in numbers))
    empty = [name for name in names if not any(rows[s].get(name, 0) for s in splits)]
    if empty:
        table.caption = f"{len(empty)} classes have none"
    return table


def _band_table(found: "ArchiveCheck") -> Table:
    statistics = found.statistics
    assert statistics is not None
    table = Table("band", "mean", "std", "1 %", "99 %", title="reflectance")
    names = list(statistics.mean)
    for name in names[:_MOST_BANDS]:
        values = (statistics.mean, statistics.std, statistics.low, statistics.high)
        table.add_row(name, *(f"{value[name]:.4f}" for value in values))
    if len(names) > _MOST_BANDS:
        table.caption = f"{len(names) - _MOST_BANDS} more in check.json"
    return table
