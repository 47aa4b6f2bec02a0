from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo import cog_validate

from spectralgpt.rasters import RasterFile, Stated, describe_raster, read_raster
from spectralgpt.scenes.reconstruction import map_errors
from tests.tiny import tiny_contract, tiny_model
from tests.toy import SENSOR, chip_pixels, write_chip


def scene(path: Path, height: int = 70, width: int = 90) -> RasterFile:
    pixels = chip_pixels("field", 90, np.random.default_rng(1))
    cut = {band: values[:height, :width] for band, values in pixels.items()}
    for values in cut.values():
        values[:5, :7] = 0
    return describe_raster(write_chip(path, cut), SENSOR, Stated(offset=0))


def test_errors_are_measured_where_the_scene_holds_data(tmp_path: Path) -> None:
    item = scene(tmp_path / "a.tif")
    path = tmp_path / "e.tif"
    map_errors(tiny_model(), tiny_contract(), item, path, name="tiny")
    with rasterio.open(path) as dataset:
        errors = dataset.read(1)
        assert dataset.tags()["SPECTRALGPT_MODEL"] == "tiny"
        assert dataset.descriptions == ("rmse of hidden bands (reflectance)",)
        assert dataset.crs.to_epsg() == 32632
    assert np.isnan(errors[:5, :7]).all()
    known = np.isfinite(errors)
    known[:5, :7] = True
    assert known.mean() > 0.99
    # An untrained model is wrong by about the contrast of the scene.
    assert 0.01 < np.nanmean(errors) < 1
    assert cog_validate(path)[0]


def test_a_model_that_knows_every_pixel_has_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = tiny_model(), []
    forward = model.forward

    def remember(shown: torch.Tensor, *args: object, **more: object) -> object:
        images.append(shown)
        return forward(shown, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "forward", remember)
    monkeypatch.setattr(model, "reconstruct", lambda _: images[-1] + 0.5)
    item = scene(tmp_path / "a.tif", 32, 32)
    path = map_errors(model, tiny_contract(), item, tmp_path / "e.tif")
    monkeypatch.setattr(model, "reconstruct", lambda _: images[-1])
    exact = map_errors(model, tiny_contract(), item, tmp_path / "exact.tif")
    with rasterio.open(exact) as dataset:
        assert np.nanmax(dataset.read(1)) == 0
    with rasterio.open(path) as dataset:
        wrong = dataset.read(1)
    raster = read_raster(item)
    # Wrong by half of each band's range, so the mean lies between those of two bands.
    known = np.where(raster.valid, raster.pixels, np.nan)
    ranges = np.nanmax(known, axis=(1, 2)) - np.nanmin(known, axis=(1, 2))
    assert 0.499 * ranges.min() < np.nanmin(wrong)
    assert np.nanmax(wrong) < 0.501 * ranges.max()
