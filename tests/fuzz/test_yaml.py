"""Damaged YAML of sensors, recipes, descriptions: one short error, or whole values."""

import argparse
from importlib.resources import files
from pathlib import Path

import pytest

from spectralgpt import sensors
from spectralgpt.cli import pretrain
from spectralgpt.cli.options import CommandParser, plain_values
from spectralgpt.config import build_config, read_mapping
from spectralgpt.data.sources import read_source
from spectralgpt.errors import SpectralGPTError
from spectralgpt.training.pretrain_config import PretrainConfig
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
    for read in (sensors._read_sensor, read_source, read_mapping):
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


HOSTILE = (
    f"optimizer: {{base_lr: 1{'0' * 400}}}",
    f"seed: {'9' * 5000}",
    f"data: {'[' * 40}{']' * 40}",
    f"model: {'{a: ' * 3000}",
    "data: {root: 2024-01-01}",
    "data: {use_bands: !!set {B02, B03}}",
    "seed: !!python/object/apply:os.system [exit]",
    "trainer: {1: 2, null: 3}",
    "optimizer: {base_lr: .nan, .inf: 1}",
    "trainer: {epochs: .inf}",
    "a: &a [x, x]\nb: &b [*a, *a]\ndata: {use_bands: *b}",
    "data: &d {mixture: [*d]}",
    "stages: {a: 1}",
    "data: {mixture: [1, null]}",
    "\u202eseed: 1",
    "\x1b[2J: 1",
)


def test_damaged_runs(tmp_path: Path) -> None:
    parser = CommandParser(exit_on_error=False)
    pretrain.add_arguments(parser)
    recipe = (PACKAGE / "recipes/pretrain_tiny.yaml").read_text(encoding="utf-8")
    path = tmp_path / "run.yaml"
    damaged = (mutate_text(recipe, seed) for seed in rounds())
    for text in (*HOSTILE, *damaged):
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with bounded():
            try:
                args = parser.parse_args(["--config", str(path), "--output", "out"])
                build_config(plain_values(args), PretrainConfig, "the command line")
            except SpectralGPTError as error:
                refusal(error)
            except argparse.ArgumentError:
                pass
