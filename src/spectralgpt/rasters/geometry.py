"""Plain values of raster geometry: windows, grids, and images in reflectance.

No file is opened here. Rows count from the top, columns from the left, both from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Literal

import numpy as np
import numpy.typing as npt
from rasterio import Affine

from spectralgpt.errors import BandError, RasterError, ShapeError, UnitError
from spectralgpt.sensors import Band

__all__ = ["Grid", "Raster", "Window", "apply", "compose"]

_ALIGNED = 1e-6
"""Largest relative shear between two grids that still count as parallel."""


@dataclass(frozen=True)
class Window:
    """A rectangle of a raster, in pixels.

    Args:
        row: first row.
        column: first column.
        height: rows.
        width: columns.
    """

    row: int
    column: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.row < 0 or self.column < 0 or self.height < 1 or self.width < 1:
            raise ShapeError(
                f"a window starts at row and column 0 or later and has at least one "
                f"pixel, found {self}."
            )


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie.

    Args:
        height: rows.
        width: columns.
        transform: from (column, row) to coordinates, None without georeference.
        crs: coordinate reference system as text, None without georeference.
    """

    height: int
    width: int
    transform: Affine | None = None
    crs: str | None = None

    @classmethod
    def at(
        cls, height: int, width: int, numbers: Sequence[float] | None, crs: str | None
    ) -> "Grid":
        """Make a grid from plain numbers.

        Args:
            height: rows.
            width: columns.
            numbers: (a, b, c, d, e, f) of the transform x = a * column + b * row + c,
                y = d * column + e * row + f; None without georeference.
            crs: coordinate reference system as text.
        """
        transform = None if numbers is None else Affine(*numbers)
        return cls(height, width, transform, crs)

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The transform as `at` takes it."""
        return None if self.transform is None else tuple(self.transform)[:6]

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in units of the reference system; 1 / pixels without one."""
        if self.transform is None:
            return 1 / (self.height * self.width)
        return float(abs(self.transform.determinant))

    def contains(self, window: Window) -> bool:
        """Whether all pixels of the window exist."""
        return (
            window.row + window.height <= self.height
            and window.column + window.width <= self.width
        )

    def part(self, window: Window) -> "Grid":
        """Return the grid of a window of this one."""
        transform = self.transform
        if transform is not None:
            moved = Affine.translation(window.column, window.row)
            transform = compose(transform, moved)
        return Grid(window.height, window.width, transform, self.crs)

    def pixel_at(self, x: float, y: float) -> tuple[int, int]:
        """Return the (row, column) of the pixel that holds a point.

        Args:
            x: easting or longitude, in the grid's reference system.
            y: northing or latitude.

        Raises:
            RasterError: the grid has no georeference, or the point lies outside.
        """
        if self.transform is None:
            raise RasterError(
                f"point {x:.10g},{y:.10g}: the image has no georeference, so no "
                "coordinates. Give its row and column."
            )
        column, row = apply(~self.transform, x, y)
        if not (0 <= row < self.height and 0 <= column < self.width):
            left, top = apply(self.transform, 0, 0)
            right, bottom = apply(self.transform, self.width, self.height)
            raise RasterError(
                f"point {x:.10g},{y:.10g} is outside of the image, which reaches from "
                f"{left:.10g},{top:.10g} to {right:.10g},{bottom:.10g} ({self.crs})."
            )
        return floor(row), floor(column)

    def map_to(self, other: "Grid") -> tuple[tuple[float, float], tuple[float, float]]:
        """Map positions in this grid to positions in another one of the same place.

        Without georeference the two grids are taken to cover the same rectangle.

        Returns:
            ((scale, shift) of rows, (scale, shift) of columns), so that
            other_row = scale * row + shift with pixel edges at whole numbers.

        Raises:
            RasterError: the grids differ in reference system or direction, or only
                one of them is georeferenced.
        """
        if self is other:
            return (1.0, 0.0), (1.0, 0.0)
        if self.transform is None and other.transform is None:
            rows = (other.height / self.height, 0.0)
            return rows, (other.width / self.width, 0.0)
        if self.transform is None or other.transform is None or self.crs != other.crs:
            raise RasterError(
                f"bands differ in reference system: {self.crs} against {other.crs}. "
                "Reproject one of them first."
            )
        step = compose(~other.transform, self.transform)
        if max(abs(step.b), abs(step.d)) > _ALIGNED * max(abs(step.a), abs(step.e)):
            raise RasterError(
                "bands lie on grids turned against each other. Warp one of them first."
            )
        return (step.e, step.f), (step.a, step.c)


