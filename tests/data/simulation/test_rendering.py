from functools import partial

import numpy as np
import pytest

from spectralgpt.data.simulation.materials import Cover
from spectralgpt.data.simulation.observation import PixelGrid
from spectralgpt.data.simulation.places import make_region, make_season
from spectralgpt.data.simulation.rendering import Picture, View, render, render_pair
from spectralgpt.data.simulation.scenes import (
    SCENE_CLASSES,
    paint_landscape,
    paint_scene,
)
from spectralgpt.data.simulation.sensor_response import optical_bands
from spectralgpt.errors import ConfigError
from spectralgpt.sensors import list_sensors, load_sensor


def make_view(sensor: str = "sentinel-2-l2a", size: int = 32) -> View:
    pixels = PixelGrid(optical_bands(load_sensor(sensor)), size)
    return View(pixels, False, cloudy_share=0.0, snow_share=0.0)


VIEW = make_view()
NAMES = [band.name for band in VIEW.pixels.bands]


def scene(name: str, number: int) -> Picture:
    painter = partial(paint_scene, name=name)
    return render(VIEW, make_region(0, number), (0, number), painter)


def mean_of(picture: Picture, band: str, where: np.ndarray) -> float:
    return float(picture.reflectance[NAMES.index(band)][where].mean())


@pytest.mark.parametrize("name", SCENE_CLASSES)
def test_every_scene_class_is_valid_and_its_covers_sum_to_1(name: str) -> None:
    picture = scene(name, 1)
    assert picture.covers.sum(axis=0) == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(picture.reflectance).all()
    assert picture.reflectance.min() > -0.01
    assert picture.reflectance.max() < 1.2
    assert picture.reflectance.std() > 0.01


def test_main_cover_of_a_class_is_what_its_name_says() -> None:
    mains = {
        "Forest": Cover.TREES,
        "AnnualCrop": Cover.CROPLAND,
        "Pasture": Cover.GRASSLAND,
        "PermanentCrop": Cover.PERMANENT_CROPS,
        "SeaLake": Cover.WATER,
        "Industrial": Cover.ARTIFICIAL,
    }
    for name, cover in mains.items():
        shares = [scene(name, n).covers[cover].mean() for n in range(6)]
        assert np.mean(shares) > 0.4, name


def test_masks_align_with_pixels_of_water() -> None:
    for number in range(4):
        picture = scene("River", number)
        water = picture.covers[Cover.WATER] > 0.95
        land = picture.covers[Cover.WATER] < 0.05
        assert water.sum() > 10
        assert mean_of(picture, "B08", water) < 0.6 * mean_of(picture, "B08", land)
        # Moved by a few pixels, the mask no longer fits as well.
        moved = np.roll(water, 5, axis=(0, 1))
        assert mean_of(picture, "B08", moved) > mean_of(picture, "B08", water) + 0.02


def test_forest_in_summer_is_green() -> None:
    region = make_region(0, 5)
    rng = np.random.default_rng(0)
    assert make_season(region, rng, days=(180, 190)).plant_day > 140
    picture = scene("Forest", 5)
    trees = picture.covers[Cover.TREES] > 0.95
    red, infrared = (mean_of(picture, band, trees) for band in ("B04", "B08"))
    assert (infrared - red) / (infrared + red) > 0.5


def test_the_same_key_gives_the_same_picture() -> None:
    assert np.array_equal(scene("River", 2).reflectance, scene("River", 2).reflectance)
    assert not np.array_equal(
        scene("River", 2).reflectance, scene("River", 3).reflectance
    )


def test_unknown_class_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown scene class 'Lake'.*SeaLake"):
        scene("Lake", 0)


@pytest.mark.parametrize("name", list_sensors())
def test_every_sensor_renders(name: str) -> None:
    view = make_view(name, 16)
    picture = render(view, make_region(0, 0), (0, 0), paint_landscape)
    assert picture.reflectance.shape == (len(view.pixels.bands), 16, 16)
    assert np.isfinite(picture.reflectance).all()
    assert 0.02 < picture.reflectance.mean() < 0.6


def test_two_dates_show_one_place_and_differ_where_it_changed() -> None:
    found = 0
    for number in range(8):
        before, after, changed = render_pair(
            VIEW, make_region(0, number), (1, number), paint_landscape
        )
        assert before.season.day != after.season.day
        # Land cover is the same wherever nothing changed.
        drift = np.abs(before.covers - after.covers).sum(axis=0)
        kept = ~_grown(changed)
        assert drift[kept].max() < 1e-4
        if changed.any():
            found += 1
            assert drift[changed].mean() > 1.0
    assert found >= 3


def _grown(mask: np.ndarray) -> np.ndarray:
    """Include neighbours: a pixel at the edge is partly changed."""
    padded = np.pad(mask, 1)
    size = mask.shape[0]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return np.any([padded[i : i + size, j : j + size] for i, j in shifts], axis=0)


def test_seasons_green_broadleaf_forest_and_dry_grass() -> None:
    region = make_region(0, 3)
    dates = [
        make_season(region, np.random.default_rng(n), days=(75, 310)) for n in range(30)
    ]
    assert all(75 <= season.day.timetuple().tm_yday <= 310 for season in dates)
    summer = [s.sun_elevation_deg for s in dates if s.day.month in (6, 7)]
    autumn = [s.sun_elevation_deg for s in dates if s.day.month in (10, 11)]
    assert min(summer) > max(autumn)
