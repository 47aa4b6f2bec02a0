"""Plain values of raster geometry: windows, grids, axes between them, and images.

No file is opened here. Rows count from the top, columns from the left, both from 0.

Images are resampled between grids that are parallel, by cubic convolution with the
kernel widened when shrinking. Each output pixel depends only on its own position, so a
window resampled alone equals the window of the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import floor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from spectralgpt.errors import (
    BandError,
    RasterError,
    ShapeError,
    UnitError,
    require,
)
from spectralgpt.sensors import Band

if TYPE_CHECKING:
    from xarray import DataArray

Numbers = npt.NDArray[np.generic]
Pixels = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
_Number = TypeVar("_Number", float, npt.NDArray[np.float64])
_ALIGNED = 1e-6
"""Largest relative shear between two grids that still count as parallel."""
_SAME_PX = 0.01
"""Corners that lie closer than this, px, are the same: georeferences are rounded."""
_RADIUS = 2
"""Half width of the cubic kernel, in pixels."""
_SHARPNESS = -0.5
"""Keys' parameter: exact for quadratics.

Source: Keys 1981, IEEE Trans. Acoustics, Speech, Signal Processing 29(6), 1153-1160.
"""
_ENOUGH = 0.5
"""Least share of kernel weight on valid pixels to interpolate, not take the nearest."""
_BEYOND = 1.0
"""How far past the last pixel, in source pixels, the edge value is repeated."""
_COLUMNS = 64
"""Output columns that share a dense map of weights."""
_KEPT = 32
"""Axes that are kept: patches of an archive are read whole, all alike."""
_MOST_PIXELS = 2**20
"""Pixels of a strip; coordinates of each are held at once."""
_MIDDLE = 0.5
_WHOLE = 1e-6
"""Closer than this to whole pixels at equal size, nothing is interpolated."""
_SAMPLES = 2**13
"""Pixels a band that the check of units looks at."""
_BRIGHTEST = 2.0
"""No surface or cloud has a median reflectance above this (clouds reach about 1.6)."""
_DARKEST = -0.04
"""Water after atmospheric correction stays above this; an offset too many does not."""
_DARK_BANDS = 2
"""Bands with such a median before the unit is refused: one alone may be noise."""


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

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as numpy and rasterio take them."""
        rows = slice(self.row, self.row + self.height)
        return rows, slice(self.column, self.column + self.width)


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

    def part(self, window: Window, size: tuple[int, int] | None = None) -> "Grid":
        """Return the grid of a window of this one.

        Args:
            window: pixels of it.
            size: (H, W) that it is brought to; its own if None.
        """
        height, width = size or (window.height, window.width)
        transform = self.transform
        if transform is not None:
            moved = Affine.translation(window.column, window.row)
            stretch = Affine.scale(window.width / width, window.height / height)
            transform = compose(compose(transform, moved), stretch)
        return Grid(height, width, transform, self.crs)

    def to_xarray(self, values: Numbers, **layers: Sequence[str]) -> "DataArray":
        """Return layers on this grid as xarray knows them.

        Args:
            values: (L, H, W), or (H, W).
            **layers: the name of the first axis, with the names of the L layers.

        Returns:
            With the middles of pixels as `y` and `x`, unless the grid is turned, and a
            coordinate `spatial_ref` as rioxarray reads and writes it.

        Raises:
            ConfigError: xarray is not installed.
        """
        require("xarray")
        import xarray

        coordinates: dict[str, Any] = {
            name: list(each) for name, each in layers.items()
        }
        about: dict[str, Any] = {}
        if self.crs is not None:
            about["crs_wkt"] = CRS.from_user_input(self.crs).to_wkt()
        if self.transform is not None:
            t = self.transform
            about["GeoTransform"] = " ".join(map(str, t.to_gdal()))
            if t.b == t.d == 0:
                coordinates["x"] = t.c + t.a * (np.arange(self.width) + _MIDDLE)
                coordinates["y"] = t.f + t.e * (np.arange(self.height) + _MIDDLE)
        coordinates["spatial_ref"] = xarray.DataArray(0, attrs=about)
        return xarray.DataArray(values, coordinates, (*layers, "y", "x"))

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

    def difference(self, other: "Grid") -> str | None:
        """Say why pixels do not lie on those of another grid; None if they do."""
        shapes = [f"{grid.height} x {grid.width} px" for grid in (self, other)]
        if shapes[0] != shapes[1]:
            return f"size: {shapes[0]} against {shapes[1]}"
        if self.transform is None and other.transform is None:
            return None
        if self.transform is None or other.transform is None:
            which = "first" if self.transform is None else "second"
            return f"georeference: the {which} has none"
        if not is_same_system(self.crs, other.crs):
            return f"reference system: {self.crs} against {other.crs}"
        apart_px = float(np.hypot(*_corner_shifts(self, other)).max())
        if apart_px <= _SAME_PX:
            return None
        return f"transform: their corners lie up to {apart_px:.4g} px apart"

    def common(self, other: "Grid") -> tuple[Window, Window] | None:
        """Return the windows of this grid and another one that show what both show.

        Returns:
            Of this and of the other, the same size, pixel on pixel; None where pixels
            do not lie on each other, or the two have no ground in common.
        """
        if self.transform is None or other.transform is None:
            return None
        if not is_same_system(self.crs, other.crs):
            return None
        shifts = _corner_shifts(self, other)
        columns, rows = (round(float(along[0])) for along in shifts)
        apart_px = np.abs(shifts - [[columns], [rows]]).max()
        top, left = max(0, -rows), max(0, -columns)
        height = min(self.height, other.height - rows) - top
        width = min(self.width, other.width - columns) - left
        if apart_px > _SAME_PX or min(height, width) < 1:
            return None
        own = Window(top, left, height, width)
        return own, Window(top + rows, left + columns, height, width)

    def coarsened(self, window: Window, cell_px: int) -> "Grid":
        """Return the grid of square cells of `cell_px` pixels that cover a window.

        The last row and column of cells may reach beyond the window.
        """
        rows, columns = -(-window.height // cell_px), -(-window.width // cell_px)
        place = Window(window.row, window.column, rows * cell_px, columns * cell_px)
        return self.part(place, (rows, columns))

    def strips(self, most_px: int = _MOST_PIXELS) -> Iterator[Window]:
        """Cut it into strips of whole rows of `most_px` at most, from the top down."""
        height = max(1, min(self.height, most_px // self.width))
        for row in range(0, self.height, height):
            yield Window(row, 0, min(height, self.height - row), self.width)


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

    pixels: Pixels
    valid: Flags
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

    def __repr__(self) -> str:
        bands, height, width = self.pixels.shape
        return (
            f"<Raster {self.name}: {bands} bands of {height} x {width} px, {self.crs}>"
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

    def check_reflectance(self) -> None:
        """Refuse values that cannot be reflectance.

        Clouds and snow above 1 and dark water a little below 0 pass.

        Raises:
            UnitError: a band's median is too bright, which unscaled digital numbers
                are, or the medians of bands are clearly negative, as after an offset
                was applied twice.
        """
        step = max(1, int(np.ceil(np.sqrt(self.pixels[0].size / _SAMPLES))))
        seen = np.s_[:, ::step, ::step]
        pixels, valid = self.pixels[seen], self.valid[seen]
        # Counting costs a tenth of sorting, and this runs for every crop of a
        # training.
        in_range = (pixels >= _DARKEST) & (pixels <= _BRIGHTEST) & valid
        counts = np.count_nonzero(in_range, axis=(1, 2))
        if bool((2 * counts > np.count_nonzero(valid, axis=(1, 2))).all()):
            return
        medians = np.array(
            [
                np.median(band[seen]) if seen.any() else np.nan
                for band, seen in zip(pixels, valid, strict=True)
            ]
        )
        for band, median in zip(self.bands, medians.tolist(), strict=True):
            if median > _BRIGHTEST:
                raise UnitError(
                    f"{self.name}, band {band.name}: median reflectance would be "
                    f"{median:.4g}, these look like unscaled digital numbers. State "
                    "the unit, quantification and offset."
                )
        dark = [
            f"{band.name} {median:.3f}"
            for band, median in zip(self.bands, medians.tolist(), strict=True)
            if median < _DARKEST
        ]
        if len(dark) >= min(_DARK_BANDS, len(self.bands)):
            raise UnitError(
                f"{self.name}: median reflectance is negative in "
                f"{', '.join(dark[:4])}: this looks like a twice-applied offset, or "
                "another quantification. State the right offset (0 if it was already "
                "applied) and quantification."
            )


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


def apply(transform: Affine, column: _Number, row: _Number) -> tuple[_Number, _Number]:
    """Return the coordinates (x, y) of positions in pixels.

    Args:
        transform: of the raster.
        column: a number or an array of any shape; edges of pixels are at whole numbers.
        row: of the same shape.
    """
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    return x, y


def _corner_shifts(first: Grid, second: Grid) -> npt.NDArray[np.float64]:
    """From the corners' (columns, rows) in a grid to those in another one, (2, 4)."""
    assert first.transform is not None
    assert second.transform is not None
    columns = np.array([0.0, first.width, 0.0, first.width])
    rows = np.array([0.0, 0.0, first.height, first.height])
    found = apply(compose(~second.transform, first.transform), columns, rows)
    return np.stack([found[0] - columns, found[1] - rows])


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


@dataclass(frozen=True)
class Axis:
    """Which source pixels make up each output pixel along one axis.

    Args:
        centres: (out,) where output pixels have their centres, in source pixels.
        size: number of source pixels.
        indices: (out, taps) source positions, kept inside the source.
        weights: (out, taps) float32, each row sums to 1.
    """

    centres: npt.NDArray[np.float64]
    size: int
    indices: npt.NDArray[np.intp]
    weights: Pixels

    @classmethod
    @lru_cache(_KEPT)
    def between(cls, start: float, stop: float, out: int, size: int) -> "Axis":
        """Spread `out` pixels evenly over start..stop of a source with `size` pixels.

        Args:
            start: first edge in source pixels, may be a fraction.
            stop: last edge in source pixels.
            out: number of output pixels.
            size: number of source pixels.
        """
        step = (stop - start) / out
        centres = start + (np.arange(out, dtype=np.float64) + 0.5) * step
        floors = np.floor(centres).astype(np.intp)
        whole = abs(start - round(start)) < _WHOLE and abs(step - 1) < _WHOLE / out
        if whole:
            ones = np.ones((out, 1), dtype=np.float32)
            return cls(centres, size, _clip(floors, size)[:, None], ones)
        stretch = max(step, 1.0)
        taps = int(np.ceil(_RADIUS * stretch)) * 2 + 1
        indices = (floors - taps // 2)[:, None] + np.arange(taps)
        weights = _cubic((indices + 0.5 - centres[:, None]) / stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        return cls(centres, size, _clip(indices, size), weights.astype(np.float32))

    def __len__(self) -> int:
        """Count the output pixels."""
        return len(self.centres)

    @cached_property
    def nearest(self) -> npt.NDArray[np.intp]:
        """(out,) the source pixel that each output pixel lies in."""
        return _clip(np.floor(self.centres).astype(np.intp), self.size)

    @cached_property
    def inside(self) -> Flags:
        """(out,) false where the output lies clearly outside the source."""
        return (self.centres > -_BEYOND) & (self.centres < self.size + _BEYOND)

    @property
    def is_inside(self) -> bool:
        """Whether all output pixels lie inside; their centres ascend or descend."""
        ends = self.centres[0], self.centres[-1]
        return bool(min(ends) > -_BEYOND and max(ends) < self.size + _BEYOND)

    @cached_property
    def span(self) -> tuple[int, int]:
        """First source pixel needed and the one after the last."""
        return int(self.indices.min()), int(self.indices.max()) + 1

    @cached_property
    def is_same(self) -> bool:
        """Whether each pixel of the span becomes one output pixel, as it is."""
        first, last = self.span
        return self.indices.shape == (last - first, 1)

    @cached_property
    def matrix(self) -> Pixels:
        """The same weights as a dense map (out, span) from source to output pixels."""
        first, last = self.span
        matrix = np.zeros((len(self.indices), last - first), dtype=np.float32)
        at = np.arange(len(matrix))[:, None], self.indices - first
        # Taps beyond the edge fall on the same pixel: add, do not assign.
        np.add.at(matrix, at, self.weights)
        return matrix

    def part(self, start: int, stop: int) -> "Axis":
        """The same for output pixels start..stop alone."""
        if start <= 0 and stop >= len(self):
            return self
        chosen = slice(start, stop)
        return Axis(
            self.centres[chosen], self.size, self.indices[chosen], self.weights[chosen]
        )


def resample(
    pixels: Pixels, valid: Flags, rows: Axis, columns: Axis
) -> tuple[Pixels, Flags]:
    """Bring pixels to another grid without mixing in what is invalid.

    Args:
        pixels: (C, h, w), rows and columns that start at `rows.span` and
            `columns.span`; invalid pixels hold 0.
        valid: (C, h, w).
        rows: output rows.
        columns: output columns.

    Returns:
        pixels (C, H, W), 0 where invalid, and validity, which is that of the source
        pixel each output pixel lies in.
    """
    values = _weigh(pixels, rows, columns)
    out_valid = np.ones(values.shape, dtype=np.bool_)
    is_inside = rows.is_inside and columns.is_inside
    if not is_inside:
        out_valid &= rows.inside[:, None] & columns.inside
    # Each band by itself: what it becomes must not depend on what else is in the file.
    holes = np.flatnonzero(~valid.all(axis=(1, 2)))
    if holes.size:
        at_rows = (rows.nearest - rows.span[0])[:, None]
        at_columns = columns.nearest - columns.span[0]
        pixels, valid = pixels[holes], valid[holes]
        out_valid[holes] &= valid[:, at_rows, at_columns]
        share = _weigh(valid.astype(np.float32), rows, columns)
        enough = share > _ENOUGH
        weighed = values[holes] / np.where(enough, share, 1)
        values[holes] = np.where(enough, weighed, pixels[:, at_rows, at_columns])
    if holes.size or not is_inside:
        values[~out_valid] = 0
    return values, out_valid


def _clip(positions: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    return np.minimum(np.maximum(positions, 0), size - 1)


def _weigh(pixels: Pixels, rows: Axis, columns: Axis) -> Pixels:
    tall = pixels if rows.is_same else np.matmul(rows.matrix, pixels)  # (C, H, w)
    if columns.is_same:
        return tall.copy() if tall is pixels else tall
    if len(columns) <= _COLUMNS:
        return np.asarray(np.matmul(tall, columns.matrix.T), dtype=np.float32)
    # A dense map of a whole scene's width would be nearly all zeros.
    out = np.empty((*tall.shape[:-1], len(columns)), dtype=np.float32)
    for start in range(0, len(columns), _COLUMNS):
        part = columns.part(start, start + _COLUMNS)
        seen = slice(*np.subtract(part.span, columns.span[0]))
        np.matmul(
            tall[..., seen], part.matrix.T, out=out[..., start : start + len(part)]
        )
    return out


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution kernel at distances in pixels."""
    a, x = _SHARPNESS, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < _RADIUS, far, 0.0))
