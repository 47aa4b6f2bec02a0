import json
import math
from dataclasses import replace

import numpy as np
import pytest

from spectralgpt.errors import BandError, ConfigError, DataError, UnitError
from spectralgpt.preprocessing import (
    LOG_SHIFT,
    LOG_STDS,
    BandStatistics,
    Preprocessing,
    sensor_preprocessing,
)
from spectralgpt.rasters import Raster
from spectralgpt.sensors import Band, load_sensor, match_bands
from tests.tiny import tiny_contract


def make_raster(
    bands: tuple[Band, ...] | None = None, seed: int = 0, size: int = 8
) -> Raster:
    bands = bands or load_sensor("sentinel-2-l1c").select()
    random = np.random.default_rng(seed)
    pixels = random.uniform(0.05, 0.4, (len(bands), size, size)).astype(np.float32)
    return Raster(pixels, np.ones(pixels.shape, dtype=bool), bands, name="scene.tif")


def reorder(raster: Raster, order: list[int]) -> Raster:
    bands = tuple(raster.bands[i] for i in order)
    return replace(
        raster, pixels=raster.pixels[order], valid=raster.valid[order], bands=bands
    )


def statistics_for(bands: tuple[Band, ...]) -> BandStatistics:
    names = [band.name for band in bands]
    low = {name: 0.01 * (i + 1) for i, name in enumerate(names)}
    high = {name: 0.5 + 0.01 * i for i, name in enumerate(names)}
    return BandStatistics(low, high, low, high, "made up")


@pytest.mark.parametrize("scaling", ["image-minmax", "fixed-range", "z-score"])
def test_band_order_of_the_file_does_not_matter(scaling: str) -> None:
    contract = tiny_contract()
    contract = replace(
        contract, scaling=scaling, statistics=statistics_for(contract.bands)
    )
    raster = make_raster()
    shuffled = reorder(raster, [12, 3, 0, 7, 8, 1, 2, 11, 10, 9, 4, 5, 6])
    wanted, _ = contract.prepare(raster)
    found, _ = contract.prepare(shuffled)
    np.testing.assert_array_equal(found, wanted)


def test_bands_are_chosen_by_name_and_b10_is_left_out() -> None:
    raster = make_raster()
    index = [band.name for band in raster.bands].index("B10")
    changed = raster.pixels.copy()
    changed[index] = 0.9
    wanted, _ = tiny_contract().prepare(raster)
    found, _ = tiny_contract().prepare(replace(raster, pixels=changed))
    np.testing.assert_array_equal(found, wanted)
    assert "B10" not in tiny_contract().band_names


def test_missing_band_is_refused_by_name() -> None:
    raster = make_raster()
    names = [band.name for band in raster.bands]
    without = reorder(raster, [i for i, name in enumerate(names) if name != "B8A"])
    with pytest.raises(
        BandError, match=r"scene.tif: missing band B8A \(86\d"
    ) as caught:
        tiny_contract().prepare(without)
    assert "use_bands B01,B02,B03,B04,B05,B06,B07,B08,B09,B11,B12" in str(caught.value)


def test_a_neighbour_does_not_stand_in_for_a_missing_band() -> None:
    bands = load_sensor("sentinel-2-l1c").select(("B08",))
    near = load_sensor("sentinel-2-l1c").select(("B8A",))
    with pytest.raises(BandError, match="missing band B08"):
        match_bands(bands, near)


def test_bands_of_another_sensor_match_by_wavelength() -> None:
    landsat = load_sensor("landsat-8-9-l2")
    wanted = [band for band in landsat.bands if 400 < band.wavelength_nm < 2500]
    found = load_sensor("sentinel-2-l2a").select()
    reflective = [band for band in wanted if band.width_nm < 150]
    names = [found[i or 0].name for i in match_bands(reflective, found)]
    for band, name in zip(reflective, names, strict=True):
        other = next(b for b in found if b.name == name)
        assert abs(other.wavelength_nm - band.wavelength_nm) < 30
    assert "B8A" in names


def test_same_name_with_another_wavelength_is_not_the_same_band() -> None:
    red_edge = Band("B05", 705, 15, 20)
    landsat_nir = Band("B05", 865, 28, 30)
    with pytest.raises(BandError, match="missing band B05"):
        match_bands([red_edge], [landsat_nir])


def test_digital_numbers_are_refused() -> None:
    raster = make_raster()
    numbers = replace(raster, pixels=raster.pixels * 10_000)
    with pytest.raises(UnitError, match=r"scene.tif.*unscaled digital numbers"):
        tiny_contract().prepare(numbers)


def test_twice_applied_offset_is_refused() -> None:
    raster = make_raster()
    twice = replace(raster, pixels=raster.pixels * 0.2 - 0.1)
    with pytest.raises(UnitError, match="twice-applied offset"):
        tiny_contract().prepare(twice)


def test_invalid_pixels_take_the_mean_of_their_band() -> None:
    raster = make_raster()
    valid = raster.valid.copy()
    valid[:, 2, 3] = False
    pixels = raster.pixels.copy()
    pixels[:, 2, 3] = np.nan
    images, found = tiny_contract().prepare(replace(raster, pixels=pixels, valid=valid))
    assert np.isfinite(images).all()
    assert not found[:, 2, 3].any()
    others = np.delete(images.reshape(12, -1), 2 * 8 + 3, axis=1)
    np.testing.assert_allclose(images[:, 2, 3], others.mean(axis=1), rtol=1e-5)
    assert others.min() == 0
    assert others.max() == pytest.approx(1)


