"""Where crops lie and which bands they take; what of an image is held out.

Geometry only; no pixels are read here. A cube is a band group: the neighbouring bands
that share a token. Of images with more cubes than a token budget allows, all samples of
a batch take the same ones, a function of the batch's seed alone, so that their shapes
and wavelengths are equal.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectralgpt.config import check_range
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    ShapeError,
    SpectralGPTError,
)
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, RasterFile, Window
from spectralgpt.sensors import Band, match_bands

_TRIES = 10
"""Shapes tried before the largest square that fits is taken."""
_GAP_PX = 16
"""Left out between the training part of an image and its held-out strip, because a
pixel of a coarse band reaches that far when it is interpolated."""
_WINDOWS_FOR_BLOCK = 6
"""An image needs this many base windows before a strip of it is held out."""
_HASH_LEVELS = 2**32
_WHOLE_PX = 0.01
"""An edge this near to a pixel's is taken for it."""


@dataclass(frozen=True)
class CropConfig:
    """How crops are cut from images.

    The area of a crop is drawn as a share of the base window: a square whose side is
    image_size / sqrt(least share), so that in large images crops run from native
    resolution to somewhat coarser. An image smaller than that is its own base window,
    as in the paper.

    Args:
        scale_min: least share of the base window's area, 0..1.
        scale_max: largest share of the base window's area, 0..1.
        aspect_max: largest ratio of a crop's sides, 1 or more.
        horizontal_flip: whether half of the crops are mirrored left to right.
        vertical_flip: whether half of the crops are mirrored top to bottom.
        transpose: whether rows and columns of half of the crops are swapped; with both
            flips they lie in all eight ways.
        max_invalid_share: largest share of invalid values in a crop, 0..1; others are
            drawn again.
        val_share: share held out for validation, 0..1.

    Source: Hong et al. 2024, arXiv:2311.07113, random resized crops of 0.2 to 1.
    """

    scale_min: float = 0.2
    scale_max: float = 1.0
    aspect_max: float = 4 / 3
    horizontal_flip: bool = True
    vertical_flip: bool = False
    transpose: bool = False
    max_invalid_share: float = 0.25
    val_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise ConfigError(
                f"crops need 0 < scale_min <= scale_max <= 1, found {self.scale_min} "
                f"and {self.scale_max}."
            )
        check_range("at least 1", self, "aspect_max")
        check_range("at least 0 and below 1", self, "max_invalid_share", "val_share")

    def base_side(self, image_size: int) -> float:
        """Side of the base window in pixels."""
        return image_size / math.sqrt(self.scale_min)


@dataclass(frozen=True)
class Crop:
    """A window of an image, and how it is turned; also the part that crops lie in.

    Args:
        item: index of the image.
        window: pixels of its finest grid.
        flip_columns: whether it is mirrored left to right.
        flip_rows: whether it is mirrored top to bottom.
        is_transposed: whether its rows and columns are swapped after that.
    """

    item: int
    window: Window
    flip_columns: bool = False
    flip_rows: bool = False
    is_transposed: bool = False

    def draw(
        self, image_size: int, config: CropConfig, generator: torch.Generator
    ) -> "Crop":
        """Draw a crop inside this part of an image.

        Args:
            image_size: side in px that the crop is resized to.
            config: how crops are cut.
            generator: all randomness comes from it.
        """
        region = self.window
        height, width = _draw_shape(region, image_size, config, generator)
        row = region.row + _draw_whole(region.height - height, generator)
        column = region.column + _draw_whole(region.width - width, generator)
        flips = torch.rand(2, generator=generator) < 0.5
        # Drawn last, and only where asked for: other crops stay the same.
        swaps = config.transpose and bool(torch.rand((), generator=generator) < 0.5)
        return Crop(
            self.item,
            Window(row, column, height, width),
            flip_columns=config.horizontal_flip and bool(flips[0]),
            flip_rows=config.vertical_flip and bool(flips[1]),
            is_transposed=swaps,
        )

    def grid(self, image_size: int) -> list["Crop"]:
        """Cut this part into squares of the model's size, around its centre.

        A part smaller than that gives the largest square in its centre.
        """
        region = self.window
        side = min(image_size, region.height, region.width)
        rows, columns = region.height // side, region.width // side
        top = region.row + (region.height - rows * side) // 2
        left = region.column + (region.width - columns * side) // 2
        return [
            Crop(self.item, Window(top + i * side, left + j * side, side, side))
            for i in range(rows)
            for j in range(columns)
        ]


