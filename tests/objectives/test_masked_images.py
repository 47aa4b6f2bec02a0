"""Masked image models, held to what the published code gives."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectralgpt import objectives
from spectralgpt.models.blocks import BlockStack
from spectralgpt.objectives.ringmo import draw_pimask, local_binary_pattern
from spectralgpt.objectives.simmim import draw_mask
from tests.objectives.test_autoencoders import (
    SYSTEMS,
    assert_close,
    assert_gradients,
    needs_golden,
    read,
)

VIT = {"image_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
SWIN = {
    "encoder": "swin",
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
}


@needs_golden
@pytest.mark.parametrize(("kind", "settings"), [("vit", VIT), ("swin", SWIN)])
def test_simmim_gives_what_the_published_code_gives(
    kind: str, settings: dict[str, object]
) -> None:
    golden = read(f"simmim_{kind}")
    state = load_file(SYSTEMS / f"simmim_{kind}_state.safetensors")
    model = objectives.build("simmim", num_bands=3, mask_patch_size=16, **settings)
    model.load_published_state_dict(state)
    out = model(golden["input"], mask=golden["mask"])
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["recon"])
    assert_close(out.latent, golden["encoded"])
    assert torch.equal(out.mask, golden["mask"].float())
    out.loss.backward()
    assert_gradients(model, load_file(SYSTEMS / f"simmim_{kind}_grads.safetensors"))
    for name, value in model.published_names(model.state_dict()).items():
        assert torch.equal(value, state[name]), name


@needs_golden
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("swin192", (192, 32, 4)), ("vit224", (224, 32, 16)), ("tiny", (64, 16, 4))],
)
def test_masks_are_drawn_as_published(name: str, sizes: tuple[int, int, int]) -> None:
    golden = read("simmim_masks")
    rng = np.random.RandomState(5)
    for wanted in golden[f"{name}_mask"]:
        assert np.array_equal(draw_mask(*sizes, rng=rng), wanted)


@needs_golden
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny64_p16", (64, 16)),
        ("swin192_p32", (192, 32)),
        ("tiny48_p8_r05_i03", (48, 8, 0.5, 0.3)),
    ],
)
def test_pixels_are_hidden_as_published(name: str, settings: tuple[float, ...]) -> None:
    golden = read("ringmo_pimask")
    rng = np.random.RandomState(3)
    for wanted in golden[name].numpy():
        assert np.array_equal(np.packbits(draw_pimask(*settings, rng=rng)), wanted)


@needs_golden
@pytest.mark.parametrize("kind", ["", "_uint8"])
def test_texture_is_the_published_one(kind: str) -> None:
    golden = read("ringmo_pimask")
    found = local_binary_pattern(golden[f"lbp_input{kind}"])
    assert torch.equal(found, golden[f"lbp_output{kind}"])


@needs_golden
@pytest.mark.parametrize("patch_size", [8, 16])
def test_ringmo_gives_what_the_published_code_gives(patch_size: int) -> None:
    golden = read("ringmo_model")
    prefix = f"p{patch_size}."
    own = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    state = {
        k.removeprefix("param."): v for k, v in own.items() if k.startswith("param.")
    }
    settings = VIT | {"patch_size": patch_size, "embed_dim": 16, "depth": 1}
    for use_lbp in (False, True):
        model = objectives.build(
            "ringmo", num_bands=3, use_lbp=use_lbp, published=True, **settings
        )
        # The published numbers are of an encoder without blocks.
        model.encoder.blocks = BlockStack([])
        model.encoder.norm = torch.nn.Identity()
        model.encoder.class_token = model.encoder.relative = None
        wanted = {k: v for k, v in state.items() if use_lbp or "lbp" not in k}
        model.load_published_state_dict(wanted)
        out = model(golden["input"], mask=golden["mask"], lbp=golden["lbp"])
        assert_close(out.loss, own["loss_lbp" if use_lbp else "loss"][0])
        assert_close(out.prediction, own["recon"])
        assert_close(out.latent, own["encoded"])
        after = model.published_names(model.state_dict())
        for name in own:
            if name.startswith("after."):
                assert_close(after[name.removeprefix("after.")], own[name])
    out.loss.backward()
    found = model.published_names({n: p.grad for n, p in model.named_parameters()})
    for name, value in own.items():
        if name.startswith("grad_lbp.") and float(value.abs().max()) > 1e-6:
            assert_close(found[name.removeprefix("grad_lbp.")], value, 1e-4)


def noise_of(model: objectives.Objective, images: Tensor) -> Tensor:
    return torch.rand(len(images), model.noise_size(images))


SETTINGS = {
    "simmim": VIT | {"mask_patch_size": 16},
    "simmim-swin": SWIN | {"mask_patch_size": 16},
    "ringmo": VIT | {"mask_patch_size": 16},
    "ringmo-swin": SWIN | {"mask_patch_size": 16, "use_lbp": True},
}


def small(name: str, num_bands: int = 5, **changed: object) -> objectives.Objective:
    torch.manual_seed(0)
    settings = SETTINGS[name] | {"num_bands": num_bands, **changed}
    return objectives.build(name.partition("-")[0], **settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_falls_on_a_few_images(name: str) -> None:
    model = small(name)
    torch.manual_seed(1)
    images = torch.rand(4, 5, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(images, noise=noise_of(model, images)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", SETTINGS)
def test_parts_of_a_batch_add_up_to_it(name: str) -> None:
    model = small(name).eval()  # Batch norms see the whole batch, or none of it.
    images = torch.rand(4, 5, 64, 64)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, :, :40] = False
    noise = noise_of(model, images)
    counts = model.count_targets(images, 0.5, noise, valid)
    parts = [
        model(images[at], 0.5, noise[at], valid=valid[at], counts=counts).loss
        for at in (slice(0, 1), slice(1, 4))
    ]
    whole = model(images, 0.5, noise, valid=valid).loss
    assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize("name", ["simmim", "simmim-swin"])
def test_hidden_pixels_are_not_seen(name: str) -> None:
    model = small(name).eval()
    images = torch.rand(2, 5, 64, 64)
    noise = noise_of(model, images)
    wanted = model(images, 0.5, noise)
    spoilt = torch.where(wanted.hidden, torch.rand_like(images), images)
    assert torch.equal(model(spoilt, 0.5, noise).prediction, wanted.prediction)
    assert float(wanted.hidden.float().mean()) == 0.5
