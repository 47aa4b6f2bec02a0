"""What a sensor sees of a surface: air, clouds, optics, noise, numbers.

Works on the composition of pixels on the sensor's finest grid. Bands of coarser ground
sampling distance are averaged to their own pixels, get their noise there, and are
brought back to the finest grid by cubic interpolation, as users of such products do.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from spectralgpt.data.simulation import spectra
from spectralgpt.data.simulation.composition import Composition, block_mean
from spectralgpt.data.simulation.places import Season
from spectralgpt.data.simulation.sensor_response import to_bands
from spectralgpt.data.simulation.spectra import WAVELENGTHS_NM
from spectralgpt.data.simulation.terrain import (
    Field,
    Grid,
    fractal_noise,
)
from spectralgpt.sensors import Band, Sensor

__all__ = [
    "STATED_QUANTIFICATION",
    "Clouds",
    "PixelGrid",
    "draw_clouds",
    "observe",
    "quantification_of",
    "to_numbers",
]

STATED_QUANTIFICATION = 10_000.0
"""Used where the sensor has no fixed scale; the data set's description states it."""

# Full-scale signal to noise of a 30 nm wide band, and noise of the dark signal.
_SIGNAL_TO_NOISE, _REFERENCE_WIDTH_NM, _DARK_NOISE = 170.0, 30.0, 0.0008
# Blur of the optics in pixels: a modulation of some 0.3 at the Nyquist frequency.
_BLUR_PX = 0.35
# Rayleigh optical thickness of the air at 550 nm (Hansen and Travis 1974).
_RAYLEIGH_550 = 0.0975


@dataclass(frozen=True)
class PixelGrid:
    """The finest pixels of a sensor around one image, aligned to its coarsest ones.

    Args:
        bands: bands to simulate, sorted by wavelength.
        image_size: pixels along one side of the image.
    """

    bands: tuple[Band, ...]
    image_size: int

    @property
    def gsd_m(self) -> float:
        """Side of the finest pixel in metres."""
        return min(band.gsd_m for band in self.bands)

    def factor(self, band: Band) -> int:
        """Finest pixels along one side of a pixel of `band`."""
        return max(1, round(band.gsd_m / self.gsd_m))

    @property
    def size(self) -> int:
        """Pixels along one side, with a margin that completes the coarsest pixels."""
        block = math.lcm(*(self.factor(band) for band in self.bands))
        return math.ceil((self.image_size + 2) / block) * block

    @property
    def margin(self) -> int:
        """Pixels before the first one of the image."""
        return (self.size - self.image_size) // 2

    def crop(self, field: Field) -> Field:
        """Cut (..., size, size) to the image."""
        inside = slice(self.margin, self.margin + self.image_size)
        return field[..., inside, inside]


@dataclass(frozen=True)
class Clouds:
    """Clouds over an image.

    Args:
        opacity: (n, n) share of the light that comes from the cloud.
        shadow: (n, n) share of sunlight that clouds keep from the ground.
    """

    opacity: Field
    shadow: Field


def draw_clouds(
    pixels: PixelGrid, season: Season, rng: np.random.Generator, share: float
) -> Clouds:
    """Draw thin and thick clouds over about `share` of the image, with shadows."""
    grid = Grid(pixels.size, pixels.gsd_m)
    field = fractal_noise(grid, rng, 1.8)
    steepness, height_m = rng.uniform(0.6, 2.0), rng.uniform(150.0, 600.0)
    if share <= 0.0:
        empty = np.zeros_like(field)
        return Clouds(empty, empty)
    level = np.quantile(field, 1.0 - share)
    opacity = np.clip((field - level) * steepness, 0.0, 0.97).astype(np.float32)
    reach = height_m / math.tan(math.radians(season.sun_elevation_deg)) / grid.step_m
    azimuth = math.radians(season.sun_azimuth_deg)
    shift = (round(reach * math.cos(azimuth)), round(-reach * math.sin(azimuth)))
    return Clouds(opacity, 0.65 * np.roll(opacity, shift, axis=(-2, -1)))


def observe(
    composition: Composition,
    palette: list[NDArray[np.float64]],
    pixels: PixelGrid,
    season: Season,
    clouds: Clouds,
    rng: np.random.Generator,
    *,
    top_of_atmosphere: bool,
) -> Field:
    """Simulate the reflectance that the product of a sensor holds.

    Args:
        composition: of the pixels of `pixels`.
        palette: its M spectra.
        pixels: bands and grid.
        season: haze, sun and gain of the date.
        clouds: over these pixels.
        rng: noise.
        top_of_atmosphere: whether the product still holds the air's own light.

    Returns:
        (D, image_size, image_size).
    """
    shares = composition.spectra.reshape(len(palette), -1)
    surface = to_bands(np.stack(palette), pixels.bands).T @ shares  # (D, n * n)
    surface = surface.reshape(len(pixels.bands), pixels.size, pixels.size)
    surface *= np.float32(season.gain) * (1.0 - clouds.shadow)
    path, through = _air(season, pixels.bands, top_of_atmosphere=top_of_atmosphere)
    seen = path[:, None, None] + through[:, None, None] * surface
    bright = to_bands(spectra.cloud(), pixels.bands)[:, None, None]
    if top_of_atmosphere:
        bright = bright * np.sqrt(through)[:, None, None]
    seen += clouds.opacity * (bright - seen)
    return _detect(seen, pixels, rng)


