import csv
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import torch

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.models.heads import ClassificationModel
from tests.tiny import tiny_contract, tiny_model
from tests.toy import BANDS, CLASSES, SENSOR, chip_pixels, write_archive, write_chip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"), per_class=6)


def save_classifier(folder: Path, task: str) -> Path:
    model = ClassificationModel(tiny_model().encoder, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.head.weight)
    extra = {"class_names": list(CLASSES), "task": task, "chip_px": 32}
    return save_model(folder, model, tiny_contract(), extra)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"), "single-label")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predict(model: Path, output: Path, *inputs: Path | str) -> int:
    words = ["predict", "--model", model, *inputs, "--offset", "0", "--output", output]
    return main([str(word) for word in (*words, "--device", "cpu")])


def chip(path: Path, size: int = 32, **options: object) -> Path:
    pixels = chip_pixels("forest", size, np.random.default_rng(1))
    return write_chip(path, pixels, **options)  # type: ignore[arg-type]


def test_predict_writes_a_row_a_file_of_a_folder(
    archive: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(classifier, tmp_path, archive) == 0
    table = tmp_path / "predictions.csv"
    assert capsys.readouterr().out.splitlines()[-1] == str(table)
    rows = read(table)
    assert len(rows) == 18
    for row in rows:
        shares = {name: float(row[f"p({name})"]) for name in CLASSES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(shares, key=lambda name: shares[name])
        assert float(row["longitude"]) == pytest.approx(9.0, abs=0.5)


def test_predict_reads_bands_by_name(classifier: Path, tmp_path: Path) -> None:
    for name, order in (("a", BANDS), ("b", BANDS[::-1])):
        path = chip(tmp_path / name / "x.tif", order=order)
        assert predict(classifier, tmp_path / name, path) == 0
    first, second = (read(tmp_path / n / "predictions.csv")[0] for n in ("a", "b"))
    assert {k: v for k, v in first.items() if k != "path"} == {
        k: v for k, v in second.items() if k != "path"
    }


def test_predict_gives_any_number_of_labels(archive: Path, tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "model", "multi-label")
    assert predict(model, tmp_path / "out", archive / "field") == 0
    for row in read(tmp_path / "out" / "predictions.csv"):
        likely = [n for n in CLASSES if float(row[f"p({n})"]) >= 0.5]
        assert row["prediction"].split(";") == (likely or [""])


def test_predict_cuts_scenes_into_windows_of_the_chips_it_learned(
    classifier: Path, tmp_path: Path
) -> None:
    assert predict(classifier, tmp_path, chip(tmp_path / "a.tif", 72)) == 0
    rows = read(tmp_path / "predictions.csv")
    assert sorted({int(row["row"]) for row in rows}) == [0, 32, 40]
    assert {row["height"] for row in rows} == {"32"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "does not exist"),
        ("corrupt", "bad.tif"),
        ("band", "B8A"),
        ("small", "smaller than a token"),
        ("nodata", "no valid pixel"),
    ],
)
def test_a_bad_file_is_one_line_and_the_others_are_predicted(
    fault: str,
    message: str,
    classifier: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = chip(tmp_path / "good.tif")
    bad = tmp_path / "bad.tif"
    if fault == "corrupt":
        bad.write_bytes(good.read_bytes()[:400])
    elif fault == "band":
        chip(bad, order=[band for band in BANDS if band != "B8A"])
    elif fault == "small":
        chip(bad, size=7)
    elif fault == "nodata":
        empty = {band: np.zeros((32, 32), np.uint16) for band in BANDS}
        write_chip(bad, empty)
    assert predict(classifier, tmp_path / "out", good, bad) == 0
    told = [x for x in capfd.readouterr().err.splitlines() if "skipped:" in x]
    assert len(told) == 1
    assert message in told[0]
    assert len(read(tmp_path / "out" / "predictions.csv")) == 1
    assert predict(classifier, tmp_path / "strict", good, bad, "--strict") == 1
    assert predict(classifier, tmp_path / "alone", bad) == 1
    error = capfd.readouterr().err.splitlines()
    assert [line for line in error if message in line]
    assert "Traceback" not in " ".join(error)


def test_predict_needs_a_fine_tuned_model(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    assert predict(model, tmp_path / "out", archive) == 1
    assert "is not fine-tuned" in capsys.readouterr().err


def test_results_are_not_overwritten_by_accident(
    archive: Path, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "predictions.csv").write_text("kept")
    assert predict(classifier, tmp_path, archive) == 1
    assert (tmp_path / "predictions.csv").read_text() == "kept"
    assert predict(classifier, tmp_path, archive, "--overwrite") == 0


def test_embed_writes_geoparquet_and_says_where(
    archive: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["embed", "--model", classifier, archive, "--offset", "0"]
    assert main([str(w) for w in (*words, "--output", tmp_path)]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    frame = geopandas.read_parquet(path)
    assert len(frame) == 18
    assert frame.crs.to_epsg() == 4326


def test_evaluate_scores_a_classifier_with_intervals(
    archive: Path, classifier: Path, tmp_path: Path
) -> None:
    words = ["evaluate", "--model", classifier, "--method", "finetuned"]
    data = ["--data.root", archive, "--data.offset", "0", "--resamples", "50"]
    assert main([str(w) for w in (*words, *data, "--output", tmp_path)]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    interval = found["intervals"]["accuracy"]
    assert interval["low"] <= found["test"]["accuracy"] <= interval["high"]
    assert (tmp_path / "confusion.png").is_file()
    assert (tmp_path / "report.html").is_file()


def test_images_that_were_trained_on_are_counted_and_told(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = save_model(tmp_path / "start", tiny_model(), tiny_contract())
    model, data = tmp_path / "model", ["--data.root", archive, "--data.offset", "0"]
    words = ["finetune", "classification", "--model", start, "--output", model, *data]
    words += ["--trainer.epochs", 1, "--trainer.batch_size", 6, "--trainer.workers", 0]
    words += ["--optimizer.warmup_epochs", 0.5, "--data.split_seed", 5]
    assert main([str(word) for word in words]) == 0
    assert "trained on" not in caplog.text

    def evaluate(name: str, *more: object) -> dict[str, Any]:
        caplog.clear()
        output = tmp_path / name
        words = ["evaluate", "--model", model, *data, "--output", output, *more]
        assert main([str(word) for word in words]) == 0
        found: dict[str, Any] = json.loads((output / "metrics.json").read_text())
        return found

    tuned = ("--method", "finetuned", "--resamples", 10)
    own = evaluate("own", *tuned)
    assert own["seen_in_training"] == {"train": 0, "val": 0}
    trained = json.loads((model / "metrics.json").read_text())
    assert own["test"] == trained["test"]
    assert "trained on" not in caplog.text
    for more in (tuned, ("--method", "knn", "--k", 3)):
        other = evaluate(f"other {more[1]}", *more, "--data.split_seed", 0)
        seen = other["seen_in_training"]
        assert seen["train"] > 0
        images = other["images"] if more is tuned else other["images"]["test"]
        line = f"{seen['train']} of the {images} scored images were trained on"
        assert line in caplog.text
    # What starts from it has seen what it has seen.
    words = ["finetune", "classification", "--model", model, *data]
    words += ["--trainer.epochs", 1, "--trainer.batch_size", 6, "--trainer.workers", 0]
    words += ["--optimizer.warmup_epochs", 0.5, "--output", tmp_path / "next"]
    caplog.clear()
    assert main([str(word) for word in words]) == 0
    found = json.loads((tmp_path / "next" / "metrics.json").read_text())
    assert found["seen_in_training"] == seen
    assert "scored images were trained on" in caplog.text


def test_models_that_do_not_say_what_they_saw_are_told(
    archive: Path, classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["evaluate", "--model", classifier, "--method", "finetuned"]
    data = ["--data.root", archive, "--data.offset", "0", "--resamples", "10"]
    assert main([str(w) for w in (*words, *data, "--output", tmp_path)]) == 0
    assert "does not say which images it was trained on" in caplog.text
    assert "cannot be told" in (tmp_path / "report.html").read_text()


def test_weights_of_8_bits_predict_nearly_the_same(
    archive: Path, classifier: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchao", reason="spectralgpt[quantize]")
    rows = []
    for quantize in ("none", "int8"):
        output = tmp_path / quantize
        assert predict(classifier, output, archive, "--quantize", quantize) == 0
        rows.append(read(output / "predictions.csv"))
    shares = [
        np.array([[float(row[f"p({name})"]) for name in CLASSES] for row in table])
        for table in rows
    ]
    assert 0 < np.abs(shares[0] - shares[1]).max() < 0.02
    words = ["embed", "--model", classifier, archive, "--offset", "0"]
    words += ["--quantize", "int8"]
    assert main([str(w) for w in (*words, "--output", tmp_path / "embedded")]) == 0
    words = ["evaluate", "--model", classifier, "--data.root", archive]
    words += ["--data.offset", "0", "--quantize", "int8", "--method", "knn", "--k", 3]
    assert main([str(w) for w in (*words, "--output", tmp_path / "scored")]) == 0


def test_evaluate_refuses_classes_the_model_does_not_know(
    archive: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chip(tmp_path / "data" / "desert" / "a.tif")
    words = ["evaluate", "--model", classifier, "--method", "finetuned"]
    data = ["--data.root", tmp_path / "data", "--data.offset", "0"]
    assert main([str(w) for w in (*words, *data, "--output", tmp_path / "out")]) == 1
    assert "unknown classes (desert)" in capsys.readouterr().err


def test_evaluate_compares_features_by_a_probe(
    archive: Path, classifier: Path, tmp_path: Path
) -> None:
    words = ["evaluate", "--model", classifier, "--method", "linear-probe"]
    data = ["--data.root", archive, "--data.offset", "0", "--seeds", "2"]
    assert main([str(w) for w in (*words, *data, "--output", tmp_path)]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert len(found["features"]["this model"]["accuracy"]["values"]) == 2
    assert read(tmp_path / "table.csv")[0]["features"] == "this model"


@pytest.mark.slow
def test_finetune_from_a_size_then_predict(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["finetune", "classification", "--model", "tiny", "--sensor", SENSOR]
    words += ["--exclude_bands", "[B10]", "--image_size", "32"]
    words += ["--data.root", archive, "--data.offset", "0", "--output", run]
    words += ["--optimizer.warmup_epochs", "1", "--trainer.epochs", "2"]
    words += ["--trainer.batch_size", "6", "--trainer.workers", "0"]
    words += ["--trainer.accelerator", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    assert predict(run, tmp_path / "out", archive / "water") == 0
    assert len(read(tmp_path / "out" / "predictions.csv")) == 6


def test_finetune_without_a_sensor_says_what_to_set(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "classification", "--model", "tiny", "--data.root", archive]
    assert main([str(w) for w in (*words, "--output", tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "set sensor" in error[0]


@pytest.mark.parametrize("command", ["evaluate", "embed", "predict"])
def test_options_are_explained(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--model" in text
    assert "--output" in text
    assert "folder for what is made" in text
