"""Damaged YAML of sensors, recipes, descriptions: one short error, or whole values."""

from importlib.resources import files
from pathlib import Path

import pytest

from spectralgpt.data.sources import read_source
from spectralgpt.errors import SpectralGPTError
from spectralgpt.sensors import read_sensor
from spectralgpt.yaml_files import read_mapping
from tests.fuzz.mutate import bounded, mutate_text, refusal, rounds

PACKAGE = Path(str(files("spectralgpt")))
DESCRIPTION = """\
name: survey
root: chips
sensor: sentinel-2-l2a
unit: digital-numbers
items: "*/*.tif"
"""


def try_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for read in (read_sensor, read_source, read_mapping):
        with bounded():
            try:
                read(path)
            except SpectralGPTError as error:
                refusal(error)


@pytest.mark.parametrize(
    "text",
    [
        DESCRIPTION,
        *(
            (PACKAGE / name).read_text(encoding="utf-8")
            for name in (
                "sensors/sentinel-2-l2a.yaml",
                "sensors/landsat-8-9-l2.yaml",
                "recipes/pretrain_sensors.yaml",
            )
        ),
    ],
    ids=["description", "sentinel-2", "landsat", "recipe"],
)
def test_damaged_tables(text: str, tmp_path: Path) -> None:
    for seed in rounds():
        try_text(tmp_path / "table.yaml", mutate_text(text, seed))
