"""Regions and dates: what all images of one place, or of one day, have in common.

Splits of the archive are made of whole regions. A region has its own soil, farming,
roofs, waters, relief and season, so that a model is tested on places whose colours it
has not seen; a date has its own state of plants, wetness, sun and air.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

_Field = NDArray[np.float32]

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


def make_region(seed: int, number: int) -> Region:
    """Draw region `number`, from 0, of the archive of a seed."""
    rng = np.random.default_rng((seed, _REGION_STREAM, number))
    latitude = float(rng.uniform(36.0, 60.0))
    return Region(
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

    def shadow_of(self, bodies: _Field, height: float) -> _Field:
        """Shadow, to the north of bodies (n, n) that are some cells high."""
        elevation, azimuth = np.deg2rad((self.sun_elevation_deg, self.sun_azimuth_deg))
        reach = height / np.tan(elevation)
        shift = (round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth)))
        return np.roll(bodies, shift, axis=(0, 1))

    def light(self, height_m: _Field, step_m: float) -> _Field:
        """Illumination relative to level ground of cells `step_m` apart, 0.35..1.6.

        Source: cosine correction (Teillet et al. 1982) with a floor of sky light.
        """
        elevation, azimuth = np.deg2rad((self.sun_elevation_deg, self.sun_azimuth_deg))
        south, east = np.gradient(height_m, step_m)
        facing = east * np.sin(azimuth) - south * np.cos(azimuth)
        direct = np.clip(np.sin(elevation) - np.cos(elevation) * facing, 0.0, None)
        direct /= np.sin(elevation) * np.sqrt(1.0 + south**2 + east**2)
        return np.clip(0.25 + 0.75 * direct, 0.35, 1.6).astype(np.float32)


def make_season(
    region: Region, rng: np.random.Generator, snow_share: float = 0.0
) -> Season:
    """Draw a date and what comes with it; cold dates have snow by `snow_share`.

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
    return Season(
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
