"""`evaluate --masks` and `predict` with models that make maps."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.training.finetuning import DenseFinetuneConfig, finetune
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests.dense_places import SIZE, places_config, write_places
from tests.tiny import tiny_contract, tiny_model

MASKS = """
root: {root}
task: {task}
images: after
offset: 0.0
classes: {{{first}: 0, damaged: 1}}
fractions: {{train: 0.6, val: 0.2, test: 0.2}}
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("places"))


def finetuned(
    places: Path, folder: Path, task: str, test_flips: bool = False, **data: Any
) -> Path:
    start = save_model(folder / "start", tiny_model(), tiny_contract())
    config = DenseFinetuneConfig(
        model=str(start),
        data=replace(places_config(places, task), **data),
        head="linear",
        test_flips=test_flips,
        optimizer=OptimizerConfig(base_lr=0.1, warmup_epochs=0.5, beta2=0.999),
        trainer=TrainerConfig(epochs=20, batch_size=3, accelerator="cpu", workers=0),
    )
    return finetune(config, folder / "run")


@pytest.fixture(scope="module")
def cover(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(places, tmp_path_factory.mktemp("cover"), "segmentation")


@pytest.fixture(scope="module")
def change(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("change")
    return finetuned(places, folder, "change", test_flips=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ClassificationModel(tiny_model().encoder, 3)
    extra = {"class_names": ["a", "b", "c"], "task": "single-label", "chip_px": 32}
    folder = tmp_path_factory.mktemp("classifier")
    return save_model(folder, model, tiny_contract(), extra)


def describe(
    folder: Path, places: Path, task: str = "segmentation", first: str = "intact"
) -> Path:
    path = folder / "masks.yaml"
    text = MASKS.format(root=places, task=task, first=first)
    path.write_text(text, encoding="utf-8")
    return path


def run(*words: object) -> int:
    return main([str(word) for word in (*words, "--device", "cpu")])


def predict(model: Path, output: Path, *words: object) -> int:
    stated = ("--model", model, "--offset", "0", "--output", output)
    return run("predict", *words, *stated)


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return {key: found[key] for key in found if key != "model"}


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_evaluating_a_run_gives_the_scores_that_the_run_reported(
    task: str, places: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("cover" if task == "segmentation" else "change")
    masks = describe(tmp_path, places, task)
    words = ("--model", model, "--masks", masks, "--output", tmp_path / "out")
    assert run("evaluate", *words) == 0
    assert scores(tmp_path / "out") == scores(model)
    assert 0 < scores(model)["test"]["f1"] < 1
    assert "Maps beside the labels" in (tmp_path / "out/report.html").read_text()
    assert "damaged" in (tmp_path / "out/table.csv").read_text()


def test_split_and_flips_change_what_is_scored(
    places: Path, cover: Path, tmp_path: Path
) -> None:
    masks = describe(tmp_path, places)
    words = ("evaluate", "--model", cover, "--masks", masks, "--resamples", "20")
    train = ("--split", "train", "--output", tmp_path / "train")
    flips = ("--test_flips", "true", "--output", tmp_path / "flips")
    assert run(*words, *train) == 0
    assert run(*words, *flips) == 0
    assert scores(tmp_path / "train")["places"] == 6
    assert scores(tmp_path / "flips")["places"] == 2
    assert scores(tmp_path / "flips")["test"] != scores(cover)["test"]


def test_a_split_that_is_not_stated_is_that_of_the_training(
    places: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = finetuned(places, tmp_path / "model", "segmentation", split_seed=3)
    masks = describe(tmp_path, places)
    words = ("evaluate", "--model", model, "--masks", masks, "--resamples", 20)
    assert run(*words, "--output", tmp_path / "own") == 0
    assert "trained on" not in caplog.text
    found = scores(tmp_path / "own")
    assert found["test"] == scores(model)["test"]
    assert found["seen_in_training"] == {"train": 0, "val": 0}
    masks.write_text(masks.read_text() + "split_seed: 2\n")
    assert run(*words, "--output", tmp_path / "other") == 0
    found = scores(tmp_path / "other")
    seen = found["seen_in_training"]
    assert seen["train"] > 0
    line = f"{seen['train']} of the 2 scored images were trained on"
    assert line in caplog.text
    assert line in (tmp_path / "other" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        ({"task": "change"}, "describes change, but .* fine-tuned for segmentation"),
        ({"first": "sound"}, "has classes sound that are not among intact, damaged"),
    ],
)
def test_masks_of_another_kind_are_refused(
    change_of: dict[str, str],
    message: str,
    places: Path,
    cover: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    masks = describe(tmp_path, places, **change_of)
    words = ("--model", cover, "--masks", masks, "--output", tmp_path / "out")
    assert run("evaluate", *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("classifier", ("--masks", "{masks}"), "makes no maps: run"),
        ("cover", ("--data.root", "{places}", "--method", "finetuned"), "--masks"),
        ("cover", ("--masks", "{masks}", "--method", "knn"), "knn takes no masks"),
        ("cover", ("--masks", "{masks}", "--data.root", "{places}"), "give either"),
        ("cover", (), "give either"),
        ("cover", ("--masks", "missing.yaml"), "missing.yaml"),
    ],
)
def test_a_wrong_use_of_evaluate_is_one_line(
    model: str,
    words: tuple[str, ...],
    message: str,
    places: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    masks = describe(tmp_path, places)
    stated = [word.format(masks=masks, places=places) for word in words]
    path = request.getfixturevalue(model)
    code = run("evaluate", "--model", path, *stated, "--output", tmp_path / "out")
    assert code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.glob("out/*")) == []


def test_predict_maps_a_folder_and_says_what_it_found(
    places: Path,
    cover: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("--probabilities", "--polygons")
    assert predict(cover, tmp_path, places / "after", *more) == 0
    table = tmp_path / "maps.csv"
    assert capsys.readouterr().out.splitlines()[-1] == str(table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 10
    for row in rows:
        with rasterio.open(tmp_path / row["map"]) as made:
            index = ["intact", "damaged"].index(row["class"])
            assert (made.read(1) == index).sum() == int(row["pixels"])
            assert made.tags()["SPECTRALGPT_MODEL"] == cover.name
            area = int(row["pixels"]) * abs(made.transform.determinant)
        path = (tmp_path / row["map"]).with_suffix(".gpkg")
        outlines = geopandas.read_file(path, layer="classes")
        of_class = outlines[outlines["name"] == row["class"]]
        assert of_class.geometry.area.sum() == pytest.approx(area)
        picture = (tmp_path / row["map"]).with_suffix(".png")
        assert picture.read_bytes().startswith(b"\x89PNG")
    with rasterio.open(tmp_path / "place_0_probabilities.tif") as shares:
        np.testing.assert_allclose(shares.read().sum(axis=0), 1, atol=1e-5)


def test_lower_precision_and_less_overlap_change_little(
    places: Path, cover: Path, tmp_path: Path
) -> None:
    image = places / "after" / "place_0.tif"
    exact, fast = (tmp_path / name for name in ("exact", "fast"))
    assert predict(cover, exact, image, "--probabilities") == 0
    options = ("--precision", "bf16", "--overlap", "0.25")
    assert predict(cover, fast, image, "--probabilities", *options) == 0
    maps = []
    for folder in (exact, fast):
        with rasterio.open(folder / "place_0_probabilities.tif") as shares:
            maps.append(shares.read())
    assert not np.array_equal(*maps)
    np.testing.assert_allclose(*maps, atol=0.1)


def test_predict_maps_change_between_two_folders(
    places: Path, change: Path, tmp_path: Path
) -> None:
    words = ("--before", places / "before", "--after", places / "after")
    assert predict(change, tmp_path, *words) == 0
    maps = sorted(path.name for path in tmp_path.glob("*.tif"))
    assert maps == [f"place_{number}.tif" for number in range(10)]
    with rasterio.open(tmp_path / maps[0]) as made:
        assert made.shape == (SIZE, SIZE)
        assert made.tags()["CLASS_1"] == "damaged"


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("classifier", ("{image}", "--probabilities"), "makes no maps, which"),
        ("cover", ("--before", "{image}", "--after", "{image}"), "give it images"),
        ("cover", ("{image}", "--before", "{image}"), "give it images"),
        ("cover", ("{image}", "--fit", "windows"), "--fit is for classes"),
        ("change", ("{image}",), "give it --before and --after"),
        ("change", ("--before", "{image}"), "give it --before and --after"),
        ("cover", ("missing.tif",), "missing.tif does not exist"),
        ("cover", ("{places}",), "which of its 1 layers"),
        ("classifier", (), "name image files"),
    ],
)
def test_a_wrong_use_of_predict_is_one_line_and_makes_nothing(
    model: str,
    words: tuple[str, ...],
    message: str,
    places: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {"image": places / "after/place_0.tif", "places": places / "masks"}
    stated = [word.format(**values) for word in words]
    path = request.getfixturevalue(model)
    assert predict(path, tmp_path / "out", *stated) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.glob("out/*")) == []


def test_strict_stops_where_others_go_on(
    places: Path, cover: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = places / "after/place_0.tif"
    assert predict(cover, tmp_path / "a", "missing.tif", image) == 0
    assert "skipped: missing.tif does not exist" in capsys.readouterr().err
    assert predict(cover, tmp_path / "b", "missing.tif", image, "--strict") == 1
    assert list(tmp_path.glob("b/*")) == []


def test_models_say_which_windows_they_were_trained_on(cover: Path) -> None:
    from spectralgpt.checkpoints import load_model

    assert load_model(cover).extra["window_px"] == SIZE
