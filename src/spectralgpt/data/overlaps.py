"""Whether images of one split show places of another."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectralgpt.data.identity import find_copies
from spectralgpt.data.samples import SPLITS, Sample
from spectralgpt.errors import RasterError
from spectralgpt.rasters import RasterFile, Window
from spectralgpt.rasters.footprints import cut_at_180, footprint_lonlat

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Footprint = tuple[tuple[float, float], ...]
"""Corners in turn, see `spectralgpt.rasters.footprints.footprint_lonlat`."""
_SHARED = 0.02
"""Share of the smaller image that two must have in common: neighbours share edges."""
_SHOWN = 3


def footprint_of(item: RasterFile, window: Window | None = None) -> Footprint | None:
    """Return where an image, or a part of it, lies; None if its headers do not say."""
    if _is_stated(item):
        return None
    try:
        return footprint_lonlat(item.grid(), window)
    except RasterError:
        return None


def _is_stated(item: RasterFile) -> bool:
    """Tell whether a layout stands for headers, which would take hours to open."""
    return any(file.is_stated for file in item.files.values())


def report_overlaps(samples: Sequence[Sample], source: str) -> None:
    """Say aloud where images of one split show ground of another.

    Only georeferences count: names of places may be the same in two splits by chance.
    Images without one are held against each other by their pixels; what they share in
    part stays unseen.

    Args:
        samples: with splits.
        source: what they are of, for messages.
    """
    images = [
        (sample.split, "", footprint_of(sample.item, sample.window))
        for sample in samples
    ]
    counts = count_overlaps(images, partly=True)
    shared = [f"{pair}: {count}" for pair, count in counts.items() if count]
    if shared:
        logger.warning(
            "%s: images show ground of other splits (%s), so that scores tell what was "
            "seen in training. Set data.split blocks with data.gap_m as large as an "
            "image, or state places.",
            source,
            ", ".join(shared),
        )
    unplaced = [
        sample
        for sample, (_, _, area) in zip(samples, images, strict=True)
        if area is None and not _is_stated(sample.item)
    ]
    _report_copies(unplaced, source)


def _report_copies(samples: Sequence[Sample], source: str) -> None:
    """Say aloud which images lie in two splits at once, by whatever names."""
    by_split = {name: [c for c in samples if c.split == name] for name in SPLITS}
    for number, split in enumerate(SPLITS[:-1]):
        later = [sample for name in SPLITS[number + 1 :] for sample in by_split[name]]
        copies = find_copies(later, by_split[split]) if by_split[split] else []
        if copies:
            some = (f"{name} is {other}" for name, other in copies[:_SHOWN])
            logger.warning(
                "%s: %d images of other splits have the pixels of images of %s (%s), "
                "so that scores tell what was seen in training. Remove the copies.",
                source,
                len(copies),
                split,
                ", ".join(some),
            )


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
    splits = sorted({split for split, _, _ in images}, key=_rank)
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


def _rank(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), split


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
