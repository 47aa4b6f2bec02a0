import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.config import read_config
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import CheckpointError, ConfigError, DataError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.rasters import Stated
from spectralgpt.recipes import find_recipe
from spectralgpt.tasks.classification import RegularizationConfig
from spectralgpt.training import finetuning
from spectralgpt.training.comparison import (
    PRETRAINED,
    STATISTICS,
    compare_features,
)
from spectralgpt.training.finetuning import FinetuneConfig, finetune
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.scoring import evaluate
from spectralgpt.training.transfer import load_start
from tests.tiny import tiny_contract, tiny_model
from tests.toy import CLASSES, SENSOR, write_archive

OPTIMIZER = OptimizerConfig(
    base_lr=0.05, warmup_epochs=1.0, beta2=0.999, layer_decay=0.75
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"), per_class=10)


def config(
    archive: Path, model: Path | str, epochs: int = 2, **changes: object
) -> FinetuneConfig:
    data = LabelledDataConfig(
        root=str(archive), offset=0.0, fractions=Fractions(0.6, 0.2, 0.2)
    )
    trainer = TrainerConfig(epochs=epochs, batch_size=6, accelerator="cpu", workers=0)
    base = FinetuneConfig(
        model=str(model), data=data, optimizer=OPTIMIZER, trainer=trainer
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_fine_tuning_learns_the_archive(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = finetune(config(archive, pretrained, epochs=10), tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())
    assert found["test"]["accuracy"] > 0.8
    assert found["images"] == 6
    assert found["intervals"]["accuracy"]["low"] <= found["test"]["accuracy"]
    rows = read_metrics(run / "metrics.csv")
    values = [float(row["val_accuracy"]) for row in rows if row.get("val_accuracy")]
    assert found["chosen"]["value"] == max(values)
    loaded = load_model(run)
    assert isinstance(loaded.model, ClassificationModel)
    assert loaded.extra["class_names"] == list(CLASSES)
    assert loaded.extra["chip_px"] == 32
    # What was stated of the images is kept beside what the encoder was trained with.
    kept, before = loaded.preprocessing, tiny_contract()
    facts = {"offset_rule": before.offset_rule, "stated": None, "seen": None}
    assert replace(kept, **facts) == replace(before, **facts)
    assert kept.stated is not None
    assert kept.stated.offset == 0
    assert (run / "report.html").stat().st_size > 10_000
    assert read_config(run / "config.yaml", FinetuneConfig).model == str(pretrained)


@pytest.mark.slow
def test_lightning_s_own_callbacks_follow_the_scores(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    best = ModelCheckpoint(monitor="val_accuracy", mode="max", save_top_k=2)
    stop = EarlyStopping("val_macro_f1", mode="max", patience=9)
    asked = config(archive, pretrained, epochs=3)
    asked = replace(asked, trainer=replace(asked.trainer, ema_decay=0.5, patience=9))
    run = finetune(asked, tmp_path / "run", callbacks=[stop, best])
    assert len(list((run / "checkpoints").glob("epoch=*.ckpt"))) == 2
    rows = read_metrics(run / "metrics.csv")
    scores = [float(row["val_accuracy"]) for row in rows if row.get("val_accuracy")]
    assert float(best.best_model_score or 0) == pytest.approx(max(scores))
    # The weights that were scored are those that were exported: the average's.
    val = read_labelled(asked.data, assumed=Stated(sensor=SENSOR)).select("val")
    found = evaluate(load_model(run), str(run), val, tmp_path / "val")
    assert found.summary["accuracy"] == pytest.approx(max(scores))


@pytest.mark.slow
def test_frozen_mode_changes_the_head_only(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = finetune(config(archive, pretrained, mode="frozen"), tmp_path / "run")
    loaded = load_model(run)
    for name, value in load_model(pretrained).encoder.state_dict().items():
        assert torch.equal(value, loaded.encoder.state_dict()[name])
    assert isinstance(loaded.model, ClassificationModel)
    assert loaded.model.head.weight.abs().max() > 1e-3


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer

    class Stop(Callback):
        def on_train_epoch_start(
            self, trainer: Trainer, pl_module: LightningModule
        ) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    mixed = RegularizationConfig(mixup=0.8, cutmix=1.0, erasing=0.25)
    settings = config(archive, pretrained, epochs=3, regularization=mixed)
    whole = finetune(settings, tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        finetune(settings, tmp_path / "parts", callbacks=[Stop()])
    parts = finetune(settings, tmp_path / "parts", resume=True)
    first, second = (
        [(row["step"], row["loss"]) for row in read_metrics(run / "metrics.csv")]
        for run in (whole, parts)
    )
    assert first == second
    ends = [load_model(run).model.state_dict() for run in (whole, parts)]
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name])


def few_labels(archive: Path, pretrained: Path, table: Path) -> FinetuneConfig:
    """Multi-label: six images to learn from, and one label each in val and test."""
    rows = ["image,labels,split"]
    for number in range(4):
        rows += [f"{kind}/{kind}_{number:03d}.tif,{kind},train" for kind in CLASSES]
    for split, first in (("val", 4), ("test", 7)):
        rows.append(f"field/field_{first:03d}.tif,field,{split}")
        rows += [f"water/water_{first + n:03d}.tif,,{split}" for n in (0, 1)]
    table.write_text("\n".join(rows) + "\n")
    base = config(archive, pretrained)
    changed = {"layout": "csv", "labels": str(table), "allow_unlisted": True}
    return replace(base, data=replace(base.data, split="given", **changed))  # type: ignore[arg-type]


def test_few_labels_are_scored_with_intervals(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    wanted = few_labels(archive, pretrained, archive / "few.csv")
    run = finetune(wanted, tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())
    assert found["images"] == 3
    assert set(found["test"]) == set(found["intervals"])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_any_label_is_found_before_the_first_step(
    archive: Path, pretrained: Path, tmp_path: Path, split: str
) -> None:
    table = archive / f"few_{split}.csv"
    wanted = few_labels(archive, pretrained, table)
    table.write_text(table.read_text().replace(f",field,{split}", f",,{split}"))
    with pytest.raises(DataError, match=f"no image of split {split} has any label"):
        finetune(wanted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverged_with_finite_losses_says_so(
    archive: Path,
    pretrained: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wild = OptimizerConfig(base_lr=1e3, warmup_epochs=0.0)
    run = finetune(config(archive, pretrained, 3, optimizer=wild), tmp_path / "run")
    assert "The training diverged: loss was 1." in caplog.text
    assert "The training diverged" in (run / "report.html").read_text()


def test_random_weights_need_a_sensor(archive: Path) -> None:
    with pytest.raises(ConfigError, match="set sensor"):
        load_start(config(archive, "tiny"))
    start = load_start(
        config(archive, "tiny", sensor=SENSOR, exclude_bands=("B10",), image_size=32)
    )
    assert start.preprocessing is not None
    assert start.preprocessing.band_names == tiny_contract().band_names
    assert start.encoder.image_size == 32


def test_a_checkpoint_moves_to_the_bands_of_another_sensor(
    archive: Path, pretrained: Path
) -> None:
    start = load_start(config(archive, pretrained, sensor="landsat-8-9-l2"))
    assert start.preprocessing is not None
    assert start.encoder.num_bands == len(start.preprocessing.bands)
    assert "B5" in " ".join(start.preprocessing.band_names)
    tokens = start.encoder(torch.rand(1, start.encoder.num_bands, 32, 32))
    assert torch.isfinite(tokens).all()


def test_weights_without_a_contract_are_refused(archive: Path, tmp_path: Path) -> None:
    bare = save_model(tmp_path / "bare", tiny_model())
    with pytest.raises(CheckpointError, match="does not say which bands"):
        load_start(config(archive, bare))


def test_head_is_put_on_a_copy(archive: Path, pretrained: Path) -> None:
    encoder: SpectralEncoder = tiny_model().encoder
    model = finetuning._add_head(encoder, 3, config(archive, pretrained, drop_path=0.3))
    assert model.encoder.drop_path == 0.3
    assert encoder.drop_path == 0.0
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name])
        assert value.data_ptr() != model.encoder.state_dict()[name].data_ptr()


def test_settings_that_contradict_each_other_are_refused(
    archive: Path, pretrained: Path
) -> None:
    trainer = TrainerConfig(epochs=2, batch_size=5, workers=0)
    mixing = RegularizationConfig(mixup=0.8)
    with pytest.raises(ConfigError, match=r"must be even \(found: 5\)"):
        config(archive, pretrained, trainer=trainer, regularization=mixing)
    with pytest.raises(ConfigError, match=r"warmup_epochs \(1\) must be below"):
        config(archive, pretrained, epochs=1)
    rarely = TrainerConfig(epochs=2, batch_size=6, validate_every_epochs=3)
    with pytest.raises(ConfigError, match=r"validate_every_epochs \(3\) is above"):
        config(archive, pretrained, trainer=rarely)
    with pytest.raises(ConfigError, match="need a sensor"):
        config(archive, pretrained, exclude_bands=("B10",))


def test_a_run_is_not_overwritten_by_accident(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("x: 1\n")
    with pytest.raises(ConfigError, match="--overwrite"):
        finetune(config(archive, pretrained), tmp_path)


@pytest.mark.parametrize(
    "name", ["eurosat", "bigearthnet", "finetune_small", "finetune_frozen"]
)
def test_recipes_fit_the_configuration(name: str, tmp_path: Path) -> None:
    values = yaml.safe_load(find_recipe(name).read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "x", **values}))
    read_config(path, FinetuneConfig)


def test_eurosat_recipe_has_the_published_numbers(tmp_path: Path) -> None:
    values = yaml.safe_load(find_recipe("eurosat").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "x", **values}))
    recipe = read_config(path, FinetuneConfig)
    assert recipe.trainer.batch_size * recipe.trainer.accumulate == 512
    assert (recipe.trainer.epochs, recipe.optimizer.warmup_epochs) == (150, 20)
    assert (recipe.optimizer.base_lr, recipe.optimizer.weight_decay) == (2e-4, 0.05)
    assert (recipe.optimizer.layer_decay, recipe.drop_path) == (0.75, 0.2)
    mixing = recipe.regularization
    assert (mixing.mixup, mixing.cutmix, mixing.erasing) == (0.8, 1.0, 0.25)
    assert (mixing.label_smoothing, recipe.image_size) == (0.1, 128)


@pytest.mark.slow
def test_comparison_probes_all_kinds_on_the_same_splits(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    data = config(archive, pretrained).data
    labelled = read_labelled(data, assumed=Stated(sensor=SENSOR), divided=False)
    found = compare_features(
        load_model(pretrained),
        labelled,
        data,
        tmp_path,
        "model",
        method="knn",
        k=3,
        seeds=2,
        baselines=True,
    )
    assert list(found) == [
        PRETRAINED,
        f"{PRETRAINED} + {STATISTICS}",
        STATISTICS,
        "random weights",
        "RCF gaussian",
        "RCF empirical",
    ]
    assert all(len(scores) == 2 for scores in found.values())
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["images"] == {"train": 18, "val": 6, "test": 6}
    assert written["features"][PRETRAINED]["accuracy"]["mean"] > 1 / 3


def test_labels_of_the_other_kind_or_other_classes_are_refused(
    archive: Path, pretrained: Path, tmp_path: Path
) -> None:
    loaded = load_model(pretrained)
    model = ClassificationModel(loaded.encoder, 3)
    extra = {"class_names": list(CLASSES), "task": "multi-label"}
    tuned = replace(loaded, model=model, extra=extra)
    labelled = read_labelled(
        config(archive, pretrained).data, assumed=Stated(sensor=SENSOR), divided=False
    )
    with pytest.raises(
        DataError, match=r"is for single-label of .* for multi-label of"
    ):
        evaluate(tuned, "m", labelled, tmp_path / "scores")
    others = {"class_names": ["a", "b", "c"], "task": "single-label"}
    with pytest.raises(DataError, match=r"but m was fine-tuned .* of a, b, c"):
        evaluate(replace(tuned, extra=others), "m", labelled, tmp_path / "scores")


def test_what_cannot_run_leaves_the_run_before_alone(
    archive: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="seed is -1; it must be at least 0"):
        config(archive, pretrained, seed=-1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (tmp_path / "config.yaml").write_text("of the run before")
    base = config(archive, pretrained)
    gpu = replace(base, trainer=replace(base.trainer, accelerator="gpu"))
    with pytest.raises(ConfigError, match="accelerator is 'gpu', and this machine has"):
        finetune(gpu, tmp_path, overwrite=True)
    assert (tmp_path / "config.yaml").read_text() == "of the run before"


def test_a_run_does_not_go_on_with_other_labels_or_pixels(
    pretrained: Path, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "data", per_class=10)
    settings = config(archive, pretrained, epochs=3)
    run = finetune(settings, tmp_path / "run")
    before = (run / "metrics.csv").read_bytes()
    finetune(settings, run, resume=True)
    field, water = archive / "field", archive / "water"
    for first, second in (
        (field / "field_001.tif", water / "water_002.tif"),
        (field / "field_001.tif", field / "field_002.tif"),
    ):
        own, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(own)
        with pytest.raises(CheckpointError, match="sample of images and labels"):
            finetune(settings, run, resume=True)
        assert (run / "metrics.csv").read_bytes() == before
        first.write_bytes(own)
        second.write_bytes(other)
    finetune(settings, run, resume=True)
