"""Bands become colours by their wavelength, whatever the sensor."""

import re

import numpy as np
import pytest

from spectralgpt.errors import BandError
from spectralgpt.reports.style import (
    Stretch,
    _Composite,
    category_colours,
    choose_composites,
    height_of,
    measure_stretch,
)
from spectralgpt.sensors import Band, load_sensor


@pytest.mark.parametrize(
    ("sensor", "true_colour", "false_colour", "single"),
    [
        ("sentinel-2-l1c", "B04 B03 B02", "B08 B04 B03", "B11"),
        ("landsat-8-9-l2", "B4 B3 B2", "B5 B4 B3", "B6"),
        ("gaofen-2-pms", "B3 B2 B1", "B4 B3 B2", "B4"),
        ("gaofen-6-wfv", "B3 B2 B1", "B4 B3 B2", "B4"),
    ],
)
def test_colours_of_multispectral_sensors(
    sensor: str, true_colour: str, false_colour: str, single: str
) -> None:
    found = choose_composites(load_sensor(sensor).select())
    assert [composite.name for composite in found[:2]] == [
        "true colour",
        "false colour",
    ]
    names = [" ".join(composite.band_names) for composite in found]
    assert names == [true_colour, false_colour, single]


def test_colours_of_enmap_are_its_nearest_channels() -> None:
    bands = load_sensor("enmap-l2a").select()
    true_colour, false_colour, single = choose_composites(bands)
    wanted = {
        true_colour: (665, 560, 490),
        false_colour: (842, 665, 560),
        single: (1610,),
    }
    for composite, wavelengths in wanted.items():
        for index, wavelength_nm in zip(composite.indices, wavelengths, strict=True):
            gap = abs(bands[index].wavelength_nm - wavelength_nm)
            assert gap == min(abs(b.wavelength_nm - wavelength_nm) for b in bands)
            assert gap < 8


def test_order_of_bands_does_not_change_the_choice() -> None:
    bands = load_sensor("sentinel-2-l2a").select()
    forwards = [composite.band_names for composite in choose_composites(bands)]
    backwards = [composite.band_names for composite in choose_composites(bands[::-1])]
    assert forwards == backwards


def test_colours_a_sensor_does_not_see_are_left_out() -> None:
    bands = [Band(f"S{nm:g}", nm, 20, 30) for nm in (1240.0, 1640.0, 2200.0)]
    [single] = choose_composites(bands)
    assert single == _Composite("1640 nm", (1,), ("S1640",))


def test_one_band_near_two_colours_makes_no_composite() -> None:
    bands = [Band("PAN", 525, 400, 10), Band("R", 665, 30, 10)]
    assert [composite.name for composite in choose_composites(bands)] == ["665 nm"]


def test_no_bands_are_refused() -> None:
    with pytest.raises(BandError, match="no bands"):
        choose_composites([])


def test_stretch_maps_percentiles_to_black_and_white() -> None:
    pixels = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, 101)
    stretch = measure_stretch(pixels)
    picture = stretch.apply(pixels, [0])
    assert picture.shape == (1, 101, 3)
    np.testing.assert_allclose(stretch.low, [0.02], atol=1e-6)
    np.testing.assert_allclose(stretch.high, [0.98], atol=1e-6)
    np.testing.assert_allclose(picture[0, 50, 0], 0.5, atol=1e-6)
    assert picture.min() == 0
    assert picture.max() == 1


def test_stretch_ignores_pixels_without_data() -> None:
    pixels = np.array([[[0.2, 0.4, 99.0, np.nan]]], dtype=np.float32)
    valid = np.array([[[True, True, False, True]]])
    stretch = measure_stretch(pixels, valid)
    assert 0.2 <= stretch.low[0] < stretch.high[0] <= 0.4


def test_picture_takes_bands_in_the_order_red_green_blue() -> None:
    pixels = np.stack([np.full((2, 2), value, np.float32) for value in (0.1, 0.5, 0.9)])
    stretch = Stretch(np.zeros(3, np.float32), np.ones(3, np.float32))
    picture = stretch.apply(pixels, (2, 0, 1))
    np.testing.assert_allclose(picture[0, 0], [0.9, 0.1, 0.5])


def test_colours_are_all_different_texts() -> None:
    for count in (2, 12):
        found = category_colours(count)
        assert len(set(found)) == count
        assert all(re.fullmatch("#[0-9A-Fa-f]{6}", colour) for colour in found)


@pytest.mark.parametrize(
    ("shape", "height_in"),
    [((20, 20, 3), 4.0), ((10, 20, 3), 2.0), ((40, 20), 4.0), ((1, 900, 3), 1.0)],
)
def test_a_wide_picture_has_no_empty_space_around_it(
    shape: tuple[int, ...], height_in: float
) -> None:
    assert height_of(np.zeros(shape), 4.0) == height_in