def test_image_without_valid_pixel_is_refused() -> None:
    raster = make_raster()
    with pytest.raises(DataError, match=r"scene.tif has no valid pixel"):
        tiny_contract().prepare(replace(raster, valid=np.zeros_like(raster.valid)))


def test_constant_band_becomes_zero() -> None:
    raster = make_raster()
    constant = replace(raster, pixels=np.full_like(raster.pixels, 0.3))
    scaled, _ = tiny_contract().prepare(constant)
    assert (scaled == 0).all()


def test_fixed_range_maps_percentiles_to_0_and_1() -> None:
    base = sensor_preprocessing("sentinel-2-l2a", ("B02", "B03"))
    statistics = statistics_for(base.bands)
    contract = replace(base, scaling="fixed-range", statistics=statistics)
    pixels = np.empty((2, 1, 2), dtype=np.float32)
    pixels[:, 0, 0], pixels[:, 0, 1] = [0.01, 0.02], [0.5, 0.51]
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), base.bands)
    images, _ = contract.prepare(raster)
    np.testing.assert_allclose(images[:, 0], [[0, 1], [0, 1]], atol=1e-6)


def test_contract_survives_json() -> None:
    import json

    contract = tiny_contract()
    statistics = statistics_for(contract.bands)
    contract = replace(contract, scaling="z-score", statistics=statistics)
    text = json.dumps(contract.to_dict())
    assert Preprocessing.from_dict(json.loads(text)) == contract


def test_wrong_contracts_are_explained() -> None:
    bands = tiny_contract().bands
    with pytest.raises(ConfigError, match="scaling 'max' is unknown"):
        Preprocessing("s", bands, scaling="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs band statistics"):
        Preprocessing("s", bands, scaling="z-score")
    statistics = statistics_for(bands[:-1])
    with pytest.raises(BandError, match="no statistics for band B12"):
        Preprocessing("s", bands, scaling="z-score", statistics=statistics)
    with pytest.raises(ConfigError, match="preprocessing lacks sensor"):
        Preprocessing.from_dict({})


def two_sensors() -> Preprocessing:
    statistics = BandStatistics(*({f"B{i}": v for i in range(1, 8)} for v in range(4)))
    landsat = sensor_preprocessing(
        "landsat-8-9-l2", image_size=64, scaling="z-score", statistics=statistics
    )
    return replace(tiny_contract(), others=(landsat,))


def test_contract_of_several_sensors_survives_json() -> None:
    contract = two_sensors()
    found = Preprocessing.from_dict(json.loads(json.dumps(contract.to_dict())))
    assert found == contract
    assert found.sensors == ("sentinel-2-l1c", "landsat-8-9-l2")
    assert "others" not in tiny_contract().to_dict()


def test_contract_at_another_sensor_has_its_bands_and_scaling() -> None:
    at_landsat = two_sensors().for_sensor("landsat-8-9-l2")
    assert (at_landsat.scaling, at_landsat.image_size) == ("z-score", 64)
    assert len(at_landsat.bands) == 7
    assert at_landsat.sensors == ("landsat-8-9-l2", "sentinel-2-l1c")
    assert at_landsat.for_sensor("sentinel-2-l1c") == two_sensors()
    by_bands = two_sensors().for_images(bands=at_landsat.bands[:4])
    assert by_bands.scaling == "z-score"
    with pytest.raises(ConfigError, match="not trained on sensor 'enmap-l2a'"):
        two_sensors().for_sensor("enmap-l2a")


@pytest.mark.parametrize(
    "scaling", ["image-minmax", "fixed-range", "z-score", "log", "two-std-uint8"]
)
def test_restored_values_are_the_reflectance(scaling: str) -> None:
    contract = tiny_contract()
    # Wide enough that nothing is clipped.
    statistics = BandStatistics(
        *({name: value for name in contract.band_names} for value in (0.2, 0.2, 0, 0.5))
    )
    contract = replace(contract, scaling=scaling, statistics=statistics)
    raster = make_raster()
    scaled, _ = contract.prepare(raster)
    wanted = raster.pixels[contract.match(raster.bands)]
    step = 4 * 0.2 / 255 if scaling == "two-std-uint8" else 1e-6
    np.testing.assert_allclose(contract.restore(scaled, raster), wanted, atol=step)


def test_by_log_shade_takes_the_same_off_each_band() -> None:
    contract = tiny_contract()
    names = contract.band_names
    low, high = (dict.fromkeys(names, value) for value in (0.01, 0.6))
    statistics = BandStatistics(low, low, low, high)
    contract = replace(contract, scaling="log", statistics=statistics)
    raster = make_raster()
    sunny = replace(raster, pixels=raster.pixels + 0.2)
    shade = replace(sunny, pixels=(sunny.pixels + LOG_SHIFT) / 2 - LOG_SHIFT)
    lost = contract.prepare(sunny)[0] - contract.prepare(shade)[0]
    spread = math.log(0.61 / 0.02) / LOG_STDS
    np.testing.assert_allclose(lost, math.log(2) / spread, rtol=1e-4)
    ends = replace(raster, pixels=np.full_like(raster.pixels, 0.6))
    np.testing.assert_allclose(contract.prepare(ends)[0], LOG_STDS / 2, rtol=1e-5)
    night = replace(raster, pixels=np.full_like(raster.pixels, -0.005))
    assert np.isfinite(contract.prepare(night)[0]).all()
