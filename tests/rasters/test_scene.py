from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters import Window, describe_raster, open_scene, read_raster
from tests.product_files import write_safe
from tests.raster_files import S2_L2A, write_tiff

NAME = "S2A_MSIL2A_20200101T000000_N0214_R000_T32TQM_20200101T000000"


def stack(folder: Path, side: int = 40) -> Path:
    random = np.random.default_rng(0)
    pixels = random.integers(200, 6000, (len(S2_L2A), side, side)).astype("uint16")
    pixels[:, 3:5, 7:9] = 0
    return write_tiff(folder / f"{NAME}.tif", pixels, descriptions=S2_L2A)


def test_a_window_of_an_open_scene_is_that_of_the_file(tmp_path: Path) -> None:
    path = stack(tmp_path)
    item = describe_raster(path)
    window = Window(2, 5, 20, 30)
    with open_scene(path, bands=("B04", "B08")) as scene:
        assert scene.shape == (40, 40)
        assert scene.sensor.name == "sentinel-2-l2a"
        assert (scene.crs, scene.transform) == (item.grid().crs, item.grid().transform)
        found = scene.read(window)
    wanted = read_raster(item, scene.bands, window)
    assert found.band_names == ("B04", "B08")
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(found.valid, wanted.valid)
    assert not found.valid[:, 1:3, 2:4].any()


def test_a_closed_scene_or_a_missing_band_is_one_line(tmp_path: Path) -> None:
    path = stack(tmp_path)
    with open_scene(path) as scene:
        pass
    with pytest.raises(RasterError, match="is closed"):
        scene.read(Window(0, 0, 4, 4))
    with pytest.raises(BandError, match="no band 'B77'"):
        open_scene(path, bands=("B77",))


def test_tiles_that_windows_share_are_decoded_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    product = write_safe(tmp_path, {"B04": random.integers(2000, 5000, (96, 96))})
    with open_scene(product) as scene:
        first = scene.read(Window(0, 0, 32, 32))
        # What is no longer on disk can only come from memory.
        next(product.rglob("*.jp2")).write_bytes(b"")
        second = scene.read(Window(16, 16, 64, 64))
    np.testing.assert_array_equal(first.pixels[:, 16:, 16:], second.pixels[:, :16, :16])
    assert second.valid.all()
