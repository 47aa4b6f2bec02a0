"""What a sensor sees of a place: air, clouds, optics, noise and whole numbers.

Bands of coarser ground sampling distance are averaged to their own pixels, get their
noise there, and are brought back to the finest pixels by linear interpolation, as users
of such products do.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from spectralgpt.errors import BandError
from spectralgpt.sensors import Band, Sensor
from spectralgpt.simulation.canvas import Canvas, Field, block_mean
from spectralgpt.simulation.painters import draw_changes, paint_change, paint_scene
from spectralgpt.simulation.reflectance import (
    CLOUD,
    VAPOUR,
    WAVELENGTHS_NM,
    Spectrum,
    to_bands,
)
from spectralgpt.simulation.regions import Region, Season, make_season

# Cells along one side of a pixel on which shapes are drawn.
_FINE = 3
_MOST_CLOUD = 0.35
# Numbers per unit of reflectance where the sensor has no fixed scale.
_STATED_QUANTIFICATION = 10_000.0
# Full-scale signal to noise of a 30 nm wide band, and noise of the dark signal.
_SIGNAL_TO_NOISE, _REFERENCE_WIDTH_NM, _DARK_NOISE = 170.0, 30.0, 0.0008
# Blur of the optics in pixels: a modulation of some 0.3 at the Nyquist frequency.
_BLUR_PX = 0.35


@dataclass(frozen=True)
class Camera:
    """A sensor over one image: its finest pixels, aligned to its coarsest ones.

    Args:
        sensor: of the registry; bands outside 400 to 2500 nm are left out.
        image_size: finest pixels along one side of the image.
    """

    sensor: Sensor
    image_size: int

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Bands that the spectra cover, by wavelength.

        Raises:
            BandError: there is none between 400 and 2500 nm.
        """
        low, high = WAVELENGTHS_NM[0], WAVELENGTHS_NM[-1]
        bands = [b for b in self.sensor.select() if low <= b.wavelength_nm <= high]
        if not bands:
            raise BandError(
                f"sensor '{self.sensor.name}' has no band within {low:g} to {high:g} "
                "nm, which the simulated spectra cover. Choose an optical sensor."
            )
        return tuple(bands)

    @property
    def gsd_m(self) -> float:
        """Side of the finest pixel in metres."""
        return min(band.gsd_m for band in self.bands)

    @property
    def factors(self) -> list[int]:
        """Finest pixels along one side of a pixel of each band."""
        return [max(1, round(band.gsd_m / self.gsd_m)) for band in self.bands]

    @property
    def size(self) -> int:
        """Pixels along one side, with a margin that completes the coarsest pixels."""
        block = math.lcm(*self.factors)
        return math.ceil((self.image_size + 2) / block) * block

    def crop(self, field: NDArray[Any]) -> NDArray[Any]:
        """Cut (..., size, size) to the image."""
        margin = (self.size - self.image_size) // 2
        inside = slice(margin, margin + self.image_size)
        return field[..., inside, inside]

    @property
    def quantification(self) -> float:
        """Numbers per unit of reflectance in simulated files."""
        return self.sensor.quantification or _STATED_QUANTIFICATION

    def to_numbers(self, reflectance: Field) -> NDArray[np.uint16 | np.int16]:
        """Turn reflectance into the whole numbers of the sensor's product.

        Nothing becomes the number for missing data: what is that dark gets the next
        higher one. Light beyond the range gets that for saturation, or the highest.
        """
        sensor = self.sensor
        nodata = 0.0 if sensor.nodata is None else sensor.nodata
        dtype = np.dtype(np.int16 if nodata < 0 else np.uint16)
        highest_number = float(np.iinfo(dtype).max)
        full = highest_number if sensor.saturated is None else sensor.saturated
        numbers = np.rint(reflectance * self.quantification - sensor.offset)
        is_full = numbers >= highest_number
        return np.where(is_full, full, np.maximum(numbers, nodata + 1)).astype(dtype)


@dataclass(frozen=True)
class Picture:
    """A simulated image.

    Args:
        reflectance: (D, H, W).
        covers: (number of covers, H, W) share of each `Cover`.
        cloud: (H, W) opacity of clouds, 0..1.
        is_changed: (H, W) where land cover was replaced since the date before.
        season: its date and state.
    """

    reflectance: Field
    covers: Field
    cloud: Field
    is_changed: NDArray[np.bool_]
    season: Season


