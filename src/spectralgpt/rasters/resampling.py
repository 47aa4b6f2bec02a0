"""Resampling of pixels and their validity between grids that are parallel.

Cubic convolution with the kernel widened when shrinking. Each output pixel depends only
on its own position, so a window resampled alone equals the window of the whole.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "resample"]

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
_WHOLE = 1e-6
"""Closer than this to whole pixels at equal size, nothing is interpolated."""


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
    weights: npt.NDArray[np.float32]

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
    def inside(self) -> npt.NDArray[np.bool_]:
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
    def matrix(self) -> npt.NDArray[np.float32]:
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
            self.centres[chosen],
            self.size,
            self.indices[chosen],
            self.weights[chosen],
        )


def resample(
    pixels: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    rows: Axis,
    columns: Axis,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
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


def _weigh(
    pixels: npt.NDArray[np.float32], rows: Axis, columns: Axis
) -> npt.NDArray[np.float32]:
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