def _air(
    season: Season, bands: tuple[Band, ...], *, top_of_atmosphere: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reflectance and two-way transmittance of the air in each band.

    Source: Rayleigh after Hansen and Travis 1974, aerosol after Angstrom 1929, gas
        absorption as Gaussians at the bands of water vapour and oxygen. Surface
        products keep part of the aerosol, which correction estimates with error.
    """
    relative = WAVELENGTHS_NM / 550.0
    aerosol = season.haze * relative**-1.2
    if not top_of_atmosphere:
        return to_bands(aerosol, bands), to_bands(1.0 - 0.9 * aerosol, bands)
    slant = 1.0 / math.sin(math.radians(season.sun_elevation_deg))
    rayleigh = _RAYLEIGH_550 * relative**-4.08
    path = 0.38 * rayleigh * (0.6 + 0.4 * slant) + aerosol
    vapour = sum(
        depth * np.exp(-0.5 * ((WAVELENGTHS_NM - center) / width) ** 2)
        for center, width, depth in (
            (762, 4, 0.3), (820, 12, 0.08), (940, 22, 0.65), (1130, 28, 0.75),
            (1385, 45, 6.0), (1880, 60, 5.0), (2010, 20, 0.3), (2490, 60, 1.5),
        )
    )  # fmt: skip
    gases = np.exp(-(1.0 + slant) / 2.0 * np.asarray(vapour))
    through = gases * np.exp(-(1.0 + slant) * 0.55 * rayleigh) * (1.0 - aerosol)
    return to_bands(path * gases, bands), to_bands(through, bands)


def _detect(seen: Field, pixels: PixelGrid, rng: np.random.Generator) -> Field:
    """Blur, average to native pixels, add noise, and return to the finest grid."""
    image = np.empty(
        (len(pixels.bands), pixels.image_size, pixels.image_size), dtype=np.float32
    )
    factors = np.array([pixels.factor(band) for band in pixels.bands])
    widths = np.array([band.width_nm for band in pixels.bands])
    quality = _SIGNAL_TO_NOISE * np.sqrt(np.minimum(widths / _REFERENCE_WIDTH_NM, 2.0))
    for factor in np.unique(factors):
        chosen = factors == factor
        native = block_mean(seen[chosen], int(factor))
        native = scipy.ndimage.gaussian_filter(native, (0.0, _BLUR_PX, _BLUR_PX))
        # Coarser pixels collect more light.
        gain = quality[chosen, None, None].astype(np.float32) * np.sqrt(factor)
        noise = rng.standard_normal(native.shape, dtype=np.float32)
        native += noise * np.sqrt(_DARK_NOISE**2 + native * 0.2 / gain**2)
        if factor == 1:
            image[chosen] = pixels.crop(native)
            continue
        weights = _cubic_weights(
            pixels.image_size, native.shape[-1], int(factor), pixels.margin
        )
        image[chosen] = weights @ native @ weights.T
    return image


@lru_cache(maxsize=16)
def _cubic_weights(size: int, coarse: int, factor: int, margin: int) -> Field:
    """Matrix of cubic convolution (Keys 1981) from coarse pixels to fine ones."""
    position = (np.arange(size) + margin + 0.5) / factor - 0.5
    base = np.floor(position).astype(np.int64)
    weights = np.zeros((size, coarse), dtype=np.float32)
    for step in (-1, 0, 1, 2):
        t = np.abs(position - (base + step))
        near = 1.5 * t**3 - 2.5 * t**2 + 1.0
        far = -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
        source = np.clip(base + step, 0, coarse - 1)
        np.add.at(weights, (np.arange(size), source), np.where(t <= 1.0, near, far))
    return weights


def quantification_of(sensor: Sensor) -> float:
    """Numbers per unit of reflectance that simulated files of a sensor use."""
    return sensor.quantification or STATED_QUANTIFICATION


def to_numbers(reflectance: Field, sensor: Sensor) -> NDArray[np.uint16 | np.int16]:
    """Turn reflectance into the whole numbers of the sensor's product.

    Nothing becomes the number for missing data: what is that dark gets the next higher
    one. Light beyond the range gets the number for saturation, or the highest.
    """
    nodata = 0.0 if sensor.nodata is None else sensor.nodata
    dtype = np.dtype(np.int16 if nodata < 0 else np.uint16)
    highest = float(np.iinfo(dtype).max)
    numbers = np.rint(reflectance * quantification_of(sensor) - sensor.offset)
    full = sensor.saturated if sensor.saturated is not None else highest
    numbers = np.where(numbers >= highest, full, np.maximum(numbers, nodata + 1))
    converted: NDArray[np.uint16 | np.int16] = numbers.astype(dtype)
    return converted
