"""Maps are learned, scored by place, and saved as plain models."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from spectralgpt.building import has_adapters
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.config import read_config
from spectralgpt.data.dense import read_dense
from spectralgpt.errors import CheckpointError, ConfigError, DataError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, SegmentationModel
from spectralgpt.rasters import Stated, describe_raster
from spectralgpt.scenes.maps import build_mapper, map_image
from spectralgpt.training import finetuning
from spectralgpt.training.finetuning import DenseFinetuneConfig, finetune
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.scoring import evaluate
from tests.dense_places import places_config, write_places
from tests.tiny import tiny_contract, tiny_encoder
from tests.toy import BANDS, SENSOR, write_chip

TRAINER = TrainerConfig(epochs=1, batch_size=3, accelerator="cpu", workers=0)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("places"))


def config(
    places: Path, model: Path | str, task: str = "segmentation", **changes: object
) -> DenseFinetuneConfig:
    base = DenseFinetuneConfig(
        model=str(model),
        data=places_config(places, task),
        head="linear",
        optimizer=OptimizerConfig(base_lr=0.1, warmup_epochs=0.5, beta2=0.999),
        trainer=TRAINER,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_a_run_writes_scores_maps_and_a_model_that_loads(
    places: Path, pretrained: Path, tmp_path: Path, task: str
) -> None:
    run = finetune(config(places, pretrained, task), tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())
    assert found["task"] == task
    assert found["places"] == 2
    assert {"f1", "iou", "precision", "recall", "mean_iou"} <= set(found["test"])
    interval = found["intervals"]["mean_iou"]
    assert interval["low"] <= found["test"]["mean_iou"] <= interval["high"]
    assert "damaged" in (run / "table.csv").read_text()
    page = (run / "report.html").read_text()
    assert page.count("data:image/png") == 2
    forest = found["floors"]["random forest on pixels"]
    assert forest["scores"].keys() == found["test"].keys()
    assert f"{forest['scores']['iou']:.4f}" in page
    without = finetune(
        config(places, pretrained, task, floors=False), tmp_path / "without"
    )
    assert json.loads((without / "metrics.json").read_text())["floors"] == {}
    loaded = load_model(run)
    kind = ChangeModel if task == "change" else SegmentationModel
    assert isinstance(loaded.model, kind)
    assert loaded.extra["class_names"] == ["intact", "damaged"]
    assert read_config(run / "config.yaml", DenseFinetuneConfig).data.task == task


def in_order(places: Path, pretrained: Path, *names: str) -> DenseFinetuneConfig:
    base = config(places, pretrained, "change")
    codes: dict[str, int | list[int]] = {"unchanged": 0, "changed": 1}
    data = replace(base.data, classes={name: codes[name] for name in names})
    return replace(base, data=data)


def test_the_order_of_the_classes_does_not_choose_what_scores_are_about(
    places: Path, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="spectralgpt")
    for names in (("unchanged", "changed"), ("changed", "unchanged")):
        caplog.clear()
        run = finetune(in_order(places, pretrained, *names), tmp_path / names[0])
        found = json.loads((run / "metrics.json").read_text())
        assert found["positive"] == found["chosen"]["class"] == "changed"
        assert load_model(run).extra["positive"] == "changed"
        assert "F1 of changed" in (run / "report.html").read_text()
        assert "val_f1 of changed" in caplog.text
        with (run / "table.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        own = {row["name"]: row for row in table}["changed"]
        assert {row["name"]: row["positive"] for row in table} == {
            "changed": "True",
            "unchanged": "False",
        }
        for score in ("f1", "iou", "precision", "recall"):
            assert found["test"][score] == pytest.approx(float(own[score]))


def test_validation_without_the_class_is_said_and_its_loss_chooses(
    tmp_path: Path, pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_places(tmp_path / "places")
    wanted = config(root, pretrained, trainer=replace(TRAINER, epochs=3))
    dense = read_dense(wanted.data, assumed=Stated(sensor="sentinel-2-l1c"))
    table = tmp_path / "splits.csv"
    splits = "".join(f"{chip.place},{chip.split}\n" for chip in dense.samples)
    table.write_text("place,split\n" + splits)
    for chip in dense.select("val").samples:
        with rasterio.open(chip.mask.path, "r+") as mask:
            mask.write(np.zeros((1, *mask.shape), np.uint8))
    data = replace(wanted.data, split_table=str(table), split="given")
    run = finetune(replace(wanted, data=data), tmp_path / "run")
    assert "no pixel of class 'damaged'" in caplog.text
    chosen = json.loads((run / "metrics.json").read_text())["chosen"]
    losses = [
        float(r["val_loss"]) for r in read_metrics(run / "metrics.csv") if r["val_loss"]
    ]
    assert chosen["metric"] == "val_loss"
    assert chosen["class"] is None
    assert chosen["value"] == pytest.approx(min(losses))
    assert chosen["epoch"] == losses.index(min(losses)) + 1
    assert "chosen by val_loss" in (run / "report.html").read_text()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_labels_is_found_before_the_first_step(
    tmp_path: Path, pretrained: Path, split: str
) -> None:
    root = write_places(tmp_path / "places")
    wanted = config(root, pretrained)
    data = replace(wanted.data, ignored=(7,))
    dense = read_dense(data, assumed=Stated(sensor="sentinel-2-l1c"))
    for chip in dense.select(split).samples:
        with rasterio.open(chip.mask.path, "r+") as mask:
            mask.write(np.full((1, *mask.shape), 7, np.uint8))
    splits = "".join(f"{chip.place},{chip.split}\n" for chip in dense.samples)
    (tmp_path / "splits.csv").write_text("place,split\n" + splits)
    data = replace(data, split_table=str(tmp_path / "splits.csv"), split="given")
    with pytest.raises(DataError, match=f"split {split} has no labelled pixel"):
        finetune(replace(wanted, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["frozen", "adapters"])
def test_modes_leave_the_encoders_own_weights_alone(
    places: Path, pretrained: Path, mode: str
) -> None:
    wanted = config(places, pretrained, mode=mode)
    model = finetuning._add_head(tiny_encoder(), 2, wanted)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in trained if name.startswith("encoder.")}
    assert {name for name in trained if name.startswith("head.")} == {
        name for name, _ in model.named_parameters() if name.startswith("head.")
    }
    assert has_adapters(model) == (mode == "adapters")
    assert all("lora_" in name for name in own)
    assert bool(own) == (mode == "adapters")


def test_adapters_are_merged_into_the_saved_model(
    places: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = finetune(config(places, pretrained, mode="adapters"), tmp_path / "adapted")
    model = load_model(run).model
    before = load_model(pretrained).model.state_dict()
    after = {k: v for k, v in model.state_dict().items() if k.startswith("encoder.")}
    assert not has_adapters(model)
    changed = {key for key, value in after.items() if not value.equal(before[key])}
    assert changed
    assert all(".attn.qkv." in key or ".attn.proj." in key for key in changed)


def test_windowed_attention_is_learned_saved_and_mapped_with(
    places: Path, tmp_path: Path
) -> None:
    contract = tiny_contract()
    torch.manual_seed(0)
    plain = SpectralEncoder(32, 12, 8, 3, 48, 3, 4, contract.wavelengths_nm)
    start = save_model(tmp_path / "plain", plain, contract)
    wanted = config(places, start, attention="rvsa", window_size=3, floors=False)
    first = finetune(wanted, tmp_path / "first")
    loaded = load_model(first)
    assert loaded.encoder.attention == "rvsa"
    assert loaded.encoder.config["window_size"] == 3
    weights = loaded.encoder.state_dict()
    learned = [name for name in weights if "sampling" in name or "rel_pos" in name]
    assert len(learned) == 2 * 8 + 2
    assert all(weights[name].any() for name in learned)

    saved = load_model(save_model(tmp_path / "again", loaded.model, contract))
    images = torch.rand(2, 12, 32, 32)
    with torch.no_grad():
        found = saved.model.eval()(images)
        assert torch.equal(found, loaded.model.eval()(images))
        moved = load_model(first, image_size=48).model.eval()
        assert moved(torch.rand(1, 12, 48, 48)).isfinite().all()

    # A further run keeps the windows, unless others are asked for.
    again = finetune(config(places, first, floors=False), tmp_path / "second")
    assert load_model(again).encoder.config["window_size"] == 3
    with pytest.raises(ConfigError, match="the encoder has windows of 3"):
        finetune(replace(wanted, model=str(first), window_size=5), tmp_path / "none")

    scene = write_chip(
        tmp_path / "scene.tif",
        {
            band: np.arange(70 * 50, dtype=np.uint16).reshape(70, 50) + 1
            for band in BANDS
        },
    )
    mapper, _ = build_mapper(load_model(first), str(first), flips=False)
    item = describe_raster(scene, SENSOR, Stated(offset=0.0))
    made = map_image(mapper, (item,), tmp_path / "map.tif")
    assert made.pixels.sum() == 70 * 50


def test_windows_need_the_mode_that_trains_them(places: Path, tmp_path: Path) -> None:
    for mode in ("frozen", "adapters"):
        with pytest.raises(ConfigError, match=f"mode {mode} would not train"):
            config(places, "tiny", attention="rvsa", mode=mode)
    with pytest.raises(ConfigError, match="window_size is for attention: rvsa"):
        config(places, "tiny", window_size=5)
    with pytest.raises(ConfigError, match="window_size is 0; it must be at least 1"):
        config(places, "tiny", attention="rvsa", window_size=0)


def test_a_model_for_one_task_is_refused_for_another(
    places: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = finetune(config(places, pretrained), tmp_path / "run")
    change = read_dense(
        config(places, pretrained, "change").data,
        assumed=Stated(sensor="sentinel-2-l1c"),
    )
    with pytest.raises(DataError, match="fine-tuned for segmentation"):
        evaluate(load_model(run), "the model", change, tmp_path / "scores")
    with pytest.raises(CheckpointError, match="makes no maps"):
        evaluate(load_model(pretrained), "the model", change, tmp_path / "scores")


def test_the_seed_draws_the_same_head(places: Path, pretrained: Path) -> None:
    wanted = config(places, pretrained)
    encoder = tiny_encoder()
    torch.manual_seed(5)
    one = finetuning._add_head(encoder, 2, wanted).state_dict()
    other = finetuning._add_head(encoder, 2, wanted).state_dict()
    assert all(other[name].equal(value) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "change"])
@pytest.mark.parametrize("head", ["linear", "fpn", "upernet"])
def test_what_came_up_is_found(
    places: Path, pretrained: Path, tmp_path: Path, task: str, head: str
) -> None:
    long = TrainerConfig(epochs=40, batch_size=3, accelerator="cpu", workers=0)
    wanted = config(places, pretrained, task, head=head, trainer=long)
    run = finetune(replace(wanted, test_flips=True), tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())
    assert found["test"]["iou"] > 0.6
