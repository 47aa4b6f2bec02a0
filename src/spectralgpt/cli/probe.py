"""`spectralgpt probe`: from a few labelled places to a map."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from spectralgpt.cli.images import OUTPUT, add_embedding_rasters, open_rasters
from spectralgpt.cli.options import add_options, error_console
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.rasters.embeddings import EmbeddingRaster
    from spectralgpt.tasks.probes import BlockScores, Probe

HELP = (
    "Map scenes from a few labelled points or polygons: a simple classifier on frozen "
    "embeddings, chosen and scored on blocks of ground that it did not see."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_embedding_rasters(parser, "; the labels lie on the first, all are mapped")
    add_options(
        parser,
        labels=(Path, "points or polygons: GeoJSON, GeoPackage or Shapefile"),
        class_column=(str, "class", "column with the classes"),
        layer=(str, "of a file with several"),
        features=(
            Literal["auto", "embedding", "reflectance", "both"],
            "auto",
            "what of each cell is used; auto chooses by held-out blocks",
        ),
        head=(
            Literal["auto", "linear", "ridge", "knn", "forest"],
            "auto",
            "what tells classes apart: logistic or ridge regression, nearest "
            "neighbours or a random forest; auto as above",
        ),
        block_m=(float, 1000.0, "side of the blocks that are held out whole, m"),
        probe=(Path, "probe.safetensors of an earlier call, instead of labels"),
        **OUTPUT,
    )


def run(args: Namespace) -> Path:
    """Fit or read a probe and map the inputs; returns the first map."""
    from spectralgpt.reports.scene_pictures import write_class_picture
    from spectralgpt.scenes.places import apply_probe

    if (args.labels is None) == (args.probe is None):
        raise ConfigError("give either --labels, to fit a probe, or --probe.")
    rasters, targets = open_rasters(args, "map")
    probe = _find_probe(args, rasters[0])
    maps = apply_probe(rasters, probe, targets)
    for raster, path, classes in zip(rasters, targets, maps, strict=True):
        picture = path.with_suffix(".png")
        names, colours = probe.class_names, probe.colours
        write_class_picture(raster, classes, names, colours, picture)
    return targets[0]


def _find_probe(args: Namespace, raster: "EmbeddingRaster") -> "Probe":
    from spectralgpt.scenes.places import probe_labels
    from spectralgpt.tasks.probes import load_probe

    if args.probe is not None:
        return load_probe(args.probe)
    probe, scores, floor, notes = probe_labels(
        raster,
        args.labels,
        args.class_column,
        args.output,
        layer=args.layer,
        features=args.features,
        head=args.head,
        block_m=args.block_m,
    )
    title = (
        f"{_accuracies(scores)}: {scores.confusion.sum()} cells of "
        f"{scores.labels} labels in {scores.blocks} blocks of {scores.block_m:g} m, "
        f"{scores.folds} folds"
    )
    names = probe.class_names
    table = Table("labelled", *names, "told right", title=title)
    for name, row, recall in zip(
        names, scores.confusion.tolist(), scores.recalls.tolist(), strict=True
    ):
        table.add_row(name, *map(str, row), f"{recall:.3f}")
    error_console().print(table)
    print(f"map: {probe}, chosen on held-out blocks.")
    if floor is not None:
        print(f"floor: a random forest on reflectance alone has {_accuracies(floor)}.")
    for note in notes:
        print(f"note: {note}")
    return probe


def _accuracies(scores: "BlockScores") -> str:
    return (
        f"accuracy {scores.accuracy:.3f}, labels weighing alike "
        f"{scores.label_accuracy:.3f}, classes weighing alike "
        f"{scores.balanced_accuracy:.3f}"
    )
