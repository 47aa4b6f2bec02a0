"""`spectralgpt data`: known archives, whether one is whole, and making one's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.images import (
    OUTPUT,
    add_format_options,
    format_of,
    prepare_output,
    stated_of,
)
from spectralgpt.cli.options import CommandParser, add_options, counting, from_options
from spectralgpt.cli.spelling import spell_outside
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.files import write_json

if TYPE_CHECKING:
    from spectralgpt.data.archives.findings import ArchiveCheck
    from spectralgpt.data.sources import Source
    from spectralgpt.rasters import Stated

HELP = "Say which archives are known; check, pack or label data."
_MOST_BANDS, _MOST_DRAWN = 16, 6
_TABLE = "check.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    added = parser.add_subcommands(dest="action")
    for name, (add, _, short, about) in ACTIONS.items():
        sub = CommandParser(description=about, exit_on_error=False)
        add(sub)
        added.add_subcommand(name, sub, help=short)


def run(args: Namespace) -> Path | str:
    """Run the sub-command; returns what it made."""
    _, work, _, _ = ACTIONS[args.action]
    return work(args[args.action])


def _add_list(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", type=str, nargs="?", help="archive to describe; without it, list all"
    )


def _list(args: Namespace) -> str:
    """Print the archives; returns what to do next."""
    from spectralgpt.data.archives.registry import Archive, list_archives, load_archive

    if args.name:
        archive = load_archive(args.name)
        for name in ("title", "layout", "splits", "licence", "url", "get"):
            text = getattr(archive, name)
            separator = "\n" if "\n" in text else " "
            print(f"{name}:{separator}{text}")
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


def _add_check(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        type=str,
        help="an archive or layout (see spectralgpt data list); a YAML file: a "
        "description of images, or settings of labelled data; or a pack",
    )
    parser.add_argument("root", type=Path, nargs="?", help="the archive's folder")
    add_options(
        parser,
        output=(Path, "default: check-NAME"),
        limit=(int, "open so many images, drawn"),
        seed=(int, 0, "of what is drawn"),
        workers=(int, 2, "threads that read"),
    )
    add_format_options(parser)
    add_options(
        parser,
        labels=(str, "table of layout csv"),
        overwrite="replace a check in the output folder",
    )


def _check(args: Namespace) -> Path:
    """Check, write and print; returns the folder of the results."""
    from spectralgpt.data.archives.checks import CheckOptions, check_archive
    from spectralgpt.data.packing import is_pack

    if is_pack(args.target):
        return _check_pack(args.target)
    options = CheckOptions(
        args.limit, args.seed, args.workers, stated_of(args), args.labels
    )
    if args.output is not None:
        prepare_output(args.output, _TABLE, args.overwrite)
    with counting("reading images", is_numbered=True) as update:
        found = check_archive(args.target, args.root, options, _told(update))
    folder = args.output or Path(f"check-{found.name}")
    prepare_output(folder, _TABLE, args.overwrite)
    _write_check(found, folder)
    _print_check(found)
    lines = found.fault_lines()
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
    """Compare the files of a pack with their checksums; returns where it is."""
    from spectralgpt.data.packing import verify_pack

    with counting("reading shards", is_numbered=True) as update:
        manifest, faults = verify_pack(location, _told(update))
    print(f"{manifest.name}: {manifest.images:,} images, left out as bad:")
    print("\n".join(manifest.left_out) or "none")
    if faults:
        print("\n".join(faults[1:]))
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)
    print("no faults: all checksums agree")
    return Path(location)


def _told(update: Callable[..., None]) -> Callable[[int, int], None]:
    return lambda done, total: update(completed=done, total=total)


def _write_check(found: "ArchiveCheck", folder: Path) -> None:
    from spectralgpt.data.listings import first_names
    from spectralgpt.reports.data_sets import plot_contact_sheet

    write_json(folder / _TABLE, found.as_table())
    picture = folder / "chips.png"
    picture.unlink(missing_ok=True)
    if found.examples:
        heading = f"{found.name}: {found.num_listed:,} images"
        sheet = plot_contact_sheet(found.examples, heading, found.masked)
        sheet.savefig(picture, dpi=150)
        names = first_names((name for name, *_ in found.examples), _MOST_DRAWN)
        print(f"{picture} shows {names}")


def _print_check(found: "ArchiveCheck") -> None:
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


def _add_pack(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=str,
        help="description of the images, as data.sources of pretraining takes it: a "
        "YAML file or archive:NAME; or a folder of images",
    )
    parser.add_argument(
        "root", type=Path, nargs="?", default=Path(), help="the data folder"
    )
    add_options(parser, output=(Path, ..., "folder to make"))
    add_format_options(parser)
    for option, default, text in (
        ("shard_mb", 256.0, "numbers in a shard, MiB"),
        ("workers", 2, "threads that read"),
        ("max_bad_share", 0.1, "largest share of images that may be left out, 0..1"),
    ):
        parser.add_argument(
            f"--{option}", type=type(default), default=default, help=text
        )
    add_options(parser, overwrite="replace a pack, finished or not")


def _pack(args: Namespace) -> Path:
    """Pack the images; returns the pack's folder."""
    from spectralgpt.data.packing.writing import pack_images

    source, root = _find_source(args.source, args.root, stated_of(args))
    with counting("packing images", is_numbered=True) as update:
        made = pack_images(
            source,
            root,
            args.output,
            args.shard_mb,
            args.workers,
            args.max_bad_share,
            overwrite=args.overwrite,
            report=_told(update),
        )
    size = sum(shard.bytes for shard in made.shards)
    print(f"{made.name}: {made.images:,} images, {len(made.shards)} shards")
    print(f"{size / 1e9:.3g} GB; left out as bad: {len(made.left_out)}")
    return args.output


