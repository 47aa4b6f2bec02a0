"""Runs of other objectives than ours, from a configuration to a model in use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import ConfigError
from spectralgpt.models.heads import ClassificationModel, SegmentationModel
from spectralgpt.models.objective import Objective
from spectralgpt.training.pretrain_config import (
    MaskingConfig,
    ModelConfig,
    ReportConfig,
)
from spectralgpt.training.pretraining import pretrain
from tests.training import test_pretraining

SMALL = replace(
    test_pretraining.SMALL,
    model=ModelConfig(patch_size=4),
    data=replace(test_pretraining.SMALL.data, image_size=32),
    report=ReportConfig(images=1),
)
NARROW = {"embed_dim": 16, "depth": 1}
TOKENS = NARROW | {"vocab_size": 16}
VIT = NARROW | {"num_heads": 2}
SWIN = NARROW | {
    "encoder": "swin",
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 3,
}


def run(name: str, settings: dict[str, Any], output: Path) -> Path:
    changed = replace(SMALL, objective=name, settings=settings, masking=MaskingConfig())
    return pretrain(changed, output) / "checkpoints" / "model"


def check_use(folder: Path, again: Path) -> None:
    """Load, save, classify and map with a model, at other sizes as well."""
    loaded = load_model(folder)
    model = loaded.model
    assert isinstance(model, Objective)
    save_model(again, model, loaded.preprocessing)
    images = torch.rand(2, 12, 32, 32)
    kept = load_model(again).model
    assert isinstance(kept, Objective)
    with torch.no_grad():
        wanted = model.encoder(images)
        assert torch.equal(kept.encoder(images), wanted)
        other = load_model(folder, image_size=48).model
        assert isinstance(other, Objective)
        for side in (32, 48):
            seen = torch.rand(2, 12, side, side)
            assert ClassificationModel(other.encoder, 3)(seen).shape == (2, 3)
            maps = SegmentationModel(other.encoder, 3, head_channels=64)
            assert maps(seen).shape == (2, 3, side, side)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simmim", {"mask_patch_size": 8, **VIT}),
        ("simmim", {"mask_patch_size": 8, **SWIN}),
        ("ringmo", {"mask_patch_size": 8, **VIT}),
        ("ringmo", {"mask_patch_size": 8, "use_lbp": True, **SWIN}),
        ("tokenizer", TOKENS),
        ("moco", {"version": "v2", "queue_size": 8}),
        ("moco", {"hidden_dim": 32}),
        ("simclr", {}),
    ],
)
def test_an_objective_trains_and_its_encoder_is_used(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    check_use(run(name, settings, tmp_path / "run"), tmp_path / "again")


@pytest.mark.slow
def test_a_small_model_learns_the_features_of_a_larger_one(tmp_path: Path) -> None:
    larger = replace(SMALL, model=ModelConfig(size="tiny", embed_dim=24, depth=1))
    teacher = pretrain(larger, tmp_path / "teacher")
    narrow = ModelConfig(size="tiny", patch_size=4, embed_dim=12, depth=1)
    changed = replace(
        SMALL,
        objective="distill",
        teacher=str(teacher),
        model=narrow,
        masking=MaskingConfig(),
    )
    folder = pretrain(changed, tmp_path / "run") / "checkpoints" / "model"
    check_use(folder, tmp_path / "again")
    assert load_model(folder).encoder.embed_dim == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "teacher", "message"),
    [
        ("distill", None, "--teacher MODEL"),
        ("distill", "tiny", "tiny has random weights"),
        ("mae", "tiny", "learns from none"),
    ],
)
def test_a_teacher_that_is_missing_or_not_wanted_is_said(
    name: str, teacher: str | None, message: str, tmp_path: Path
) -> None:
    values = {"objective": name, "teacher": teacher, "masking": MaskingConfig()}
    with pytest.raises(ConfigError, match=message):
        pretrain(replace(SMALL, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_beit_learns_the_tokens_of_the_stage_before(tmp_path: Path) -> None:
    stages = (
        {"name": "tokens", "objective": "tokenizer", "settings": TOKENS},
        {"name": "beit", "objective": "beit", "settings": TOKENS | VIT},
    )
    folder = pretrain(replace(SMALL, stages=stages), tmp_path / "run")
    check_use(folder / "checkpoints" / "model", tmp_path / "again")


@pytest.mark.slow
def test_beit_without_tokens_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe pretrain_beit does both"):
        run("beit", {}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Killed(Callback):
    """Stop a run as a signal would, after a step."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_a_tokeniser_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    config = replace(
        SMALL,
        objective="tokenizer",
        settings=TOKENS,
        masking=MaskingConfig(),
        data=replace(SMALL.data, samples_per_epoch=16),
        trainer=replace(SMALL.trainer, checkpoint_every_steps=1),
    )
    whole = pretrain(config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(config, tmp_path / "parts", callbacks=[Killed()])
    parts = pretrain(config, tmp_path / "parts", resume=True)
    found, wanted = (
        load_model(folder / "checkpoints" / "model").model.state_dict()
        for folder in (parts, whole)
    )
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
