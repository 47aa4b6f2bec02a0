"""An image in the making: its place and day, fine cells, and what is laid where.

Splits of the archive are made of whole regions. A region has its own soil, farming,
roofs, waters, relief and season, so that a model is tested on places whose colours it
has not seen; a date has its own state of plants, wetness, sun and air.

Shapes are known by the distance inwards of their edges, in metres; which cover fills
one is left to the painters. Finally the layers are averaged over pixels, so that those
at edges are mixed. Everything after works on the shares of a few spectra, which makes a
sensor with hundreds of bands as cheap as one with four.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from spectralgpt.simulation.reflectance import SHADE, Spectrum

Field = NDArray[np.float32]
Indices = NDArray[np.intp]

# Numbers that parcels may have.
_NUMBERS = 997
# So that regions share no random numbers with images.
_REGION_STREAM = 101
_FIRST_DAY, _LAST_DAY = 75, 310
_OVERPASS_HOUR_ANGLE = np.deg2rad(-22.5)
_METRES_PER_DEGREE = 110_900.0


@dataclass(frozen=True)
class Region:
    """One place on the simulated Earth.

    Args:
        number: its number; splits hold disjoint numbers.
        latitude: degrees north.
        epsg: code of its UTM zone.
        easting_m: western edge of the region in that zone.
        northing_m: northern edge of the region.
        soil_brightness: reflectance of dry soil at 1600 nm.
        iron: ferric features of the soil, 0..1.
        clay: hydroxyl features of the soil, 0..1.
        dryness: 0 humid .. 1 semi-arid: summer browning of grass.
        spring_shift_days: delay of the growing season.
        relief_m: standard deviation of terrain height within an image.
        field_m: mean length of a field.
        crop_weights: shares of the six crop kinds.
        conifer_share: share of conifers among forest stands.
        tile_share: share of clay tiles among roofs.
        water_chlorophyll: of the waters, milligrams a cubic metre.
        water_sediment: suspended matter of the waters, grams a cubic metre.
        haze: typical aerosol reflectance at 550 nm left in the data.
    """

    number: int
    latitude: float
    epsg: int
    easting_m: float
    northing_m: float
    soil_brightness: float
    iron: float
    clay: float
    dryness: float
    spring_shift_days: float
    relief_m: float
    field_m: float
    crop_weights: tuple[float, ...]
    conifer_share: float
    tile_share: float
    water_chlorophyll: float
    water_sediment: float
    haze: float

    @property
    def name(self) -> str:
        """Name used in file names and tables."""
        return f"region{self.number:03d}"

    @classmethod
    def draw(cls, seed: int, number: int) -> "Region":
        """Draw region `number`, from 0, of the archive of a seed."""
        rng = np.random.default_rng((seed, _REGION_STREAM, number))
        latitude = float(rng.uniform(36.0, 60.0))
        return cls(
            number=number,
            latitude=latitude,
            epsg=32629 + number % 9,
            easting_m=round(float(rng.uniform(300_000, 600_000)), -3),
            northing_m=round(latitude * _METRES_PER_DEGREE, -3),
            soil_brightness=float(rng.uniform(0.18, 0.48)),
            iron=float(rng.uniform(0.05, 0.9)),
            clay=float(rng.uniform(0.1, 0.8)),
            dryness=float(rng.beta(1.3, 1.6)),
            spring_shift_days=float(1.2 * (latitude - 46.0) + rng.normal(0.0, 8.0)),
            relief_m=float(rng.lognormal(np.log(18.0), 0.7)),
            field_m=float(rng.uniform(150.0, 420.0)),
            crop_weights=tuple(float(w) for w in rng.dirichlet(np.full(6, 1.5))),
            conifer_share=float(rng.beta(1.0, 1.2)),
            tile_share=float(rng.beta(1.2, 1.0)),
            water_chlorophyll=float(rng.lognormal(np.log(4.0), 0.9)),
            water_sediment=float(rng.lognormal(np.log(3.0), 0.9)),
            haze=float(rng.uniform(0.0, 0.045)),
        )


@dataclass(frozen=True)
class Season:
    """The state of a region on one day.

    Args:
        day: date of acquisition.
        plant_day: day of the year as plants see it, that is without the region's delay.
        wetness: of bare soil, 0..1.
        drought: browning of grass on this day, 0..1.
        snow: share of open ground under snow, 0..1.
        haze: aerosol reflectance at 550 nm.
        sun_elevation_deg: height of the sun.
        sun_azimuth_deg: direction of the sun, clockwise from north.
        gain: brightness of this acquisition relative to the average one.
    """

    day: date
    plant_day: float
    wetness: float
    drought: float
    snow: float
    haze: float
    sun_elevation_deg: float
    sun_azimuth_deg: float
    gain: float

    def shadow_of(self, bodies: Field, height: float) -> Field:
        """Shadow, to the north of bodies (n, n) that are some cells high."""
        elevation, azimuth = np.deg2rad((self.sun_elevation_deg, self.sun_azimuth_deg))
        reach = height / np.tan(elevation)
        shift = (round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth)))
        return np.roll(bodies, shift, axis=(0, 1))

    def light(self, height_m: Field, step_m: float) -> Field:
        """Illumination relative to level ground of cells `step_m` apart, 0.35..1.6.

        Source: cosine correction (Teillet et al. 1982) with a floor of sky light.
        """
        elevation, azimuth = np.deg2rad((self.sun_elevation_deg, self.sun_azimuth_deg))
        south, east = np.gradient(height_m, step_m)
        facing = east * np.sin(azimuth) - south * np.cos(azimuth)
        direct = np.clip(np.sin(elevation) - np.cos(elevation) * facing, 0.0, None)
        direct /= np.sin(elevation) * np.sqrt(1.0 + south**2 + east**2)
        return np.clip(0.25 + 0.75 * direct, 0.35, 1.6).astype(np.float32)

    @classmethod
    def draw(
        cls, region: Region, rng: np.random.Generator, snow_share: float = 0.0
    ) -> "Season":
        """Draw a date and what comes with it.

        Args:
            region: gives latitude, delay of spring, dryness and haze.
            rng: all randomness comes from it.
            snow_share: how often there is snow on cold dates, 0..1.

        Source: solar declination after Cooper 1969.
        """
        number = int(rng.integers(_FIRST_DAY, _LAST_DAY + 1))
        day = date(int(rng.integers(2019, 2024)), 1, 1) + timedelta(days=number - 1)
        declination = np.deg2rad(23.45) * np.sin(2 * np.pi * (284 + number) / 365)
        latitude = np.deg2rad(region.latitude)
        sine = np.sin(latitude) * np.sin(declination)
        sine += np.cos(latitude) * np.cos(declination) * np.cos(_OVERPASS_HOUR_ANGLE)
        plant_day = number + region.spring_shift_days * (-1 if number < 200 else 1)
        midsummer = np.exp(-(((plant_day - 215.0) / 50.0) ** 2))
        drought = region.dryness * midsummer * rng.uniform(0.6, 1.3)
        is_cold = plant_day < 95.0 or plant_day > 310.0
        snow = rng.uniform(0.3, 1.0) if rng.random() < snow_share and is_cold else 0.0
        return cls(
            day=day,
            plant_day=float(plant_day),
            wetness=float(rng.beta(1.2, 2.0) * (1.0 - 0.5 * region.dryness)),
            drought=float(np.clip(drought, 0.0, 1.0)),
            snow=float(snow),
            haze=float(np.clip(region.haze + rng.normal(0.0, 0.012), 0.0, None)),
            sun_elevation_deg=float(np.clip(np.rad2deg(np.arcsin(sine)), 12.0, 75.0)),
            sun_azimuth_deg=float(rng.uniform(145.0, 170.0)),
            gain=float(np.clip(rng.normal(1.0, 0.10), 0.7, 1.3)),
        )


class Cover(IntEnum):
    """Land cover of a pixel, as in masks and multi-label tables."""

    WATER = 0
    TREES = 1
    PERMANENT_CROPS = 2
    CROPLAND = 3
    GRASSLAND = 4
    BARE = 5
    ARTIFICIAL = 6
    SNOW = 7


@dataclass(frozen=True)
class Parcels:
    """A division of the cells into numbered parcels.

    Args:
        index: number of each cell's parcel; distant ones may share it.
        edge_m: distance of each cell to its parcel's edge, in metres.
        u_m: metres from the parcel's corner along its row.
        v_m: metres from there across the row.
    """

    index: Indices
    edge_m: Field
    u_m: Field
    v_m: Field

    def draw(self, rng: np.random.Generator, low: float, high: float) -> Field:
        """Draw a number for each parcel.

        Args:
            rng: what is drawn from.
            low: least number.
            high: largest number.

        Returns:
            (size, size), at each cell that of its parcel.
        """
        return rng.uniform(low, high, _NUMBERS).astype(np.float32)[self.index]

    def some(self, rng: np.random.Generator, share: float) -> Field:
        """1 in about a share of the parcels, 0 in the others."""
        return (self.draw(rng, 0.0, 1.0) < share).astype(np.float32)


class Canvas:
    """A square of fine cells on which one image is painted.

    Args:
        size: cells along one side.
        step_m: side of a cell in metres.
        region: where the image is.
        season: when it is.
        rng: numbers for shapes and traits.
    """

    def __init__(
        self,
        size: int,
        step_m: float,
        region: Region,
        season: Season,
        rng: np.random.Generator,
    ) -> None:
        self.size = size
        self.step_m = step_m
        self.region = region
        self.season = season
        self.rng = rng
        self.spectra: list[Spectrum] = [SHADE]
        self._layers: list[tuple[Cover | None, int | Indices, Field]] = []
        self._zone = np.ones((size, size), dtype=np.float32)

    @property
    def extent_m(self) -> float:
        """Length of one side in metres."""
        return self.size * self.step_m

    def rotated(self, angle: float) -> tuple[Field, Field]:
        """Coordinates in metres from the centre, turned by `angle` in radians."""
        line = (np.arange(self.size, dtype=np.float32) + 0.5) * self.step_m
        east, south = np.meshgrid(*(line - self.extent_m / 2.0,) * 2)
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        return east * cosine + south * sine, south * cosine - east * sine

    def coverage(self, inside_m: NDArray[np.floating[Any]]) -> Field:
        """Return the share of each cell that lies inside a shape, (size, size).

        Args:
            inside_m: (size, size), distance inwards of its edge, m; negative outside.
        """
        return np.clip(inside_m / self.step_m + 0.5, 0.0, 1.0).astype(np.float32)

    def noise(self, exponent: float, scale_m: float = 0.0) -> Field:
        """Draw a field of mean 0 and standard deviation 1.

        Args:
            exponent: fall of amplitude with frequency, 0 white .. 2.5 smooth terrain.
            scale_m: size of the finest structure.

        Source: Voss 1988 (spectral synthesis), as is usual for terrain.
        """
        # Rounded, so that the table of amplitudes is found again from image to image.
        cutoff = float(f"{0.4 * self.step_m / scale_m:.1e}") if scale_m else 10.0
        amplitude = _amplitude(self.size, exponent, max(cutoff, 0.8 / self.size))
        white = self.rng.standard_normal((self.size, self.size), dtype=np.float32)
        field = scipy.fft.irfft2(scipy.fft.rfft2(white) * amplitude, s=white.shape)
        scaled: Field = (field / (field.std() + 1e-12)).astype(np.float32)
        return scaled

    def strip(self, width_m: float, winding: float) -> Field:
        """Distance inwards of the edge of a strip across the cells, in metres.

        `winding` is how far it bends aside as a share of the image's side.
        """
        _, v = self.rotated(self.rng.uniform(0.0, np.pi))
        aside = self.rng.uniform(-0.25, 0.25) + winding * self.noise(
            0.0, self.extent_m / 3
        )
        return (width_m / 2.0 - np.abs(v - self.extent_m * aside)).astype(np.float32)

    def parcels(
        self, length_m: float, depth_m: float, warp_m: float, angle: float | None = None
    ) -> Parcels:
        """Divide the cells into rows of rectangles, as surveyed land is.

        Args:
            length_m: length of a parcel along its row.
            depth_m: depth of a row.
            warp_m: how far natural features bend the edges.
            angle: direction of the rows in radians; drawn if None.
        """
        u, v = self.rotated(self.rng.uniform(0.0, np.pi) if angle is None else angle)
        u += np.float32(warp_m) * self.noise(0.0, length_m)
        v += np.float32(warp_m) * self.noise(0.0, length_m)
        row = np.floor(v / depth_m).astype(np.intp)
        u += self.rng.uniform(0.0, length_m, _NUMBERS).astype(np.float32)[row]
        column = np.floor(u / length_m).astype(np.intp)
        along = (u - column * length_m).astype(np.float32)
        across = (v - row * depth_m).astype(np.float32)
        inside_u = length_m / 2.0 - np.abs(along - length_m / 2.0)
        inside_v = depth_m / 2.0 - np.abs(across - depth_m / 2.0)
        number = (31 * row + column) % _NUMBERS
        return Parcels(number, np.minimum(inside_u, inside_v), along, across)

    def lay(
        self,
        cover: Cover | None,
        spectrum: Spectrum | Sequence[Spectrum],
        coverage: NDArray[np.floating[Any]] | float = 1.0,
        parcels: Parcels | None = None,
    ) -> None:
        """Lay a coat over what is there.

        Args:
            cover: land cover that it shows; None leaves the one below as it is.
            spectrum: of the coat; or several, of which each parcel gets one by chance.
            coverage: (size, size) share of each cell that is hidden, 0..1.
            parcels: which get the spectra.
        """
        number: int | Indices = len(self.spectra)
        self.spectra.extend(np.atleast_2d(spectrum))
        if parcels is not None:
            choice = self.rng.integers(number, len(self.spectra), _NUMBERS)
            number = choice[parcels.index]
        self._layers.append((cover, number, self._zone * np.float32(coverage)))

    def shade(self, depth: NDArray[np.floating[Any]]) -> None:
        """Take light away; `depth` (size, size) is the share that is lost, 0..1."""
        self._layers.append((None, 0, self._zone * np.float32(depth)))

    @contextmanager
    def within(self, zone: Field) -> Iterator[None]:
        """Lay what follows in a zone only, given as a share of each cell."""
        around = self._zone
        self._zone = around * zone
        yield
        self._zone = around

    def compose(self, height_m: Field, factor: int) -> tuple[Field, Field]:
        """Light the layers by the sun on the terrain and average them over pixels.

        Args:
            height_m: (size, size) height of each cell; water lies level all the same.
            factor: cells along one side of a pixel.

        Returns:
            (M, n, n) share of each of `spectra` times illumination, and
            (number of covers, n, n) share of each `Cover`, which sum to 1.
        """
        n = self.size // factor
        light = self.season.light(height_m, self.step_m)
        for cover, _, coverage in self._layers:
            if cover is Cover.WATER:
                light = light + coverage * (1.0 - light)
        shares = np.zeros((len(self.spectra), n, n), dtype=np.float32)
        covers = np.zeros((len(Cover), n, n), dtype=np.float32)
        seen, seen_cover = np.ones_like(light), np.ones_like(light)
        line = np.arange(self.size) // factor
        pixel = line[:, None] * n + line
        for cover, number, coverage in reversed(self._layers):
            weight = seen * coverage
            seen = seen - weight
            if cover is not None:
                covers[cover] += block_mean(seen_cover * coverage, factor)
                seen_cover = seen_cover * (1.0 - coverage)
            if isinstance(number, int):
                shares[number] += block_mean(weight * light, factor)
            else:
                place = (number * (n * n) + pixel).ravel()
                sums = np.bincount(place, (weight * light).ravel(), shares.size)
                shares += np.float32(sums.reshape(shares.shape) / factor**2)
        return shares, covers


def block_mean(field: Field, factor: int) -> Field:
    """Average (..., n * factor, n * factor) over blocks: (..., n, n)."""
    *lead, height, width = field.shape
    blocks = field.reshape(*lead, height // factor, factor, width // factor, factor)
    # Two sums of contiguous axes are several times faster than one over both.
    mean: Field = blocks.sum(axis=-1).sum(axis=-2) / np.float32(factor * factor)
    return mean


def highest(field: Field, share: float) -> Field:
    """1 in about a share of the cells, those of highest value, else 0."""
    return (field > np.quantile(field[::3, ::3], 1.0 - share)).astype(np.float32)


@lru_cache(maxsize=32)
def _amplitude(size: int, exponent: float, cutoff: float) -> Field:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1.0
    table = frequency**-exponent * np.exp(-((frequency / cutoff) ** 2))
    amplitude: Field = table.astype(np.float32)
    amplitude[0, 0] = 0.0
    amplitude.setflags(write=False)
    return amplitude
