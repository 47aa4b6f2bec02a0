"""The scenes that whole-scene figures are measured on are what the package reads."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_scene import main
from spectralgpt.rasters import Stated, describe_raster, open_scene
from spectralgpt.sensors import find_sensor
from tests.raster_files import numbered, write_band_folder


@pytest.mark.parametrize("form", ["safe", "cog"])
def test_a_small_scene_becomes_a_large_one(tmp_path: Path, form: str) -> None:
    names = [band.name for band in find_sensor("sentinel-2-l2a").bands]
    source = write_band_folder(tmp_path / "source", numbered(names, 300))
    output = tmp_path / "out"
    options = ["--format", form, "--size", "240", "--output", str(output)]
    made = describe_raster(main([str(source), *options]))
    assert made.sensor.name == "sentinel-2-l2a"
    small = describe_raster(source, "sentinel-2-l2a", Stated(offset=0))
    with open_scene(made, made.bands) as scene, open_scene(small, made.bands) as other:
        large, little = scene.read(), other.read()
    assert large.pixels.shape == (len(made.bands), 240, 240)
    assert large.valid.all()
    expected = little.pixels[:, :1, :1]
    np.testing.assert_allclose(
        large.pixels, np.broadcast_to(expected, large.pixels.shape), atol=1e-4
    )
