"""Which windows of an image are read: a grid that covers it, or a crop at random."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from spectralgpt.rasters import Window

__all__ = ["ChipWindow", "cover_window", "draw_window", "padded_side"]


@dataclass(frozen=True)
class ChipWindow:
    """One window of the grid that covers a chip.

    Args:
        chip: number of the chip.
        window: pixels of the grid of the model's bands.
        seen_rows: first rows of the window that an earlier window covers already.
        seen_columns: the same for columns.
    """

    chip: int
    window: Window
    seen_rows: int = 0
    seen_columns: int = 0


def cover_window(chip: int, whole: Window, size: int) -> Iterator[ChipWindow]:
    """Cover a part of an image with windows of one size.

    The last window of a row or column is moved back to end with the image, so that it
    sees what is really there; it says how far it overlaps the one before.

    Args:
        chip: number of the chip.
        whole: the part.
        size: side of the windows, px; smaller parts get a window of their own size.
    """
    for row, height, seen_rows in _cover_axis(whole.row, whole.height, size):
        for column, width, seen in _cover_axis(whole.column, whole.width, size):
            yield ChipWindow(chip, Window(row, column, height, width), seen_rows, seen)


def draw_window(whole: Window, side: int, generator: torch.Generator) -> Window:
    """Choose a square crop at random, cut to the part where that is smaller."""
    height, width = min(side, whole.height), min(side, whole.width)
    row, column = (
        int(torch.randint(free + 1, (), generator=generator))
        for free in (whole.height - height, whole.width - width)
    )
    return Window(whole.row + row, whole.column + column, height, width)


def padded_side(length: int, patch_size: int, most: int) -> int:
    """Return the side of the image that a window of `length` px is padded to.

    That is the next multiple of the patch, and no more than the model's image size.
    """
    return min(most, -(-length // patch_size) * patch_size)


def _cover_axis(start: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield first pixel, length and overlap of the windows along one axis."""
    if length <= size:
        yield start, length, 0
        return
    for at in range(0, length, size):
        moved = min(at, length - size)
        yield start + moved, size, at - moved
