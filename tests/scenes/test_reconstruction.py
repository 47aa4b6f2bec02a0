import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt import objectives
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import BandError, CheckpointError, ConfigError
from spectralgpt.rasters import (
    Raster,
    RasterFile,
    Window,
    describe_raster,
    read_raster,
    write_geotiff,
)
from spectralgpt.reports.reconstructions import _write_scores
from spectralgpt.scenes.reconstruction import (
    RebuiltWindow,
    _join,
    _split,
    centre_window,
    rebuild_window,
    rebuilding_model,
    score_window,
)
from spectralgpt.sensors import load_sensor
from tests.tiny import tiny_contract, tiny_model, tiny_objective


@pytest.fixture
def scene(tmp_path: Path) -> RasterFile:
    bands = load_sensor("sentinel-2-l1c").select()
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (len(bands), 80, 100))
    pixels = pixels.astype(np.float32)
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    return describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")


@pytest.mark.parametrize("name", sorted(set(objectives.names()) - {"tokenizer"}))
def test_what_any_objective_rebuilds_is_shown_and_others_are_refused(
    name: str, scene: RasterFile
) -> None:
    loaded = LoadedModel(tiny_objective(name), tiny_contract())
    if name in ("beit", "distill", "moco", "simclr"):
        with pytest.raises(CheckpointError, match="cannot rebuild images here"):
            rebuilding_model(loaded, name)
        return
    window = centre_window(scene, scene.bands, 64, 32)
    found = rebuild_window(*rebuilding_model(loaded, name), scene, window, 0.75)
    raster = read_raster(scene, found.bands, window)
    np.testing.assert_allclose(found.image, raster.pixels, atol=1e-5)
    # RingMo leaves a part of each hidden patch to see.
    least = 0.3 if name == "ringmo" else 0.7
    assert least < found.is_masked.mean() < 0.8
    assert math.isfinite(found.scores.psnr_db)
    assert np.isfinite(found.scores.angle[found.is_masked.any(axis=0)]).all()


def test_joined_tiles_are_the_image() -> None:
    image = torch.rand(3, 64, 96)
    tiles = _split(image, 32)
    assert torch.equal(tiles[4], image[:, 32:, 32:64])
    assert torch.equal(_join(tiles, 2), image)


def test_middle_of_the_scene_in_whole_tiles(scene: RasterFile) -> None:
    window = centre_window(scene, scene.bands, 512, 32)
    assert (window.row, window.column) == (8, 2)
    assert (window.height, window.width) == (64, 96)


def test_less_than_a_tile_cannot_be_asked_for(scene: RasterFile) -> None:
    with pytest.raises(ConfigError, match="16 px are less than one tile of 32 px"):
        centre_window(scene, scene.bands, 16, 32)


def test_scene_smaller_than_a_tile_is_enlarged_to_one(scene: RasterFile) -> None:
    window = centre_window(scene, scene.bands, 512, 96)
    assert window == Window(0, 2, 80, 96)
    found = rebuild_window(tiny_model(96), tiny_contract(96), scene, window)
    assert found.image.shape == (12, 96, 96)
    # Rows of the scene are stretched over the tile; columns are not.
    assert found.locate(79, 2) == (95, 0)
    assert found.scene_pixel(95, 0) == (79, 2)


def test_reflectance_is_that_of_the_scene(scene: RasterFile) -> None:
    window = centre_window(scene, scene.bands, 64, 32)
    found = rebuild_window(tiny_model(), tiny_contract(), scene, window)
    raster = read_raster(scene, found.bands, window)
    np.testing.assert_allclose(found.image, raster.pixels, atol=1e-6)
    # Nothing tells noise better than the mean of what was visible in a tile.
    assert found.filler == "band_mean"
    seen = ~found.is_masked[4, :32, :32]
    mean = raster.pixels[4, :32, :32][seen].mean()
    np.testing.assert_allclose(found.guess[4, :32, :32], mean, atol=1e-5)


def test_a_smooth_scene_is_held_against_the_best_interpolation(
    tmp_path: Path,
) -> None:
    bands = load_sensor("sentinel-2-l1c").select()
    rows, columns = np.mgrid[:64, :64] / 64
    slope = 0.1 + 0.2 * rows + 0.1 * np.sin(4 * columns)
    pixels = (slope * np.linspace(0.5, 1, len(bands))[:, None, None]).astype(np.float32)
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    item = describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")
    window = Window(0, 0, 64, 64)
    found = rebuild_window(tiny_model(), tiny_contract(), item, window, 0.75)
    assert found.filler != "band_mean"
    missed = (found.guess - found.image)[found.counted]
    mean = found.image - found.image.mean(axis=(1, 2), keepdims=True)
    assert 5 * (missed**2).mean() < (mean[found.counted] ** 2).mean()
    assert found.scores.error_ratio == pytest.approx(found.error / found.guess_error)
    assert found.scores.error_ratio > 1  # The model has learned nothing.


def test_pixels_outside_of_the_window_are_refused(scene: RasterFile) -> None:
    window = centre_window(scene, scene.bands, 512, 32, [(8, 2), (71, 97)])
    assert window == Window(8, 2, 64, 96)
    with pytest.raises(ConfigError, match=r"72,97 is outside .* rows 8 to 71, columns"):
        centre_window(scene, scene.bands, 512, 32, [(8, 2), (72, 97)])


