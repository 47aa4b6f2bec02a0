from pathlib import Path

import numpy as np
import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.rasters import Raster, write_geotiff
from tests.tiny import tiny_contract, tiny_model


def test_page_and_pictures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tiny_contract()
    model = save_model(tmp_path / "model", tiny_model(), contract)
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (12, 64, 64))
    pixels = pixels.astype(np.float32)
    valid = np.ones(pixels.shape, dtype=bool)
    write_geotiff(tmp_path / "scene.tif", Raster(pixels, valid, contract.bands))
    words = ["reconstruct", str(tmp_path / "scene.tif"), "--model", str(model)]
    words += ["--sensor", "sentinel-2-l1c", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    made = Path(capsys.readouterr().out.splitlines()[-1])
    assert made == tmp_path / "out" / "report.html"
    assert "75% of the tokens were hidden" in made.read_text()
    assert (tmp_path / "out" / "reconstruction.png").stat().st_size > 10_000


def test_encoder_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", tiny_model().encoder, tiny_contract())
    words = ["reconstruct", "scene.tif", "--model", str(model)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "cannot rebuild images" in capsys.readouterr().err
