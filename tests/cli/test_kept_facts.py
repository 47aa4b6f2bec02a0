"""What was stated of the images of a fine-tuning is kept with the model, and used."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.cli.main import main
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.training.finetuning import DenseFinetuneConfig, finetune
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests.dense_places import places_config, write_places
from tests.tiny import tiny_contract, tiny_model
from tests.toy import BANDS

STATED = {"quantification": 20_000.0, "offset": 0.0, "nodata": (1.0,)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose files do not name their bands."""
    root = write_places(tmp_path_factory.mktemp("places"))
    for path in root.glob("*/*.tif"):
        with rasterio.open(path, "r+") as file:
            file.descriptions = [""] * file.count
    return root


@pytest.fixture(scope="module")
def model(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    data = replace(places_config(places), bands=tuple(BANDS), **STATED)
    config = DenseFinetuneConfig(
        model=str(save_model(folder / "start", tiny_model(), tiny_contract())),
        data=data,
        head="linear",
        scaling="z-score",
        optimizer=OptimizerConfig(base_lr=0.1, warmup_epochs=0.5, beta2=0.999),
        trainer=TrainerConfig(epochs=1, batch_size=3, accelerator="cpu", workers=0),
    )
    return finetune(config, folder / "run")


def predict(model: Path, image: Path, output: Path, *words: str) -> bytes:
    command = ["predict", "--model", str(model), str(image), "--output", str(output)]
    assert main([*command, "--device", "cpu", *words]) == 0
    return (output / image.name).read_bytes()


def test_the_facts_are_kept_and_count_where_nothing_is_stated(
    model: Path, places: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contract = load_model(model).preprocessing
    assert contract is not None
    assert contract.stated.facts == STATED | {"bands": tuple(BANDS)}
    assert contract.offset_rule == "reflectance = (DN + 0) / 20000"
    image = places / "after" / "place_0.tif"
    with caplog.at_level(logging.WARNING):
        found = predict(model, image, tmp_path / "a")
        bands = f"--bands={','.join(BANDS)}"
        words = ("--quantification", "20000", "--offset", "0", "--nodata", "1", bands)
        assert predict(model, image, tmp_path / "b", *words) == found
    assert not caplog.records


def test_what_contradicts_the_facts_is_said_aloud(
    model: Path, places: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = places / "after" / "place_1.tif"
    with caplog.at_level(logging.WARNING):
        predict(model, image, tmp_path / "a", "--quantification", "5000")
    assert "quantification 5000.0 where 20000.0 was stated" in caplog.text
    assert "median reflectance" in caplog.text
    assert "check quantification, offset and unit" in caplog.text


def test_evaluation_and_export_use_the_facts(
    model: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks.yaml"
    masks.write_text(
        f"root: {places}\nimages: after\nclasses: {{intact: 0, damaged: 1}}\n"
        "fractions: {train: 0.6, val: 0.2, test: 0.2}\n"
    )
    words = ["--model", str(model), "--masks", str(masks), "--device", "cpu"]
    assert main(["evaluate", *words, "--output", str(tmp_path / "scores")]) == 0
    made = tmp_path / "model.pt2"
    assert main(["export", str(model), "--output", str(made)]) == 0
    described = json.loads((tmp_path / "model.pt2.json").read_text())
    assert described["input"]["offset_rule"] == "reflectance = (DN + 0) / 20000"
    assert described["input"]["files"]["quantification"] == 20_000
    capsys.readouterr()
    assert main(["info", str(model)]) == 0
    assert "learned from: quantification 20000.0" in capsys.readouterr().out


def test_models_without_facts_load(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "old", tiny_model(), tiny_contract())
    kept = json.loads((folder / "config.json").read_text())["preprocessing"]
    assert not {"stated", "seen"} & set(kept)
    contract = load_model(folder).preprocessing
    assert contract is not None
    assert contract.stated.facts == {}
    assert contract.seen is None


@pytest.mark.parametrize(
    "facts",
    [{"sensor": "/etc/x.yaml"}, {"band_pattern": "(a+)+"}, {"bands": [1]}, ["x"], 3],
)
def test_facts_of_a_checkpoint_are_not_trusted(facts: object) -> None:
    values = tiny_contract().to_dict() | {"stated": facts}
    with pytest.raises(ConfigError, match="preprocessing: "):
        Preprocessing.from_dict(values)
