"""Whether two rasters lie on the same pixels, and if not, why."""

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from spectralgpt.rasters.geometry import Grid, Window, apply, compose

__all__ = ["common_windows", "describe_difference", "is_same_system"]

_SAME_PX = 0.01
"""Corners that lie closer than this, px, are the same: georeferences are rounded."""


def describe_difference(first: Grid, second: Grid) -> str | None:
    """Say why the pixels of two rasters do not lie on each other; None if they do."""
    shapes = [f"{grid.height} x {grid.width} px" for grid in (first, second)]
    if shapes[0] != shapes[1]:
        return f"size: {shapes[0]} against {shapes[1]}"
    if first.transform is None and second.transform is None:
        return None
    if first.transform is None or second.transform is None:
        which = "first" if first.transform is None else "second"
        return f"georeference: the {which} has none"
    if not is_same_system(first.crs, second.crs):
        return f"reference system: {first.crs} against {second.crs}"
    step = compose(~second.transform, first.transform)
    corners = [
        (column, row) for column in (0, first.width) for row in (0, first.height)
    ]
    apart_px = max(
        float(np.hypot(x - column, y - row))
        for column, row in corners
        for x, y in [apply(step, column, row)]
    )
    if apart_px <= _SAME_PX:
        return None
    return f"transform: their corners lie up to {apart_px:.4g} px apart"


def common_windows(first: Grid, second: Grid) -> tuple[Window, Window] | None:
    """Return the windows of two rasters that show the ground which both show.

    Returns:
        Of the first and of the second, the same size, pixel on pixel; None where pixels
        do not lie on each other, or the two have no ground in common.
    """
    if first.transform is None or second.transform is None:
        return None
    if not is_same_system(first.crs, second.crs):
        return None
    step = compose(~second.transform, first.transform)
    columns, rows = (round(number) for number in apply(step, 0, 0))
    corners = [(x, y) for x in (0, first.width) for y in (0, first.height)]
    apart = max(
        max(abs(at[0] - x - columns), abs(at[1] - y - rows))
        for x, y in corners
        for at in [apply(step, x, y)]
    )
    top, left = max(0, -rows), max(0, -columns)
    height = min(first.height, second.height - rows) - top
    width = min(first.width, second.width - columns) - left
    if apart > _SAME_PX or min(height, width) < 1:
        return None
    own = Window(top, left, height, width)
    return own, Window(top + rows, left + columns, height, width)


def is_same_system(first: str | None, second: str | None) -> bool:
    """Whether two texts mean one reference system."""
    if first == second:
        return True
    if first is None or second is None:
        return False
    try:
        return bool(CRS.from_user_input(first) == CRS.from_user_input(second))
    except CRSError:
        return False
