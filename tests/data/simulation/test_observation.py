from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from spectralgpt.data.simulation.composition import Composition
from spectralgpt.data.simulation.materials import Cover
from spectralgpt.data.simulation.observation import (
    Clouds,
    PixelGrid,
    draw_clouds,
    observe,
    to_numbers,
)
from spectralgpt.data.simulation.places import Season
from spectralgpt.data.simulation.sensor_response import optical_bands
from spectralgpt.data.simulation.spectra import WAVELENGTHS_NM
from spectralgpt.sensors import load_sensor

SENSOR = load_sensor("sentinel-2-l2a")
PIXELS = PixelGrid(optical_bands(SENSOR), 32)
NAMES = [band.name for band in PIXELS.bands]
CLEAR_DAY = Season(date(2021, 6, 1), 150.0, 0.2, 0.0, 0.0, 0.0, 55.0, 155.0, 1.0)


def observe_spectrum(
    spectrum: np.ndarray,
    shares: np.ndarray | None = None,
    season: Season = CLEAR_DAY,
    cloud: float = 0.0,
    *,
    top_of_atmosphere: bool = False,
) -> np.ndarray:
    size = PIXELS.size
    if shares is None:
        shares = np.ones((1, size, size), dtype=np.float32)
    covers = np.zeros((len(Cover), size, size), dtype=np.float32)
    sky = np.full((size, size), cloud, dtype=np.float32)
    return observe(
        Composition(shares, covers),
        [spectrum],
        PIXELS,
        season,
        Clouds(sky, 0.0 * sky),
        np.random.default_rng(0),
        top_of_atmosphere=top_of_atmosphere,
    )


FLAT = np.full_like(WAVELENGTHS_NM, 0.3)


def test_a_flat_surface_under_clear_air_comes_back_in_every_band() -> None:
    image = observe_spectrum(FLAT)
    assert image.shape == (len(NAMES), 32, 32)
    assert image.mean(axis=(1, 2)) == pytest.approx(0.3, abs=0.001)
    assert image.std(axis=(1, 2)).min() > 0.0001
    assert image.std(axis=(1, 2)).max() < 0.005


def test_coarse_bands_are_blurred_and_stay_in_place() -> None:
    shares = np.zeros((1, PIXELS.size, PIXELS.size), dtype=np.float32)
    shares[:, :, PIXELS.margin + 16 :] = 1.0
    image = observe_spectrum(FLAT, shares)
    fine, middle, coarse = (
        image[NAMES.index(name)].mean(axis=0) for name in ("B04", "B11", "B09")
    )
    steepest = [np.abs(np.diff(line)).max() for line in (fine, middle, coarse)]
    assert steepest == sorted(steepest, reverse=True)
    for line in (fine, middle, coarse):
        assert line[:4].mean() == pytest.approx(0.0, abs=0.02)
        assert line[-4:].mean() == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.interp(0.15, middle, np.arange(32)) - 15.5) < 1.0


def test_haze_brightens_blue_most() -> None:
    dark = np.full_like(WAVELENGTHS_NM, 0.02)
    hazy = observe_spectrum(dark, season=replace(CLEAR_DAY, haze=0.05))
    added = (hazy - observe_spectrum(dark)).mean(axis=(1, 2))
    assert np.all(np.diff(added) < 0.0)
    assert added[0] > 0.04


def test_top_of_atmosphere_holds_sky_light_and_loses_water_vapour() -> None:
    image = observe_spectrum(FLAT, top_of_atmosphere=True).mean(axis=(1, 2))
    dark = observe_spectrum(0.0 * FLAT, top_of_atmosphere=True).mean(axis=(1, 2))
    assert dark[NAMES.index("B01")] > 0.05
    assert dark[NAMES.index("B11")] < 0.005
    assert image[NAMES.index("B09")] < 0.7 * image[NAMES.index("B8A")]


def test_thick_clouds_hide_the_ground() -> None:
    image = observe_spectrum(0.0 * FLAT, cloud=0.97)
    assert image[NAMES.index("B04")].mean() > 0.6
    assert image[NAMES.index("B12")].mean() < image[NAMES.index("B04")].mean()


def test_clouds_cover_the_share_asked_for_and_cast_shadow_to_the_north() -> None:
    clouds = draw_clouds(PIXELS, CLEAR_DAY, np.random.default_rng(3), 0.2)
    assert (clouds.opacity > 0).mean() == pytest.approx(0.2, abs=0.02)
    assert clouds.opacity.max() > 0.3
    assert clouds.shadow.max() == pytest.approx(0.65 * clouds.opacity.max(), rel=1e-5)
    assert np.abs(clouds.shadow - 0.65 * clouds.opacity).max() > 0.1
    none = draw_clouds(PIXELS, CLEAR_DAY, np.random.default_rng(3), 0.0)
    assert not none.opacity.any()


@pytest.mark.parametrize(
    ("name", "dtype", "number"),
    [
        ("sentinel-2-l2a", "uint16", 2500),
        ("landsat-8-9-l2", "uint16", 16364),
        ("enmap-l2a", "int16", 2500),
        ("gaofen-2-pms", "uint16", 2500),
    ],
)
def test_numbers_are_those_of_the_sensor(name: str, dtype: str, number: int) -> None:
    numbers = to_numbers(np.array([0.25], dtype=np.float32), load_sensor(name))
    assert numbers.dtype == dtype
    assert numbers[0] == number


def test_dark_pixels_never_become_nodata_and_bright_ones_saturate() -> None:
    extreme = np.array([-1.0, 0.0, 50.0], dtype=np.float32)
    assert to_numbers(extreme, SENSOR).tolist() == [1, 1, 65535]
