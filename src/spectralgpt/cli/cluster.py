"""`spectralgpt cluster`: map groups of like places, without labels."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from spectralgpt.cli.images import add_embedding_rasters, add_output

HELP = (
    "Group the cells of embedding rasters by k-means, without labels: a GeoTIFF of "
    "clusters with colours, and a picture. Several rasters share their clusters."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_embedding_rasters(parser)
    parser.add_argument(
        "--classes", type=PositiveInt, default=6, help="clusters, 2 to 64"
    )
    parser.add_argument(
        "--seed", type=NonNegativeInt, default=0, help="of the first centres"
    )
    add_output(parser)


def run(args: Namespace) -> Path:
    """Cluster the inputs; returns the first map."""
    from spectralgpt.cli.images import prepare_outputs
    from spectralgpt.reports.scene_pictures import write_class_picture
    from spectralgpt.reports.style import category_colours
    from spectralgpt.scenes.embedding_rasters import name_results, open_alike
    from spectralgpt.scenes.similarity import fit_clusters, write_map

    targets = name_results(args.inputs, args.output, "clusters")
    prepare_outputs(args.output, targets, args.overwrite)
    rasters = open_alike(args.inputs)
    clustering = fit_clusters(rasters, args.classes, args.seed)
    colours = category_colours(args.classes)
    for raster, path in zip(rasters, targets, strict=True):
        classes = write_map(raster, clustering, path, colours)
        picture = path.with_suffix(".png")
        title = f"{args.classes} clusters, no labels"
        write_class_picture(raster, classes, clustering.names, colours, picture, title)
    return targets[0]