def _draw_shape(
    region: Window, image_size: int, config: CropConfig, generator: torch.Generator
) -> tuple[int, int]:
    base = config.base_side(image_size)
    area = min(base, region.height) * min(base, region.width)
    for _ in range(_TRIES):
        share, lean = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        scale = config.scale_min + share * (config.scale_max - config.scale_min)
        aspect = config.aspect_max ** (2 * lean - 1)
        height = round(math.sqrt(scale * area / aspect))
        width = round(math.sqrt(scale * area * aspect))
        if 0 < height <= region.height and 0 < width <= region.width:
            return height, width
    side = min(region.height, region.width, math.ceil(base))
    return side, side


def _draw_whole(largest: int, generator: torch.Generator) -> int:
    return int(torch.randint(largest + 1, (), generator=generator))


def _split_region(
    item: RasterFile,
    height: int,
    width: int,
    image_size: int,
    split: str,
    config: CropConfig,
) -> Window | None:
    """Return the part of an image that belongs to a split, None if none does."""
    whole = Window(0, 0, height, width)
    if item.holdout == "never" or config.val_share == 0:
        return whole if split == "train" else None
    longer = max(height, width)
    strip = max(image_size, round(longer * config.val_share))
    is_large = height * width >= _WINDOWS_FOR_BLOCK * config.base_side(image_size) ** 2
    fits = min(height, width) >= image_size and longer >= 2 * strip + _GAP_PX
    asked = item.holdout == "block" or (item.holdout == "auto" and is_large)
    if not (asked and fits):
        place = zlib.crc32(item.place.encode()) / _HASH_LEVELS
        is_held_out = place < config.val_share
        return whole if is_held_out == (split == "val") else None
    kept = max(height, width) - strip
    if height >= width:
        if split == "val":
            return Window(kept, 0, strip, width)
        return Window(0, 0, kept - _GAP_PX, width)
    if split == "val":
        return Window(0, kept, height, strip)
    return Window(0, 0, height, kept - _GAP_PX)


def find_parts(
    items: Sequence[RasterFile],
    preprocessing: Preprocessing,
    split: str,
    crops: CropConfig,
    allow_missing: bool = False,
) -> tuple[list[Crop], dict[int, str]]:
    """Find what of each image belongs to a split.

    With `holdout` auto, an image of several base windows gives the last strip along its
    longer side to validation; smaller ones belong to one split as a whole, by a stable
    hash of their place, so that dates of a place stay together. `block` asks for the
    strip wherever one of the model's size fits, `place` never cuts an image, and
    `never` keeps it for training.

    Args:
        items: the images.
        preprocessing: bands, image size and patch.
        split: `train` or `val`.
        crops: says how much is held out.
        allow_missing: take images that lack some of the bands.

    Returns:
        The parts that crops may lie in, and what is wrong with each image that cannot
        be used, by index.
    """
    parts: list[Crop] = []
    bad: dict[int, str] = {}
    for number, item in enumerate(items):
        try:
            height, width = _shape(item, preprocessing, allow_missing)
        except SpectralGPTError as error:
            bad[number] = str(error)
            continue
        region = _split_region(
            item, height, width, preprocessing.image_size, split, crops
        )
        if region is not None:
            parts.append(Crop(number, region))
    return parts, bad


