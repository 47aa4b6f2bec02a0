"""Cover scenes with windows, and read them as a model takes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from spectralgpt.errors import BandError, ConfigError, DataError, ShapeError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, Window, read_raster
from spectralgpt.sensors import Band

Fit = Literal["auto", "resize", "windows"]
# A file that is not much larger than a window is more likely a chip than a scene.
_CHIP_SLACK = 1.5


def cover_axis(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of windows that cover an axis.

    Windows lie `stride` apart; the last one ends with the axis. A window that is longer
    than the axis starts at 0.

    Raises:
        ConfigError: a window or stride below 1, or gaps between windows.
    """
    if length < 1 or size < 1 or not 1 <= stride <= size:
        raise ConfigError(
            f"Windows of {size} px every {stride} px do not cover {length} px: use "
            "a stride of 1 px to one window."
        )
    last = max(0, length - size)
    return [*range(0, last, stride), last]


def stride_px(size: int, overlap: float, patch_size: int) -> int:
    """Return the pixels between windows, a whole number of patches.

    Args:
        size: side of a window, px.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        patch_size: side of a patch, px.

    Raises:
        ConfigError: the overlap is not in that range.
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap must be in [0, 1) (found: {overlap}).")
    return max(patch_size, int(size * (1 - overlap)) // patch_size * patch_size)


@dataclass(frozen=True)
class WindowPlan:
    """Square windows that cover a scene, or a part of it; some may reach beyond.

    Args:
        rows: first rows of the windows, ascending.
        columns: first columns of the windows, ascending.
        side: of a window, px.
        height: of what they cover, px.
        width: of what they cover, px.
    """

    rows: Sequence[int]
    columns: Sequence[int]
    side: int
    height: int
    width: int

    @property
    def span(self) -> int:
        """Pixels from the first column of windows to the end of the last."""
        return self.columns[-1] + self.side - self.columns[0]

    def strips(self, first_row: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (row, row below) of the strips that rows of windows finish.

        Args:
            first_row: of the first strip that is wanted. Rows of windows that reach
                into it come before, so that it is blended as if all were.
        """
        for row, below in pairwise([*self.rows, self.height]):
            if row + self.side > first_row:
                yield row, below


def cover(height: int, width: int, side: int, stride: int) -> WindowPlan:
    """Lay windows over a scene whose last row and column end with it.

    Raises:
        ConfigError: see `cover_axis`.
    """
    rows, columns = (cover_axis(length, side, stride) for length in (height, width))
    return WindowPlan(rows, columns, side, height, width)


def plan_windows(
    item: RasterFile, bands: tuple[Band, ...], side: int, overlap: float, patch: int
) -> WindowPlan:
    """Lay windows over a scene that overlap by a share, whole patches apart.

    Raises:
        ConfigError: the overlap is not in [0, 1).
    """
    return cover(*item.shape(bands), side, stride_px(side, overlap, patch))


def choose_bands(preprocessing: Preprocessing, item: RasterFile) -> tuple[Band, ...]:
    """Return the item's bands that are the model's, in the model's order.

    Raises:
        BandError: one is missing; it is named.
    """
    try:
        return tuple(item.bands[i] for i in preprocessing.match(item.bands))
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from error


def check_size(item: RasterFile, bands: tuple[Band, ...], patch_size: int) -> None:
    """Refuse images that are smaller than a token.

    Raises:
        ShapeError: it is.
    """
    height, width = item.shape(bands)
    if min(height, width) < patch_size:
        raise ShapeError(
            f"{item.name} is {height} x {width} px, smaller than a token of "
            f"{patch_size} x {patch_size} px. Use larger images."
        )


def prepared_windows(
    item: RasterFile,
    preprocessing: Preprocessing,
    *,
    fit: Fit = "auto",
    window_px: int | None = None,
    batch_size: int = 16,
) -> Iterator[tuple[list[Window], Tensor]]:
    """Read a file as one image, or the windows that cover it, ready for the model.

    Args:
        item: the file.
        preprocessing: the model's contract.
        fit: `resize` takes the whole file as one image, `windows` cuts it, `auto` takes
            files of up to 1.5 windows a side as one image and cuts larger ones.
        window_px: side of a window, px of the file; None takes the model's image size.
        batch_size: windows read at once.

    Yields:
        Windows and their images (B, C, H, W). Windows without a valid pixel are left
        out.

    Raises:
        DataError: there is no valid pixel at all.
    """
    size = preprocessing.image_size
    bands = choose_bands(preprocessing, item)
    height, width = item.shape(bands)
    side = window_px or size
    as_one = fit == "resize" or (
        fit == "auto" and max(height, width) <= _CHIP_SLACK * side
    )
    windows = [Window(0, 0, height, width)]
    if not as_one:
        plan = cover(height, width, side, side)
        shown = min(side, height), min(side, width)
        windows = [Window(r, c, *shown) for r in plan.rows for c in plan.columns]
    found = 0
    for begin in range(0, len(windows), batch_size):
        part = windows[begin : begin + batch_size]
        read = [
            read_raster(item, bands, None if as_one else at, out_size=(size, size))
            for at in part
        ]
        kept = [i for i, raster in enumerate(read) if raster.valid.any()]
        if kept:
            found += len(kept)
            images = [torch.from_numpy(preprocessing.prepare(read[i])[0]) for i in kept]
            yield [part[i] for i in kept], torch.stack(images)
    if not found:
        raise DataError(f"{item.name} has no valid pixel in any window: leave it out.")
