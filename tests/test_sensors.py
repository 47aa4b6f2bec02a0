import dataclasses
import pickle
import re

import numpy as np
import pytest

from spectralgpt.errors import BandError, ConfigError
from spectralgpt.sensors import (
    Band,
    BaselineRule,
    find_sensor,
    list_sensors,
    load_sensor,
)

KNOWN = [
    "desis-l2a",
    "emit-l2a",
    "enmap-l2a",
    "gaofen-1-pms",
    "gaofen-1-wfv",
    "gaofen-2-pms",
    "gaofen-6-pms",
    "gaofen-6-wfv",
    "hls-l30",
    "hls-s30",
    "landsat-4-5-tm-l1",
    "landsat-4-5-tm-l2",
    "landsat-7-etm-l1",
    "landsat-7-etm-l2",
    "landsat-8-9-l1",
    "landsat-8-9-l2",
    "modis-mcd43a4",
    "modis-mod09",
    "planetscope-superdove",
    "prisma-l2d",
    "rapideye",
    "sentinel-2-l1c",
    "sentinel-2-l2a",
]
# Names of real products, with the sensor of each.
PRODUCTS = {
    "DESIS-HSI-L2A-DT0884573241_001-20200601T234520-V0210": "desis-l2a",
    "EMIT_L2A_RFL_001_20230316T045211_2307503_006": "emit-l2a",
    "ENMAP01-____L2A-DT0000001049_20220612T105735Z_028_V010302": "enmap-l2a",
    "GF1_PMS1_E116.5_N39.4_20130627_L1A0000046567": "gaofen-1-pms",
    "GF1_WFV3_E113.1_N34.5_20190401_L1A0003915852": "gaofen-1-wfv",
    "GF2_PMS2_E108.9_N34.2_20180730_L1A0003359355": "gaofen-2-pms",
    "GF6_PMS_E117.3_N36.6_20190827_L1A1119917123": "gaofen-6-pms",
    "GF6_WFV_E121.6_N36.2_20190304_L1A1119860091": "gaofen-6-wfv",
    "HLS.L30.T10SEH.2021001T184349.v2.0": "hls-l30",
    "HLS.S30.T35UNQ.2022078T092029.v2.0": "hls-s30",
    "LT05_L1TP_090084_19980308_20200909_02_T1": "landsat-4-5-tm-l1",
    "LT05_L2SP_090084_19980308_20200909_02_T1": "landsat-4-5-tm-l2",
    "LE07_L1TP_090084_20210331_20210426_02_T1": "landsat-7-etm-l1",
    "LE07_L2SP_090084_20210331_20210426_02_T1": "landsat-7-etm-l2",
    "LC08_L1TP_098084_20210503_20210508_02_T1": "landsat-8-9-l1",
    "LC09_L2SP_098084_20220503_20220508_02_T1": "landsat-8-9-l2",
    "MCD43A4.A2020001.h18v04.061.2020010035254": "modis-mcd43a4",
    "MYD09A1.A2007273.h03v07.006.2015167083229": "modis-mod09",
    "20230913_074044_65_24b0_3B_AnalyticMS_SR_8b": "planetscope-superdove",
    "PRS_L2D_STD_20210307145414_20210307145418_0001": "prisma-l2d",
    "1448114_2015-02-24_RE3_3A_302417": "rapideye",
    "S2A_MSIL1C_20200604T103031_N0209_R108_T32UQD_20200604T123456": "sentinel-2-l1c",
    "S2B_MSIL2A_20240223T032739_N0510_R018_T48QUE_20240223T063456": "sentinel-2-l2a",
}

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
CURVE = """
bands:
  - {name: b 1, first_nm: 498, response: 0 1 2 1}
"""


def test_registry_holds_the_promised_sensors():
    assert list_sensors() == KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_every_sensor_is_plausible_and_cites_its_source(name):
    sensor = load_sensor(name)
    assert len(sensor.source) > 40
    assert sensor.quantification is None or sensor.quantification >= 1
    for band in sensor.bands:
        assert 380 < band.wavelength_nm < 2500
        assert 3 < band.width_nm < 400
        assert 2 <= band.gsd_m <= 500


