from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.errors import BandError, ConfigError
from spectralgpt.rasters import (
    Raster,
    RasterItem,
    Window,
    describe_raster,
    read_raster,
    write_geotiff,
)
from spectralgpt.scenes.reconstruction import (
    _join,
    _split,
    centre_window,
    check_pixels,
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
    window = centre_window(scene, scene.bands, 512, 32)
    assert (window.row, window.column) == (8, 2)
    assert (window.height, window.width) == (64, 96)


def test_less_than_a_tile_cannot_be_asked_for(scene: RasterItem) -> None:
    with pytest.raises(ConfigError, match="16 px are less than one tile of 32 px"):
        centre_window(scene, scene.bands, 16, 32)


def test_scene_smaller_than_a_tile_is_enlarged_to_one(scene: RasterItem) -> None:
    window = centre_window(scene, scene.bands, 512, 96)
    assert window == Window(0, 2, 80, 96)
    found = rebuild_window(tiny_model(96), tiny_contract(96), scene, window)
    assert found.pixels.shape == (12, 96, 96)
    # Rows of the scene are stretched over the tile; columns are not.
    assert found.locate(79, 2) == (95, 0)
    assert found.scene_pixel(95, 0) == (79, 2)


def test_reflectance_is_that_of_the_scene(scene: RasterItem) -> None:
    window = centre_window(scene, scene.bands, 64, 32)
    found = rebuild_window(tiny_model(), tiny_contract(), scene, window)
    raster = read_raster(scene, found.bands, window)
    np.testing.assert_allclose(found.pixels, raster.pixels, atol=1e-6)
    # The guess is one value a tile and band, the mean of what was visible.
    seen = ~found.masked[4, :32, :32]
    mean = raster.pixels[4, :32, :32][seen].mean()
    np.testing.assert_allclose(found.guess[4, :32, :32], mean, atol=1e-5)


def test_pixels_outside_of_the_window_are_refused() -> None:
    window = Window(8, 2, 64, 96)
    check_pixels(window, [(8, 2), (71, 97)])
    with pytest.raises(ConfigError, match=r"72,97 is outside .* rows 8 to 71, columns"):
        check_pixels(window, [(8, 2), (72, 97)])


def test_share_of_hidden_pixels_is_the_mask_ratio(scene: RasterItem) -> None:
    window = centre_window(scene, scene.bands, 64, 32)
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
        rebuild_window(tiny_model(), tiny_contract(), item, Window(0, 0, 32, 32))
