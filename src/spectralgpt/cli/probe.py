"""`spectralgpt probe`: from a few labelled places to a map."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from spectralgpt.cli.images import add_embedding_rasters, add_output
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.rasters.embeddings import EmbeddingRaster
    from spectralgpt.tasks.probes import Probe, ProbeFacts

HELP = (
    "Map scenes from a few labelled points or polygons: a linear probe on frozen "
    "embeddings, fitted in seconds and scored on blocks of ground that it did not see."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_embedding_rasters(parser, "; the labels lie on the first, all are mapped")
    parser.add_argument(
        "--labels",
        type=Path | None,
        default=None,
        help="points or polygons: GeoJSON, GeoPackage or Shapefile",
    )
    parser.add_argument(
        "--class_column", type=str, default="class", help="column with the classes"
    )
    parser.add_argument(
        "--layer", type=str | None, default=None, help="of a file with several"
    )
    parser.add_argument(
        "--features",
        type=Literal["embedding", "reflectance", "both"],
        default="embedding",
        help="what of each cell is used",
    )
    parser.add_argument(
        "--block_m",
        type=float,
        default=1000.0,
        help="side of the blocks that are held out whole, m",
    )
    parser.add_argument(
        "--probe",
        type=Path | None,
        default=None,
        help="probe.safetensors of an earlier call, instead of labels",
    )
    add_output(parser)


def run(args: Namespace) -> Path:
    """Fit or read a probe and map the inputs; returns the first map."""
    from spectralgpt.cli.images import prepare_outputs
    from spectralgpt.reports.scene_pictures import write_class_picture
    from spectralgpt.scenes.embedding_rasters import name_results, open_alike
    from spectralgpt.scenes.few_labels import apply_probe, check_probe

    if (args.labels is None) == (args.probe is None):
        raise ConfigError("give either --labels, to fit a probe, or --probe.")
    targets = name_results(args.inputs, args.output, "map")
    prepare_outputs(args.output, targets, args.overwrite)
    rasters = open_alike(args.inputs)
    probe, facts = _find_probe(args, rasters[0])
    for raster in rasters:
        check_probe(facts, raster)
    for raster, path in zip(rasters, targets, strict=True):
        classes = apply_probe(raster, probe, facts, path)
        picture = path.with_suffix(".png")
        names, colours = facts.class_names, facts.colours
        write_class_picture(raster, classes, names, colours, picture)
    return targets[0]


def _find_probe(
    args: Namespace, raster: "EmbeddingRaster"
) -> tuple["Probe", "ProbeFacts"]:
    from spectralgpt.cli.results import print_block_scores
    from spectralgpt.scenes.few_labels import probe_labels, write_few_labels
    from spectralgpt.tasks.probes import load_probe

    if args.probe is not None:
        return load_probe(args.probe)
    found = probe_labels(
        raster,
        args.labels,
        args.class_column,
        layer=args.layer,
        features=args.features,
        block_m=args.block_m,
    )
    write_few_labels(found, args.output)
    print_block_scores(found.scores, found.facts.class_names, Console(stderr=True))
    for note in found.cells.notes:
        print(f"note: {note}")
    return found.probe, found.facts
