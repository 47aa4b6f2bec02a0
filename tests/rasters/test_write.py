import os
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.errors import OutputError, RasterError
from spectralgpt.rasters import (
    Grid,
    Raster,
    Stated,
    describe_raster,
    read_raster,
    write_geotiff,
)
from spectralgpt.rasters.write import write_numbers, write_strips
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


def grid_of(height: int, width: int) -> Grid:
    numbers = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
    return Grid.at(height, width, numbers, "EPSG:32632")


def test_numbers_place_scale_and_tags_come_back(tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    path = write_numbers(
        tmp_path / "new" / "a.tif",
        numbers,
        grid_of(3, 4),
        ["B02", "B03"],
        nodata=0,
        scale=(1e-4, -0.1),
        tags={"SIMULATED": "yes"},
    )
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), numbers)
        assert dataset.descriptions == ("B02", "B03")
        assert dataset.scales == (1e-4, 1e-4)
        assert dataset.offsets == (-0.1, -0.1)
        assert dataset.nodata == 0
        assert dataset.crs.to_epsg() == 32632
        assert dataset.bounds == (500_000.0, 4_999_970.0, 500_040.0, 5_000_000.0)
        assert dataset.tags()["SIMULATED"] == "yes"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    numbers = np.zeros((1, 2, 2), dtype=np.uint8)
    with pytest.raises(OutputError, match=r"a\.tif cannot be written"):
        write_numbers(tmp_path / "a.tif", numbers, grid_of(2, 2), ["class"], nodata=255)


def test_masks_carry_a_colour_table(tmp_path: Path) -> None:
    numbers = np.array([[[0, 1], [1, 255]]], np.uint8)
    grid = grid_of(2, 2)
    path = tmp_path / "mask.tif"
    table = {0: (1, 2, 3), 1: (4, 5, 6)}
    write_numbers(path, numbers, grid, ["class"], nodata=255, colours=table)
    with rasterio.open(path) as dataset:
        assert dataset.colormap(1)[1] == (4, 5, 6, 255)
        assert np.array_equal(dataset.read(), numbers)
        assert dataset.transform == grid.transform


def test_strips_make_one_layer(tmp_path: Path) -> None:
    numbers = np.arange(60, dtype=np.uint8).reshape(10, 6)
    strips = (numbers[row : row + 4] for row in range(0, 10, 4))
    path = write_strips(tmp_path / "a.tif", grid_of(10, 6), strips)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(1), numbers)
        assert dataset.transform == grid_of(10, 6).transform
