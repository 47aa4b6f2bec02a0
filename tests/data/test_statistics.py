import numpy as np
import pytest

from spectralgpt.data import statistics
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import BandError, DataError
from spectralgpt.rasters import Stated, Window, describe_raster
from spectralgpt.sensors import load_sensor
from tests.raster_files import write_tiff

BANDS = load_sensor("sentinel-2-l2a").select(["B02", "B03"])


def item(path, pixels):
    path = write_tiff(path, pixels, descriptions=["B03", "B02"][: len(pixels)])
    return describe_raster(path, "sentinel-2-l2a", Stated(offset=0))


def test_statistics_are_those_of_valid_reflectance_by_band(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 10001, (2, 96, 96), dtype=np.uint16)
    pixels[1] //= 2
    pixels[:, :10] = 0
    found = band_statistics([item(tmp_path / "a.tif", pixels)], BANDS, "test", 3)
    seen = {"B03": pixels[0], "B02": pixels[1]}
    for name, values in seen.items():
        known = values[values > 0] / 1e4
        assert found.mean[name] == pytest.approx(known.mean(), abs=1e-6)
        assert found.std[name] == pytest.approx(known.std(), abs=1e-6)
        assert found.low[name] == pytest.approx(np.percentile(known, 1), abs=1e-4)
        assert found.high[name] == pytest.approx(np.percentile(known, 99), abs=1e-4)
    assert found.source == "test"


def test_many_bands_are_thinned_to_bound_memory(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(1, 10001, (2, 96, 96), dtype=np.uint16)
    image = item(tmp_path / "a.tif", pixels)
    whole = band_statistics([image], BANDS, "test", 4)
    monkeypatch.setattr("spectralgpt.data.statistics._MOST_VALUES", 2 * 4 * 96 * 24)
    kept = []
    summarise = statistics._summarise
    monkeypatch.setattr(
        statistics, "_summarise",
        lambda *a: kept.extend(map(len, a[0].values())) or summarise(*a),
    )  # fmt: skip
    thinned = band_statistics([image], BANDS, "test", 4)
    assert kept == [4 * 96 * 24] * 2
    assert thinned.mean["B02"] == pytest.approx(whole.mean["B02"], abs=0.01)


def test_large_images_count_for_more(tmp_path):
    one = item(tmp_path / "a.tif", np.full((2, 20, 20), 1000, np.uint16))
    two = item(tmp_path / "b.tif", np.full((2, 200, 200), 3000, np.uint16))
    found = band_statistics([one, two], BANDS, "t", num_windows=200, window_px=20)
    assert found.mean["B02"] == pytest.approx(0.298, abs=0.004)


def test_what_cannot_be_measured_is_named(tmp_path):
    empty = item(tmp_path / "a.tif", np.zeros((2, 20, 20), np.uint16))
    with pytest.raises(DataError, match="no valid pixel in band B02, B03"):
        band_statistics([empty], BANDS, "t", num_windows=2)
    with pytest.raises(DataError, match="no images to measure"):
        band_statistics([], BANDS, "t")
    with pytest.raises(BandError, match=r"a\.tif: missing band B11"):
        band_statistics([empty], load_sensor("sentinel-2-l2a").select(["B11"]), "t")


def test_only_the_regions_are_measured(tmp_path):
    pixels = np.full((2, 40, 40), 9000, np.uint16)
    pixels[:, :20] = 1000
    image = item(tmp_path / "a.tif", pixels)
    upper = Window(0, 0, 20, 40)
    found = band_statistics([image], BANDS, "t", window_px=16, regions=[upper])
    assert found.mean["B02"] == pytest.approx(0.1)
    assert found.std["B02"] == pytest.approx(0, abs=1e-6)
    whole = band_statistics([image], BANDS, "t", window_px=16)
    assert whole.mean["B02"] > 0.2


def test_images_that_lack_a_band_count_for_the_others(tmp_path):
    both = item(tmp_path / "a.tif", np.full((2, 20, 20), 1000, np.uint16))
    one = item(tmp_path / "b.tif", np.full((1, 20, 20), 3000, np.uint16))
    found = band_statistics([both, one], BANDS, "t", allow_missing=True)
    assert found.mean["B02"] == pytest.approx(0.1)
    assert 0.1 < found.mean["B03"] < 0.3
