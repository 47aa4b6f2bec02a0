"""What is stated wrong of objectives, in settings, runs and checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spectralgpt import objectives
from spectralgpt.building import build_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.pretrain_config import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
    ReportConfig,
)
from spectralgpt.training.pretraining import pretrain
from tests import toy

SMALL: dict[str, Any] = {
    "image_size": 16,
    "num_bands": 4,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
}
WRONG = ("many", -1, 10**9, 10**400, [1], {}, [["a"]], float("nan"), "", True, None)


def refusal(config: dict[str, Any]) -> str | None:
    """Build without storage, as from checkpoints."""
    try:
        with torch.device("meta"):
            build_model(config)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", objectives.names())
def test_wrong_values_of_every_setting_are_taken_or_explained(name: str) -> None:
    known = objectives.settings_of(name)
    right = {each: value for each, value in SMALL.items() if each in known}
    if "decoder_embed_dim" in known:
        right |= {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    kind = "autoencoder" if name == objectives.OURS else name
    refused = 0
    for setting in known:
        for value in WRONG:
            message = refusal({"kind": kind, **right, setting: value})
            refused += message is not None
            assert message is None or ("\n" not in message and len(message) < 500)
    assert refused >= len(known) * 6


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("moco", {"version": "v2", "queue_size": "many"}, "'queue_size' must be a who"),
        ("satmae", {"groups": "B02"}, "'groups' must be a list"),
        ("mae", {"decoder_depth": 10**9}, "decoder_depth is 1000000000; it must be at"),
        ("beit", {"layer_scale": -1.0}, "layer_scale is -1.0; it must be at least 0"),
        ("beit", {"tokenizer": "mine"}, "'tokenizer' must be keys with values"),
        ("tokenizer", {"vocab_size": 10**6}, "vocab_size is 1000000; it must be"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        objectives.build(name, **wrong)
    # A run finds it before it looks for images.
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(objective=name, settings=wrong)


def test_settings_that_only_a_whole_model_refuses_are_named() -> None:
    with pytest.raises(ConfigError, match="inside_ratio is 2; it must be above 0"):
        objectives.build("ringmo", inside_ratio=2)
    with pytest.raises(ConfigError, match="tokenizer: unknown key 'vocab'"):
        objectives.build("beit", tokenizer={"vocab": 3})
    with pytest.raises(ConfigError, match="max_mask_patches is 5, but the smallest"):
        objectives.build("beit", min_mask_patches=6, max_mask_patches=5)
    for name in ("simmim", "ringmo"):
        with pytest.raises(ConfigError, match="window_size is 3, but encoder 'vit'"):
            objectives.build(name, **SMALL, window_size=3)
        with pytest.raises(
            ConfigError, match=r"layer_scale is 0\.5, but encoder 'swin'"
        ):
            objectives.build(name, **SMALL, encoder="swin", layer_scale=0.5)


def test_masks_that_leave_nothing_to_see_or_to_learn_are_refused() -> None:
    images = torch.rand(2, 4, 16, 16)
    with pytest.raises(ConfigError, match=r"0\.8 hides all 4 units of 8 px"):
        objectives.build("simmim", **SMALL, mask_patch_size=8)(images, mask_ratio=0.8)
    # Without a size, an image of the usual one is not hidden whole.
    settings = SMALL | {"image_size": 32, "embed_dim": 128, "depth": 8, "num_heads": 4}
    for encoder in ("vit", "swin"):
        model = objectives.build("simmim", **settings, encoder=encoder)
        assert model.mask_patch_size == 4
    tokenizer = {n: v for n, v in SMALL.items() if n != "num_heads"}
    model = objectives.build(
        "beit", **SMALL, vocab_size=8, min_mask_patches=7,
        tokenizer=tokenizer | {"vocab_size": 8},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="hides 6 of 16 patches, fewer than the sm"):
        model(images)


def test_numbers_are_read_where_yaml_sees_text() -> None:
    assert objectives.build("simclr", **SMALL, temperature="1e-1").temperature == 0.1
    model = objectives.build("simmim", **SMALL, layer_scale=1)
    assert model.encoder.blocks[0].gamma_1.tolist() == [1.0] * 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "classifier", "encoder": {"kind": "swim"}}, "encoder 'swim' is none"),
        ({"kind": "classifier", "encoder": {"kind": "vit", "depth": "2"}}, "'?depth'?"),
        ({"kind": "classifier", "encoder": {"kind": "vit"}, "num_classes": "2"}, "num"),
        ({"kind": "classifier", "encoder": {"kind": "vit"}, "classes": 2}, "'classes'"),
        ({"kind": "swin", "bands_per_token": 3}, "unknown key 'bands_per_token'"),
    ],
)
def test_a_strange_checkpoint_is_explained(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_model(config)


def test_weights_of_other_settings_are_refused_by_what_differs() -> None:
    wide, narrow = (
        objectives.build("mae", **SMALL | {"embed_dim": width}) for width in (32, 64)
    )
    with pytest.raises(CheckpointError, match=r"run-7 .*: embed_dim 32 \(now 64\)"):
        narrow.start_from(wide, "run-7")


def test_a_run_neither_hides_nothing_nor_goes_on_with_another_setting(
    tmp_path: Path,
) -> None:
    data = DataConfig(
        root=toy.write_archive(tmp_path / "data", 2),
        sensor=toy.SENSOR,
        offset=0,
        image_size=16,
        samples_per_epoch=2,
    )
    config = PretrainConfig(
        "mae",
        settings={"decoder_depth": 1},
        model=ModelConfig(size="tiny", depth=1),
        data=data,
        optimizer=OptimizerConfig(warmup_epochs=0),
        trainer=TrainerConfig(epochs=1, batch_size=2, workers=0),
        report=ReportConfig(images=0),
    )
    with pytest.raises(ConfigError, match=r"masking\.ratio is 0, which hides"):
        replace(config, masking=MaskingConfig(ratio=0.0))
    pretrain(config, tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = replace(config, settings={"decoder_depth": 1, "loss_on": "all"})
    with pytest.raises(ConfigError, match=r"settings\.loss_on None \(now 'all'\)"):
        pretrain(other, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"settings\.decoder_depth 1 \(now None\)"):
        pretrain(replace(config, settings={}), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    pretrain(config, tmp_path / "run", resume=True)
