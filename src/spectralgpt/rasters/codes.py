"""Layers of class codes: whole numbers that are looked up and never blended.

A layer of codes may lie on another grid than the image that it labels. Each pixel of
the image takes the code at its centre, found by georeference where both have one, and
otherwise by equal shape.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.alignment import is_same_system
from spectralgpt.rasters.files import (
    check_memory,
    find_masks,
    open_raster,
    quiet_gdal,
    read_masks,
)
from spectralgpt.rasters.gdal_errors import reading
from spectralgpt.rasters.geometry import Grid, Window

__all__ = [
    "Align",
    "Overlay",
    "overlay",
    "read_code_window",
    "read_codes",
    "to_codes",
]

Align = Literal["auto", "georeference", "shape"]
_CODE_BYTES = 10
"""Of a code, what stands in the file, and a flag."""
_SLACK = 1e-6
"""Relative to a pixel; georeferences are rounded where they are written."""
_Line = tuple[float, float]


@dataclass(frozen=True)
class Overlay:
    """Where the pixels of an image lie in a layer of codes.

    Args:
        rows: (scale, shift): row in the layer = scale * row in the image + shift.
        columns: the same for columns.
        height: rows of the layer.
        width: columns of the layer.
    """

    rows: _Line
    columns: _Line
    height: int
    width: int

    def pixels(
        self, window: Window
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the layer's (row, column) indices below the centres of a window.

        Indices outside the layer are -1.
        """
        rows = _below(self.rows, window.row, window.height, self.height)
        return rows, _below(self.columns, window.column, window.width, self.width)


def overlay(image: Grid, codes: Grid, align: Align = "auto") -> Overlay:
    """Lay a layer of codes over an image.

    Args:
        image: grid of the image.
        codes: grid of the layer; it must cover the image, to half a pixel of the
            coarser one.
        align: `auto` goes by georeference where both have one and by equal shape
            otherwise; `georeference` and `shape` insist.

    Raises:
        RasterError: the two cannot lie on each other; says why.
    """
    is_placed = [g.transform is not None and g.crs is not None for g in (image, codes)]
    if align == "georeference" and not all(is_placed):
        which = "the image" if not is_placed[0] else "the mask"
        raise RasterError(
            f"{which} has no georeference. Add one, or set align to shape."
        )
    if align == "shape" or not all(is_placed):
        _check_shape(image, codes, align)
        return Overlay((1.0, 0.0), (1.0, 0.0), codes.height, codes.width)
    if is_same_system(image.crs, codes.crs):
        codes = replace(codes, crs=image.crs)
    if image.crs != codes.crs:
        raise RasterError(
            f"the image is in {_shorten(image.crs)}, the mask in "
            f"{_shorten(codes.crs)}. Reproject one of them first."
        )
    rows, columns = image.map_to(codes)
    _check_cover(rows, image.height, codes.height, "rows")
    _check_cover(columns, image.width, codes.width, "columns")
    return Overlay(rows, columns, codes.height, codes.width)


def read_codes(
    path: Path,
    index: int,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Look codes up in a layer.

    Args:
        path: the file.
        index: which layer of it, from 1.
        rows: (H,) rows of the layer, -1 for none.
        columns: (W,) columns of the layer, -1 for none.

    Returns:
        codes (H, W), and whether there is one (H, W): not outside, NaN or masked.

    Raises:
        RasterError: the file cannot be read, has no such layer, or holds fractions.
    """
    check_memory(path, len(rows) * len(columns) * _CODE_BYTES)
    there = (rows >= 0)[:, None] & (columns >= 0)
    if not there.any():
        return np.zeros(there.shape, np.int64), there
    top, left = int(rows[rows >= 0].min()), int(columns[columns >= 0].min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    numbers, seen, _ = read_code_window(
        path, index, RasterioWindow(left, top, width, height)
    )
    at = np.maximum(rows - top, 0)[:, None], np.maximum(columns - left, 0)
    found, known = numbers[at], there & seen[at]
    return to_codes(np.where(known, found, 0), path), known


def to_codes(numbers: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.int64]:
    """Take finite numbers as class codes.

    Args:
        numbers: of any type and shape.
        path: where they come from, for messages.

    Raises:
        RasterError: one is no whole number.
    """
    codes = numbers.astype(np.int64)
    if (codes != numbers).any():
        raise RasterError(
            f"{path} holds fractions such as {numbers[codes != numbers][0]:g}, so its "
            "numbers are no class codes. Name a file of class codes."
        )
    return codes


def read_code_window(
    path: Path, index: int, window: RasterioWindow
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_], float | None]:
    """Read the numbers of a layer, where they are known, and its nodata.

    Args:
        path: the file.
        index: which layer of it, from 1.
        window: pixels of it.

    Returns:
        numbers (H, W), which of them are neither NaN nor masked (H, W), and the number
        that means nodata.

    Raises:
        RasterError: the file cannot be read, or has no such layer.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        if index > dataset.count:
            raise RasterError(
                f"{path} has {dataset.count} layers, number {index} was asked for."
            )
        with reading(path):
            check_memory(path, round(window.width * window.height) * _CODE_BYTES)
            numbers = np.asarray(dataset.read(index, window=window))
            known = np.isfinite(numbers)
            masks = find_masks(dataset)[index - 1]
            # Asked for itself, a layer of opacity holds codes.
            if masks and index not in masks:
                known &= read_masks(dataset, [index], masks, window)[0]
            return numbers, known, dataset.nodata


def _below(line: _Line, start: int, length: int, size: int) -> npt.NDArray[np.intp]:
    scale, shift = line
    at = np.floor(scale * (np.arange(start, start + length) + 0.5) + shift)
    return np.where((at >= 0) & (at < size), at, -1).astype(np.intp)


def _check_shape(image: Grid, codes: Grid, align: Align) -> None:
    if (image.height, image.width) == (codes.height, codes.width):
        return
    why = "" if align == "shape" else ", and not both have a georeference"
    raise RasterError(
        f"the image has {image.height} x {image.width} px, the mask {codes.height} x "
        f"{codes.width}{why}. Cut one of them to the other."
    )


def _check_cover(line: _Line, length: int, size: int, what: str) -> None:
    """Refuse a layer that ends before the image does."""
    scale, shift = line
    first, last = sorted((shift, scale * length + shift))
    # In pixels of the layer.
    slack = max(1.0, abs(scale)) / 2 + _SLACK * size
    missing = max(-first, last - size)
    if missing > slack:
        raise RasterError(
            f"the mask ends {missing / abs(scale):.1f} px ({what}) before the image "
            "does, by their georeferences. Correct them, or set align to shape if "
            "only the georeference is wrong."
        )


def _shorten(text: str | None, most: int = 40) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= most else f"{text[:most]}..."
