"""Masked autoencoders of the paper's family, held to what the published code gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectralgpt import objectives
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.objectives import Objective
from spectralgpt.tasks.pretraining import PretrainingTask, score_reconstructions

SYSTEMS = Path(__file__).resolve().parents[3] / "shared" / "golden" / "systems"
needs_golden = pytest.mark.skipif(
    not SYSTEMS.is_dir(), reason="needs ../shared/golden/systems"
)
SMALL = {
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "decoder_embed_dim": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 4,
}


def read(name: str) -> dict[str, Tensor]:
    found = np.load(SYSTEMS / f"{name}.npz")
    return {key: torch.from_numpy(found[key]) for key in found.files}


def assert_close(found: Tensor, wanted: Tensor, share: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    apart = float((found - wanted).detach().abs().max())
    assert apart <= share * float(wanted.detach().abs().max())


def assert_gradients(model: Objective, wanted: dict[str, Tensor]) -> None:
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = model.published_names(own)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, 1e-4)


@needs_golden
def test_mae_gives_what_the_published_code_gives() -> None:
    golden, state = read("mae3"), load_file(SYSTEMS / "mae3_state.safetensors")
    model = objectives.build("mae", num_bands=3, published=True, **SMALL)
    assert_close(model.encoder.positions.spatial, golden["pos_embed_init"][:, 1:])
    model.load_published_state_dict(state)
    out = model(golden["input"], 0.75, golden["noise"])
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["pred"])
    assert_close(out.latent, golden["latent"])
    assert torch.equal(out.mask, golden["mask"])
    out.loss.backward()
    assert_gradients(model, load_file(SYSTEMS / "mae3_grads.safetensors"))
    for name, value in model.published_names(model.state_dict()).items():
        assert torch.equal(value, state[name]), name
    normal = objectives.build("mae", num_bands=3, normalize_targets=True, **SMALL)
    normal.load_published_state_dict(state)
    out = normal(golden["input"], 0.75, golden["noise"])
    assert_close(out.loss, golden["loss_normpix"][0])


@needs_golden
@pytest.mark.parametrize("kind", ["indep", "spatial"])
def test_satmae_gives_what_the_published_code_gives(kind: str) -> None:
    golden = read(f"satmae_group_{kind}")
    state = load_file(SYSTEMS / "satmae_group_state.safetensors")
    settings = SMALL | {"num_bands": 10, "consistent_mask": kind == "spatial"}
    model = objectives.build("satmae", published=True, **settings)
    model.load_published_state_dict(state)
    out = model(golden["input"], 0.75, golden["noise"])
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["pred"])
    assert_close(out.latent, golden["latent"])
    assert torch.equal(out.mask, golden["mask"])
    out.loss.backward()
    assert_gradients(
        model, load_file(SYSTEMS / f"satmae_group_{kind}_grads.safetensors")
    )
    right = objectives.build("satmae", **settings)
    right.load_published_state_dict(state)
    found = right(golden["input"], 0.75, golden["noise"]).loss
    assert_close(found, golden["NOTPUBLISHED_loss_with_channels_in_place"][0])
    normal = objectives.build(
        "satmae", published=True, normalize_targets=True, **settings
    )
    normal.load_published_state_dict(state)
    found = normal(golden["input"], 0.75, golden["noise"]).loss
    assert_close(found, golden["loss_normpix"][0])


@pytest.mark.parametrize("name", ["mae", "satmae"])
@pytest.mark.parametrize("num_bands", [1, 5, 13])
def test_what_is_rebuilt_lies_where_it_belongs(name: str, num_bands: int) -> None:
    model = objectives.build(name, num_bands=num_bands, **SMALL).eval()
    images = torch.rand(2, num_bands, 32, 32)
    target = model._targets(images)
    assert torch.equal(model._rebuild(images, target), images)
    out = model(images, 0.5)
    assert out.rebuilt.shape == out.hidden.shape == images.shape
    share = model.count_targets(images, 0.5, torch.rand(2, model.noise_size(images)))
    assert float(out.mask.sum()) == float(share)


@pytest.mark.parametrize("name", ["mae", "satmae"])
def test_normal_targets_are_held_against_the_means_that_are_told(name: str) -> None:
    settings = SMALL | {"num_bands": 5, "normalize_targets": True}
    model = objectives.build(name, **settings).eval()
    images = torch.rand(2, 5, 32, 32)
    means = model.token_means(images)
    patch = images[1, :, 8:16, 24:32].mean()  # Of all bands of a place.
    torch.testing.assert_close(means[1, :, 8:16, 24:32], patch.expand(5, 8, 8))
    assert objectives.build(name, **SMALL, num_bands=5).token_means(images) is None
    valid = torch.ones_like(images, dtype=torch.bool)
    batch = {"images": images, "valid": valid, "seed": torch.tensor([1, 2])}
    scores = score_reconstructions(PretrainingTask(model), [batch])
    assert scores.keys() == {"model", "token_mean", "images"}
    assert 0 < scores["token_mean"] < 1


def test_invalid_pixels_count_in_no_loss() -> None:
    model = objectives.build("satmae", num_bands=6, **SMALL)
    images = torch.rand(2, 6, 32, 32)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, 2, :5] = False
    noise = torch.rand(2, model.noise_size(images))
    wanted = model(images, 0.99, noise, valid=valid)
    spoilt = images.clone()
    shown = wanted.mask.unflatten(-1, (4, 4))[0, 0, 0] == 0  # The row of the hole.
    hidden_hole = ~valid
    hidden_hole[0, 2, :5] &= ~shown.repeat_interleave(8)
    spoilt[hidden_hole] = 7.0
    found = model(spoilt, 0.99, noise, valid=valid)
    assert torch.equal(found.loss, wanted.loss)


def test_parts_of_a_batch_add_up_to_it() -> None:
    model = objectives.build("mae", num_bands=4, **SMALL)
    images = torch.rand(4, 4, 32, 32)
    noise = torch.rand(4, 16)
    counts = model.count_targets(images, 0.75, noise)
    parts = [
        model(images[at], 0.75, noise[at], counts=counts).loss
        for at in (slice(0, 1), slice(1, 4))
    ]
    assert_close(torch.stack(parts).sum(), model(images, 0.75, noise).loss)


def test_a_mistake_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mae, .*satmae"):
        objectives.build("moe")
    with pytest.raises(ConfigError, match="unknown key 'depht'; did you mean 'depth'"):
        objectives.build("mae", depht=3)
    with pytest.raises(ConfigError, match="each of the 4 bands"):
        objectives.build("satmae", **SMALL | {"num_bands": 4, "groups": [[0, 1], [1]]})
    model = objectives.build("mae", num_bands=3, **SMALL)
    with pytest.raises(CheckpointError, match=r"missing encoder\.class_token"):
        model.load_published_state_dict({"mask_token": torch.zeros(1, 1, 32)})
