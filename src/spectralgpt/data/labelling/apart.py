"""Tiles of scenes whose pixels do not lie on each other: kept apart on the ground.

Within one lattice blocks are apart by their layout. Scenes of other zones or pixels may
show the same ground again, and there tiles near one of another split are left out.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.labelling.scenes import Scene
from spectralgpt.data.labelling.tiles import WrittenTile
from spectralgpt.rasters.footprints import (
    EARTH_RADIUS_M,
    cut_at_180,
    footprint_lonlat,
)

__all__ = ["keep_apart"]

_SAFE = 1.01
"""The earth is no sphere: a degree may be so much shorter."""


def keep_apart(
    tiles: Sequence[WrittenTile], scenes: Sequence[Scene], gap_m: float
) -> list[WrittenTile]:
    """Return the tiles that lie apart from those of other splits in other lattices.

    Of two that do not, the one of the lattice that comes later is left out. Tiles count
    as rectangles of longitude and latitude, which are a little larger than they are.

    Args:
        tiles: with their splits.
        scenes: what they are cut from.
        gap_m: least distance, m.
    """
    import shapely

    if len({tile.tile.cell[0] for tile in tiles}) < 2:
        return list(tiles)
    bounds = np.array([_bounds(scenes, tile) for tile in tiles])
    tree = shapely.STRtree([cut_at_180(box) for box in shapely.box(*bounds.T)])
    wide = shapely.box(*(bounds + _margins(bounds, gap_m)).T)
    near = [cut_at_180(box) for box in wide]
    one, other = tree.query(near, predicate="intersects")
    late = {
        int(i)
        for i, j in zip(one, other, strict=True)
        if tiles[i].split != tiles[j].split
        and tiles[i].tile.cell[0] > tiles[j].tile.cell[0]
    }
    return [tile for at, tile in enumerate(tiles) if at not in late]


def _bounds(scenes: Sequence[Scene], tile: WrittenTile) -> tuple[float, ...]:
    """West, south, east and north of a tile, degrees."""
    scene = scenes[tile.tile.scene]
    corners = footprint_lonlat(scene.grid, tile.tile.window)
    assert corners is not None, "scenes without a place are refused"
    lon, lat = zip(*corners, strict=True)
    return min(lon), min(lat), max(lon), max(lat)


def _margins(bounds: NDArray[np.float64], gap_m: float) -> NDArray[np.float64]:
    """What to add to bounds, (N, 4), so that they are wider by a gap."""
    degrees = _SAFE * math.degrees(gap_m / EARTH_RADIUS_M)
    furthest = np.abs(bounds[:, [1, 3]]).max(axis=1) + degrees
    east = degrees / np.cos(np.radians(furthest))
    north = np.full_like(east, degrees)
    return np.stack([-east, -north, east, north], axis=1)
