"""Parts of images: where they lie in some bands, in which split, how often drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectralgpt.data.crops import CropConfig, split_region
from spectralgpt.errors import BandError, DataError, ShapeError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing, match_some_bands
from spectralgpt.rasters import Grid, RasterItem, Window
from spectralgpt.sensors import Band

__all__ = ["Part", "find_parts", "own_bands", "part_on", "share_indices"]


@dataclass(frozen=True)
class Part:
    """The part of an image that belongs to a split.

    Args:
        item: index of the image.
        region: where its crops may lie.
    """

    item: int
    region: Window


def part_on(
    item: RasterItem, window: Window | None, bands: Sequence[Band]
) -> tuple[Grid, Window]:
    """Return the grid of the bands that are read, and a part of an image in its pixels.

    Args:
        item: the image.
        window: pixels of the finest grid of all its bands; None is all of it.
        bands: those that are read.

    Raises:
        ShapeError: the part has no whole pixels in these bands.
    """
    used = item.grid(bands)
    if window is None:
        return used, Window(0, 0, used.height, used.width)
    return used, _to_grid(window, item.grid(), used)


def own_bands(
    item: RasterItem, preprocessing: Preprocessing, allow_missing: bool = False
) -> tuple[Band, ...]:
    """Return the image's own bands that the contract asks for, in its order.

    Args:
        item: the image.
        preprocessing: the contract.
        allow_missing: leave out the bands that the image lacks; there may be none.

    Raises:
        BandError: a band is missing; names the image.
    """
    found = item.bands
    if allow_missing:
        indices = match_some_bands(preprocessing.bands, found)
        return tuple(found[i] for i in indices if i is not None)
    try:
        return tuple(found[i] for i in preprocessing.match(found))
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from None


def find_parts(
    items: Sequence[RasterItem],
    preprocessing: Preprocessing,
    split: str,
    crops: CropConfig,
    allow_missing: bool = False,
) -> tuple[list[Part], dict[int, str]]:
    """Find what of each image belongs to a split.

    Args:
        items: the images.
        preprocessing: bands, image size and patch.
        split: `train` or `val`.
        crops: says how much is held out.
        allow_missing: take images that lack some of the bands.

    Returns:
        The parts, and what is wrong with each image that cannot be used, by index.
    """
    parts: list[Part] = []
    bad: dict[int, str] = {}
    for number, item in enumerate(items):
        try:
            height, width = _shape(item, preprocessing, allow_missing)
        except SpectralGPTError as error:
            bad[number] = str(error)
            continue
        region = split_region(
            item, height, width, preprocessing.image_size, split, crops
        )
        if region is not None:
            parts.append(Part(number, region))
    return parts, bad


def _shape(
    item: RasterItem, preprocessing: Preprocessing, allow_missing: bool
) -> tuple[int, int]:
    bands = own_bands(item, preprocessing, allow_missing)
    if not bands:
        raise BandError(
            f"{item.name} has none of the bands that are asked for (found: "
            f"{', '.join(band.name for band in item.bands)}). Leave it out."
        )
    height, width = item.shape(bands)
    least = preprocessing.patch_size
    if min(height, width) < least:
        raise DataError(
            f"{item.name} has {height} x {width} px, smaller than a token of {least} "
            "px. Leave it out."
        )
    return height, width


def share_indices(
    parts: Sequence[Part], items: Sequence[RasterItem], base_side: float
) -> list[int]:
    """Give each index of a data set a part, in proportion to its size and weight.

    Args:
        parts: what is shared among.
        items: the images that the parts belong to.
        base_side: side of the window that counts as one, px.

    Returns:
        For each index the number of its part.
    """
    weights = [items[part.item].weight for part in parts]
    areas = [part.region.height * part.region.width / base_side**2 for part in parts]
    sizes = np.array(
        [w * max(1.0, area) for w, area in zip(weights, areas, strict=True)]
    )
    # The least weight counts as one, so that no image falls between two indices.
    sizes /= min(weights)
    edges = np.cumsum(sizes)
    length = max(len(sizes), math.floor(edges[-1]))
    positions = (np.arange(length) + 0.5) * edges[-1] / length
    return [int(owner) for owner in np.searchsorted(edges, positions)]


def _to_grid(window: Window, stated: Grid, used: Grid) -> Window:
    """Carry a window over from the finest grid of all bands to that of some."""
    if stated == used:
        return window
    (row_scale, row_shift), (column_scale, column_shift) = stated.map_to(used)
    edges = [
        window.row * row_scale + row_shift,
        window.column * column_scale + column_shift,
        (window.row + window.height) * row_scale + row_shift,
        (window.column + window.width) * column_scale + column_shift,
    ]
    top, left, bottom, right = (round(edge) for edge in edges)
    exact = all(abs(edge - round(edge)) < 1 / 100 for edge in edges)
    if not exact or bottom <= top or right <= left:
        raise ShapeError(
            f"{window} of an image of {stated.height} x {stated.width} px has no whole "
            f"pixels in the bands of {used.height} x {used.width} px. Choose windows, "
            "such as data.tile_px, that are a multiple of the coarsest band's pixels."
        )
    return Window(top, left, bottom - top, right - left)
