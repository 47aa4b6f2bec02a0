"""What land covers are made of on a given day, and the list of layers that show them.

A `Site` is one image in the making: its grid, region, date, random numbers for shapes
and traits, and the palette of spectra in use. A painter adds spectra to the palette and
returns layers; `composition` turns layers into the share of each spectrum in each cell.
Traits are drawn from the site's own numbers, never from the date's, so that one site on
two dates has the same fields and trees.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.simulation import spectra
from spectralgpt.data.simulation.places import Region, Season
from spectralgpt.data.simulation.terrain import Field, Grid, Indices

__all__ = [
    "CROPS",
    "Cover",
    "Layer",
    "Palette",
    "Site",
    "bare_soil",
    "broadleaf",
    "clipped",
    "conifer",
    "crop",
    "dry_soil",
    "grass",
    "open_water",
    "orchard_tree",
    "paved",
    "roof",
    "shadow",
]

Spectrum = NDArray[np.float64]

CROPS = ("winter cereal", "rapeseed", "maize", "root crop", "alfalfa", "fallow")


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


@dataclass
class Palette:
    """The spectra in use at a site; grows while its layers are painted."""

    spectra: list[Spectrum] = field(default_factory=list)

    def add(self, spectrum: Spectrum) -> int:
        """Add a spectrum and return its number."""
        self.spectra.append(spectrum)
        return len(self.spectra) - 1


@dataclass(frozen=True)
class Site:
    """One image in the making.

    Args:
        grid: the fine grid on which shapes are drawn.
        region: where it is.
        season: when it is.
        rng: random numbers for shapes and traits; the same on every date.
        palette: spectra in use.
    """

    grid: Grid
    region: Region
    season: Season
    rng: np.random.Generator
    palette: Palette


@dataclass(frozen=True)
class Layer:
    """A coat of one cover, or of shadow, over what lies below.

    Args:
        cover: land cover that it shows; None leaves the cover below as it is.
        spectrum: number in the palette, for the whole layer or for each cell.
        coverage: (size, size) share of each cell that is hidden, 0..1.
    """

    cover: Cover | None
    spectrum: int | Indices
    coverage: Field


def clipped(layers: list[Layer], zone: Field) -> list[Layer]:
    """Restrict layers to a zone, given as a share of each cell."""
    return [Layer(y.cover, y.spectrum, y.coverage * zone) for y in layers]


def _green(day: float, start: float, end: float, pace: float = 9.0) -> float:
    """Double logistic growth and fall, 0..1 (Zhang et al. 2003)."""
    rise = 1.0 / (1.0 + np.exp(-(day - start) / pace))
    fall = 1.0 / (1.0 + np.exp(-(end - day) / pace))
    return float(rise * fall)


def _soil(site: Site, brightness: float, wetness: float) -> Spectrum:
    region = site.region
    return spectra.soil(
        float(np.clip(region.soil_brightness * brightness, 0.08, 0.6)),
        region.iron,
        region.clay,
        float(np.clip(wetness, 0.0, 1.0)),
    )


def bare_soil(site: Site, contrast: float = 0.12) -> int:
    """Add ploughed soil; `contrast` is the spread of its brightness."""
    brightness, moisture = site.rng.normal((1.0, 0.0), (contrast, 0.12))
    return site.palette.add(_soil(site, brightness, site.season.wetness + moisture))


def dry_soil(site: Site) -> int:
    """Add tracks, yards, rock and other ground that is brighter than fields."""
    brightness = site.rng.uniform(1.15, 1.6)
    return site.palette.add(_soil(site, brightness, 0.3 * site.season.wetness))


def crop(site: Site, kind: str) -> int:
    """Add a crop in the state that the date gives it.

    Args:
        site: where and when.
        kind: one of `CROPS`.
    """
    delay, vigour, colour, dark, damp = site.rng.normal(0.0, 1.0, 5)
    day = site.season.plant_day - 8.0 * delay
    if kind == "winter cereal":
        leaf_area, ripe = 5.0 * _green(day, 92, 202), _green(day, 176, 400)
    elif kind == "rapeseed":
        leaf_area, ripe = 4.2 * _green(day, 82, 196), _green(day, 170, 400)
    elif kind == "maize":
        leaf_area, ripe = 5.0 * _green(day, 165, 275), _green(day, 250, 400)
    elif kind == "root crop":
        leaf_area, ripe = 4.5 * _green(day, 150, 290), 0.0
    elif kind == "alfalfa":
        leaf_area, ripe = 1.0 + 3.0 * abs(np.sin(day / 14.0 + 2 * colour)), 0.0
    else:
        leaf_area, ripe = 0.4 + 0.3 * abs(colour), 0.6
    leaves = spectra.leaf_albedo(
        chlorophyll=float(np.clip((46 + 7 * colour) * (1 - 0.93 * ripe), 2, 80)),
        # Flowers of rapeseed in late April act on light as much carotenoid does.
        carotenoid=8.0 + (22.0 if kind == "rapeseed" else 0.0) * _green(day, 112, 140),
        water_cm=0.016 * (1 - 0.85 * ripe) + 0.001,
        dry_matter=0.005 + 0.004 * ripe,
        brown=1.1 * ripe,
    )
    ground = _soil(site, 1.0 + 0.14 * dark, site.season.wetness + 0.12 * damp)
    area = max(leaf_area * (1.0 + 0.15 * vigour), 0.0)
    return site.palette.add(spectra.canopy(leaves, ground, area))


def grass(site: Site, vigour: float = 1.0) -> int:
    """Add grass; `vigour` 0.3 poor and dry .. 1.3 fertilised."""
    tone, dark = site.rng.normal(0.0, 1.0, 2)
    season = site.season
    alive = 0.35 + 0.65 * _green(season.plant_day, 85, 310, 14.0)
    brown = np.clip(season.drought * (1.5 - vigour) + 0.35 * (1 - alive), 0.0, 1.0)
    leaves = spectra.leaf_albedo(
        chlorophyll=float(np.clip((38 + 6 * tone) * (1 - 0.9 * brown), 3, 70)),
        water_cm=0.014 * (1 - 0.8 * brown) + 0.001,
        dry_matter=0.005 + 0.005 * brown,
        brown=float(1.2 * brown),
    )
    ground = _soil(site, 0.85 + 0.1 * dark, season.wetness)
    area = float(np.clip(3.6 * vigour * alive * (1.0 + 0.12 * tone), 0.3, 6.0))
    return site.palette.add(spectra.canopy(leaves, ground, area))


def broadleaf(site: Site) -> int:
    """Add crowns of deciduous trees, bare in winter and brown in autumn."""
    tone, size = site.rng.normal(0.0, 1.0, 2)
    day = site.season.plant_day + 4.0 * tone
    leafy, autumn = _green(day, 112, 305, 7.0), _green(day, 286, 400, 8.0)
    leaves = spectra.leaf_albedo(
        chlorophyll=float(np.clip((44 + 6 * tone) * (1 - 0.85 * autumn), 4, 70)),
        carotenoid=9.0,
        water_cm=0.013 * (1 - 0.5 * autumn),
        dry_matter=0.006,
        brown=1.4 * autumn,
    )
    litter = 0.55 * _soil(site, 0.55, site.season.wetness)
    area = 0.4 + 4.6 * leafy * (1.0 + 0.1 * size)
    return site.palette.add(0.88 * spectra.canopy(leaves, litter, max(area, 0.3)))


def conifer(site: Site) -> int:
    """Add crowns of conifers, dark and evergreen."""
    tone = site.rng.normal()
    leaves = spectra.leaf_albedo(
        chlorophyll=float(52 + 6 * tone), water_cm=0.022, dry_matter=0.012
    )
    litter = 0.5 * _soil(site, 0.5, site.season.wetness)
    return site.palette.add(0.52 * spectra.canopy(leaves, litter, 4.0 + 0.3 * tone))


def orchard_tree(site: Site) -> int:
    """Add crowns of fruit trees, olives or vines: evergreen in dry regions."""
    tone = site.rng.normal()
    evergreen = 1.0 if site.region.dryness > 0.55 else 0.0
    leafy = max(0.8 * evergreen, _green(site.season.plant_day, 108, 300, 8.0))
    leaves = spectra.leaf_albedo(
        chlorophyll=float(np.clip(40 - 8 * evergreen + 5 * tone, 10, 70)),
        water_cm=0.012,
        dry_matter=0.006 + 0.004 * evergreen,
    )
    ground = _soil(site, 0.7, site.season.wetness)
    crowns = spectra.canopy(leaves, ground, 0.5 + 3.0 * leafy)
    return site.palette.add(0.85 * crowns)


def open_water(site: Site, murk: float = 1.0) -> int:
    """Add water of the region; `murk` multiplies its sediment and chlorophyll."""
    spread, glint = site.rng.lognormal(0.0, 0.5), site.rng.uniform(0.002, 0.02)
    region = site.region
    return site.palette.add(
        spectra.water_body(
            float(np.clip(region.water_chlorophyll * spread * murk, 0.05, 60.0)),
            float(np.clip(region.water_dissolved * spread, 0.01, 5.0)),
            float(np.clip(region.water_sediment * spread * murk, 0.1, 150.0)),
            glint,
        )
    )


def roof(site: Site, is_hall: bool = False) -> int:
    """Add a roof: tiles, slate or concrete for houses; metal and felt for halls."""
    pick, tone, tint = site.rng.random(), site.rng.normal(), site.rng.uniform(-1.0, 1.0)
    if is_hall and pick < 0.65:
        return site.palette.add(
            spectra.metal_roof(float(np.clip(0.42 + 0.13 * tone, 0.15, 0.75)), tint)
        )
    if is_hall:
        return site.palette.add(
            spectra.asphalt(float(np.clip(0.13 + 0.05 * tone, 0.05, 0.3)))
        )
    if pick < site.region.tile_share:
        brightness = float(np.clip(0.33 + 0.06 * tone, 0.2, 0.5))
        return site.palette.add(spectra.tile_roof(brightness, 0.7 + 0.3 * tint))
    return site.palette.add(
        spectra.concrete(float(np.clip(0.24 + 0.08 * tone, 0.1, 0.5)))
    )


def paved(site: Site) -> int:
    """Add a road or yard: asphalt of any age, or concrete."""
    is_concrete, tone = site.rng.random() < 0.25, site.rng.normal()
    if is_concrete:
        return site.palette.add(
            spectra.concrete(float(np.clip(0.34 + 0.06 * tone, 0.2, 0.5)))
        )
    return site.palette.add(
        spectra.asphalt(float(np.clip(0.15 + 0.04 * tone, 0.06, 0.3)))
    )


def shadow(site: Site, depth: NDArray[np.floating[Any]]) -> Layer:
    """Make a layer of shadow; `depth` is the share of light that it takes, 0..1."""
    return Layer(None, site.palette.add(spectra.shade()), depth.astype(np.float32))
