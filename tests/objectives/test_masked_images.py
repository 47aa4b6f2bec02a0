"""Masked image models, held to what the published code gives."""

import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectralgpt import objectives
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.blocks import BlockStack
from spectralgpt.objectives.beit import draw_block_mask
from spectralgpt.objectives.ringmo import draw_pimask, local_binary_pattern
from spectralgpt.objectives.simmim import draw_mask
from spectralgpt.training.optim import learning_rate_at
from spectralgpt.training.transfer import TransferConfig, start_encoder
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


BEIT = {
    "image_size": 56,
    "num_bands": 3,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "vocab_size": 64,
}


@needs_golden
def test_beit_gives_what_the_published_code_gives() -> None:
    golden, state = read("beit"), load_file(SYSTEMS / "beit_state.safetensors")
    model = objectives.build("beit", **BEIT)
    model.load_published_state_dict(state)
    out = model(
        golden["input"], mask=golden["bool_masked_pos"], tokens=golden["tokens"]
    )
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["logits"])
    assert_close(model.lm_head(out.latent), golden["logits_all"])
    assert_close(out.terms["accuracy"], golden["mlm_acc"][0])
    out.loss.backward()
    assert_gradients(model, load_file(SYSTEMS / "beit_grads.safetensors"))
    for name, value in model.published_names(model.state_dict()).items():
        assert torch.equal(value, state[name]), name