def test_products_are_known_by_their_names_to_one_sensor_alone():
    assert sorted(PRODUCTS.values()) == KNOWN
    for product, name in PRODUCTS.items():
        patterns = {known: load_sensor(known).product_name for known in KNOWN}
        found = [known for known, like in patterns.items() if re.search(like, product)]
        assert found == [name], product


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
    [
        ("landsat-8-9-l1", 2e-5, -0.1),
        ("landsat-8-9-l2", 2.75e-5, -0.2),
        ("landsat-4-5-tm-l2", 2.75e-5, -0.2),
        ("landsat-7-etm-l2", 2.75e-5, -0.2),
        ("hls-l30", 1e-4, 0),
        ("hls-s30", 1e-4, 0),
        ("modis-mod09", 1e-4, 0),
        ("modis-mcd43a4", 1e-4, 0),
        ("planetscope-superdove", 1e-4, 0),
        ("desis-l2a", 1e-4, 0),
        ("emit-l2a", 1, 0),
    ],
)
def test_scale_is_that_of_the_handbook(name, scale, shift):
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


@pytest.mark.parametrize(
    ("name", "counts", "ends"),
    [
        ("emit-l2a", [285], (381.01, 2492.92)),
        ("desis-l2a", [235], (401.43, 999.98)),
        ("prisma-l2d", [63, 171], (406.99, 2497.12)),
    ],
)
def test_spectrometers_have_their_bands_in_order(name, counts, ends):
    centres = [band.wavelength_nm for band in load_sensor(name).bands]
    assert (centres[0], centres[-1]) == ends
    cameras = np.split(np.array(centres), np.cumsum(counts))
    assert [camera.size for camera in cameras] == [*counts, 0]
    assert all(np.all(np.diff(camera) > 0) for camera in cameras)


def test_landsat_bands_lie_in_the_middle_of_their_edges():
    tm, etm = load_sensor("landsat-4-5-tm-l2"), load_sensor("landsat-7-etm-l1")
    assert [band.name for band in tm.bands] == ["B1", "B2", "B3", "B4", "B5", "B7"]
    centres = [485, 560, 660, 830, 1650, 2215]
    assert [band.wavelength_nm for band in tm.bands] == centres
    assert (etm.band("nir").wavelength_nm, etm.band("nir").width_nm) == (835, 130)
    assert [band.name for band in etm.bands if band.gsd_m == 15] == ["B8"]


@pytest.mark.parametrize("name", KNOWN)
def test_responses_weigh_the_band_at_whole_nanometres(name):
    sensor = load_sensor(name)
    for band in sensor.bands:
        wavelengths, response = sensor.response(band.name)
        assert np.array_equal(np.diff(wavelengths), np.ones(wavelengths.size - 1))
        assert wavelengths[0] == round(wavelengths[0]) > 0
        assert response.min() >= 0
        assert response.sum() == pytest.approx(1)
        centre = np.sum(wavelengths * response)
        assert abs(centre - band.wavelength_nm) < band.width_nm / 2, band
        wide = wavelengths[response >= response.max() / 2]
        assert np.ptp(wide) == pytest.approx(band.width_nm, rel=0.45, abs=2), band


def test_landsat_8_9_red_is_the_measured_curve():
    wavelengths, response = load_sensor("landsat-8-9-l2").response("red")
    assert (wavelengths[0], wavelengths[-1]) == (627, 681)
    # Nearly a box from 636 to 672 nm: Ball_BA_RSR.v1.2 and its successor for OLI-2.
    inside = response[(wavelengths >= 640) & (wavelengths <= 670)]
    assert inside.sum() == pytest.approx((0.8194 + 0.8329) / 2, abs=1e-3)
    at_655 = float(response[wavelengths == 655][0])
    assert at_655 == pytest.approx((0.02668 + 0.02660) / 2, abs=5e-5)
    assert np.sum(wavelengths * response) == pytest.approx(654.45, abs=0.1)


def test_sentinel_2_is_the_mean_of_2a_and_2b():
    wavelengths, response = load_sensor("sentinel-2-l1c").response("B12")
    # Centres of mass in ESA's tables: 2202.4 and 2185.7 nm.
    assert np.sum(wavelengths * response) == pytest.approx(2194.05, abs=0.3)
    assert (wavelengths[0], wavelengths[-1]) == (2068, 2320)