@dataclass(frozen=True)
class Raster:
    """An image in reflectance, with what is known about each pixel.

    Args:
        pixels: (C, H, W) float32 reflectance; what stands at invalid pixels is finite
            and means nothing.
        valid: (C, H, W) bool, false at nodata, saturated and non-finite pixels.
        bands: C bands, in the order of `pixels`.
        crs: coordinate reference system as text, None without georeference.
        transform: from (column, row) to coordinates, None without georeference.
        name: for messages.
        unit: always `reflectance`.
    """

    pixels: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    bands: tuple[Band, ...]
    crs: str | None = None
    transform: Affine | None = None
    name: str = "image"
    unit: str = "reflectance"

    def __post_init__(self) -> None:
        if self.unit != "reflectance":
            raise UnitError(
                f"{self.name}: a raster holds reflectance, found unit '{self.unit}'."
            )
        if self.pixels.ndim != len(("C", "H", "W")) or self.pixels.dtype != np.float32:
            raise ShapeError(
                f"{self.name}: pixels must be (C, H, W) float32, found "
                f"{self.pixels.shape} {self.pixels.dtype}."
            )
        if self.valid.shape != self.pixels.shape or self.valid.dtype != np.bool_:
            raise ShapeError(
                f"{self.name}: valid must be bool of shape {self.pixels.shape}, found "
                f"{self.valid.shape} {self.valid.dtype}."
            )
        if len(self.bands) != len(self.pixels):
            raise BandError(
                f"{self.name}: {len(self.bands)} bands are named, "
                f"{len(self.pixels)} are there."
            )

    @property
    def band_names(self) -> tuple[str, ...]:
        """Band names in the order of `pixels`."""
        return tuple(band.name for band in self.bands)

    def padded(
        self, height: int, width: int, mode: Literal["constant", "symmetric"]
    ) -> "Raster":
        """Return it with pixels added below and to the right.

        Args:
            height: rows wanted, at least as many as there are.
            width: columns wanted.
            mode: `constant` adds invalid pixels, `symmetric` mirrors the edge.
        """
        _, rows, columns = self.pixels.shape
        if (rows, columns) == (height, width):
            return self
        missing = ((0, 0), (0, height - rows), (0, width - columns))
        return replace(
            self,
            pixels=np.pad(self.pixels, missing, mode=mode),
            valid=np.pad(self.valid, missing, mode=mode),
        )

    def coordinates(self, row: float, column: float) -> tuple[float, float]:
        """Coordinates (x, y) of a position in pixels; edges are at whole numbers.

        Raises:
            RasterError: the raster has no georeference.
        """
        if self.transform is None:
            raise RasterError(f"{self.name} has no georeference, so no coordinates.")
        return apply(self.transform, column, row)


def compose(outer: Affine, inner: Affine) -> Affine:
    """Return the transform that applies `inner`, then `outer`.

    Affine 3 warns at its `*`, and Affine 2 has no `@`.
    """
    return Affine(
        outer.a * inner.a + outer.b * inner.d,
        outer.a * inner.b + outer.b * inner.e,
        outer.a * inner.c + outer.b * inner.f + outer.c,
        outer.d * inner.a + outer.e * inner.d,
        outer.d * inner.b + outer.e * inner.e,
        outer.d * inner.c + outer.e * inner.f + outer.f,
    )


def apply(transform: Affine, column: float, row: float) -> tuple[float, float]:
    """Return the coordinates (x, y) of a position in pixels."""
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    return float(x), float(y)
