"""Geometry of landscapes: fractal fields, hillshade, curves and parcels.

All functions work on a square grid of fine cells whose centres are given in metres.
They know shapes only; which cover fills a shape is left to the painters.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.spatial
from numpy.typing import NDArray

__all__ = [
    "Grid",
    "Parcels",
    "band_along",
    "fractal_noise",
    "hillshade",
    "lay_parcels",
    "lay_voronoi",
    "quantile_mask",
    "smooth_noise",
]

Field = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Grid:
    """A square grid of cells.

    Args:
        size: cells along one side.
        step_m: side of a cell in metres.
    """

    size: int
    step_m: float

    @property
    def extent_m(self) -> float:
        """Length of one side in metres."""
        return self.size * self.step_m

    def rotated(self, angle: float) -> tuple[Field, Field]:
        """Coordinates in metres from the centre, turned by `angle` in radians."""
        line = (np.arange(self.size, dtype=np.float32) + 0.5) * self.step_m
        line -= self.extent_m / 2.0
        u = line[None, :] * np.cos(angle) + line[:, None] * np.sin(angle)
        v = line[:, None] * np.cos(angle) - line[None, :] * np.sin(angle)
        return u.astype(np.float32), v.astype(np.float32)

    def coverage(self, signed_distance_m: Field) -> Field:
        """Share of each cell inside a shape, from the distance inwards of its edge."""
        return np.clip(signed_distance_m / np.float32(self.step_m) + 0.5, 0.0, 1.0)


@lru_cache(maxsize=32)
def _amplitude(size: int, exponent: float, cutoff: float) -> Field:
    rows = np.fft.fftfreq(size)[:, None]
    columns = np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    amplitude = (frequency**-exponent * np.exp(-((frequency / cutoff) ** 2))).astype(
        np.float32
    )
    amplitude[0, 0] = 0.0
    amplitude.setflags(write=False)
    return amplitude


def _filtered_noise(
    grid: Grid, rng: np.random.Generator, exponent: float, cutoff: float
) -> Field:
    white = rng.standard_normal((grid.size, grid.size), dtype=np.float32)
    spectrum = scipy.fft.rfft2(white) * _amplitude(grid.size, exponent, cutoff)
    field = scipy.fft.irfft2(spectrum, s=white.shape)
    scaled: Field = (field / (field.std() + 1e-12)).astype(np.float32)
    return scaled


def fractal_noise(grid: Grid, rng: np.random.Generator, exponent: float = 2.0) -> Field:
    """Draw a self-affine field of mean 0 and standard deviation 1.

    Args:
        grid: where to draw it.
        rng: source of randomness.
        exponent: fall of amplitude with frequency, 1 rough .. 2.5 smooth.

    Source: Voss 1988 (spectral synthesis), as is usual for terrain.
    """
    return _filtered_noise(grid, rng, exponent, cutoff=10.0)


def smooth_noise(grid: Grid, rng: np.random.Generator, scale_m: float) -> Field:
    """Draw a field without structure finer than `scale_m`: mean 0, deviation 1."""
    # Rounded, so that the table of amplitudes is found again from image to image.
    cutoff = float(f"{0.4 * grid.step_m / scale_m:.1e}")
    return _filtered_noise(grid, rng, exponent=0.0, cutoff=max(cutoff, 0.8 / grid.size))


def quantile_mask(field: Field, share: float) -> NDArray[np.bool_]:
    """Mark the cells of highest value, so that about `share` of them are marked."""
    marked: NDArray[np.bool_] = field > np.quantile(field[::3, ::3], 1.0 - share)
    return marked


def hillshade(
    height_m: Field, grid: Grid, elevation_deg: float, azimuth_deg: float
) -> Field:
    """Illumination of a surface relative to level ground, 0.35 or more.

    Args:
        height_m: terrain height of each cell, rows from north to south.
        grid: its geometry.
        elevation_deg: height of the sun over the horizon.
        azimuth_deg: direction of the sun, clockwise from north.

    Source: cosine correction (Teillet et al. 1982) with a floor of sky light.
    """
    south, east = np.gradient(height_m, grid.step_m)
    elevation, azimuth = np.deg2rad(elevation_deg), np.deg2rad(azimuth_deg)
    facing = east * np.sin(azimuth) - south * np.cos(azimuth)
    incidence = (np.sin(elevation) - np.cos(elevation) * facing) / np.sqrt(
        1.0 + south**2 + east**2
    )
    relative = 0.25 + 0.75 * np.clip(incidence, 0.0, None) / np.sin(elevation)
    shaded: Field = np.clip(relative, 0.35, 1.6).astype(np.float32)
    return shaded


def band_along(
    grid: Grid,
    rng: np.random.Generator,
    width_m: float,
    *,
    winding: float,
    angle: float | None = None,
    offset_m: float = 0.0,
) -> Field:
    """Distance inwards of the edge of a winding strip across the grid, in metres.

    Args:
        grid: where to draw it.
        rng: source of randomness.
        width_m: width of the strip.
        winding: amplitude of the bends as a share of their length, 0 straight .. 0.25.
        angle: direction in radians; drawn if None.
        offset_m: displacement of the strip from the centre.

    Returns:
        positive inside the strip, negative outside.
    """
    turn = rng.uniform(0.0, np.pi) if angle is None else angle
    u, v = grid.rotated(turn)
    lengths = grid.extent_m * rng.uniform((0.6, 0.28, 0.12), (1.3, 0.5, 0.25))
    sizes = winding * lengths * np.array((0.8, 0.4, 0.15))
    phases = rng.uniform(0.0, 2.0 * np.pi, 3)
    course, slope = np.zeros_like(u), np.zeros_like(u)
    for length, size, phase in zip(lengths, sizes, phases, strict=True):
        frequency = 2.0 * np.pi / length
        course += np.float32(size) * np.sin(frequency * u + phase)
        slope += np.float32(size * frequency) * np.cos(frequency * u + phase)
    distance = np.abs(v - course - np.float32(offset_m)) / np.sqrt(1.0 + slope**2)
    inside = np.float32(width_m / 2.0) - distance
    return inside.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Parcels:
    """A division of the grid into numbered parcels.

    Args:
        index: parcel of each cell, 0 .. count - 1.
        count: how many numbers there are.
        edge_m: distance of each cell to its parcel's edge, in metres.
        u_m: coordinate along the rows of the layout in metres, from the parcel's corner
            where parcels are rectangles.
        v_m: coordinate across the rows, likewise.
    """

    index: Indices
    count: int
    edge_m: Field
    u_m: Field
    v_m: Field


def lay_parcels(
    grid: Grid,
    rng: np.random.Generator,
    length_m: float,
    depth_m: float,
    *,
    angle: float | None = None,
    warp_m: float = 0.0,
) -> Parcels:
    """Divide the grid into rows of rectangles, as surveyed land is.

    Args:
        grid: what to divide.
        rng: source of randomness.
        length_m: mean length of a parcel along its row.
        depth_m: mean depth of a row.
        angle: direction of the rows in radians; drawn if None.
        warp_m: how far natural features bend the edges.
    """
    turn = rng.uniform(0.0, np.pi) if angle is None else angle
    u, v = grid.rotated(turn)
    if warp_m > 0.0:
        v = v + np.float32(warp_m) * smooth_noise(grid, rng, grid.extent_m / 3.0)
        u = u + np.float32(warp_m) * smooth_noise(grid, rng, grid.extent_m / 3.0)
    cuts = _cuts(rng, float(v.min()), float(v.max()), depth_m)
    row = np.searchsorted(cuts, v.ravel()).reshape(v.shape) - 1
    edge = np.minimum(v - cuts[row], cuts[row + 1] - v)
    # All rows share one table of cuts, each shifted by its own amount.
    rows = cuts.size - 1
    span = float(u.max() - u.min())
    table = _cuts(rng, float(u.min()) - span, float(u.max()), length_m)
    shifted = u - rng.uniform(0.0, span, rows).astype(np.float32)[row]
    place = np.searchsorted(table, shifted.ravel()).reshape(u.shape) - 1
    along, across = shifted - table[place], v - cuts[row]
    edge = np.minimum(edge, np.minimum(along, table[place + 1] - shifted))
    number = row * (table.size - 1) + place
    return Parcels(number, rows * (table.size - 1), edge, along, across)


def _cuts(rng: np.random.Generator, low: float, high: float, mean: float) -> Field:
    """Increasing positions from below `low` to above `high`, `mean` apart."""
    count = int((high - low) / (0.55 * mean)) + 3
    steps = mean * rng.uniform(0.55, 1.45, count)
    cuts = low - 1.0 - steps[0] * rng.random() + np.concatenate(([0.0], steps.cumsum()))
    inner: Field = cuts[cuts < high + 1.0].astype(np.float32)
    return np.append(inner, np.float32(high + mean))


def lay_voronoi(grid: Grid, rng: np.random.Generator, scale_m: float) -> Parcels:
    """Divide the grid into irregular patches about `scale_m` across."""
    u, v = grid.rotated(0.0)
    margin = grid.extent_m / 2.0 + scale_m
    per_side = max(2, round(2.0 * margin / scale_m))
    lattice = (np.arange(per_side) + 0.5) / per_side * 2.0 * margin - margin
    jitter = scale_m * rng.uniform(-0.45, 0.45, (2, per_side, per_side))
    seeds_u = (lattice[None, :] + jitter[0]).ravel()
    seeds_v = (lattice[:, None] + jitter[1]).ravel()
    tree = scipy.spatial.cKDTree(np.column_stack((seeds_u, seeds_v)))
    wobble = 0.12 * scale_m
    points = np.column_stack(
        (
            (u + wobble * smooth_noise(grid, rng, scale_m / 2.0)).ravel(),
            (v + wobble * smooth_noise(grid, rng, scale_m / 2.0)).ravel(),
        )
    )
    distance, nearest = tree.query(points, k=2)
    edge = ((distance[:, 1] - distance[:, 0]) / 2.0).reshape(u.shape)
    index = nearest[:, 0].reshape(u.shape)
    return Parcels(index, seeds_u.size, edge.astype(np.float32), u, v)
