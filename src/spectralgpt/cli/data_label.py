"""`spectralgpt data label`: scenes and a layer of labels become a labelled data set."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from spectralgpt.cli.images import add_format_options, add_output, format_of

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Cut scenes into tiles with masks, from polygons (GeoPackage, GeoJSON, Shapefile) "
    "or a raster of class codes. Blocks on the ground part train, val and test. The "
    "folder holds labels.yaml for spectralgpt finetune segmentation --data."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
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
    parser.add_argument(
        "--licence", type=str, default="", help="of the data set, for its card"
    )
    add_output(parser)


def run(args: Namespace) -> Path:
    """Make the data set; returns its folder."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from spectralgpt.data.labelling import LabelSource, TileRules, make_labelled_set
    from spectralgpt.data.splits import Fractions
    from spectralgpt.reports.data_sets import write_overview

    values = args.as_dict()
    sources = {name: values[name] for name in LabelSource.__dataclass_fields__}
    rules = {name: values[name] for name in TileRules.__dataclass_fields__}
    rules["fractions"] = Fractions(**values["fractions"])
    console = Console(stderr=True)
    columns = ("{task.description}", MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading headers", total=None)
        made = make_labelled_set(
            args.scenes,
            format_of(args),
            LabelSource(**sources),
            TileRules(**rules),
            args.output,
            licence=args.licence,
            overwrite=args.overwrite,
            draw=write_overview,
            progress=lambda step, done, total: bar.update(
                task, description=step, completed=done, total=total
            ),
        )
    for note in made.notes:
        print(f"note: {note}")
    for split, (tiles, blocks) in made.splits.items():
        print(f"{split}: {tiles:,} tiles in {blocks:,} blocks")
    return made.folder
