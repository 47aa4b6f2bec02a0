"""`spectralgpt cluster`: map groups of like places, without labels."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from spectralgpt.cli.images import OUTPUT, add_embedding_rasters, open_rasters
from spectralgpt.cli.options import add_options

HELP = (
    "Group the cells of embedding rasters by k-means, without labels: a GeoTIFF of "
    "clusters with colours, and a picture. Several rasters share their clusters."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_embedding_rasters(parser)
    add_options(
        parser,
        classes=(PositiveInt, 6, "clusters, 2 to 64"),
        seed=(NonNegativeInt, 0, "of the first centres"),
        **OUTPUT,
    )


def run(args: Namespace) -> Path:
    """Cluster the inputs; returns the first map."""
    from spectralgpt.reports.scene_pictures import write_class_picture
    from spectralgpt.reports.style import category_colours
    from spectralgpt.scenes.similarity import fit_clusters, write_class_map

    rasters, targets = open_rasters(args, "clusters")
    classify = fit_clusters(rasters, args.classes, args.seed)
    # Nobody has told what they show.
    names = [f"cluster {number + 1}" for number in range(args.classes)]
    colours = category_colours(args.classes)
    for raster, path in zip(rasters, targets, strict=True):
        classes = write_class_map(raster, classify, names, colours, path)
        title = f"{args.classes} clusters, no labels"
        picture = path.with_suffix(".png")
        write_class_picture(raster, classes, names, colours, picture, title)
    return targets[0]