def test_share_of_hidden_pixels_is_the_mask_ratio(scene: RasterFile) -> None:
    window = centre_window(scene, scene.bands, 64, 32)
    found = rebuild_window(tiny_model(), tiny_contract(), scene, window, 0.75)
    assert found.image.shape == found.rebuilt.shape == (12, 64, 64)
    assert found.is_masked.mean() == pytest.approx(0.75)
    again = rebuild_window(
        tiny_model(), tiny_contract(), scene, window, 0.75, batch_size=1
    )
    np.testing.assert_allclose(again.rebuilt, found.rebuilt, atol=1e-5)


def test_tiles_without_data_are_left_blank(tmp_path: Path) -> None:
    bands = load_sensor("sentinel-2-l1c").select()
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (len(bands), 64, 64))
    valid = np.ones(pixels.shape, dtype=bool)
    valid[:, :32, :32] = False
    raster = Raster(pixels.astype(np.float32), valid, bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    item = describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")
    found = rebuild_window(tiny_model(), tiny_contract(), item, Window(0, 0, 64, 64))
    assert not found.shown[:, :32, :32].any()
    assert not found.is_masked[:, :32, :32].any()
    assert found.shown[:, 32:].all()
    assert found.is_masked[:, 32:].mean() == pytest.approx(0.9, abs=0.01)


def test_missing_band_is_refused_by_name(tmp_path: Path) -> None:
    bands = load_sensor("sentinel-2-l1c").select(exclude=("B8A",))
    pixels = np.full((len(bands), 32, 32), 0.2, dtype=np.float32)
    raster = Raster(pixels, np.ones(pixels.shape, dtype=bool), bands)
    write_geotiff(tmp_path / "scene.tif", raster)
    item = describe_raster(tmp_path / "scene.tif", sensor="sentinel-2-l1c")
    with pytest.raises(BandError, match="B8A"):
        rebuild_window(tiny_model(), tiny_contract(), item, Window(0, 0, 32, 32))


def example() -> RebuiltWindow:
    """Two bands from 0 to 1; B03 hidden in the left patch, where it was 0.1 too high.

    One pixel of the left patch is invalid, and was rebuilt far off.
    """
    pixels = np.full((2, 8, 16), 0.5, np.float32)
    pixels[:, 0, 15], pixels[:, 1, 15] = 0.0, 1.0
    rebuilt = pixels + np.float32(0.1)
    masked, valid = np.zeros((2, 8, 16), bool), np.ones((2, 8, 16), bool)
    masked[1, :, :8] = True
    valid[1, 0, 0], rebuilt[1, 0, 0] = False, 9.0
    return RebuiltWindow(
        pixels,
        rebuilt,
        masked,
        load_sensor("sentinel-2-l2a").select(["B02", "B03"]),
        "example",
        valid=valid,
        guess=pixels + np.float32(0.25),
        window=Window(0, 0, 8, 16),
        patch_size=8,
        error=0.01,
        guess_error=0.0625,
        filler="band_mean",
        is_told=False,
    )


def test_only_hidden_valid_pixels_count() -> None:
    found = score_window(example())
    assert found.psnr_db == pytest.approx(20, abs=1e-4)
    assert found.guess_psnr_db == pytest.approx(20 * math.log10(4), abs=1e-4)
    assert found.psnr_map.shape == (1, 2)
    assert found.psnr_map[0, 0] == pytest.approx(20, abs=1e-4)
    assert math.isnan(found.psnr_map[0, 1])
    visible, hidden = found.bands
    assert (visible.hidden_pixels, hidden.hidden_pixels) == (0, 63)
    assert math.isnan(visible.psnr_db)
    assert hidden.range_reflectance == pytest.approx(1)
    assert hidden.rmse_reflectance == pytest.approx(0.1, abs=1e-6)


def test_angle_is_that_of_the_spectrum_with_hidden_bands_rebuilt() -> None:
    found = score_window(example())
    # (0.5, 0.5) against (0.5, 0.6).
    expected = math.degrees(math.atan2(0.6, 0.5)) - 45
    np.testing.assert_allclose(found.angle[1:, :8], expected, atol=1e-4)
    assert found.mean_angle == pytest.approx(found.median_angle)
    # One band alone has no shape, and where nothing was hidden.
    assert math.isnan(found.angle[0, 0])
    assert np.isnan(found.angle[:, 8:]).all()


def test_band_without_data_is_left_out_of_the_angle() -> None:
    found = example()
    names = ("image", "rebuilt", "guess", "is_masked")
    more = {name: np.concatenate([v := getattr(found, name), v[:1]]) for name in names}
    more["is_masked"][2] = True
    valid = np.concatenate([found.known, np.zeros_like(found.known[:1])])
    bands = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04"])
    scores = score_window(replace(found, **more, valid=valid, bands=bands))
    np.testing.assert_array_equal(scores.angle, score_window(found).angle)
    assert (scores.bands[2].hidden_pixels, scores.bands[2].range_reflectance) == (0, 0)
    assert math.isnan(scores.bands[2].rmse_reflectance)


def test_files_hold_the_scores_by_name(tmp_path: Path) -> None:
    scores = score_window(example())
    _write_scores(tmp_path, scores, {"mask_ratio": 0.5})
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["mask_ratio"] == 0.5
    assert values["psnr_db"] == pytest.approx(20, abs=1e-4)
    assert values["bands"][0]["band"] == "B02"
    assert values["bands"][0]["psnr_db"] is None
    with (tmp_path / "bands.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["band"] for row in rows] == ["B02", "B03"]
    assert float(rows[1]["rmse_reflectance"]) == pytest.approx(0.1, abs=1e-6)