def render(
    camera: Camera,
    region: Region,
    key: tuple[int, ...],
    scene_class: str | None = None,
    *,
    dates: int = 1,
    cloudy_share: float = 0.0,
    snow_share: float = 0.0,
) -> list[Picture]:
    """Simulate one place on one date or two, between which part of it changed.

    Season, wetness, sun, haze and clouds differ between dates as well; they are no
    change.

    Args:
        camera: the sensor.
        region: where the place is.
        key: numbers that fix all randomness.
        scene_class: one of `SCENE_CLASSES`, or None for a mixed landscape.
        dates: 1 or 2.
        cloudy_share: how often there are clouds, 0..1.
        snow_share: how often there is snow on cold dates, 0..1.
    """
    pictures: list[Picture] = []
    zones: list[tuple[str, Field]] = []
    is_changed = np.zeros((camera.size, camera.size), dtype=np.bool_)
    for date in range(dates):
        # Streams of random numbers: one for each date, the others the same on both.
        sky_rng, place, change, relief, choice = (
            np.random.default_rng((*key, stream)) for stream in (4 + date, 0, 1, 2, 3)
        )
        season = make_season(region, sky_rng, snow_share)
        step_m = camera.gsd_m / _FINE
        canvas = Canvas(camera.size * _FINE, step_m, region, season, place)
        paint_scene(canvas, scene_class)
        canvas.rng = change
        for kind, zone in zones:
            paint_change(canvas, kind, zone)
            is_changed = is_changed | (block_mean(zone, _FINE) > 0.5)
        canvas.rng = relief
        # Larger stretches of country are higher, not steeper.
        relief_m = region.relief_m * relief.uniform(0.2, 1.2) * canvas.extent_m / 640.0
        shares, covers = canvas.compose(relief_m * canvas.noise(2.6), _FINE)
        spectra = to_bands(np.stack(canvas.spectra), camera.bands)
        surface = np.tensordot(spectra, shares, axes=(0, 0))
        sky = Canvas(camera.size, camera.gsd_m, region, season, sky_rng)
        is_cloudy = sky_rng.random() < cloudy_share
        clouds = draw_clouds(sky, sky_rng.uniform(0.05, _MOST_CLOUD) * is_cloudy)
        image = observe(camera, surface, sky, *clouds)
        cover, cloud, changed = map(camera.crop, (covers, clouds[0], is_changed))
        pictures.append(Picture(image, cover, cloud, changed, season))
        if date + 1 < dates:
            canvas.rng = choice
            zones = draw_changes(canvas, covers)
    return pictures


def draw_clouds(sky: Canvas, share: float) -> tuple[Field, Field]:
    """Draw thin and thick clouds over about a share of the sky.

    Returns:
        opacity of the clouds, and share of sunlight that they keep from the ground.
    """
    field = sky.noise(1.8)
    steepness, height_m = sky.rng.uniform((0.6, 150.0), (2.0, 600.0))
    above = field - np.quantile(field, 1.0 - share)
    opacity = np.clip(above * steepness, 0.0, 0.97).astype(np.float32)
    shadow = sky.season.shadow_of(opacity, height_m / sky.step_m)
    return opacity, np.float32(0.65) * shadow


def observe(
    camera: Camera, surface: Field, sky: Canvas, cloud: Field, shadow: Field
) -> Field:
    """Simulate the reflectance that the product of a sensor holds.

    Args:
        camera: the sensor.
        surface: (D, size, size) reflectance of the ground.
        sky: haze, sun and gain of its date; random numbers of the noise.
        cloud: (size, size) opacity of clouds.
        shadow: (size, size) share of sunlight that clouds take.

    Returns:
        (D, image_size, image_size).
    """
    is_corrected = camera.sensor.name.endswith(("l2", "l2a"))
    path, through, bright = (
        to_bands(spectrum, camera.bands)[:, None, None]
        for spectrum in (*_air(sky.season, is_corrected=is_corrected), CLOUD)
    )
    if not is_corrected:
        bright = bright * np.sqrt(through)
    seen = path + through * surface * np.float32(sky.season.gain) * (1.0 - shadow)
    return _detect(camera, seen + cloud * (bright - seen), sky.rng)


def _air(season: Season, *, is_corrected: bool) -> tuple[Spectrum, Spectrum]:
    """Reflectance and two-way transmittance of the air.

    Source: Rayleigh after Hansen and Travis 1974, aerosol after Angstrom 1929, gas
        absorption as Gaussians. Surface products keep part of the aerosol, which
        correction estimates with error.
    """
    relative = WAVELENGTHS_NM / 550.0
    aerosol = season.haze * relative**-1.2
    if is_corrected:
        return aerosol, 1.0 - 0.9 * aerosol
    slant = 1.0 / math.sin(math.radians(season.sun_elevation_deg))
    rayleigh = 0.0975 * relative**-4.08
    gases = np.exp(-(1.0 + slant) / 2.0 * VAPOUR)
    path = 0.38 * rayleigh * (0.6 + 0.4 * slant) + aerosol
    through = np.exp(-(1.0 + slant) * 0.55 * rayleigh) * (1.0 - aerosol)
    return path * gases, gases * through


def _detect(camera: Camera, seen: Field, rng: np.random.Generator) -> Field:
    """Blur, average to native pixels, add noise, and return to the finest pixels."""
    side = camera.image_size
    image = np.empty((len(camera.bands), side, side), dtype=np.float32)
    widths = np.array([band.width_nm for band in camera.bands], dtype=np.float32)
    quality = _SIGNAL_TO_NOISE * np.sqrt(np.minimum(widths / _REFERENCE_WIDTH_NM, 2.0))
    for factor in sorted(set(camera.factors)):
        chosen = np.array(camera.factors) == factor
        native = block_mean(seen[chosen], factor)
        native = scipy.ndimage.gaussian_filter(native, (0.0, _BLUR_PX, _BLUR_PX))
        # Coarser pixels collect more light.
        gain = quality[chosen, None, None] * np.sqrt(np.float32(factor))
        noise = rng.standard_normal(native.shape, dtype=np.float32)
        native += noise * np.sqrt(_DARK_NOISE**2 + native * 0.2 / gain**2)
        weights = _finer(native.shape[-1], factor)
        image[chosen] = camera.crop(weights @ native @ weights.T)
    return image


@lru_cache(maxsize=16)
def _finer(size: int, factor: int) -> Field:
    """Matrix of linear interpolation from coarse pixels to fine ones."""
    coarse = np.eye(size, dtype=np.float32)
    fine: Field = scipy.ndimage.zoom(
        coarse, (factor, 1), order=1, mode="nearest", grid_mode=True
    )
    return fine
