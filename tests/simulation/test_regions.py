from dataclasses import replace

import numpy as np
import pytest

from spectralgpt.simulation.canvas import Region, Season

REGION = Region.draw(0, 3)


def test_a_region_follows_from_seed_and_number() -> None:
    assert Region.draw(0, 3) == REGION
    assert Region.draw(1, 3) != REGION
    assert Region.draw(0, 4).soil_brightness != REGION.soil_brightness


def test_the_sun_stands_higher_in_summer() -> None:
    dates = [Season.draw(REGION, np.random.default_rng(n)) for n in range(60)]
    assert all(75 <= season.day.timetuple().tm_yday <= 310 for season in dates)
    summer = [s.sun_elevation_deg for s in dates if s.day.month in (6, 7)]
    autumn = [s.sun_elevation_deg for s in dates if s.day.month in (10, 11)]
    assert min(summer) > max(autumn)


def test_snow_lies_on_cold_dates_only() -> None:
    dates = [Season.draw(REGION, np.random.default_rng(n), 1.0) for n in range(60)]
    assert any(season.snow for season in dates)
    assert not any(s.snow for s in dates if 95.0 <= s.plant_day <= 310.0)


def test_slopes_that_face_the_sun_are_brighter() -> None:
    season = Season.draw(REGION, np.random.default_rng(0))
    column = np.arange(96, dtype=np.float32) * 5.0
    rising_east = np.broadcast_to(0.2 * column, (96, 96))

    def light(height_m: np.ndarray, azimuth_deg: float) -> np.ndarray:
        sun = replace(season, sun_elevation_deg=40.0, sun_azimuth_deg=azimuth_deg)
        return sun.light(height_m, 5.0)

    assert light(rising_east, 270.0).min() > 1.1
    assert light(rising_east, 90.0).max() < 0.9
    assert light(rising_east.T, 180.0).max() < 0.9
    assert light(np.zeros((96, 96)), 150.0) == pytest.approx(1.0)


def test_shadow_falls_to_the_north_and_is_longer_in_low_sun() -> None:
    season = replace(
        Season.draw(REGION, np.random.default_rng(0)), sun_azimuth_deg=180.0
    )
    body = np.zeros((40, 40), dtype=np.float32)
    body[30, 20] = 1.0
    for elevation_deg, row in ((45.0, 25), (26.565, 20)):
        sun = replace(season, sun_elevation_deg=elevation_deg)
        assert np.argwhere(sun.shadow_of(body, 5.0)).tolist() == [[row, 20]]
