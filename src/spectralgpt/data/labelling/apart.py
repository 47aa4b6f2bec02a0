"""Tiles of scenes whose pixels do not lie on each other: kept apart on the ground.

Within one lattice blocks are apart by their layout. Scenes of other zones or pixels may
show the same ground again, and there tiles near one of another split are left out.
"""

from collections.abc import Sequence

from spectralgpt.data.labelling.scenes import Scene
from spectralgpt.data.labelling.tiles import WrittenTile
from spectralgpt.data.labelling.vectors import outline

__all__ = ["keep_apart"]

_PARTS = 16
"""Of the edge of a tile; it is nearly straight in any projection."""


def keep_apart(
    tiles: Sequence[WrittenTile], scenes: Sequence[Scene], gap_m: float
) -> list[WrittenTile]:
    """Return the tiles that lie apart from those of other splits in other lattices.

    Of two that do not, the one of the lattice that comes later is left out.

    Args:
        tiles: with their splits.
        scenes: what they are cut from.
        gap_m: least distance, m.
    """
    import geopandas
    import shapely

    if len({tile.tile.cell[0] for tile in tiles}) < 2:
        return list(tiles)
    first = geopandas.GeoSeries([outline(scenes[0].grid)], crs=scenes[0].grid.crs)
    metres = first.estimate_utm_crs()
    places = [
        geopandas.GeoSeries(
            [
                outline(scene.grid.part(t.tile.window), _PARTS)
                for t in tiles
                if t.tile.scene == n
            ],
            crs=scene.grid.crs,
        ).to_crs(metres)
        for n, scene in enumerate(scenes)
    ]
    by_scene = [iter(series) for series in places]
    shapes = [next(by_scene[tile.tile.scene]) for tile in tiles]
    tree = shapely.STRtree(shapes)
    one, other = tree.query(shapes, predicate="dwithin", distance=gap_m)
    late = {
        int(i)
        for i, j in zip(one, other, strict=True)
        if tiles[i].split != tiles[j].split
        and tiles[i].tile.cell[0] > tiles[j].tile.cell[0]
    }
    return [tile for at, tile in enumerate(tiles) if at not in late]
