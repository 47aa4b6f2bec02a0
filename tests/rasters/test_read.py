import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectralgpt.errors import BandError, RasterError, ShapeError, UnitError
from spectralgpt.rasters import OpenFiles, Stated, Window, describe_raster, read_raster
from spectralgpt.rasters import read as read_module
from tests.raster_files import (
    LEFT,
    S2_L2A,
    TOP,
    constant,
    numbered,
    write_band_folder,
    write_tiff,
)


def describe(path, **changes):
    return describe_raster(path, "sentinel-2-l2a", Stated(offset=0, **changes))


def stack(path, pixels, **options):
    names = S2_L2A[: len(pixels)]
    return write_tiff(path, pixels, descriptions=names, **options)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """10, 20 and 60 m bands that start at different corners and end unevenly."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(1)

    def band(name, height, width, res, corner):
        values = rng.integers(500, 4000, (1, height, width), dtype=np.uint16)
        write_tiff(folder / f"{name}.tif", values, res=res, corner=corner)

    band("B02", 97, 83, 10, (LEFT, TOP))
    band("B04", 97, 83, 10, (LEFT, TOP))
    band("B11", 49, 43, 20, (LEFT - 10, TOP))
    band("B01", 17, 15, 60, (LEFT - 10, TOP + 20))
    return describe(folder)


def test_reflectance_is_number_plus_offset_over_quantification(tmp_path):
    path = stack(tmp_path / "a.tif", constant([1500, 2500]))
    item = dataclasses.replace(describe(path), offset=-1000.0)
    raster = read_raster(item)
    assert raster.pixels.dtype == np.float32
    np.testing.assert_allclose(raster.pixels[:, 0, 0], [0.05, 0.15], atol=1e-7)
    assert raster.unit == "reflectance"


def test_same_surface_before_and_after_baseline_04_00_agrees(tmp_path):
    surface = np.random.default_rng(0).integers(1, 9000, (12, 16, 16), dtype=np.uint16)
    names = [f"S2A_MSIL2A_2021{m}01T101031_N{n}_R022_T33UUP.tif" for m, n in
             (("06", "0301"), ("12", "0500"))]  # fmt: skip
    before = stack(tmp_path / names[0], surface)
    after = stack(tmp_path / names[1], surface + 1000)
    one, two = (read_raster(describe_raster(path)) for path in (before, after))
    np.testing.assert_allclose(one.pixels, two.pixels, atol=1e-7)
    assert not np.allclose(one.pixels, 0)


def test_bands_come_in_the_order_asked(tmp_path):
    item = describe(write_band_folder(tmp_path / "x", numbered(S2_L2A)))
    wanted = [item.sensor.band(name) for name in ("B12", "B01", "B8A")]
    raster = read_raster(item, wanted)
    assert raster.band_names == ("B12", "B01", "B8A")
    np.testing.assert_allclose(raster.pixels[:, 3, 3], [0.21, 0.10, 0.18], atol=1e-6)


def test_bands_come_by_wavelength_by_default(tmp_path):
    item = describe(write_band_folder(tmp_path / "x", numbered(S2_L2A)))
    assert read_raster(item).band_names == S2_L2A


@settings(max_examples=40, deadline=None)
@given(
    row=st.integers(0, 96),
    column=st.integers(0, 82),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_window_equals_the_same_part_of_the_whole(mixed, row, column, height, width):
    height, width = min(height, 97 - row), min(width, 83 - column)
    whole = read_raster(mixed)
    part = read_raster(mixed, window=Window(row, column, height, width))
    cut = slice(None), slice(row, row + height), slice(column, column + width)
    np.testing.assert_allclose(part.pixels, whole.pixels[cut], atol=2e-6)
    np.testing.assert_array_equal(part.valid, whole.valid[cut])
    assert part.coordinates(0, 0) == pytest.approx(whole.coordinates(row, column))


def test_coarse_band_lies_where_its_corner_says(tmp_path):
    step = np.zeros((1, 10, 10), np.uint16)
    step[:, :, 5:] = 4000  # east of LEFT + 90 m, as the 20 m band starts 10 m earlier
    fine = np.full((1, 20, 19), 1000, np.uint16)
    write_tiff(tmp_path / "x" / "B02.tif", fine)
    write_tiff(tmp_path / "x" / "B11.tif", step + 1, res=20, corner=(LEFT - 10, TOP))
    raster = read_raster(describe(tmp_path / "x"))
    swir = raster.pixels[raster.band_names.index("B11"), 8]
    assert (swir[:7] < 0.01).all()
    assert (swir[11:] > 0.39).all()
    assert swir[8] < 0.2 < swir[9]


def test_out_size_keeps_the_ground_covered(tmp_path):
    path = stack(tmp_path / "a.tif", constant([1000, 2000], side=40))
    raster = read_raster(describe(path), window=Window(10, 20, 16, 12), out_size=(8, 4))
    assert raster.pixels.shape == (2, 8, 4)
    assert raster.coordinates(8, 4) == pytest.approx((LEFT + 320, TOP - 260))
    np.testing.assert_allclose(raster.pixels[1], 0.2, atol=1e-6)


def test_shrinking_averages_instead_of_skipping(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 2000 + 1000).astype(np.uint16)
    path = stack(tmp_path / "a.tif", checks[None])
    raster = read_raster(describe(path), out_size=8)
    np.testing.assert_allclose(raster.pixels[0, 1:-1, 1:-1], 0.2, atol=5e-3)


def test_reading_in_strips_changes_nothing(mixed, monkeypatch):
    whole = read_raster(mixed, out_size=(31, 29))
    monkeypatch.setattr(read_module, "_BLOCK", 500)
    strips = read_raster(mixed, out_size=(31, 29))
    np.testing.assert_allclose(strips.pixels, whole.pixels, atol=1e-6)


def test_open_files_are_bounded_and_give_the_same(mixed):
    files = OpenFiles(most=2)
    for _ in range(2):
        again = read_raster(mixed, files=files)
    np.testing.assert_array_equal(again.pixels, read_raster(mixed).pixels)
    assert len(files._open) == 2
    files.close()


def test_nodata_saturated_and_not_finite_are_invalid(tmp_path):
    pixels = constant([3000], side=4).astype(np.uint16)
    pixels[0, 0, :3] = [0, 65535, 12]
    item = describe(stack(tmp_path / "a.tif", pixels), nodata=[0, 12])
    assert read_raster(item).valid[0, 0].tolist() == [False, False, False, True]
    floats = constant([0.3], side=4, dtype="float32")
    floats[0, 0, :3] = [np.nan, np.inf, -9999]
    path = stack(tmp_path / "b.tif", floats, nodata=-9999)
    raster = read_raster(describe_raster(path, sensor="sentinel-2-l2a"))
    assert raster.valid[0, 0].tolist() == [False, False, False, True]
    assert np.isfinite(raster.pixels).all()


def test_numbers_beyond_32_bits_are_invalid_and_spread_nowhere(tmp_path):
    fine = np.full((1, 16, 16), 0.2)
    coarse = np.full((1, 8, 8), 0.3)
    coarse[0, 4, 4] = 1e300
    write_tiff(tmp_path / "B04.tif", fine)
    write_tiff(tmp_path / "B11.tif", coarse, res=20)
    item = describe_raster(tmp_path, "sentinel-2-l2a", Stated(unit="reflectance"))
    raster = read_raster(item)
    assert raster.valid.sum(axis=(1, 2)).tolist() == [256, 256 - 4]
    np.testing.assert_allclose(raster.pixels[0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(raster.pixels[1][raster.valid[1]], 0.3, rtol=1e-6)


def test_bands_of_other_places_are_refused(tmp_path):
    write_tiff(tmp_path / "B02.tif", constant([900]))
    write_tiff(tmp_path / "B04.tif", constant([900]))
    for corner in ((LEFT + 160, TOP), (LEFT, TOP + 1e5), (1e60, TOP)):
        write_tiff(tmp_path / "B03.tif", constant([900]), corner=corner)
        with pytest.raises(RasterError, match="bands lie apart from each other"):
            read_raster(describe(tmp_path))
    write_tiff(tmp_path / "B03.tif", constant([900]), corner=(LEFT + 150, TOP))
    raster = read_raster(describe(tmp_path))
    assert raster.valid.sum(axis=(1, 2)).tolist() == [256, 32, 256]


def test_image_without_any_valid_pixel_is_refused(tmp_path):
    item = describe(stack(tmp_path / "empty.tif", constant([0, 0])))
    with pytest.raises(RasterError, match=r"empty\.tif holds no valid pixel") as caught:
        read_raster(item)
    assert "\n" not in str(caught.value)
    assert not read_raster(item, window=Window(0, 0, 4, 4)).valid.any()


def test_image_smaller_than_the_window_is_refused(tmp_path):
    item = describe(stack(tmp_path / "small.tif", constant([900], side=30)))
    with pytest.raises(
        RasterError, match=r"smaller than asked: 30 x 30 px, window of 96"
    ):
        read_raster(item, window=Window(0, 0, 96, 96))
    with pytest.raises(ShapeError, match="out_size must be at least 1"):
        read_raster(item, out_size=0)


def test_missing_band_names_the_bands_found(tmp_path):
    item = describe(stack(tmp_path / "a.tif", constant([900, 800])))
    with pytest.raises(BandError, match=r"has no band 'B8A' \(found: B01, B02\)"):
        read_raster(item, [item.sensor.band("B8A")])


def test_truncated_pixels_are_one_line_that_names_the_file(tmp_path):
    noise = np.random.default_rng(0).integers(1, 9000, (1, 256, 256), dtype=np.uint16)
    path = stack(tmp_path / "cut.tif", noise, tiled=True, compress="deflate")
    item = describe(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4000] + bytes(len(whole) - 4000))
    with pytest.raises(RasterError, match=r"cut\.tif cannot be read") as caught:
        read_raster(item)
    assert "\n" not in str(caught.value)


def test_file_that_vanished_is_named(tmp_path):
    path = stack(tmp_path / "gone.tif", constant([900]))
    item = describe(path)
    path.unlink()
    with pytest.raises(RasterError, match=r"gone\.tif does not exist"):
        read_raster(item)


def test_unscaled_numbers_are_refused_by_file_and_band(tmp_path):
    path = stack(tmp_path / "raw.tif", constant([1500, 2500]))
    with pytest.raises(UnitError, match=r"raw\.tif, band B01: .* unscaled digital num"):
        read_raster(describe(path, quantification=1))


def test_offset_applied_twice_is_refused(tmp_path):
    path = stack(tmp_path / "twice.tif", constant([400, 500, 700, 3000]))
    item = dataclasses.replace(describe(path), offset=-1000.0)
    with pytest.raises(
        UnitError, match=r"negative in B01 -0\.060, .*twice-applied.*and quantification"
    ):
        read_raster(item)


@pytest.mark.parametrize("number", [16000, 20, 1])
def test_clouds_and_dark_water_pass(tmp_path, number):
    item = describe(stack(tmp_path / "a.tif", constant([number] * 12)))
    assert read_raster(item).valid.all()


def test_slightly_negative_water_passes(tmp_path):
    path = stack(tmp_path / "a.tif", constant([980] * 12))
    item = dataclasses.replace(describe(path), offset=-1000.0)
    np.testing.assert_allclose(read_raster(item).pixels, -0.002, atol=1e-6)


def test_jpeg_2000_is_read(tmp_path):
    values = np.random.default_rng(0).integers(1, 9000, (1, 64, 64), dtype=np.uint16)
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    path = tmp_path / "T33UUP_20200101T101031_B02_10m.jp2"
    write_tiff(path, values, driver="JP2OpenJPEG", **lossless)
    raster = read_raster(describe(path))
    np.testing.assert_allclose(raster.pixels[0], values[0] / 1e4, atol=1e-7)
    assert raster.band_names == ("B02",)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.floats(0.2, 5.0))
def test_any_out_size_of_a_ramp_keeps_its_mean(mixed, scale):
    size = max(1, round(97 * scale)), max(1, round(83 * scale))
    raster = read_raster(mixed, out_size=size)
    reference = read_raster(mixed).pixels.mean(axis=(1, 2))
    np.testing.assert_allclose(raster.pixels.mean(axis=(1, 2)), reference, atol=0.03)
