import dataclasses
import pickle

import pytest

from spectralgpt.errors import BandError, ConfigError
from spectralgpt.sensors import (
    Band,
    BaselineRule,
    list_sensors,
    load_sensor,
    read_sensor,
)

KNOWN = [
    "enmap-l2a",
    "gaofen-1-pms",
    "gaofen-1-wfv",
    "gaofen-2-pms",
    "gaofen-6-pms",
    "gaofen-6-wfv",
    "landsat-8-9-l1",
    "landsat-8-9-l2",
    "sentinel-2-l1c",
    "sentinel-2-l2a",
]

ONE_BAND = """
title: t
quantification: 10
offset: 0
nodata: 0
saturated: null
source: s
bands:
  - {name: B1, wavelength_nm: 500, width_nm: 10, gsd_m: 10}
"""


def test_registry_holds_the_promised_sensors():
    assert list_sensors() == KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_every_sensor_is_plausible_and_cites_its_source(name):
    sensor = load_sensor(name)
    assert len(sensor.source) > 40
    assert sensor.quantification is None or sensor.quantification > 1
    for band in sensor.bands:
        assert 400 < band.wavelength_nm < 2500
        assert 5 < band.width_nm < 200
        assert 2 <= band.gsd_m <= 60


def test_sentinel_2_centres_are_the_nominal_ones():
    sensor = load_sensor("sentinel-2-l1c")
    centres = [443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190]
    assert [band.wavelength_nm for band in sensor.bands] == centres
    assert [b.name for b in sensor.bands if b.gsd_m == 10] == [
        "B02",
        "B03",
        "B04",
        "B08",
    ]


def test_level_2a_is_level_1c_without_the_cirrus_band():
    l1c, l2a = load_sensor("sentinel-2-l1c"), load_sensor("sentinel-2-l2a")
    assert l1c.select(exclude=["B10"]) == l2a.select()


@pytest.mark.parametrize(
    ("name", "scale", "shift"),
    [("landsat-8-9-l1", 2e-5, -0.1), ("landsat-8-9-l2", 2.75e-5, -0.2)],
)
def test_landsat_scale_is_that_of_the_handbook(name, scale, shift):
    sensor = load_sensor(name)
    for number in (1, 8000, 43636):
        expected = number * scale + shift
        found = (number + sensor.offset) / sensor.quantification
        assert found == pytest.approx(expected, abs=1e-9)


def test_enmap_cameras_overlap_and_are_sorted_together():
    sensor = load_sensor("enmap-l2a")
    assert len(sensor.bands) == 224
    order = [band.wavelength_nm for band in sensor.select()]
    assert order == sorted(order)
    assert [b.name for b in sensor.select()] != list(sensor.band_names)


@pytest.mark.parametrize("spelling", ["B8A", "b8a", " B8A ", "B08A", "nir08"])
def test_band_is_found_in_any_spelling(spelling):
    assert load_sensor("sentinel-2-l2a").band(spelling).name == "B8A"


def test_b1_is_b01_and_not_b11():
    assert load_sensor("sentinel-2-l2a").band("B1").name == "B01"


def test_unknown_band_names_the_nearest_and_the_known():
    with pytest.raises(
        BandError, match=r"no band 'B10'; did you mean .*known: B01, B02"
    ):
        load_sensor("sentinel-2-l2a").band("B10")


def test_unknown_sensor_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'sentinel-2-l2a'"):
        load_sensor("sentinel2-l2a")


def test_select_sorts_by_wavelength_whatever_the_order_asked():
    sensor = load_sensor("sentinel-2-l1c")
    names = [band.name for band in sensor.select(["B12", "B8A", "B02", "B09"])]
    assert names == ["B02", "B8A", "B09", "B12"]


def test_select_refuses_doubles_and_nothing():
    sensor = load_sensor("sentinel-2-l2a")
    with pytest.raises(BandError, match="named twice"):
        sensor.select(["B1", "B01"])
    with pytest.raises(BandError, match="no band is left"):
        sensor.select(["B01"], exclude=["B1"])


def test_nearest_wavelength_needs_to_lie_in_the_band():
    sensor = load_sensor("sentinel-2-l2a")
    assert sensor.nearest(492.4).name == "B02"
    assert sensor.nearest(1375) is None


def test_baseline_rule_switches_at_04_00():
    rule = load_sensor("sentinel-2-l2a").baseline
    assert [rule.offset_for(n) for n in (214, 301, 400, 511)] == [0, 0, -1000, -1000]
    assert rule.offset_for(9999) is None
    assert BaselineRule(1, -5, 2).offset_for(9999) == -5


def test_sensor_survives_pickling():
    sensor = load_sensor("sentinel-2-l2a")
    sensor.band("B1")
    assert pickle.loads(pickle.dumps(sensor)) == sensor


def test_band_refuses_impossible_numbers():
    with pytest.raises(ConfigError, match="band 'B1': width_nm must be above 0"):
        Band("B1", 500, 0, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("offset: 0", "offset: none"), "'offset' must be a number"),
        (("nodata: 0\n", ""), "key 'nodata' is missing"),
        (("gsd_m", "gsd"), "band 1: unknown key 'gsd'; did you mean 'gsd_m'"),
        (("title: t", "title: t\nproduct_name: '['"), "no regular expression"),
        (("bands:", "bands: []\nx:"), "unknown key 'x'"),
    ],
)
def test_reading_is_strict_and_names_file_and_key(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        read_sensor(path)
    assert "mine.yaml" in str(caught.value)


def test_own_sensor_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND)
    sensor = read_sensor(path)
    assert (sensor.name, sensor.band_names) == ("mine", ("B1",))
    assert dataclasses.replace(sensor, offset=1.0) != sensor
