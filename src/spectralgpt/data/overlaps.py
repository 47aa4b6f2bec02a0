"""Whether images of one split show places of another."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectralgpt.data.samples import SPLITS
from spectralgpt.errors import RasterError
from spectralgpt.rasters import RasterFile, Window
from spectralgpt.rasters.footprints import cut_at_180, footprint_lonlat

if TYPE_CHECKING:
    from numpy.typing import NDArray

Footprint = tuple[tuple[float, float], ...]
"""Corners in turn, see `spectralgpt.rasters.footprints.footprint_lonlat`."""
_SHARED = 0.02
"""Share of the smaller image that two must have in common: neighbours share edges."""


def footprint_of(item: RasterFile, window: Window | None = None) -> Footprint | None:
    """Return where an image, or a part of it, lies; None if its headers do not say."""
    # Where a layout stands for headers, it would take hours to open them.
    if any(file.is_stated for file in item.files.values()):
        return None
    try:
        return footprint_lonlat(item.grid(), window)
    except RasterError:
        return None


def count_overlaps(
    images: Sequence[tuple[str, str, Footprint | None]], partly: bool = False
) -> dict[str, int]:
    """Count images of a split that share a place with another split.

    Args:
        images: (split, name of the place or "", footprint or None) of each image.
        partly: count what is known where some images state neither.

    Returns:
        Number of images of the later split of each pair, by "train / test"; a pair
        without any is there with 0 where both splits state places.
    """
    given = {split for split, _, _ in images}
    splits = [*(s for s in SPLITS if s in given), *sorted(given - set(SPLITS))]
    counts = {}
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            pair = [image for image in images if image[0] in (first, second)]
            if partly or all(place or footprint for _, place, footprint in pair):
                counts[f"{first} / {second}"] = _count_pair(pair, first)
    return counts


def count_within(images: Sequence[tuple[str, Footprint | None]]) -> int:
    """Count images that show ground of another one, which is not of their place.

    Args:
        images: (name of the place or "", footprint or None) of each image.
    """
    known = [(place, area) for place, area in images if area is not None]
    areas = [area for _, area in known]
    first, second = _shared(areas, areas)
    places = np.array([place or number for number, (place, _) in enumerate(known)], str)
    return len(np.unique(first[places[first] != places[second]]))


def _count_pair(images: Sequence[tuple[str, str, Footprint | None]], first: str) -> int:
    places = {place for split, place, _ in images if split == first and place}
    known = [area for split, _, area in images if split == first and area is not None]
    others: dict[int, bool] = defaultdict(bool)
    areas, numbers = [], []
    for number, (split, place, area) in enumerate(images):
        if split == first:
            continue
        others[number] |= place in places
        if area is not None:
            areas.append(area)
            numbers.append(number)
    for hit in np.unique(_shared(areas, known)[0]).tolist():
        others[numbers[hit]] = True
    return sum(others.values())


def _shared(
    areas: Sequence[Footprint], known: Sequence[Footprint]
) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
    """Return which areas, and which known ones, have more than an edge in common."""
    import shapely

    if not areas or not known:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    mine, theirs = (
        np.array([cut_at_180(shapely.Polygon(corners)) for corners in each])
        for each in (areas, known)
    )
    first, second = shapely.STRtree(theirs).query(mine, predicate="intersects")
    common = shapely.area(shapely.intersection(mine[first], theirs[second]))
    smaller = np.minimum(shapely.area(mine[first]), shapely.area(theirs[second]))
    is_shared = common > _SHARED * smaller
    return first[is_shared], second[is_shared]