def _shape(
    item: RasterFile, preprocessing: Preprocessing, allow_missing: bool
) -> tuple[int, int]:
    bands = own_bands(item, preprocessing.bands, allow_missing)
    if not bands:
        raise BandError(
            f"{item.name} has none of the bands that are asked for (found: "
            f"{', '.join(band.name for band in item.bands)}). Leave it out."
        )
    height, width = item.shape(list(bands.values()))
    least = preprocessing.patch_size
    if min(height, width) < least:
        raise DataError(
            f"{item.name} has {height} x {width} px, smaller than a token of {least} "
            "px. Leave it out."
        )
    return height, width


def own_bands(
    item: RasterFile, bands: Sequence[Band], allow_missing: bool = False
) -> dict[str, Band]:
    """Return an image's own bands by the names of those that are asked for.

    Args:
        item: the image.
        bands: asked for, such as those of a contract.
        allow_missing: leave out the bands that the image lacks; there may be none.

    Raises:
        BandError: a band is missing; names the image.
    """
    found = item.bands
    try:
        indices = match_bands(bands, found, allow_missing)
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from None
    return {
        band.name: found[index]
        for band, index in zip(bands, indices, strict=True)
        if index is not None
    }


def part_on(
    item: RasterFile, window: Window | None, bands: Sequence[Band]
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
    stated = item.grid()
    if stated == used:
        return used, window
    (row_scale, row_shift), (column_scale, column_shift) = stated.map_to(used)
    edges = [
        window.row * row_scale + row_shift,
        window.column * column_scale + column_shift,
        (window.row + window.height) * row_scale + row_shift,
        (window.column + window.width) * column_scale + column_shift,
    ]
    top, left, bottom, right = (round(edge) for edge in edges)
    exact = all(abs(edge - round(edge)) < _WHOLE_PX for edge in edges)
    if not exact or bottom <= top or right <= left:
        raise ShapeError(
            f"{window} of an image of {stated.height} x {stated.width} px has no whole "
            f"pixels in the bands of {used.height} x {used.width} px. Choose windows, "
            "such as data.tile_px, that are a multiple of the coarsest band's pixels."
        )
    return used, Window(top, left, bottom - top, right - left)


def check_token_budget(budget: int | None, contract: Preprocessing) -> int | None:
    """Return how many band groups fit the budget, None if all of them do.

    Args:
        budget: most tokens of one sample; None for no limit.
        contract: fixes image size, patch and bands.

    Raises:
        ConfigError: not even one band group fits.
    """
    if budget is None:
        return None
    positions = (contract.image_size // contract.patch_size) ** 2
    if budget < positions:
        raise ConfigError(
            f"token_budget is {budget}, but one band group at {contract.image_size} px "
            f"has {positions} tokens. Raise it, or lower image_size."
        )
    groups = -(-len(contract.bands) // contract.bands_per_token)
    fitting = budget // positions
    return None if fitting >= groups else fitting


def draw_bands(
    bands: Sequence[Band],
    bands_per_token: int,
    groups: int | None,
    seed: int,
    subsets: float = 0.0,
) -> tuple[Band, ...]:
    """Draw bands without replacement and return them in order.

    Band groups are drawn as a whole, so that a token holds the same bands whether or
    not others were drawn. Only in a share of draws are they single bands: at least a
    token's, at most all, or as many as the groups hold.

    Args:
        bands: all bands, sorted by wavelength.
        bands_per_token: neighbouring bands S in a group.
        groups: how many are drawn; None for all.
        seed: of the draw.
        subsets: share of draws that are of single bands, 0..1.
    """
    generator = torch.Generator().manual_seed(seed)
    most = min(len(bands), (groups or len(bands)) * bands_per_token)
    if subsets > 0 and float(torch.rand((), generator=generator)) < subsets:
        least = min(bands_per_token, most)
        count = int(torch.randint(least, most + 1, (), generator=generator))
        some = torch.randperm(len(bands), generator=generator)[:count].sort().values
        return tuple(bands[at] for at in some.tolist())
    if groups is None:
        return tuple(bands)
    starts = range(0, len(bands), bands_per_token)
    chosen = torch.randperm(len(starts), generator=generator)[:groups].sort().values
    return tuple(
        band
        for group in chosen.tolist()
        for band in bands[starts[group] : starts[group] + bands_per_token]
    )
