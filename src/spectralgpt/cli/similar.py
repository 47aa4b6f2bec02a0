"""`spectralgpt similar`: find places that look like one."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from spectralgpt.cli.images import OUTPUT, add_embedding_rasters, open_rasters
from spectralgpt.cli.options import add_options

if TYPE_CHECKING:
    from spectralgpt.rasters.embeddings import EmbeddingRaster
    from spectralgpt.scenes.similarity import Query

HELP = (
    "Find places like a point or a polygon in one or many embedding rasters: the top "
    "places as GeoJSON or GeoPackage, a GeoTIFF of similarity, and a picture."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_embedding_rasters(parser)
    add_options(
        parser,
        point=(str, "x,y in --crs, so longitude,latitude unless another one is named"),
        crs=(str, "EPSG:4326", "reference system of --point"),
        polygon=(
            Path,
            "file of shapes instead; all that lie on the first raster they meet",
        ),
        top=(PositiveInt, 20, "places wanted"),
        spacing=(PositiveInt, 5, "least distance of two places, cells"),
        format=(Literal["geojson", "gpkg"], "geojson", "of the places"),
        **OUTPUT,
    )


def run(args: Namespace) -> Path:
    """Search the inputs; returns the file of places."""
    from spectralgpt.reports.scene_pictures import write_similarity_picture
    from spectralgpt.scenes.similarity import write_places

    table = args.output / f"places.{args.format}"
    rasters, maps = open_rasters(args, "similarity", table)
    query = _query(args, rasters)
    places = query.find(rasters, args.top, args.spacing)
    for raster, path in zip(rasters, maps, strict=True):
        similarity = query.write_map(raster, path)
        own = [(p.row, p.column) for p in places if p.raster is raster]
        write_similarity_picture(raster, similarity, own, path.with_suffix(".png"))
    return write_places(places, table)


def _query(args: Namespace, rasters: list["EmbeddingRaster"]) -> "Query":
    """Make the query from the first raster that the place lies on."""
    from spectralgpt.errors import ConfigError, SpectralGPTError
    from spectralgpt.scenes.places import find_query_cells
    from spectralgpt.scenes.similarity import Query

    if (args.point is None) == (args.polygon is None):
        raise ConfigError("name what is looked for: either --point or --polygon.")
    for raster in rasters:
        try:
            cells = find_query_cells(raster.grid, args.point, args.crs, args.polygon)
        except SpectralGPTError:
            if raster is rasters[-1]:
                raise
            continue
        return Query.at(raster, cells, rasters)
    raise AssertionError("open_alike gives at least one raster")
