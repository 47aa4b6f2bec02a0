from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from spectralgpt.errors import BandError
from spectralgpt.sensors import Band, load_sensor
from spectralgpt.simulation import archive
from spectralgpt.simulation.archive import Camera
from spectralgpt.simulation.canvas import Canvas, Region, Season
from spectralgpt.simulation.reflectance import WAVELENGTHS_NM, to_bands

SENSOR = load_sensor("sentinel-2-l2a")
CAMERA = Camera(SENSOR, 32)
L1C = Camera(load_sensor("sentinel-2-l1c"), 32)
NAMES = [band.name for band in CAMERA.bands]
CLEAR_DAY = Season(date(2021, 6, 1), 150.0, 0.2, 0.0, 0.0, 0.0, 55.0, 155.0, 1.0)


def make_sky(season: Season = CLEAR_DAY, seed: int = 0) -> Canvas:
    rng = np.random.default_rng(seed)
    return Canvas(CAMERA.size, CAMERA.gsd_m, Region.draw(0, 0), season, rng)


def observe_spectrum(
    spectrum: np.ndarray,
    share: np.ndarray | None = None,
    season: Season = CLEAR_DAY,
    cloud: float = 0.0,
    camera: Camera = CAMERA,
) -> np.ndarray:
    if share is None:
        share = np.ones((camera.size, camera.size), dtype=np.float32)
    surface = to_bands(spectrum, camera.bands)[:, None, None] * share
    sky = np.full_like(share, cloud)
    return archive._observe(camera, surface, make_sky(season), sky, 0.0 * sky)


FLAT = np.full_like(WAVELENGTHS_NM, 0.3)


def test_a_flat_surface_under_clear_air_comes_back_in_every_band() -> None:
    image = observe_spectrum(FLAT)
    assert image.shape == (len(NAMES), 32, 32)
    assert image.mean(axis=(1, 2)) == pytest.approx(0.3, abs=0.001)
    assert image.std(axis=(1, 2)).min() > 0.0001
    assert image.std(axis=(1, 2)).max() < 0.005


def test_coarse_bands_are_blurred_and_stay_in_place() -> None:
    share = np.zeros((CAMERA.size, CAMERA.size), dtype=np.float32)
    share[:, (CAMERA.size - 32) // 2 + 16 :] = 1.0
    image = observe_spectrum(FLAT, share)
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
    image, dark = (
        observe_spectrum(share * FLAT, camera=L1C).mean(axis=(1, 2))
        for share in (1.0, 0.0)
    )
    names = [band.name for band in L1C.bands]
    assert dark[names.index("B01")] > 0.05
    assert dark[names.index("B11")] < 0.005
    assert image[names.index("B09")] < 0.7 * image[names.index("B8A")]


def test_thick_clouds_hide_the_ground() -> None:
    image = observe_spectrum(0.0 * FLAT, cloud=0.97)
    assert image[NAMES.index("B04")].mean() > 0.6
    assert image[NAMES.index("B12")].mean() < image[NAMES.index("B04")].mean()


def test_clouds_cover_the_share_asked_for_and_cast_shadow_to_the_north() -> None:
    opacity, shadow = archive._draw_clouds(make_sky(seed=3), 0.2)
    assert (opacity > 0).mean() == pytest.approx(0.2, abs=0.02)
    assert opacity.max() > 0.3
    assert shadow.max() == pytest.approx(0.65 * opacity.max(), rel=1e-5)
    assert np.abs(shadow - 0.65 * opacity).max() > 0.1
    assert not archive._draw_clouds(make_sky(seed=3), 0.0)[0].any()


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
    numbers = Camera(load_sensor(name), 8).to_numbers(np.float32([0.25]))
    assert numbers.dtype == dtype
    assert numbers[0] == number


def test_dark_pixels_never_become_nodata_and_bright_ones_saturate() -> None:
    extreme = np.array([-1.0, 0.0, 50.0], dtype=np.float32)
    assert CAMERA.to_numbers(extreme).tolist() == [1, 1, 65535]


def test_a_sensor_without_optical_bands_is_refused() -> None:
    thermal = replace(SENSOR, bands=(Band("B10", 10_900.0, 600.0, 100.0),))
    with pytest.raises(BandError, match="no band within 400 to 2500 nm"):
        _ = Camera(thermal, 32).bands
