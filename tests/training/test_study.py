"""Studies repeat a task from several starts, and never run a finished run twice."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import ConfigError
from spectralgpt.training import study as study_module
from spectralgpt.training.study import StudyConfig, run_study
from tests.dense_places import write_places
from tests.tiny import tiny_contract, tiny_model


def study(root: Path, model: Path, **changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "task": "segmentation",
        "root": str(root),
        "fractions": (0.5,),
        "seeds": (0, 1),
        "finetune": {
            "head": "linear",
            "data": {
                "root": "elsewhere",
                "images": "after",
                "offset": 0.0,
                "classes": {"intact": 0, "damaged": 1},
            },
            "optimizer": {"warmup_epochs": 0.5, "base_lr": 0.01},
            "trainer": {"epochs": 1, "batch_size": 3, "workers": 0},
        },
        "starts": {
            "pretrained": {"model": str(model), "optimizer": {"base_lr": 0.02}},
            "forest": {"method": "pixel-forest", "sensor": "sentinel-2-l1c"},
        },
    }
    return StudyConfig(**(values | changes))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("places"))


def test_seeds_leave_out_one_fold_after_the_other(
    places: Path, pretrained: Path
) -> None:
    config = study(places, pretrained, seeds=(5, 6, 7))
    folds = {**config.finetune["data"], "split": "folds", "num_folds": 3}
    config = replace(config, finetune={**config.finetune, "data": folds})
    runs = study_module._planned_runs(config).values()
    data = {settings["seed"]: settings["data"] for *_, settings in runs}
    assert [data[seed]["fold"] for seed in (5, 6, 7)] == [0, 1, 2]
    assert {entry["split_seed"] for entry in data.values()} == {5}


def test_starts_change_single_settings_of_what_they_share(
    places: Path, pretrained: Path
) -> None:
    runs = study_module._planned_runs(study(places, pretrained))
    assert list(runs)[:2] == [
        "pretrained/labels-0.5/seed-0",
        "forest/labels-0.5/seed-0",
    ]
    all_settings = [settings for *_, settings in runs.values()]
    settings = all_settings[0]
    assert settings["optimizer"] == {"warmup_epochs": 0.5, "base_lr": 0.02}
    assert settings["data"]["root"] == str(places)
    assert settings["data"]["split_seed"] == settings["seed"] == 0
    assert all_settings[-1]["seed"] == 1


def test_a_study_is_summarised_and_goes_on_where_it_was(
    places: Path, pretrained: Path, tmp_path: Path
) -> None:
    begun: list[str] = []
    output = tmp_path / "study"
    first = study(places, pretrained, seeds=(0,))
    run_study(first, output, lambda name, number, total: begun.append(name))
    assert len(begun) == 2
    run_study(study(places, pretrained), output, lambda name, *rest: begun.append(name))
    assert begun[2:] == [
        "pretrained/labels-0.5/seed-1",
        "forest/labels-0.5/seed-1",
    ]
    found = json.loads((output / "study.json").read_text())
    assert len(found["0.5"]["pretrained"]["iou"]["values"]) == 2
    # Two levels of brightness are easy for single pixels.
    assert found["0.5"]["forest"]["iou"]["mean"] > 0.9
    assert (output / "study.csv").read_text().startswith("labels,start,seeds,score")


def test_other_settings_weights_or_data_never_get_the_old_numbers(
    pretrained: Path, tmp_path: Path
) -> None:
    root = write_places(tmp_path / "places")
    output, starts = tmp_path / "study", {"pretrained": {"model": str(pretrained)}}
    first = study(root, pretrained, seeds=(0,), starts=starts)
    run_study(first, output)
    before = (output / "study.json").read_text()
    rates = {**first.finetune, "optimizer": {"warmup_epochs": 0.5, "base_lr": 0.03}}
    with pytest.raises(ConfigError, match=r"base_lr 0.01 \(now 0.03\)"):
        run_study(replace(first, finetune=rates), output)
    other = save_model(tmp_path / "other", tiny_model(seed=1), tiny_contract())
    with pytest.raises(ConfigError, match="other weights"):
        run_study(replace(first, starts={"pretrained": {"model": str(other)}}), output)
    # The same run elsewhere, and with other processes that read, is the same run.
    moved = Path(shutil.copytree(pretrained, tmp_path / "moved"))
    same = {**first.finetune, "trainer": {**first.finetune["trainer"], "workers": 1}}
    starts = {"pretrained": {"model": str(moved)}}
    run_study(replace(first, starts=starts, finetune=same), output)
    assert (output / "study.json").read_text() == before
    with rasterio.open(root / "masks" / "place_3.tif", "r+") as mask:
        mask.write(np.ones((1, *mask.shape), np.uint8))
    with pytest.raises(ConfigError, match=r"seed-0 holds a run .*: other data\. Name"):
        run_study(first, output)
    (output / "pretrained/labels-0.5/seed-0/study_run.json").write_text("{")
    with pytest.raises(ConfigError, match="does not say what it was made from"):
        run_study(first, output)
    assert (output / "study.json").read_text() == before


def test_a_table_holds_the_runs_that_were_asked_for(
    places: Path, tmp_path: Path
) -> None:
    starts = {"forest": {"method": "pixel-forest", "sensor": "sentinel-2-l1c"}}
    config = study(places, tmp_path, starts=starts)
    run_study(config, tmp_path / "study")
    run_study(replace(config, seeds=(1,)), tmp_path / "study")
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    assert len(found["0.5"]["forest"]["iou"]["values"]) == 1
    assert found["0.5"]["forest"]["iou"]["class"] == "damaged"
    assert found["0.5"]["forest"]["mean_iou"]["class"] is None
    with (tmp_path / "study" / "study.csv").open(newline="") as file:
        rows = {row["score"]: row["class"] for row in csv.DictReader(file)}
    assert (rows["f1"], rows["mean_iou"]) == ("damaged", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": {}}, "starts, fractions and seeds"),
        ({"starts": {"../away": {"model": "tiny"}}}, "use letters, digits"),
        ({"starts": {"a": {"method": "boosting"}}}, "method 'boosting' is unknown"),
        (
            {"task": "classification", "starts": {"a": {"method": "pixel-forest"}}},
            "unknown for classification",
        ),
    ],
)
def test_wrong_studies_are_refused(
    places: Path, pretrained: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study(places, pretrained, **changes)


def test_a_wrong_setting_is_found_before_anything_runs(
    places: Path, pretrained: Path, tmp_path: Path
) -> None:
    starts = {
        "good": {"model": str(pretrained)},
        "bad": {"model": str(pretrained), "heads": "linear"},
    }
    with pytest.raises(ConfigError, match=r"start bad.*heads"):
        run_study(study(places, pretrained, starts=starts), tmp_path / "study")
    assert not (tmp_path / "study").exists()
