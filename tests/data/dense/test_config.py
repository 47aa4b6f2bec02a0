import json
from dataclasses import asdict
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from spectralgpt.config import build_config
from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    read_dense,
    read_dense_config,
)
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.simulation import SimulationConfig, simulate_archive
from tests.dense_files import BANDS, SENSOR_TEXT, blobs, write_pair

YAML = """
root: set
sensor: camera.yaml
bands: [violet, blue, green, red, edge, near, far]
classes: {ground: 0, roof: [1, 2]}
ignored: [255]
fractions: {train: 0.5, val: 0.25, test: 0.25}
offsets: {"images/a*": -100}
nodata: [0, 65535]
"""


def test_a_yaml_file_names_its_data_and_sensor_relative_to_itself(
    tmp_path: Path,
) -> None:
    (tmp_path / "data.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "camera.yaml").write_text(SENSOR_TEXT, encoding="utf-8")
    for name in "abcd":
        write_pair(tmp_path / "set", name, blobs(8, 8, 0))
    config = read_dense_config(tmp_path / "data.yaml")
    assert config.bands == BANDS
    assert config.classes == {"ground": 0, "roof": [1, 2]}
    assert config.fractions == Fractions(0.5, 0.25, 0.25)
    assert config.nodata == (0.0, 65535.0)
    dense = read_dense(config)
    assert len(dense.select("train").samples) == 2
    assert {chip.item.offset for chip in dense.samples} == {0.0, -100.0}
    assert dense.samples[0].item.sensor.name == "camera"
    assert read_dense_config(tmp_path / "data.yaml", "x").root == "x"


def test_wrong_keys_and_values_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("root: x\nclasss: {a: 1}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"data.yaml: unknown key 'classs'; did you me"
    ):
        read_dense_config(path)
    path.write_text("root: x\nsplit: random\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data.yaml.*split"):
        read_dense_config(path)
    path.write_text("task: change\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data.yaml.*root"):
        read_dense_config(path)


def test_options_of_the_command_line_reach_every_field() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DenseDataConfig, "data")
    values = (
        parser.parse_args(
            [
                "--data.root=r",
                "--data.classes={water: 1, land: [2, 3]}",
                "--data.bands=[B02,B03]",
                "--data.ignored=[0]",
                "--data.offset=-1000",
                "--data.fractions.train=0.8",
                "--data.fractions.val=0.1",
                "--data.fractions.test=0.1",
            ]
        )
    ).as_dict()["data"]
    made = build_config(values, DenseDataConfig, "the command line")
    assert made.classes == {"water": 1, "land": [2, 3]}
    assert (made.bands, made.ignored, made.offset) == (("B02", "B03"), (0,), -1000.0)
    assert made.fractions.train == 0.8
    json.dumps(asdict(made))


@pytest.mark.parametrize(("task", "dates"), [("segmentation", 1), ("change", 2)])
def test_simulated_archives_load_by_their_own_description(
    tmp_path: Path, task: str, dates: int
) -> None:
    made = simulate_archive(
        tmp_path / "archive",
        SimulationConfig(tasks=(task,), images=10, image_size=24, cloudy_share=0.5),
    )
    dense = read_dense(read_dense_config(made / f"{task}_labels.yaml"))
    assert dense.task == task
    assert {chip.split for chip in dense.samples} == {"train", "val", "test"}
    assert all(chip.place.startswith("region") for chip in dense.samples)
    contract = sensor_preprocessing("sentinel-2-l2a", image_size=24)
    data = DenseDataset(dense, contract)
    samples = [data[index] for index in range(len(data))]
    lead = (dates,) if dates > 1 else ()
    assert samples[0]["image"].shape == (*lead, 12, 24, 24)
    classes = {int(c) for sample in samples for c in sample["target"].unique()}
    assert classes <= set(range(-1, dense.num_classes))
    assert len(classes - {-1}) > 1
    assert f"{task}_labels.yaml" in (made / "README.md").read_text(encoding="utf-8")
