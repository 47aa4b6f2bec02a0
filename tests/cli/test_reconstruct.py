import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.rasters import Raster, write_geotiff
from tests.raster_files import write_tiff
from tests.tiny import tiny_contract, tiny_model


def test_page_and_pictures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tiny_contract()
    model = save_model(tmp_path / "model", tiny_model(), contract)
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (12, 64, 64))
    pixels = pixels.astype(np.float32)
    valid = np.ones(pixels.shape, dtype=bool)
    transform = Affine(10, 0, 600000, 0, -10, 4100000)
    scene = Raster(pixels, valid, contract.bands, "EPSG:32618", transform)
    write_geotiff(tmp_path / "scene.tif", scene)
    words = ["reconstruct", str(tmp_path / "scene.tif"), "--model", str(model)]
    words += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--pixels", "3,60 10,11", "--points=600205,4099695"]
    assert main([*words, "--map"]) == 0
    made = Path(capsys.readouterr().out.splitlines()[-1])
    assert made == tmp_path / "out" / "report.html"
    page = made.read_text()
    assert "75% of the tokens were hidden" in page
    assert "12 of 12 bands are drawn." in page
    with rasterio.open(tmp_path / "out/reconstruction_error.tif") as dataset:
        assert dataset.transform == transform
        assert (dataset.shape, dataset.tags()["SPECTRALGPT_MODEL"]) == (
            (64, 64),
            "model",
        )
        assert 0 < np.nanmean(dataset.read(1)) < 1
    for name in ("reconstruction.png", "bands_1.png", "scores.png", "spectra.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["mask_ratio"] == 0.75
    assert scores["window"] == {"row": 0, "column": 0, "height": 64, "width": 64}
    assert 0 < scores["spectral_angle_mean_deg"] < 90
    assert [band["band"] for band in scores["bands"]] == list(contract.band_names)
    assert (tmp_path / "out" / "bands.csv").read_text().count("\n") == 13

    wrong = {
        ("--pixels", "64,0"): "pixel 64,0 is outside of what is shown: rows 0 to 63",
        ("--pixels", "here"): "'here' is no place: write --pixels row,column",
        ("--pixels", "1.5,2"): "--pixels 1.5,2: rows and columns are whole",
        ("--points", "0,0"): "point 0,0 is outside of the image",
        ("--points", "-60,-3 -61,-.4"): "point -60,-3 is outside of the image",
    }
    for options, message in wrong.items():
        assert main([*words, "--overwrite", *options]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_layers_without_names_are_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tiny_contract()
    model = save_model(tmp_path / "model", tiny_model(), contract)
    pixels = np.random.default_rng(0).integers(500, 4000, (12, 24, 24))
    write_tiff(tmp_path / "scene.tif", pixels.astype(np.uint16))
    words = ["reconstruct", str(tmp_path / "scene.tif"), "--model", str(model)]
    words += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 1
    assert "bands" in capsys.readouterr().err
    words += ["--bands", f"[{','.join(contract.band_names)}]", "--offset", "0"]
    # Smaller than the model's images, it is enlarged, as `embed` does.
    assert main([*words, "--unit", "digital-numbers", "--pixels", "23,23"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "shown, enlarged to 32 x 32" in page
    text = (tmp_path / "out" / "bands.csv").read_text()
    ranges = [float(line.split(",")[3]) for line in text.splitlines()[1:]]
    # Digital numbers from 500 to 4000, resampled.
    assert 0.3 < max(ranges) < 0.5


def test_folder_of_several_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    for name in ("one.tif", "two.tif"):
        write_tiff(tmp_path / "images" / name, np.ones((1, 32, 32), np.uint16))
    words = ["reconstruct", str(tmp_path / "images"), "--model", str(model)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "holds 2 images, such as one.tif and two.tif" in capsys.readouterr().err


def test_encoder_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", tiny_model().encoder, tiny_contract())
    scene = tmp_path / "scene.tif"
    scene.touch()
    words = ["reconstruct", str(scene), "--model", str(model)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "cannot rebuild images" in capsys.readouterr().err
