"""Parity with the published implementation, by the numbers in shared/golden."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import spectralgpt
from spectralgpt import published
from spectralgpt.building import build_autoencoder
from spectralgpt.losses import normalize_tokens, token_loss
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, ClassificationModel, SegmentationModel
from spectralgpt.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from spectralgpt.models.tokens import patchify
from spectralgpt.preprocessing import BandStatistics, Preprocessing
from spectralgpt.published import (
    build_published_model,
    load_published_state_dict,
    to_published,
)
from spectralgpt.rasters import Raster
from spectralgpt.sensors import Band
from tests.golden import assert_close, formula_input, formula_weights, read_keys
from tests.tiny import TINY, tiny_contract

ENCODER = {key: TINY[key] for key in ("embed_dim", "depth", "num_heads")}


@pytest.fixture(params=["linear", "spectral"])
def tokenizer(request: pytest.FixtureRequest) -> str:
    """Both tokenisers give the published numbers, the spectral one at its start."""
    kind: str = request.param
    return kind


def follow_bands(model: nn.Module, tokenizer: str) -> None:
    """Give a model the spectral tokeniser, if it is to have it."""
    if tokenizer == "spectral":
        is_whole = isinstance(model, SpectralEncoder | MaskedAutoencoder)
        part = model if is_whole else model.encoder
        part.add_spectral_tokenizer(tiny_contract().band_rows)  # type: ignore[operator, union-attr]


@pytest.fixture
def numbers(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "golden" / "dev_pretrain.npz"))


def published_tiny(
    shared: Path, tokenizer: str = "linear", **settings: bool
) -> MaskedAutoencoder:
    model = spectralgpt.MaskedAutoencoder(32, 12, **TINY, **settings)
    state = load_file(shared / "golden" / "dev_pretrain_state.safetensors")
    spectralgpt.load_published_state_dict(model, state)
    follow_bands(model, tokenizer)
    return model


def run_tiny(
    model: MaskedAutoencoder, numbers: dict[str, np.ndarray]
) -> MaskedAutoencoderOutput:
    images, noise = torch.from_numpy(numbers["input"]), numbers["noise"]
    output: MaskedAutoencoderOutput = model(images, 0.9, torch.from_numpy(noise))
    return output


def test_token_embedding_matches_published(
    shared: Path, tokenizer: str, numbers: dict[str, np.ndarray]
) -> None:
    encoder = published_tiny(shared, tokenizer).encoder
    images = torch.from_numpy(numbers["input"])
    grid = encoder.grid_of(images)
    embedded = encoder._embed(patchify(images, grid), grid, None)
    assert_close(embedded.unflatten(1, (grid.groups, -1)), numbers["patch_embed"])


def test_pretraining_outputs_match_published(
    shared: Path, tokenizer: str, numbers: dict[str, np.ndarray]
) -> None:
    output = run_tiny(published_tiny(shared, tokenizer), numbers)
    assert_close(output.latent, numbers["latent"])
    assert_close(output.prediction, numbers["pred"])
    assert_close(output.loss, numbers["loss"][0])
    assert_close(output.token_loss, numbers["loss_token"][0])
    assert_close(output.spectral_loss, numbers["loss_spectral"][0])
    np.testing.assert_array_equal(output.mask.numpy(), numbers["mask"])


def test_targets_match_published(numbers: dict[str, np.ndarray], shared: Path) -> None:
    images = torch.from_numpy(numbers["input"])
    grid = published_tiny(shared).encoder.grid_of(images)
    np.testing.assert_array_equal(patchify(images, grid).numpy(), numbers["target"])


def test_pixel_normalisation_matches_published(
    shared: Path, tokenizer: str, numbers: dict[str, np.ndarray]
) -> None:
    output = run_tiny(
        published_tiny(shared, tokenizer, normalize_targets=True), numbers
    )
    assert_close(output.loss, numbers["loss_normpix"][0])
    # The spectral term keeps raw targets.
    assert_close(output.spectral_loss, numbers["loss_spectral"][0])
    target = normalize_tokens(torch.from_numpy(numbers["target"]))
    by_hand = token_loss(output.prediction, target, output.mask)
    assert_close(output.token_loss, by_hand.detach().numpy())


def test_all_gradients_match_published(
    shared: Path, tokenizer: str, numbers: dict[str, np.ndarray]
) -> None:
    model = published_tiny(shared, tokenizer)
    run_tiny(model, numbers).loss.backward()
    ours = {
        name: p.grad
        for name, p in model.named_parameters()
        if p.grad is not None and "tokenizer" not in name
    }
    found = to_published(ours, patch_size=8, bands_per_token=3)
    wanted = load_file(shared / "golden" / "dev_pretrain_grads.safetensors")
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # Softmax ignores a key's bias: its gradient is 0 but for rounding, on the
        # scale of the key's other gradients.
        scale = wanted[name.replace("attn.k.bias", "attn.k.weight")].abs().max()
        assert (found[name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("positions", ["joint", "separable"])
def test_classifier_matches_published(
    shared: Path, tokenizer: str, positions: str
) -> None:
    name = "joint" if positions == "joint" else "sep"
    numbers = np.load(shared / "golden" / f"dev_cls_{name}.npz")
    encoder = SpectralEncoder(32, 12, **ENCODER, positions=positions)  # type: ignore[arg-type]
    model = ClassificationModel(encoder, 7, skip_first_token=True)
    state = load_file(shared / "golden" / f"dev_cls_{name}_state.safetensors")
    load_published_state_dict(model, state)
    follow_bands(model, tokenizer)
    logits = model.eval()(torch.from_numpy(numbers["input"]))
    assert_close(logits, numbers["logits"])
    loss = F.cross_entropy(logits, torch.from_numpy(numbers["labels"]).long())
    assert_close(loss, numbers["ce_loss"][0])
    loss.backward()
    assert_close(model.head.weight.grad, numbers["grad_head_weight"])
    weight = encoder.embedding.weight.grad
    assert weight is not None
    wanted = numbers["grad_patch_embed"]
    assert_close(weight.reshape(wanted.shape), wanted)
    tables = encoder.positions
    table = tables.joint if positions == "joint" else tables.spatial
    assert_close(table.grad, numbers["grad_pos"])


def test_all_tokens_are_pooled_unless_asked(shared: Path) -> None:
    numbers = np.load(shared / "golden" / "dev_cls_sep.npz")
    model = ClassificationModel(SpectralEncoder(32, 12, **ENCODER), 7)
    state = load_file(shared / "golden" / "dev_cls_sep_state.safetensors")
    load_published_state_dict(model, state)
    images = torch.from_numpy(numbers["input"])
    pooled = model.encoder.encode(images).flatten(1, 3).mean(1)
    torch.testing.assert_close(model.features(images), model.encoder.norm(pooled))


def test_base_pretraining_matches_published(shared: Path, tokenizer: str) -> None:
    wanted = np.load(shared / "golden" / "base_pretrain96_formula.npz")
    weights = formula_weights(read_keys(shared, "base_keys_pretrain_96.json"))
    model = build_published_model({"model": weights})
    follow_bands(model, tokenizer)
    images = formula_input("pre-x", (2, 12, 96, 96))
    with torch.no_grad():
        output = model(images, 0.9, formula_input("pre-noise", (2, 576)))
    assert_close(output.loss, wanted["loss"][0])
    assert_close(output.prediction[:, ::16], wanted["pred_every16"])
    np.testing.assert_array_equal(output.mask.numpy(), wanted["mask"])


def test_base_classifier_matches_published(shared: Path, tokenizer: str) -> None:
    wanted = np.load(shared / "golden" / "base_cls128_formula.npz")
    weights = formula_weights(read_keys(shared, "base_keys_finetune_128.json"))
    model = build_published_model({"model": weights}).eval()
    follow_bands(model, tokenizer)
    with torch.no_grad():
        logits = model(formula_input("cls-x", (2, 12, 128, 128)))
    assert_close(logits, wanted["logits"])


@pytest.mark.parametrize(
    ("name", "tags", "kind"),
    [
        ("segmentation", ("seg-x",), SegmentationModel),
        ("change_detection", ("cd-x1", "cd-x2"), ChangeModel),
    ],
)
def test_base_maps_match_published(
    shared: Path, tokenizer: str, name: str, tags: tuple[str, ...], kind: type
) -> None:
    weights = formula_weights(read_keys(shared, f"base_keys_{name}.json"))
    model = build_published_model({"model": weights}).eval()
    assert type(model) is kind
    follow_bands(model, tokenizer)
    images = torch.stack([formula_input(tag, (1, 12, 128, 128)) for tag in tags], 1)
    with torch.no_grad():
        logits = model(images if kind is ChangeModel else images[:, 0])
    found = logits.log_softmax(dim=1) if kind is ChangeModel else logits
    wanted = np.load(shared / "golden" / f"base_{name}.npz")["out"]
    assert_close(found[:, :, ::2, ::2], wanted)


@pytest.mark.parametrize(
    "name",
    [
        "base_keys_pretrain_96.json",
        "base_keys_pretrain_128.json",
        "base_keys_finetune_128.json",
        "base_keys_finetune_128_sep.json",
        "base_keys_segmentation.json",
        "base_keys_change_detection.json",
    ],
)
def test_published_keys_round_trip_bit_identically(shared: Path, name: str) -> None:
    keys = read_keys(shared, name)
    weights = formula_weights(keys)
    model = build_published_model({"model": weights})
    again = to_published(model.state_dict(), patch_size=8, bands_per_token=3)
    assert {key: tuple(value.shape) for key, value in again.items()} == keys
    assert all(torch.equal(again[key], weights[key]) for key in keys)
    ours = model.state_dict()
    renamed = published._from_published(weights)
    assert renamed.keys() == ours.keys()


@pytest.mark.parametrize(
    ("size", "image_size", "count"),
    [
        ("base", 96, 98_496_960),
        ("base", 128, 98_640_320),
        ("large", 96, 315_970_752),
        ("large", 128, 316_142_784),
        ("huge", 96, 643_558_336),
    ],
)
def test_sizes_have_the_published_parameter_counts(
    size: str, image_size: int, count: int
) -> None:
    with torch.device("meta"):
        model = build_autoencoder(size, image_size=image_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_scalings_match_published(shared: Path) -> None:
    numbers = np.load(shared / "golden" / "normalize.npz")
    pixels = numbers["input_hwc"].transpose(2, 0, 1).astype(np.float32)
    bands = tuple(Band(f"B{i}", 500 + i, 1, 10) for i in range(len(pixels)))
    raster = Raster(pixels, np.ones(pixels.shape, np.bool_), bands)
    mean, std = (
        dict(zip((band.name for band in bands), numbers[name].ravel(), strict=True))
        for name in ("mean", "std")
    )
    contract = Preprocessing("any", bands)
    minmax = contract.prepare(raster, is_checked=True)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(minmax, numbers["minmax"], rtol=1e-5, atol=1e-7)
    statistics = BandStatistics(mean, std, mean, std)
    contract = replace(contract, scaling="two-std-uint8", statistics=statistics)
    levels = contract.prepare(raster, is_checked=True)[0].transpose(1, 2, 0) * 255
    np.testing.assert_array_equal(np.rint(levels), numbers["sentinel_normalize_uint8"])
