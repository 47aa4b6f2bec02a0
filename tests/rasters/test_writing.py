import os

import numpy as np
import pytest

from spectralgpt.errors import OutputError, RasterError
from spectralgpt.rasters import (
    Raster,
    Stated,
    describe_raster,
    read_raster,
    write_geotiff,
)
from spectralgpt.sensors import load_sensor
from tests.raster_files import constant, write_tiff

SENSOR = load_sensor("sentinel-2-l2a")


def raster():
    pixels = np.random.default_rng(0).random((2, 7, 5), dtype=np.float32)
    valid = np.ones(pixels.shape, bool)
    valid[0, 2, 3] = False
    return Raster(pixels, valid, SENSOR.select(["B12", "B02"]))


def test_what_is_written_reads_back_with_bands_unit_and_place(tmp_path):
    names = ["B02", "B03"]
    path = write_tiff(tmp_path / "a.tif", constant([900, 800], 6), descriptions=names)
    one = read_raster(describe_raster(path, SENSOR, Stated(offset=0)))
    two = read_raster(
        describe_raster(write_geotiff(tmp_path / "b.tif", one, SENSOR.name))
    )
    assert two.bands == one.bands
    assert (two.crs, two.transform) == (one.crs, one.transform)
    np.testing.assert_array_equal(two.pixels, one.pixels)


def test_invalid_pixels_stay_invalid(tmp_path):
    one = raster()
    two = read_raster(describe_raster(write_geotiff(tmp_path / "b.tif", one), SENSOR))
    np.testing.assert_array_equal(two.valid, one.valid)
    np.testing.assert_array_equal(two.pixels[two.valid], one.pixels[one.valid])


def test_existing_file_needs_overwrite(tmp_path):
    path = write_geotiff(tmp_path / "b.tif", raster())
    with pytest.raises(RasterError, match=r"b\.tif exists"):
        write_geotiff(path, raster())
    assert write_geotiff(path, raster(), overwrite=True) == path


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_geotiff(tmp_path / "b.tif", raster())
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left"):
        write_geotiff(path, raster(), overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["b.tif"]


def test_written_file_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_geotiff(tmp_path / "a.tif", raster())
    finally:
        os.umask(before)
    assert oct(path.stat().st_mode & 0o777) == "0o640"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
