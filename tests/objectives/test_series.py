"""Masked autoencoders of series, and published names, held to what is known."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from spectralgpt import objectives
from spectralgpt.config import read_config
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.objectives.satmae import default_groups
from spectralgpt.recipes import find_recipe
from spectralgpt.training.pretrain_config import PretrainConfig
from tests.objectives.test_autoencoders import (
    SMALL,
    SYSTEMS,
    assert_close,
    needs_golden,
    read,
)

VIDEO = {
    **{"image_size": 40, "num_bands": 3, "patch_size": 8, "num_frames": 8},
    **{"embed_dim": 32, "depth": 2, "num_heads": 4, "t_patch": 2, "pred_t_dim": 4},
    **{"decoder_embed_dim": 24, "decoder_depth": 2, "decoder_num_heads": 3},
}
JOINT = VIDEO | {
    **{"image_size": 32, "pred_t_dim": 8, "sep_pos_embed": False},
    **{"class_token": False, "published": True},
}
DATED = {
    **{"image_size": 32, "num_bands": 3, "patch_size": 8, "mlp_ratio": 1},
    **{"embed_dim": 416, "depth": 1, "num_heads": 4, "temporal": True},
    **{"decoder_embed_dim": 224, "decoder_depth": 1, "decoder_num_heads": 4},
}


def shapes(name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads(
        (SYSTEMS / f"{name}_keys.json").read_text()
    )
    return found


def by_formula(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    state = {}
    for name, shape in shapes.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()))
        values = draw.standard_normal(shape).astype(np.float32) * np.float32(0.03)
        is_scale = len(shape) == 1 and name.endswith("weight")
        state[name] = torch.from_numpy(values + np.float32(is_scale))
    state["decoder_pred.weight"] *= 10
    return state


def tagged(tag: str, *shape: int) -> Tensor:
    draw = np.random.RandomState(zlib.crc32(tag.encode()))
    return torch.from_numpy(draw.random_sample(shape).astype(np.float32))


@needs_golden
def test_st_mae_gives_what_the_published_code_gives() -> None:
    golden, state = read("stmae"), load_file(SYSTEMS / "stmae_state.safetensors")
    model = objectives.build("st-mae", published=True, **VIDEO)
    assert not model.decoder_token.any()
    model.load_published_state_dict(state)
    assert model._predicted(4) == golden["frames_predicted"].tolist()
    out = model(golden["input"], 0.9, golden["noise"])
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["pred"])
    assert_close(out.latent, golden["latent"])
    assert torch.equal(out.mask, golden["mask"])
    out.loss.backward()
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = model.published_names(own)
    wanted = load_file(SYSTEMS / "stmae_grads.safetensors")
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if name.endswith("attn.k.bias"):  # Zero but for round-off.
            assert float(found[name].abs().max()) < 1e-8
        else:
            assert_close(found[name], gradient, 1e-4)
    for name, value in model.published_names(model.state_dict()).items():
        assert torch.equal(value, state[name]), name
    # Our own layout of series gives the same.
    ours = objectives.build("st-mae", normalize_targets=True, **VIDEO)
    ours.load_published_state_dict(state)
    out = ours(golden["input"].transpose(1, 2), 0.9, golden["noise"])
    assert_close(out.loss, golden["loss_normpix"][0])
    assert_close(out.latent, golden["latent"])


@needs_golden
def test_satmae_temporal_gives_what_the_published_code_gives() -> None:
    golden, state = read("satmae_temporal"), by_formula(shapes("satmae_temporal"))
    images = tagged("satmae_temporal/x", 2, 3, 3, 32, 32)
    given: dict[str, Any] = {"dates": golden["timestamps"]}
    model = objectives.build("satmae", published=True, **DATED)
    model.load_published_state_dict(state)
    out = model(images, 0.75, golden["noise"], **given)
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction[..., ::8], golden["pred_every8"])
    assert_close(out.latent[..., ::8], golden["latent_every8"])
    assert torch.equal(out.mask, golden["mask"])
    out.loss.backward()
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = model.published_names(own)
    assert_close(found["mask_token"], golden["grad_mask_token"], 1e-4)
    assert_close(found["cls_token"], golden["grad_cls_token"], 1e-4)
    assert_close(found["patch_embed.proj.bias"], golden["grad_patch_bias"], 1e-4)
    for name, value in model.published_names(model.state_dict()).items():
        assert torch.equal(value, state[name]), name
    settings = DATED | {"date_dim": 128, "decoder_date_dim": 64}
    normal = objectives.build("satmae", normalize_targets=True, **settings)
    normal.load_published_state_dict(state)
    out = normal(images, 0.75, golden["noise"], **given)
    assert_close(out.loss, golden["loss_normpix"][0])


def blocks(x: Tensor, state: Mapping[str, Tensor], name: str, heads: int) -> Tensor:
    """Run two blocks of the published names, written down once more."""
    width = x.shape[-1]

    def linear(x: Tensor, part: str) -> Tensor:
        return F.linear(x, state[f"{part}.weight"], state[f"{part}.bias"])

    def norm(x: Tensor, part: str) -> Tensor:
        scale, shift = state[f"{part}.weight"], state[f"{part}.bias"]
        return F.layer_norm(x, (width,), scale, shift, 1e-6)

    for at in (f"{name}.0", f"{name}.1"):
        normed = norm(x, f"{at}.norm1")
        parts = [
            linear(normed, f"{at}.attn.{p}").unflatten(-1, (heads, -1)) for p in "qkv"
        ]
        query, key, value = (part.transpose(1, 2) for part in parts)
        weights = query @ key.transpose(-1, -2) * (width // heads) ** -0.5
        mixed = (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{at}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1"))
        x = x + linear(hidden, f"{at}.mlp.fc2")
    return norm(x, "decoder_norm" if name.startswith("decoder") else "norm")


@needs_golden
def test_joint_positions_without_class_token_are_what_is_written_down() -> None:
    state = by_formula(shapes("stmae_joint"))
    model = objectives.build("st-mae", **JOINT)
    model.load_published_state_dict(state)
    images, noise = tagged("stmae_joint/x", 2, 3, 8, 32, 32), torch.rand(2, 64)
    out = model(images, 0.9, noise)
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = F.conv3d(images, kernel, bias, stride=(2, 8, 8)).flatten(2).transpose(1, 2)
    order = noise.argsort(dim=1)
    kept = order[:, :6, None]
    x = (x + state["pos_embed"]).gather(1, kept.expand(-1, -1, 32))
    latent = blocks(x, state, "blocks", 4)
    assert_close(out.latent, latent)
    known = F.linear(latent, state["decoder_embed.weight"], state["decoder_embed.bias"])
    x = state["mask_token"].repeat(2, 64, 1).scatter(1, kept.expand_as(known), known)
    x = blocks(x + state["decoder_pos_embed"], state, "decoder_blocks", 3)
    wanted = F.linear(x, state["decoder_pred.weight"], state["decoder_pred.bias"])
    assert_close(out.prediction, wanted)
    cut = images.reshape(2, 3, 4, 2, 4, 8, 4, 8)  # bands, times, dates, rows, columns
    target = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(2, 64, 384)
    hidden = torch.ones(2, 64).scatter(1, order[:, :6], 0.0)
    error = ((wanted - target) ** 2).mean(dim=-1)
    assert_close(out.loss, (error * hidden).sum() / hidden.sum())


@needs_golden
@pytest.mark.parametrize(
    ("keys", "name", "settings"),
    [
        ("mae_base16", "mae", {"image_size": 224, "num_bands": 3, "patch_size": 16}),
        ("satmae_group_base8_96", "satmae", {}),
        (
            "stmae_large16",
            "st-mae",
            {
                **{"image_size": 224, "num_bands": 3, "patch_size": 16},
                **{"embed_dim": 1024, "depth": 24, "num_heads": 16},
                **{"num_frames": 16, "t_patch": 2, "pred_t_dim": 8},
            },
        ),
    ],
)
def test_published_names_and_shapes_are_those_of_our_model(
    keys: str, name: str, settings: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = objectives.build(name, **settings)
        found = model.published_names(model.state_dict())
    wanted = shapes(keys)
    assert {each: list(value.shape) for each, value in found.items()} == wanted
    state = {each: torch.zeros(1).expand(shape) for each, shape in wanted.items()}
    model.load_published_state_dict(state)
    assert not any(value.is_meta for value in model.state_dict().values())
    state.pop("mask_token")
    with pytest.raises(CheckpointError, match="missing mask_token"):
        model.load_published_state_dict(state)


@needs_golden
@pytest.mark.parametrize(
    ("recipe", "keys", "num_bands"),
    [
        ("pretrain_st_mae", "stmae_large16", 3),
        ("pretrain_satmae", "satmae_group_base8_96", 10),
    ],
)
def test_recipes_build_the_published_sizes(
    recipe: str, keys: str, num_bands: int
) -> None:
    config = read_config(find_recipe(recipe), PretrainConfig)
    settings = config.objective_settings()
    settings["image_size"] = config.data.image_size
    if groups := settings.pop("groups", None):
        bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
        numbered = [[bands.index(band) for band in group] for group in groups]
        settings["groups"] = numbered
        assert tuple(map(tuple, numbered)) == default_groups(10)
    with torch.device("meta"):
        model = objectives.build(config.objective, num_bands=num_bands, **settings)
        found = model.published_names(model.state_dict())
    assert {each: list(value.shape) for each, value in found.items()} == shapes(keys)


def test_all_dates_or_some_are_rebuilt_where_they_belong() -> None:
    model = objectives.build("st-mae", **VIDEO).eval()
    images = torch.rand(2, 8, 3, 40, 40)
    rebuilt = model._rebuild(images, model._targets(images))
    shown = [0, 2, 4, 7]
    assert torch.equal(rebuilt[:, shown], images[:, shown])
    out = model(images, 0.5, noise := torch.rand(2, 100))
    assert out.rebuilt.shape == out.hidden.shape == images.shape
    hidden = out.mask.view(2, 4, 5, 5).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(out.hidden[:, shown, 1].float(), hidden)
    assert not out.hidden[:, [1, 3, 5, 6]].any()
    assert float(model.count_targets(images, 0.5, noise)) == float(out.mask.sum())
    whole = objectives.build("st-mae", **VIDEO | {"pred_t_dim": None}).eval()
    assert torch.equal(whole._rebuild(images, whole._targets(images)), images)


@pytest.mark.parametrize("joint", [False, True])
def test_fewer_dates_take_the_first_places_in_time(joint: bool) -> None:
    model = objectives.build("st-mae", **VIDEO | {"sep_pos_embed": not joint}).eval()
    images = torch.rand(2, 3, 3, 40, 40)
    filled = torch.cat([images, images[:, -1:]], dim=1)
    noise = torch.rand(2, 50)
    assert torch.equal(
        model(images, 0.5, noise).latent, model(filled, 0.5, noise).latent
    )
    positions = model.encoder.positions
    assert torch.equal(positions((2, 1, 5, 5)), positions((4, 1, 5, 5))[:, :50])
    assert model(images[:, 0], 0.5).rebuilt.shape == images[:, 0].shape
    with pytest.raises(ShapeError, match="5 places in time, the model learns 4"):
        model(torch.rand(1, 10, 3, 40, 40))


def test_invalid_dates_count_in_no_loss() -> None:
    model = objectives.build("st-mae", **VIDEO)
    images = torch.rand(2, 8, 3, 40, 40)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[:, 7] = False
    noise = torch.rand(2, 100)
    noise[:, 75:] += 1  # The last tubelets are hidden.
    wanted = model(images, 0.5, noise, valid=valid)
    spoilt = images.clone()
    spoilt[:, 7] = 9.0
    assert torch.equal(model(spoilt, 0.5, noise, valid=valid).loss, wanted.loss)
    assert float(model.count_targets(images, 0.5, noise, valid)) == 50


def test_dates_are_told_apart_by_days_and_by_parts() -> None:
    settings = SMALL | {"num_bands": 5, "temporal": True}
    model = objectives.build("satmae", **settings).eval()
    images, noise = torch.rand(2, 2, 5, 32, 32), torch.rand(2, 32)
    # Noon of 15 March 2019, 18:00 of 20 July 2021.
    days = torch.tensor([[17_970.5, 18_828.75]] * 2, dtype=torch.float64)
    parts = torch.tensor([[[17, 2, 12], [19, 6, 18]]] * 2)
    found = [model(images, 0.5, noise, dates=dates) for dates in (days, parts, None)]
    assert torch.equal(found[0].prediction, found[1].prediction)
    assert not torch.allclose(found[0].prediction, found[2].prediction)
    unknown = model(images, 0.5, noise, dates=torch.full((2, 2), torch.nan))
    assert torch.equal(unknown.prediction, found[2].prediction)
    with pytest.raises(ShapeError, match="for 2 dates of images"):
        model(images, 0.5, noise, dates=days[:, :1])


def test_a_consistent_mask_hides_the_same_places_at_all_dates() -> None:
    settings = SMALL | {"num_bands": 2, "temporal": True, "consistent_mask": True}
    images, noise = torch.rand(2, 3, 2, 32, 32), torch.rand(2, 16)
    mask = objectives.build("satmae", **settings)(images, 0.9, noise).mask.view(
        2, 3, 16
    )
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert mask.sum(dim=(1, 2)).tolist() == [45, 45]
    settings |= {"date_dim": 4, "decoder_date_dim": 4}
    model = objectives.build("satmae", published=True, **settings)
    # As published, 4 of 48 are shown: one of each date, and the next of the first.
    mask = model(images, 0.9, noise).mask.view(2, 3, 16)
    order = noise.argsort(dim=1)
    wanted = torch.ones(2, 3, 16).scatter(2, order[:, None, :1].expand(-1, 3, -1), 0.0)
    wanted[:, 0] = wanted[:, 0].scatter(1, order[:, 1:2], 0.0)
    assert torch.equal(mask, wanted)


def test_settings_that_exclude_each_other_are_named() -> None:
    with pytest.raises(ConfigError, match="groups is set, but temporal is true"):
        objectives.build("satmae", temporal=True, groups=[[0, 1]], num_bands=2)
    with pytest.raises(ConfigError, match="date_dim is set, but temporal is false"):
        objectives.build("satmae", date_dim=8)
    with pytest.raises(ConfigError, match="no multiple of t_patch 3"):
        objectives.build("st-mae", num_frames=4, t_patch=3)
    with pytest.raises(ConfigError, match="pred_t_dim 3 must be a multiple of the 2"):
        objectives.build("st-mae", num_frames=4, t_patch=2, pred_t_dim=3)
    model = objectives.build("satmae", **SMALL | {"num_bands": 2})
    with pytest.raises(ShapeError, match="satmae with temporal: true"):
        model(torch.rand(1, 2, 2, 32, 32), 0.5, torch.rand(1, 32))