def _find_source(source: str, root: Path, stated: "Stated") -> tuple["Source", Path]:
    """Return the description of what is packed, and what its root is relative to."""
    from spectralgpt.data.packing import is_pack
    from spectralgpt.data.sources import Source, read_source

    folder = Path(source)
    if folder.is_dir() and not is_pack(folder):
        # As pretraining names the images of a folder.
        return Source(name="images", **stated.facts), folder
    if stated.facts:
        given = spell_outside(", ".join(f"--{name}" for name in stated.facts))
        raise ConfigError(f"{given} is for folders: a description states its own.")
    return read_source(source), root


def _add_label(parser: ArgumentParser) -> None:
    from spectralgpt.data.labelling import LabelSource, TileRules

    parser.add_argument(
        "--scenes",
        type=Path,
        nargs="+",
        required=True,
        help="rasters, or folders with one file a band; with --sensor also folders of "
        "scenes",
    )
    add_format_options(parser)
    parser.add_class_arguments(LabelSource, as_group=False)
    parser.add_class_arguments(TileRules, as_group=False)
    add_options(parser, licence=(str, "", "of the data set, for its card"), **OUTPUT)


def _label(args: Namespace) -> Path:
    """Make the data set; returns its folder."""
    from spectralgpt.data.labelling import LabelSource, TileRules, make_labelled_set
    from spectralgpt.data.splits import Fractions
    from spectralgpt.reports.data_sets import write_overview

    fractions = from_options(Fractions, args.fractions)
    with counting("reading headers", is_numbered=True) as update:
        made = make_labelled_set(
            args.scenes,
            format_of(args),
            from_options(LabelSource, args),
            from_options(TileRules, args, fractions=fractions),
            args.output,
            licence=args.licence,
            overwrite=args.overwrite,
            draw=write_overview,
            progress=lambda step, done, total: update(
                description=step, completed=done, total=total
            ),
        )
    for note in made.notes:
        print(f"note: {note}")
    for split, (tiles, blocks) in made.splits.items():
        print(f"{split}: {tiles:,} tiles in {blocks:,} blocks")
    return made.folder


_Action = tuple[
    Callable[[ArgumentParser], None], Callable[[Namespace], Path | str], str, str
]
ACTIONS: dict[str, _Action] = {
    "list": (
        _add_list,
        _list,
        "list the archives and layouts that are known, or describe one",
        "List the archives and layouts that are known, or describe one of them.",
    ),
    "check": (
        _add_check,
        _check,
        "open every image of an archive and say what is there and what is wrong",
        "Open every image of an archive: what is there, missing or corrupt, "
        "classes, band statistics, splits and their overlap. Writes check.json and "
        "chips.png. The exit status is 1 if there are faults.",
    ),
    "pack": (
        _add_pack,
        _pack,
        "pack the images of a data set into shards made for training",
        "Pack the images of a data set into shards that training reads fast, with "
        "the same numbers. Goes on where it was interrupted.",
    ),
    "label": (
        _add_label,
        _label,
        "make a labelled data set from scenes and a layer of labels",
        "Cut scenes into tiles with masks, from polygons (GeoPackage, GeoJSON, "
        "Shapefile) or a raster of class codes. Blocks on the ground part train, val "
        "and test. The folder holds labels.yaml for spectralgpt finetune segmentation "
        "--data.",
    ),
}
"""What adds a sub-command's options, what does it, and its short and its long help."""