def test_what_hls_adjusts_responds_as_oli():
    s30, oli = load_sensor("hls-s30"), load_sensor("landsat-8-9-l1")
    msi = load_sensor("sentinel-2-l1c")
    for name, like, other in [("B8A", oli, "B5"), ("B05", msi, "B05")]:
        for found, expected in zip(
            s30.response(name), like.response(other), strict=True
        ):
            assert np.array_equal(found, expected)
        assert s30.band(name).wavelength_nm == like.band(other).wavelength_nm


def test_without_a_curve_the_response_is_a_gaussian():
    sensor = load_sensor("gaofen-2-pms")
    wavelengths, response = sensor.response("B4")
    at = dict(zip(wavelengths, response, strict=True))
    assert at[830 - 60] == pytest.approx(at[830] / 2)
    assert at[830 + 60] == pytest.approx(at[830] / 2)
    assert (wavelengths[0], wavelengths[-1]) == (590, 1070)
    band = dataclasses.replace(sensor.bands[0], wavelength_nm=500.4, width_nm=1e-9)
    narrow = dataclasses.replace(sensor, bands=(band, *sensor.bands[1:]))
    assert [found.tolist() for found in narrow.response("B1")] == [[500], [1]]
    with pytest.raises(BandError, match="no band 'B9'"):
        sensor.response("B9")


def test_own_curves_lie_beside_the_sensor(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND + "responses: curves.yaml")
    with pytest.raises(ConfigError, match=r"curves\.yaml does not exist"):
        find_sensor(str(path))
    (tmp_path / "curves.yaml").write_text(CURVE)
    wavelengths, response = find_sensor(str(path)).response("B1")
    assert wavelengths.tolist() == [498, 499, 500, 501]
    assert response.tolist() == [0, 0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("498", "398"),
            "of band 'B1' lies around 400 nm, but .* at 500 nm, 10 nm wide",
        ),
        (("1 2 1", "1 -2 4"), "'B1' must be finite numbers from 0 on"),
        (("1 2 1", "0 0 0"), "not all of them 0"),
        (("1 2 1", "1 inf 1"), "finite"),
        (("1 2 1", "1 .nan 1"), "'response' must be numbers: could not convert"),
        (("1 2 1", "1 nan 1"), "finite"),
        (("498", "498.5"), r"must begin at a whole nanometre, not 498\.5"),
        (("b 1", "B2"), "band 1: mine.yaml has no band 'B2'"),
        (("first_nm", "first"), "unknown key 'first'; did you mean 'first_nm'"),
        (("bands:", "bands: []\nx:"), "unknown key 'x'"),
        (("bands:", CURVE.strip()), "band 2: band 'B1' has a response already"),
    ],
)
def test_reading_curves_is_strict_and_names_the_file(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND + "responses: curves.yaml")
    (tmp_path / "curves.yaml").write_text(CURVE.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        find_sensor(str(path))
    assert "curves.yaml" in str(caught.value)


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
        (("500", "0.5"), r"band 1: a wavelength_nm of 0\.5 must be micrometres.* 500,"),
        (("width_nm: 10", "width_nm: 0"), "band 'B1': width_nm must be above 0"),
        (("title: t", "title: t\nresponses: s2"), "unknown responses 's2'.*sentinel-2"),
        (("title: t", "title: t\nresponses: ../x.yaml"), "unknown responses"),
        (("gsd_m", "gsd"), "band 1: unknown key 'gsd'; did you mean 'gsd_m'"),
        (("title: t", "title: t\nproduct_name: '['"), "no regular expression"),
        (("bands:", "bands: []\nx:"), "unknown key 'x'"),
    ],
)
def test_reading_is_strict_and_names_file_and_key(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        find_sensor(str(path))
    assert "mine.yaml" in str(caught.value)


def test_own_sensor_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ONE_BAND)
    sensor = find_sensor(str(path))
    assert (sensor.name, sensor.band_names) == ("mine", ("B1",))
    assert dataclasses.replace(sensor, offset=1.0) != sensor