def formula(name: str, shape: list[int]) -> Tensor:
    """Return the weights of a name that golden files without weights have."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    values = drawn.astype(np.float32) * np.float32(0.03)
    if len(shape) == 1 and name.endswith("weight"):
        values += 1
    return torch.from_numpy(values)


@needs_golden
def test_beit_of_absolute_positions_gives_what_the_published_code_gives() -> None:
    golden, given = read("beit_abs_formula"), read("beit")
    keys = json.loads((SYSTEMS / "beit_abs_keys.json").read_text())
    state = {name: formula(name, shape) for name, shape in keys.items()}
    state["lm_head.weight"] *= 10
    model = objectives.build("beit", positions="learned", layer_scale=None, **BEIT)
    model.load_published_state_dict(state)
    out = model(given["input"], mask=given["bool_masked_pos"], tokens=given["tokens"])
    assert_close(out.loss, golden["loss"][0])
    assert_close(out.prediction, golden["logits"])
    out.loss.backward()
    found = model.published_names({n: p.grad for n, p in model.named_parameters()})
    for name in ("mask_token", "pos_embed"):
        assert_close(found[name], golden[f"grad_{name}"], 1e-4)


@needs_golden
def test_base_has_the_published_names_and_shapes() -> None:
    keys = json.loads((SYSTEMS / "beit_base_keys.json").read_text())
    with torch.device("meta"):
        model = objectives.build("beit", num_bands=3)
    found = model.published_names(model.state_dict())
    del keys["rel_pos_bias.relative_position_index"]
    assert {name: list(value.shape) for name, value in found.items()} == keys


@needs_golden
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("14x14_75_min16", (14, 14, 75, 16)),
        ("7x7_19_min4", (7, 7, 19, 4)),
        ("12x10_48_min6_max20", (12, 10, 48, 6, 20)),
    ],
)
def test_blocks_are_drawn_as_published(name: str, settings: tuple[int, ...]) -> None:
    golden = read("beit_block_masks")
    for seed, wanted in enumerate(golden[name].numpy()):
        found = draw_block_mask(*settings, rng=random.Random(seed))
        assert np.array_equal(found, wanted)
    rng = random.Random(1234)
    counts = [int(draw_block_mask(*settings, rng=rng).sum()) for _ in range(2000)]
    assert np.array_equal(
        np.bincount(counts), golden[f"{name}_count_hist_seed1234_n2000"]
    )


def noise_of(model: objectives.Objective, images: Tensor) -> Tensor:
    return torch.rand(len(images), model.noise_size(images))


TOKENIZER = {
    "image_size": 64,
    "num_bands": 5,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "vocab_size": 16,
    "code_dim": 4,
}
SETTINGS = {
    "simmim": VIT | {"mask_patch_size": 16},
    "simmim-swin": SWIN | {"mask_patch_size": 16},
    "ringmo": VIT | {"mask_patch_size": 16},
    "ringmo-swin": SWIN | {"mask_patch_size": 16, "use_lbp": True},
    "beit": VIT | {"vocab_size": 16, "tokenizer": TOKENIZER},
    "tokenizer": TOKENIZER,
}


def small(name: str, **changed: object) -> objectives.Objective:
    torch.manual_seed(0)
    settings = {"num_bands": 5} | SETTINGS[name] | changed
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
    ratio = None if name == "tokenizer" else 0.5
    counts = model.count_targets(images, ratio, noise, valid)
    parts = [
        model(images[at], ratio, noise[at], valid=valid[at], counts=counts).loss
        for at in (slice(0, 1), slice(1, 4))
    ]
    whole = model(images, ratio, noise, valid=valid).loss
    assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_holds_all_that_the_model_computes_with(
    name: str, tmp_path: Path
) -> None:
    model = small(name).eval()
    loaded = load_model(save_model(tmp_path / "model", model)).model.eval()
    # Moving fails where a buffer has no storage.
    loaded = loaded.to(torch.float32).to("cpu")
    for each, value in model.named_buffers():
        assert torch.equal(loaded.get_buffer(each), value), each
    images = torch.rand(2, model.encoder.num_bands, 64, 64)
    noise = noise_of(model, images)
    assert torch.equal(
        loaded(images, noise=noise).loss, model(images, noise=noise).loss
    )


@pytest.mark.parametrize("name", ["simmim", "simmim-swin"])
def test_hidden_pixels_are_not_seen(name: str) -> None:
    model = small(name).eval()
    images = torch.rand(2, 5, 64, 64)
    noise = noise_of(model, images)
    wanted = model(images, 0.5, noise)
    spoilt = torch.where(wanted.hidden, torch.rand_like(images), images)
    assert torch.equal(model(spoilt, 0.5, noise).prediction, wanted.prediction)
    assert float(wanted.hidden.float().mean()) == 0.5


def test_tokens_are_those_of_the_codes_and_stay() -> None:
    tokenizer = small("tokenizer").eval()
    images = torch.rand(3, 5, 64, 64)
    codes = tokenizer(images).latent
    ids = tokenizer.tokenize(images)
    assert ids.shape == (3, 8, 8)
    assert torch.equal(tokenizer.quantizer.codebook[ids], codes)
    model = small("beit", tokenizer=None)
    with pytest.raises(ConfigError, match="--objective tokenizer"):
        model(images)
    model.start_from(tokenizer, "tokens")
    model.train()
    before = {n: v.clone() for n, v in model.tokenizer.state_dict().items()}
    model(images).loss.backward()
    assert all(p.grad is None for p in model.tokenizer.parameters())
    assert all(
        torch.equal(v, before[n]) for n, v in model.tokenizer.state_dict().items()
    )
    again = objectives.build("beit", **model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.tokenizer.tokenize(images), ids)
    other = small("beit", tokenizer=None, vocab_size=32)
    with pytest.raises(CheckpointError, match="vocab_size 16, but vocab_size is 32"):
        other.start_from(tokenizer, "tokens")


def test_a_step_of_the_tokeniser_depends_on_noise_alone() -> None:
    images = torch.rand(3, 5, 64, 64)
    found = []
    for seed in (1, 2):
        model = small("tokenizer")
        torch.manual_seed(seed)
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        model(images, noise=torch.full((3, 1), 0.3))
        assert torch.equal(torch.rand(1), drawn)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert (
        float(
            (
                found[0]["quantizer._codebook.embed"]
                - small("tokenizer").quantizer.codebook
            )
            .abs()
            .max()
        )
        > 0
    )


@needs_golden
def test_rates_of_beit_fall_as_published_after_the_warm_up() -> None:
    # Its warm-up begins above 0, as SimMIM's does, whose cosine counts the warm-up too.
    ((_, rates),) = json.loads((SYSTEMS / "beit_lr.json").read_text()).items()
    for step, rate in rates:
        if step >= 100:
            found = learning_rate_at(
                step / 50, lr=1.5e-3, min_lr=1e-5, warmup_epochs=2, epochs=20
            )
            assert found == pytest.approx(rate, rel=1e-9)


def test_the_encoder_of_a_tokeniser_is_fine_tuned_without_adapters() -> None:
    encoder = small("tokenizer", depth=2).encoder
    copy = start_encoder(encoder, TransferConfig(model="tokens", drop_path=0.5))
    images = torch.rand(8, 5, 64, 64)
    assert torch.equal(copy.eval()(images), encoder.eval()(images))
    # Half of the images skip the last block in training.
    changed = (copy.train()(images) != copy.eval()(images)).flatten(1).any(dim=1)
    assert changed.any()
    with pytest.raises(ConfigError, match="adapters are for attention, and a 'conv'"):
        start_encoder(encoder, TransferConfig(model="tokens", mode="adapters"))
