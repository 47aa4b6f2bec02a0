import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import (
    OptimizerConfig,
    build_optimizer,
    learning_rate_at,
)
from tests.tiny import rates_and_decays


def tiny_autoencoder() -> MaskedAutoencoder:
    return MaskedAutoencoder(
        image_size=16,
        num_bands=6,
        embed_dim=16,
        depth=2,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )


def test_schedule_matches_the_golden_points(shared: Path) -> None:
    settings = json.loads((shared / "golden/lr_schedule.json").read_text())
    for setting in settings:
        for epoch, expected in setting["points"]:
            found = learning_rate_at(
                epoch,
                lr=setting["lr"],
                min_lr=setting["min_lr"],
                warmup_epochs=setting["warmup"],
                epochs=setting["epochs"],
            )
            assert found == pytest.approx(expected, rel=1e-5, abs=0), (setting, epoch)


def test_published_effective_batch_gives_the_published_rate() -> None:
    assert OptimizerConfig(base_lr=2e-4).rate(16 * 32 * 8) == pytest.approx(3.2e-3)


def test_pretraining_decays_all_but_biases_and_norms() -> None:
    model = tiny_autoencoder()
    decay = {name: decay for name, (_, decay) in rates_and_decays(model, 0.05).items()}
    assert decay.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.0 if parameter.ndim == 1 else 0.05), name
    assert decay["encoder.positions.spatial"] == 0.05
    assert decay["decoder.mask_token"] == 0.05
    assert decay["encoder.embedding.bias"] == 0.0
    assert decay["encoder.norm.weight"] == 0.0


def published_to_ours(name: str) -> str:
    if name.startswith("head."):
        return name
    fixed = {
        "pos_embed": "positions.joint",
        "patch_embed.proj.weight": "embedding.weight",
        "patch_embed.proj.bias": "embedding.bias",
    }
    merged = re.sub(r"attn\.[qkv]\.", "attn.qkv.", fixed.get(name, name))
    return f"encoder.{merged}"


def test_layer_decay_matches_the_golden_table(shared: Path) -> None:
    golden = json.loads((shared / "golden/layer_decay_base128.json").read_text())
    with torch.device("meta"):
        encoder = SpectralEncoder(image_size=128, positions="joint")
        model = ClassificationModel(encoder, num_classes=10)
    found = rates_and_decays(model, golden["weight_decay"], golden["layer_decay"])
    expected = {
        published_to_ours(name): (row["lr_scale"], row["weight_decay"])
        for name, row in golden["params"].items()
    }
    assert found.keys() == expected.keys()
    for name, row in golden["params"].items():
        scale, decay = found[published_to_ours(name)]
        assert scale == pytest.approx(row["lr_scale"], rel=1e-5), name
        assert decay == row["weight_decay"], name


def test_separable_positions_get_the_rate_of_the_lowest_layer() -> None:
    encoder = SpectralEncoder(16, 6, embed_dim=16, depth=2, num_heads=2)
    model = ClassificationModel(encoder, num_classes=3)
    found = rates_and_decays(model, 0.05, 0.5)
    assert found["encoder.positions.spatial"] == (0.125, 0.0)
    assert found["encoder.positions.spectral"] == (0.125, 0.0)
    assert found["encoder.embedding.weight"] == (0.125, 0.05)
    assert found["encoder.blocks.1.mlp.fc1.weight"] == (0.5, 0.05)
    assert found["encoder.norm.weight"] == (1.0, 0.0)
    assert found["head.weight"] == (1.0, 0.05)


def test_rate_of_a_group_is_multiplied_by_its_scale() -> None:
    encoder = SpectralEncoder(16, 6, embed_dim=16, depth=2, num_heads=2)
    model = ClassificationModel(encoder, num_classes=3)
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.5))
    module = SimpleNamespace(_raw_optimizer=lambda: optimizer)
    TrainingModule.set_rate(module, 0.8)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {0.1, 0.2, 0.4, 0.8}
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


def test_fused_update_gives_the_weights_of_the_plain_one() -> None:
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(model, OptimizerConfig(), fused=fused)
        optimizer.param_groups[0]["lr"] = 0.1
        for step in range(1, 4):
            optimizer.zero_grad()
            model(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
        found.append(model.weight)
    torch.testing.assert_close(*found)


def test_frozen_parameters_are_not_optimized() -> None:
    model = tiny_autoencoder()
    model.encoder.requires_grad_(False)
    names = list(rates_and_decays(model, 0.05))
    assert names
    assert all(name.startswith("decoder.") for name in names)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_lr", -1.0),
        ("beta2", 1.0),
        ("layer_decay", 0.0),
        ("clip_grad_norm", 0.0),
        ("weight_decay", float("nan")),
    ],
)
def test_impossible_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{field} is"):
        OptimizerConfig(**{field: value})
