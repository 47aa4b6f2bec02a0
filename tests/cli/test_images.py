from dataclasses import replace
from pathlib import Path

import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.images import load_on_device
from spectralgpt.preprocessing import sensor_preprocessing
from tests.tiny import tiny_contract, tiny_model


@pytest.mark.parametrize(
    ("sensor", "first", "bands"),
    [
        (None, "sentinel-2-l1c", 12),
        ("landsat-8-9-l2", "landsat-8-9-l2", 7),
        ("enmap-l2a", "sentinel-2-l1c", 12),
    ],
)
def test_model_of_several_sensors_is_loaded_for_that_of_the_images(
    tmp_path: Path, sensor: str | None, first: str, bands: int
) -> None:
    landsat = sensor_preprocessing("landsat-8-9-l2", image_size=64)
    contract = replace(tiny_contract(), others=(landsat,))
    save_model(tmp_path, tiny_model(), contract)
    loaded = load_on_device(str(tmp_path), "cpu", sensor)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.sensor == first
    assert loaded.encoder.num_bands == bands
