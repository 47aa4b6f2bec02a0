from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters import Raster, RasterItem, describe_raster, write_geotiff
from spectralgpt.scenes.reconstruction import (
    _join,
    _split,
    centre_window,
    rebuild_window,
)
from spectralgpt.sensors import load_sensor
from tests.tiny import tiny_contract, tiny_model


@pytest.fixture
def scene(tmp_path: Path) -> RasterItem:
    bands = load_sensor("sentinel-2-l1c").select()
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (len(bands), 80, 100))
    pixels = pixels.astype(np.float32)
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    return describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")


def test_joined_tiles_are_the_image() -> None:
    image = torch.rand(3, 64, 96)
    tiles = _split(image, 32)
    assert torch.equal(tiles[4], image[:, 32:, 32:64])
    assert torch.equal(_join(tiles, 2), image)


def test_middle_of_the_scene_in_whole_tiles(scene: RasterItem) -> None:
    window = centre_window(scene, 512, 32)
    assert (window.row, window.column) == (8, 2)
    assert (window.height, window.width) == (64, 96)


def test_scene_smaller_than_a_tile_is_refused(scene: RasterItem) -> None:
    with pytest.raises(RasterError, match="80 x 100 px, less than one tile of 128 px"):
        centre_window(scene, 512, 128)


def test_share_of_hidden_pixels_is_the_mask_ratio(scene: RasterItem) -> None:
    window = centre_window(scene, 64, 32)
    found = rebuild_window(tiny_model(), tiny_contract(), scene, window, 0.75)
    assert found.pixels.shape == found.rebuilt.shape == (12, 64, 64)
    assert found.masked.mean() == pytest.approx(0.75)
    again = rebuild_window(
        tiny_model(), tiny_contract(), scene, window, 0.75, batch_size=1
    )
    np.testing.assert_allclose(again.rebuilt, found.rebuilt, atol=1e-5)


def test_missing_band_is_refused_by_name(tmp_path: Path) -> None:
    bands = load_sensor("sentinel-2-l1c").select(exclude=("B8A",))
    pixels = np.full((len(bands), 32, 32), 0.2, dtype=np.float32)
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    item = describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")
    with pytest.raises(BandError, match="B8A"):
        rebuild_window(tiny_model(), tiny_contract(), item, centre_window(item, 32, 32))
