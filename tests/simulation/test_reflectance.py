import numpy as np
import pytest

from spectralgpt.sensors import Band, list_sensors, load_sensor
from spectralgpt.simulation import reflectance
from spectralgpt.simulation.archive import Camera
from spectralgpt.simulation.reflectance import WAVELENGTHS_NM, to_bands


def at(spectrum: np.ndarray, wavelength_nm: float) -> float:
    return float(np.interp(wavelength_nm, WAVELENGTHS_NM, spectrum))


def vegetation(leaf_area: float = 3.0, **leaf: float) -> np.ndarray:
    return reflectance.vegetation(reflectance.soil(), leaf_area, **leaf)


EVERY = {
    "vegetation": vegetation(),
    "soil": reflectance.soil(),
    "wet soil": reflectance.soil(wetness=1.0),
    "water": reflectance.water_body(),
    "muddy water": reflectance.water_body(60.0, 5.0, 150.0, 0.05),
    "snow": reflectance.snow(),
    "asphalt": reflectance.built(0.12, 500.0),
    "concrete": reflectance.built(0.35, 220.0),
    "tiles": reflectance.built(0.35, 300.0, redness=0.9),
    "metal": reflectance.built(0.75, 50.0),
    "cloud": reflectance.CLOUD,
    "shade": reflectance.SHADE,
}


@pytest.mark.parametrize("name", EVERY)
def test_reflectance_lies_between_0_and_1(name: str) -> None:
    spectrum = EVERY[name]
    assert spectrum.shape == WAVELENGTHS_NM.shape
    assert spectrum.min() >= 0.0
    assert spectrum.max() <= 1.0


def test_green_leaves_have_a_red_edge_and_a_green_peak() -> None:
    leaves = vegetation()
    red, infrared = at(leaves, 670), at(leaves, 850)
    assert (infrared - red) / (infrared + red) > 0.7
    assert at(leaves, 550) > 1.5 * max(at(leaves, 450), red)
    steepest = WAVELENGTHS_NM[np.argmax(np.gradient(leaves))]
    assert 690 <= steepest <= 740


def test_water_in_leaves_absorbs_at_its_bands() -> None:
    leaves = vegetation()
    for band_nm in (970, 1200, 1450, 1940):
        sides = (at(leaves, band_nm - 130) + at(leaves, band_nm + 130)) / 2
        assert at(leaves, band_nm) < sides


def test_more_chlorophyll_moves_the_red_edge_outwards() -> None:
    pale, dark = vegetation(chlorophyll=15.0), vegetation(chlorophyll=70.0)
    assert at(dark, 710) < at(pale, 710)
    assert at(dark, 850) == pytest.approx(at(pale, 850), abs=0.01)


def test_leaf_area_raises_ndvi() -> None:
    index = []
    for leaf_area in (0.0, 1.0, 2.0, 5.0):
        leaves = vegetation(leaf_area)
        red, infrared = at(leaves, 670), at(leaves, 850)
        index.append((infrared - red) / (infrared + red))
    assert index == sorted(index)
    assert index[0] < 0.2
    assert index[-1] > 0.7


def test_a_canopy_without_leaves_is_its_background() -> None:
    bare = reflectance.soil()
    assert vegetation(0.0) == pytest.approx(bare)


def test_dead_plants_lose_the_red_edge_and_show_cellulose() -> None:
    dead = vegetation(
        chlorophyll=2.0, water_cm=0.001, dry_matter=0.012, brown=1.2, leaf_area=4.0
    )
    red, infrared = at(dead, 670), at(dead, 850)
    assert (infrared - red) / (infrared + red) < 0.5
    assert at(dead, 2100) < (at(dead, 1990) + at(dead, 2210)) / 2


def test_water_is_darker_in_the_infrared_than_in_the_red() -> None:
    water = reflectance.water_body(glint=0.0)
    assert at(water, 850) < at(water, 665) < at(water, 560)
    assert at(water, 1610) < 0.005


def test_sediment_brightens_red_and_dissolved_matter_darkens_blue() -> None:
    clear, muddy = (
        reflectance.water_body(sediment=0.5),
        reflectance.water_body(sediment=60.0),
    )
    brown = reflectance.water_body(sediment=0.5, dissolved=4.0)
    assert at(muddy, 665) > 3 * at(clear, 665)
    assert at(brown, 443) < at(clear, 443)


def test_snow_is_bright_in_the_visible_and_dark_in_the_short_wave_infrared() -> None:
    fresh, old = reflectance.snow(0.1), reflectance.snow(1.5)
    assert at(fresh, 550) > 0.9
    assert at(fresh, 1610) < 0.3
    assert at(old, 1030) < at(fresh, 1030)


def test_wetness_darkens_soil_and_clay_shows_at_2200() -> None:
    dry, wet = reflectance.soil(), reflectance.soil(wetness=1.0)
    assert np.all(wet < dry)
    assert at(wet, 1940) / at(dry, 1940) < at(wet, 850) / at(dry, 850)
    clay = reflectance.soil(clay=0.8)
    assert at(clay, 2205) < (at(clay, 2120) + at(clay, 2290)) / 2


def test_tiles_are_red_and_asphalt_is_grey() -> None:
    tiles, asphalt = EVERY["tiles"], EVERY["asphalt"]
    assert at(tiles, 650) > 1.7 * at(tiles, 500)
    assert at(asphalt, 650) < 1.3 * at(asphalt, 500)


@pytest.mark.parametrize("name", list_sensors())
def test_a_flat_spectrum_stays_flat_in_every_sensor(name: str) -> None:
    bands = Camera(load_sensor(name), 8).bands
    values = to_bands(np.full_like(WAVELENGTHS_NM, 0.37), bands)
    assert values == pytest.approx(0.37, abs=1e-5)


@pytest.mark.parametrize("name", list_sensors())
def test_a_band_measures_a_slope_at_its_centre(name: str) -> None:
    bands = Camera(load_sensor(name), 8).bands
    inner = tuple(b for b in bands if 450 < b.wavelength_nm < 2400)
    centres = to_bands(WAVELENGTHS_NM, inner)
    assert centres == pytest.approx([b.wavelength_nm for b in inner], abs=1.0)


def test_response_reaches_half_at_half_the_width() -> None:
    lines = np.eye(WAVELENGTHS_NM.size)[np.isin(WAVELENGTHS_NM, (950, 976, 1000))]
    half, inside, top = to_bands(lines, (Band("wide", 1000.0, 100.0, 10.0),))[:, 0]
    assert half == pytest.approx(top / 2, rel=0.02)
    assert inside == pytest.approx(top, rel=0.02)
