"""Maps of numbers are learned, scored where there is one, and keep their unit."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.metrics import (
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from spectralgpt.checkpoints import LoadedModel, load_model, save_model, save_published
from spectralgpt.cli.main import main
from spectralgpt.data.dense import DenseDataConfig, DenseDataset, read_dense
from spectralgpt.data.masks import describe_target
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import CheckpointError, ConfigError, DataError
from spectralgpt.metrics import score_values, value_sums
from spectralgpt.models.heads import RegressionModel
from spectralgpt.rasters import Stated
from spectralgpt.tasks.dense import RegressionTask
from spectralgpt.training.finetuning import RegressionFinetuneConfig, finetune
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.scoring import evaluate
from spectralgpt.training.study import StudyConfig, _planned_runs, _resolve
from tests.tiny import tiny_contract, tiny_encoder
from tests.toy import BANDS, SENSOR, write_chip

SIZE, PLACES, NODATA, DAY = 32, 10, -9999.0, "20200813"
TARGET: dict[str, Any] = {"name": "canopy height", "unit": "m"}


def write_fields(root: Path, nodata: float = NODATA) -> Path:
    """Images in which a linear function of the red band is the height, in decimetres.

    Masks state a scale of 0.1; their first four rows have no number.
    """
    rng = np.random.default_rng(0)
    for number in range(PLACES):
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE
        a, b, c = rng.uniform(2, 6, 3)
        field = (np.sin(a * x + c) + np.cos(b * y)) / 4 + 0.5
        red = np.rint(500 + 2500 * field).astype(np.uint16)
        # Both ends occur in each image, so that scaling by extremes keeps levels.
        red[0, :2] = 500, 3000
        pixels = dict.fromkeys(BANDS, np.full_like(red, 1000)) | {"B04": red}
        for name in set(BANDS) - {"B04"}:
            pixels[name] = rng.integers(500, 3000, red.shape).astype(np.uint16)
        origin = (500_000.0 + 20_000.0 * number, 4_600_000.0)
        image = write_chip(root / f"images/p{number}_{DAY}.tif", pixels, origin=origin)
        height = (red.astype(np.float32) / 100).round()
        height[:4] = nodata
        path = root / f"masks/p{number}_{DAY}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(image) as file:
            profile = {**file.profile, "count": 1, "dtype": "float32"}
        with rasterio.open(path, "w", **profile | {"nodata": nodata}) as file:
            file.write(height, 1)
            file.scales = (0.1,)
    return root


def described(root: Path, **target: Any) -> DenseDataConfig:
    return DenseDataConfig(
        root=str(root),
        task="regression",
        offset=0.0,
        target=TARGET | target,
        fractions=Fractions(0.6, 0.2, 0.2),
    )


def read(data: DenseDataConfig) -> SampleSet:
    return read_dense(data, assumed=Stated(sensor=SENSOR))


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("fields"))


def config(
    fields: Path, model: Path, epochs: int = 1, **changes: Any
) -> RegressionFinetuneConfig:
    base = RegressionFinetuneConfig(
        model=str(model),
        data=described(fields),
        head="linear",
        pixel_detail=True,
        optimizer=OptimizerConfig(base_lr=0.5, warmup_epochs=1, beta2=0.95),
        trainer=TrainerConfig(
            epochs=epochs, batch_size=3, accelerator="cpu", workers=0
        ),
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def run(
    fields: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return finetune(config(fields, pretrained, epochs=40), folder)


def test_a_planted_field_is_learned_and_said_in_its_unit(run: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())
    assert found["task"] == "regression"
    assert (found["target"], found["unit"]) == ("canopy height", "m")
    mean = found["floors"]["mean of training"]["scores"]
    assert found["test"]["r2"] > 0.8
    assert found["test"]["rmse"] < mean["rmse"] / 2
    assert mean["r2"] <= 0
    assert found["floors"]["random forest on pixels"]["scores"]["r2"] > 0.9
    assert found["floors"]["ridge on pixels"]["scores"]["r2"] > 0.9
    interval = found["intervals"]["rmse"]
    assert interval["low"] <= found["test"]["rmse"] <= interval["high"]
    assert found["chosen"]["metric"] == "val_rmse"
    page = (run / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "true canopy height (m)" in page
    table = (run / "table.csv").read_text()
    assert table.startswith("least,below,pixels,rmse,bias")


def test_the_unit_is_stored_and_another_one_is_refused(
    run: Path, fields: Path, tmp_path: Path
) -> None:
    loaded = load_model(run)
    assert isinstance(loaded.model, RegressionModel)
    assert loaded.unit == "m"
    assert loaded.classes("it", maps=True) == (("canopy height",), "regression")
    train = describe_target(read(described(fields)).select("train"))
    assert float(loaded.model.target_mean) == pytest.approx(train["mean"])
    assert float(loaded.model.target_std) == pytest.approx(train["std"])
    assert 0.5 < train["mean"] < 3.0  # m, not the masks' decimetres.
    other = read(described(fields, unit="dm", scale=1.0)).select("test")
    with pytest.raises(DataError, match=r"is in dm.*canopy height in m"):
        evaluate(loaded, "it", other, tmp_path / "scores")
    other_name = described(fields, name="biomass")
    with pytest.raises(DataError, match="measures biomass, the model canopy height"):
        read_dense(other_name, ("canopy height",), Stated(sensor=SENSOR))
    with pytest.raises(CheckpointError, match="no published format"):
        save_published(tmp_path / "x.pth", loaded.model)


def test_pixels_without_a_number_count_nowhere(
    run: Path, fields: Path, tmp_path: Path
) -> None:
    scores = json.loads((run / "metrics.json").read_text())["test"]
    other = write_fields(tmp_path / "other", nodata=31_000.0)
    test = read(described(other)).select("test")
    again = evaluate(load_model(run), "it", test, tmp_path / "scores")
    assert again.summary == pytest.approx(scores)
    assert sum(row["pixels"] for row in again.per_range) == 2 * SIZE * (SIZE - 4)
    targets = [item["target"] for item in DenseDataset(test, tiny_contract())]
    assert all(target[:4].isnan().all() for target in targets)
    assert all(target[4:].isfinite().all() for target in targets)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_the_loss_is_that_of_standardised_numbers(loss: Any) -> None:
    model = RegressionModel(tiny_encoder(), 1, "linear").eval()
    model.target_mean.fill_(20.0)
    model.target_std.fill_(5.0)
    images = torch.rand(2, 12, 32, 32)
    targets = 20 + 5 * torch.randn(2, 32, 32)
    targets[0, :5] = torch.nan
    task = RegressionTask(model, "height", loss)
    batch = {"image": images, "target": targets, "seed": torch.zeros(2, dtype=int)}
    error = ((model(images)[:, 0] - targets) / 5)[targets.isfinite()]
    wanted = {
        "mse": error.square(),
        "l1": error.abs(),
        "huber": torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5),
    }[loss].mean()
    torch.testing.assert_close(task.loss(batch)["loss"], wanted)


def test_scores_are_those_of_scikit_learn_over_all_pixels() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(5000, 3, (7, 40))
    found = truth + rng.normal(0.5, 1, truth.shape)
    holed = truth.copy()
    holed[2, 5:] = np.nan
    known = np.isfinite(holed)
    edges = (4998.0, 5001.0)
    sums = sum(
        value_sums(torch.from_numpy(a), torch.from_numpy(b), edges, 4990.0)
        for a, b in zip(found, holed, strict=True)
    )
    scores = score_values(sums, edges)
    pair = truth[known], found[known]
    assert scores.summary == pytest.approx(
        {
            "rmse": root_mean_squared_error(*pair),
            "mae": mean_absolute_error(*pair),
            "r2": r2_score(*pair),
            "bias": float((pair[1] - pair[0]).mean()),
        }
    )
    middle = (pair[0] >= 4998) & (pair[0] < 5001)
    assert scores.per_range[1]["pixels"] == middle.sum()
    assert scores.per_range[1]["rmse"] == pytest.approx(
        root_mean_squared_error(pair[0][middle], pair[1][middle])
    )
    same = value_sums(torch.ones(3), torch.full((3,), 7.0))
    assert "r2" not in score_values(same).summary
    with pytest.raises(DataError, match="no pixel with a number"):
        score_values(value_sums(torch.ones(3), torch.full((3,), torch.nan)))


def test_a_map_is_what_the_model_gives_its_windows(
    run: Path, fields: Path, tmp_path: Path
) -> None:
    image = fields / f"images/p0_{DAY}.tif"
    words = ["predict", str(image), "--model", str(run), "--offset", "0"]
    main([*words, "--output", str(tmp_path / "maps")])
    loaded = load_model(run)
    dense = read(described(fields))
    dense = replace(
        dense,
        samples=tuple(s for s in dense.samples if s.item.name.endswith(image.name)),
    )
    assert loaded.preprocessing is not None
    (item,) = DenseDataset(dense, loaded.preprocessing)
    with rasterio.open(tmp_path / "maps" / image.name) as file:
        numbers = file.read(1)
        assert file.dtypes == ("float32",)
        assert np.isnan(file.nodata)
        assert (file.descriptions, file.units) == (("canopy height",), ("m",))
        tags = file.tags()
        assert (tags["TARGET"], tags["TARGET_UNIT"]) == ("canopy height", "m")
    with torch.inference_mode():
        wanted = loaded.model(item["image"][None])[0, 0].numpy()
    np.testing.assert_allclose(numbers, wanted, rtol=1e-4, atol=1e-4)
    row = (tmp_path / "maps/maps.csv").read_text().splitlines()[1].split(",")
    assert row[2:5] == ["canopy height", "m", str(SIZE * SIZE)]
    assert float(row[6]) == pytest.approx(float(wanted.mean()), rel=1e-4)
    made = tmp_path / f"maps/p0_{DAY}.png"
    assert made.stat().st_size > 10_000
    item = json.loads(made.with_suffix(".json").read_text())
    bands = item["assets"]["numbers"]
    assert bands["bands"][0]["unit"] == "m"


def test_classes_alone_have_probabilities_and_outlines(
    run: Path, fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(fields / "images"), "--model", str(run), "--offset", "0"]
    assert main([*words, "--polygons", "--output", str(tmp_path / "maps")]) == 1
    assert "--polygons is for classes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    fields: Path, pretrained: Path, tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    settings = config(fields, pretrained, epochs=3, loss="huber", floors=False)
    whole = finetune(settings, tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        finetune(settings, tmp_path / "parts", callbacks=[Stop()])
    parts = finetune(settings, tmp_path / "parts", resume=True)
    one, other = (load_model(each).model.state_dict() for each in (whole, parts))
    assert all(other[name].equal(value) for name, value in one.items())


def test_a_model_that_does_not_say_its_unit_is_refused(tmp_path: Path) -> None:
    model = RegressionModel(tiny_encoder(), 1, "linear")
    extra = {"task": "regression", "class_names": ["x"], "target": {"edges": [1.0]}}
    folder = save_model(tmp_path / "model", model, tiny_contract(), extra)
    with pytest.raises(CheckpointError, match="does not say what its numbers are"):
        load_model(folder)
    assert LoadedModel(model, None, {}).unit is None
    with pytest.raises(ConfigError, match="num_classes is 2: maps need 1"):
        RegressionModel(tiny_encoder())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "say what the masks' numbers are"),
        ({"target": {"name": "x"}}, "key 'unit' is missing"),
        ({"target": TARGET | {"rnge": [0, 1]}}, "did you mean 'range'"),
        ({"target": TARGET | {"range": [1, 1]}}, "range 1 to 1 is empty"),
        ({"target": TARGET | {"unit": " "}}, "needs a name and a unit"),
        ({"classes": {"trees": 1}}, "data.classes is for classes"),
        ({"task": "segmentation"}, "and data.target for numbers"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(
    fields: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(described(fields), **changes)


def test_a_share_has_the_unit_1_however_it_was_read(fields: Path) -> None:
    # As the command line gives what a file states in quotes.
    assert described(fields, unit=1).measured == described(fields, unit="1").measured


def change_mask(root: Path, value: float, **changes: Any) -> Path:
    """Write one number into a mask of the fields; returns it."""
    path = write_fields(root) / f"masks/p3_{DAY}.tif"
    with rasterio.open(path) as file:
        profile, numbers = {**file.profile, **changes}, file.read(1)
    numbers[10, 10] = value
    with rasterio.open(path, "w", **profile) as file:
        file.write(numbers.astype(profile["dtype"]), 1)
    return path


def test_a_number_out_of_range_is_named_with_its_file(tmp_path: Path) -> None:
    change_mask(tmp_path, 900.0, nodata=NODATA)
    with pytest.raises(DataError, match=r"p3_\d+.tif holds 90 m \(1 px\), outside"):
        read(described(tmp_path, range=[0.0, 60.0], scale=0.1))


def test_what_looks_like_nodata_is_asked_about(tmp_path: Path) -> None:
    change_mask(tmp_path, 5.0, nodata=None)
    with pytest.raises(
        DataError, match=r"p3_\d+.tif holds -9999.*state data.target.nod"
    ):
        read(described(tmp_path))
    dense = read(described(tmp_path, nodata=NODATA, scale=0.1))
    assert describe_target(dense.select("train"))["least"] > 0


def test_a_study_compares_numbers_too(fields: Path, pretrained: Path) -> None:
    settings = asdict(config(fields, pretrained, epochs=8))
    study = StudyConfig("regression", settings, {"own": {}}, seeds=(0,))
    (((start, _, planned)),) = _planned_runs(study).values()
    assert planned["floors"]
    assert isinstance(_resolve("regression", start, planned), RegressionFinetuneConfig)
    with pytest.raises(ConfigError, match="has a forest among its floors"):
        replace(study, starts={"forest": {"method": "pixel-forest"}})


def test_masks_of_classes_are_refused(tmp_path: Path) -> None:
    path = change_mask(tmp_path, 2.0, dtype="int16", nodata=None)
    with rasterio.open(path, "r+") as file:
        file.update_tags(CLASS_0="water", CLASS_1="trees")
    with pytest.raises(DataError, match=r"codes of classes \(water, trees\)"):
        read(described(tmp_path))


def test_a_few_whole_numbers_may_be_codes_of_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fields(tmp_path)
    for number, path in enumerate(sorted((tmp_path / "masks").iterdir())):
        with rasterio.open(path, "r+") as file:
            file.scales = (1.0,)
            file.write(np.full((1, SIZE, SIZE), number % 3, np.float32))
    describe_target(read(described(tmp_path)))
    assert "whole numbers only (0, 1, 2): if these are codes of classes" in caplog.text
    caplog.clear()
    describe_target(read(described(tmp_path, scale=0.3)))
    assert "codes of classes" not in caplog.text


def test_numbers_that_never_change_teach_nothing(
    tmp_path: Path, pretrained: Path
) -> None:
    root = write_fields(tmp_path / "same")
    for path in (root / "masks").iterdir():
        with rasterio.open(path, "r+") as file:
            file.write(np.full((1, SIZE, SIZE), 3, np.float32))
    wanted = config(root, pretrained, epochs=2)
    with pytest.raises(DataError, match=r"all numbers of split train are 0.3 m"):
        finetune(wanted, tmp_path / "run")
    for path in (root / "masks").iterdir():
        with rasterio.open(path, "r+") as file:
            file.write(np.full((1, SIZE, SIZE), NODATA, np.float32))
    with pytest.raises(DataError, match="has no pixel with a number"):
        finetune(wanted, tmp_path / "run")


def test_a_check_tells_range_and_share_without_a_number(
    fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "heights.yaml"
    file.write_text(
        f"root: {fields}\ntask: regression\noffset: 0.0\nsensor: {SENSOR}\n"
        "target: {name: canopy height, unit: m}\n"
    )
    assert main(["data", "check", str(file), "--output", str(tmp_path / "out")]) == 0
    notes = json.loads((tmp_path / "out/check.json").read_text())["notes"]
    assert [note.split(":")[0] for note in notes] == [
        f"canopy height (m) in {split}" for split in ("test", "train", "val")
    ]
    assert "12.5% of 6,144 pixels have no number" in notes[1]
    assert "note: canopy height (m) in train: mean 1." in capsys.readouterr().out
    command = ["data", "check", str(file), "--limit", "1", "--overwrite"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    notes = json.loads((tmp_path / "out/check.json").read_text())["notes"]
    assert all("of 1,024 pixels have no number" in note for note in notes)
    train = describe_target(read(described(fields)).select("train"))
    assert train["labelled"] == pytest.approx(1 - 4 / SIZE)
    assert 0.4 < train["least"] < train["p50"] < train["most"] <= 3.0
