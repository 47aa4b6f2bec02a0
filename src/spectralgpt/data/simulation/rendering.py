"""From a place and a date to an image with its truth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.simulation.changes import draw_changes, paint_change
from spectralgpt.data.simulation.composition import Composition, compose
from spectralgpt.data.simulation.materials import Cover, Layer, Palette, Site
from spectralgpt.data.simulation.observation import (
    PixelGrid,
    draw_clouds,
    observe,
)
from spectralgpt.data.simulation.places import Region, Season, make_season
from spectralgpt.data.simulation.terrain import (
    Field,
    Grid,
    fractal_noise,
    hillshade,
)

__all__ = ["Picture", "View", "render", "render_pair"]

# Cells along one side of a pixel on which shapes are drawn.
_FINE = 3
_RELIEF_EXPONENT = 2.6
_MOST_CLOUD = 0.35

Painter = Callable[[Site], list[Layer]]


@dataclass(frozen=True)
class View:
    """Who looks, and how clear the sky is.

    Args:
        pixels: bands and grid.
        top_of_atmosphere: whether products hold the air's own light.
        cloudy_share: share of the images that have clouds, 0..1.
        snow_share: share of cold dates with snow, 0..1.
    """

    pixels: PixelGrid
    top_of_atmosphere: bool
    cloudy_share: float
    snow_share: float


@dataclass(frozen=True)
class Picture:
    """A simulated image.

    Args:
        reflectance: (D, H, W).
        covers: (number of covers, H, W) share of each `Cover`.
        cloud: (H, W) opacity of clouds, 0..1.
        season: its date and state.
    """

    reflectance: Field
    covers: Field
    cloud: Field
    season: Season

    def cover_map(self) -> NDArray[np.uint8]:
        """Return the cover that holds the largest share of each pixel, (H, W)."""
        return self.covers.argmax(axis=0).astype(np.uint8)


def render(
    view: View, region: Region, key: tuple[int, ...], painter: Painter
) -> Picture:
    """Simulate one image.

    Args:
        view: sensor and sky.
        region: the place.
        key: numbers that fix all randomness.
        painter: what the place shows.
    """
    dates = np.random.default_rng((*key, 1))
    season = make_season(region, dates, snow_share=view.snow_share)
    site = _make_site(view, region, season, key)
    composition = _compose(view, site, painter(site), key)
    return _look(view, site, composition, dates)


def render_pair(
    view: View, region: Region, key: tuple[int, ...], painter: Painter
) -> tuple[Picture, Picture, NDArray[np.bool_]]:
    """Simulate two dates of one place, between which part of it changed.

    Season, wetness, sun, haze and clouds differ between the dates as well; they are no
    change.

    Returns:
        the image before, the image after, and (H, W) where land cover was replaced.
    """
    pictures: list[Picture] = []
    changed = np.zeros((view.pixels.size,) * 2, dtype=np.float32)
    zones: list[tuple[str, Field]] = []
    for step in (1, 2):
        dates = np.random.default_rng((*key, step))
        season = make_season(region, dates, snow_share=0.0)
        site = _make_site(view, region, season, key)
        layers = painter(site)
        if step == 2:
            site = Site(
                site.grid,
                region,
                season,
                np.random.default_rng((*key, 3)),
                site.palette,
            )
            for kind, zone in zones:
                layers += paint_change(site, kind, zone)
        composition = _compose(view, site, layers, key)
        if step == 1:
            rng = np.random.default_rng((*key, 4))
            zones, changed = draw_changes(site.grid, composition.covers, rng, _FINE)
        pictures.append(_look(view, site, composition, dates))
    return pictures[0], pictures[1], view.pixels.crop(changed) > 0.5


def _make_site(
    view: View, region: Region, season: Season, key: tuple[int, ...]
) -> Site:
    grid = Grid(view.pixels.size * _FINE, view.pixels.gsd_m / _FINE)
    return Site(grid, region, season, np.random.default_rng((*key, 0)), Palette())


def _compose(
    view: View, site: Site, layers: list[Layer], key: tuple[int, ...]
) -> Composition:
    light = _light(site, layers, np.random.default_rng((*key, 5)))
    return compose(layers, light, _FINE, len(site.palette.spectra))


def _light(site: Site, layers: list[Layer], rng: np.random.Generator) -> Field:
    """Illumination by the terrain; water lies level."""
    height = fractal_noise(site.grid, rng, _RELIEF_EXPONENT)
    height *= np.float32(site.region.relief_m * rng.uniform(0.2, 1.2))
    # Larger stretches of country are higher, not steeper.
    height *= np.float32(site.grid.extent_m / 640.0)
    season = site.season
    light = hillshade(
        height, site.grid, season.sun_elevation_deg, season.sun_azimuth_deg
    )
    for layer in layers:
        if layer.cover is Cover.WATER:
            light += layer.coverage * (1.0 - light)
    return light


def _look(
    view: View, site: Site, composition: Composition, rng: np.random.Generator
) -> Picture:
    share = float(rng.uniform(0.05, _MOST_CLOUD))
    is_cloudy = rng.random() < view.cloudy_share
    clouds = draw_clouds(view.pixels, site.season, rng, share if is_cloudy else 0.0)
    reflectance = observe(
        composition,
        site.palette.spectra,
        view.pixels,
        site.season,
        clouds,
        rng,
        top_of_atmosphere=view.top_of_atmosphere,
    )
    crop = view.pixels.crop
    return Picture(
        reflectance, crop(composition.covers), crop(clouds.opacity), site.season
    )
