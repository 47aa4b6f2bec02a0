"""Whether images of one split show places of another."""

from collections import defaultdict
from collections.abc import Sequence

from spectralgpt.errors import RasterError
from spectralgpt.rasters import RasterItem
from spectralgpt.rasters.footprints import footprint_lonlat

__all__ = ["Footprint", "count_overlaps", "footprint_of"]

Footprint = tuple[float, float, float, float]
"""West, south, east, north, degrees."""
_SHRINK = 0.01
"""Share of a footprint's side taken off each edge: neighbours share an edge."""


def footprint_of(item: RasterItem) -> Footprint | None:
    """Return the rectangle around an image in degrees, None without georeference."""
    try:
        corners = footprint_lonlat(item.grid())
    except RasterError:
        return None
    if corners is None:
        return None
    longitudes, latitudes = zip(*corners, strict=True)
    west, east, south, north = (
        min(longitudes), max(longitudes), min(latitudes), max(latitudes)
    )  # fmt: skip
    width, height = _SHRINK * (east - west), _SHRINK * (north - south)
    return west + width, south + height, east - width, north - height


def count_overlaps(
    images: Sequence[tuple[str, str, Footprint | None]],
) -> dict[str, int]:
    """Count images of a split that share a place with another split.

    Args:
        images: (split, name of the place or "", footprint or None) of each image.

    Returns:
        Number of images of the later split of each pair, by "train / test"; a pair
        without any is there with 0 where both splits state places.
    """
    splits = sorted({split for split, _, _ in images}, key=_rank)
    counts = {}
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            pair = [image for image in images if image[0] in (first, second)]
            if all(place or footprint for _, place, footprint in pair):
                counts[f"{first} / {second}"] = _count_pair(pair, first)
    return counts


def _rank(split: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(split) if split in order else len(order)), split


def _count_pair(images: Sequence[tuple[str, str, Footprint | None]], first: str) -> int:
    from shapely import STRtree, box

    places = {place for split, place, _ in images if split == first and place}
    known = [area for split, _, area in images if split == first and area is not None]
    tree = STRtree([box(*area) for area in known])
    others: dict[int, bool] = defaultdict(bool)
    areas, numbers = [], []
    for number, (split, place, area) in enumerate(images):
        if split == first:
            continue
        others[number] |= place in places
        if area is not None:
            areas.append(box(*area))
            numbers.append(number)
    if areas and known:
        hits = tree.query(areas, predicate="intersects")[0]
        for hit in hits.tolist():
            others[numbers[hit]] = True
    return sum(others.values())
