"""Rotated varied-size window attention, held against the published numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.building import (
    add_adapters,
    add_windows,
    build_model,
    model_config,
    resize_model,
)
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.rvsa import GlobalAttention, RotatedWindowAttention
from spectralgpt.models.vit import VisionTransformer
from tests.golden import assert_close, formula_input, formula_weights, read_keys

# Largest difference of gradients, of the largest entry.
GRADIENT = 1e-4
Attention = RotatedWindowAttention | GlobalAttention


def read(shared: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Arrays and weights of a golden case."""
    folder = shared / "golden" / "systems"
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays), load_file(folder / f"{name}_state.safetensors")


def build(name: str, arrays: dict[str, np.ndarray]) -> Attention:
    """The attention of a golden case, with random weights."""
    dim, heads = arrays["input"].shape[-1], int(arrays["heads"][0])
    if name == "rvsa_full":
        rows, columns = arrays["HW"].tolist()
        return GlobalAttention(dim, heads, (rows, columns))
    window = int(arrays["window"][0])
    apart = name == "rvsa_kvdiff"
    return RotatedWindowAttention(
        dim, heads, window, published=True, separate_sampling=apart
    )


def close(found: Tensor, wanted: Tensor, relative: float = GRADIENT) -> bool:
    """Whether values differ by little of the largest wanted one."""
    return bool((found - wanted).abs().max() <= relative * wanted.abs().max())


CASES = ["rvsa", "rvsa_kvdiff", "rvsa_full"]


@pytest.mark.parametrize("name", CASES)
def test_published_outputs_and_gradients_are_met(shared: Path, name: str) -> None:
    arrays, state = read(shared, name)
    attention = build(name, arrays)
    attention.load_published_state_dict(state)
    x = torch.from_numpy(arrays["input"]).requires_grad_()
    output = attention(x, size=tuple(arrays["HW"].tolist()))
    assert_close(output, arrays["output"])

    (output * torch.from_numpy(arrays["cotangent"])).sum().backward()
    assert x.grad is not None
    assert close(x.grad, torch.from_numpy(arrays["grad_input"]))
    folder = shared / "golden" / "systems"
    wanted = build(name, arrays)
    wanted.load_published_state_dict(load_file(folder / f"{name}_grads.safetensors"))
    gradients = dict(wanted.named_parameters())
    for key, parameter in attention.named_parameters():
        assert parameter.grad is not None
        assert close(parameter.grad, gradients[key].data), key


@pytest.mark.parametrize(("name", "parts"), [("rvsa", [""]), ("rvsa_kvdiff", "kv")])
def test_published_sampling_is_met(shared: Path, name: str, parts: list[str]) -> None:
    arrays, state = read(shared, name)
    attention = build(name, arrays)
    assert isinstance(attention, RotatedWindowAttention)
    attention.load_published_state_dict(state)
    size = tuple(arrays["HW"].tolist())
    x = torch.from_numpy(arrays["input"]).unflatten(1, size)
    windows = attention._cut((size[0], size[1]))
    padded = windows.pad(x)
    means = F.leaky_relu(F.avg_pool2d(padded.permute(0, 3, 1, 2), 7))
    for part in parts:
        tail = f"_{part}" if part else ""
        sampling = attention.sampling[part or "kv"]
        for what in ("offsets", "scales", "angles"):
            raw = getattr(sampling, what)(means)
            assert_close(raw, arrays[f"raw_sampling_{what}{tail}"])
        points = sampling(padded, windows)
        assert_close(points.flatten(0, 1), arrays[f"grid{tail}"])


def test_each_grid_of_a_batch_is_on_its_own(shared: Path) -> None:
    arrays, state = read(shared, "rvsa")
    attention = build("rvsa", arrays)
    attention.load_published_state_dict(state)
    torch.manual_seed(0)
    x = torch.cat((torch.from_numpy(arrays["input"]), torch.randn(2, 153, 32)))
    found = attention(x, size=(9, 17))
    alone = [attention(each[None], size=(9, 17)) for each in x]
    torch.testing.assert_close(found, torch.cat(alone))
    in_one = attention(x.flatten(0, 1)[None], size=(9, 17))
    torch.testing.assert_close(found, in_one.view_as(found))
    assert not torch.allclose(found[1], found[2], atol=0.1)


def test_weights_say_whether_keys_and_values_are_sampled_apart(shared: Path) -> None:
    arrays, state = read(shared, "rvsa_kvdiff")
    attention = RotatedWindowAttention(32, 4, 7, published=True)
    attention.load_published_state_dict(
        {**state, "relative_position_index": torch.zeros(49, 49)}
    )
    x = torch.from_numpy(arrays["input"])
    assert_close(attention(x, size=(9, 17)), arrays["output"])


class Classifier(torch.nn.Module):
    """The published classifier: every third block is global, the others rotated."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList()
        for index in range(6):
            prefix = f"blocks.{index}.attn."
            attention: Attention
            if index % 3 == 2:
                attention = GlobalAttention(32, 4, (9, 9), qkv_bias=False)
            else:
                attention = RotatedWindowAttention(32, 4, 7, False, published=True)
            attention.load_published_state_dict(
                {
                    name.removeprefix(prefix): weights.pop(name)
                    for name in list(weights)
                    if name.startswith(prefix)
                }
            )
            self.blocks.append(attention)
        self.others = torch.nn.ParameterDict(
            {name.replace(".", "-"): value for name, value in weights.items()}
        )

    def of(self, prefix: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a map."""
        name = prefix.replace(".", "-")
        return self.others[f"{name}-weight"], self.others[f"{name}-bias"]

    def norm(self, x: Tensor, prefix: str) -> Tensor:
        """Normalise tokens."""
        return F.layer_norm(x, x.shape[-1:], *self.of(prefix), eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 4, 72, 72) -> (B, 5)."""
        x = F.conv2d(images, *self.of("patch_embed.proj"), stride=8)
        x = x.flatten(2).transpose(1, 2) + self.others["pos_embed"][:, 1:]
        for index, attention in enumerate(self.blocks):
            block = f"blocks.{index}"
            x = x + attention(self.norm(x, f"{block}.norm1"), size=(9, 9))
            hidden = F.linear(
                self.norm(x, f"{block}.norm2"), *self.of(f"{block}.mlp.fc1")
            )
            x = x + F.linear(F.gelu(hidden), *self.of(f"{block}.mlp.fc2"))
        return F.linear(self.norm(x.mean(1), "norm"), *self.of("head"))


def test_published_classifier_is_met(shared: Path) -> None:
    weights = formula_weights(read_keys(shared, "systems/rvsa_vit_keys.json"))
    for name in weights:
        if "sampling_" in name or name == "head.weight":
            weights[name] *= 10
    arrays = np.load(shared / "golden" / "systems" / "rvsa_vit_formula.npz")
    model = Classifier(weights)
    logits = model(formula_input("rvsa-vit-x", (2, 4, 72, 72)))
    assert_close(logits, arrays["logits"])
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
    assert_close(loss, arrays["ce_loss"])

    loss.backward()
    sampling = model.blocks[0].sampling["kv"]
    for parameter, name in (
        (model.others["pos_embed"], "grad_pos_embed"),
        (sampling.angles.weight, "grad_blocks0_angles"),
        (sampling.offsets.weight, "grad_blocks0_offsets"),
        (model.blocks[2].rel_pos_h, "grad_blocks2_rel_pos_h"),
    ):
        wanted = torch.from_numpy(arrays[name])
        assert close(parameter.grad, wanted.view_as(parameter)), name


def plain_window_attention(
    attention: RotatedWindowAttention, x: Tensor, size: tuple[int, int]
) -> Tensor:
    """Attention within each window, query by query, for grids of whole windows."""
    side, heads = attention.window_size, attention.num_heads
    q, k, v = attention.qkv(x[0]).reshape(*size, 3, heads, -1).unbind(2)
    table = attention.relative_position_bias_table.unflatten(0, (2 * side - 1, -1))
    mixed = torch.empty_like(q)
    for i, j in np.ndindex(*size):
        top, left = i // side * side, j // side * side
        rows = torch.arange(top, top + side)[:, None].expand(side, side).flatten()
        columns = torch.arange(left, left + side).repeat(side)
        dy, dx = i - rows + side - 1, j - columns + side - 1
        for head in range(heads):
            query = q[i, j, head]
            scores = k[rows, columns, head] @ query * len(query) ** -0.5
            scores = scores + attention.rel_pos_h[dy] @ query
            scores = scores + attention.rel_pos_w[dx] @ query + table[dy, dx, head]
            mixed[i, j, head] = scores.softmax(0) @ v[rows, columns, head]
    return attention.proj(mixed.flatten(2).flatten(0, 1))[None]


def randomised(attention: Attention, scale: float = 0.3) -> Attention:
    """The attention with random tables and maps, its sampling left alone."""
    for name, parameter in attention.named_parameters():
        if "sampling" not in name:
            torch.nn.init.normal_(parameter, std=scale)
    return attention


@torch.no_grad()
def test_it_starts_as_plain_window_attention() -> None:
    torch.manual_seed(0)
    attention = RotatedWindowAttention(16, 2, 3)
    randomised(attention)
    x = torch.randn(1, 6 * 9, 16)
    wanted = plain_window_attention(attention, x, (6, 9))
    torch.testing.assert_close(attention(x, size=(6, 9)), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_grid_smaller_than_the_window_is_one_window() -> None:
    torch.manual_seed(0)
    attention = RotatedWindowAttention(16, 2, 7)
    x = torch.randn(2, 15, 16)
    everywhere = GlobalAttention(16, 2, (3, 5))
    everywhere.qkv, everywhere.proj = attention.qkv, attention.proj
    found = attention(x, size=(3, 5))
    torch.testing.assert_close(found, everywhere(x, size=(3, 5)))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    for size in ((3, 5), (1, 15), (15, 1), (1, 1)):
        tokens = x[:, : size[0] * size[1]]
        assert attention(tokens, size=size).isfinite().all()


def test_published_grids_smaller_than_the_window_are_refused() -> None:
    attention = RotatedWindowAttention(16, 2, 7, published=True)
    with pytest.raises(ShapeError, match="3 x 9 tokens is smaller than the window"):
        attention(torch.randn(1, 27, 16), size=(3, 9))


@torch.no_grad()
def test_an_offset_moves_along_its_own_axis() -> None:
    """By one window where it is as large as a window of a long, low grid."""
    windows = (3, 12)
    x = torch.randn(1, 36, 8)
    points = {}
    for published in (False, True):
        attention = RotatedWindowAttention(8, 1, 3, published=published)
        sampling = attention.sampling["kv"]
        for parameter in sampling.parameters():
            torch.nn.init.zeros_(parameter)
        cut = attention._cut(windows)
        padded = cut.pad(x.unflatten(1, windows))
        start = sampling(padded, cut)
        sampling.offsets.bias[0] = 1.0
        points[published] = sampling(padded, cut) - start
    right, swapped = points[False], points[True]
    torch.testing.assert_close(right[..., 0], torch.full((1, 1, 3, 12), 1 / 4))
    torch.testing.assert_close(swapped[..., 0], torch.full((1, 1, 3, 12), 1.0))
    assert not right[..., 1].any()


def test_sampling_learns_from_its_zero_start() -> None:
    torch.manual_seed(0)
    attention = RotatedWindowAttention(16, 2, 3)
    attention(torch.randn(2, 30, 16), size=(5, 6)).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any(), name


@torch.no_grad()
def test_points_keep_their_place_in_half_precision() -> None:
    torch.manual_seed(0)
    attention = RotatedWindowAttention(32, 4, 7, published=True)
    x = torch.randn(1, 40 * 33, 32)
    exact = attention(x, size=(40, 33))
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, size=(40, 33))
    assert rough.dtype == torch.bfloat16
    assert close(rough.float(), exact, 2e-2)
    half = attention.bfloat16()(x.bfloat16(), size=(40, 33))
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


@torch.no_grad()
def test_global_attention_reaches_over_all_grids() -> None:
    torch.manual_seed(0)
    attention = GlobalAttention(16, 2, (3, 4))
    x = torch.randn(1, 2 * 12, 16)
    reference = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    wanted, _ = reference(x, x, x, need_weights=False)
    torch.testing.assert_close(attention(x, size=(3, 4)), wanted)
    randomised(attention)
    moved = torch.cat((x[:, 12:], x[:, :12]), 1)
    found = attention(moved, size=(3, 4))
    found = torch.cat((found[:, 12:], found[:, :12]), 1)
    torch.testing.assert_close(found, attention(x, size=(3, 4)))
    # Places matter within a grid.
    turned = x.unflatten(1, (2, 12)).flip(2).flatten(1, 2)
    found = attention(turned, size=(3, 4)).unflatten(1, (2, 12)).flip(2).flatten(1, 2)
    assert not torch.allclose(found, attention(x, size=(3, 4)), atol=0.1)


def test_what_does_not_fit_is_named(shared: Path) -> None:
    with pytest.raises(ConfigError, match="dim 10 is no multiple of num_heads 3"):
        RotatedWindowAttention(10, 3, 7)
    with pytest.raises(ConfigError, match="it must be at least 1"):
        RotatedWindowAttention(8, 2, 0)
    attention = RotatedWindowAttention(32, 4, 7, published=True)
    with pytest.raises(
        ShapeError, match=r"\(1, 60, 32\): \(B, 7 \* 9, C\) is needed, "
    ):
        attention(torch.randn(1, 60, 32), size=(7, 9))
    _, state = read(shared, "rvsa")
    del state["sampling_angles.2.bias"]
    with pytest.raises(CheckpointError, match=r"sampling\.kv\.angles\.bias"):
        attention.load_published_state_dict(state)


def plain_encoder(kind: str, image_size: int = 32, depth: int = 3) -> Encoder:
    """A seeded encoder of six bands in three groups; with dates, but for SatMAE's."""
    torch.manual_seed(0)
    if kind == "spectral":
        return SpectralEncoder(image_size, 6, 8, 2, 32, depth, 4).eval()
    groups = ((0, 1), (2, 3), (4, 5))
    return VisionTransformer(
        image_size, 6, 8, 32, depth, 4, groups=groups, group_dim=8
    ).eval()


def shaken(encoder: Encoder) -> Encoder:
    """The encoder after its new weights were trained, as it were."""
    torch.manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "sampling" in name or "relative" in name or "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


KINDS = ["spectral", "vit"]


@torch.no_grad()
def test_weights_of_a_plain_encoder_go_on_as_they_were() -> None:
    """A grid that is one window, of one band group, is attended to as a whole."""
    torch.manual_seed(0)
    plain = SpectralEncoder(32, 3, 8, 3, 32, 4, 4).eval()
    windowed = add_windows(plain)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(windowed(images), plain(images))
    kinds = [type(block.attn).__name__ for block in windowed.blocks]
    assert kinds.count("GlobalAttention") == 1
    assert kinds[2] == "GlobalAttention"
    assert not hasattr(plain, "sampling")
    assert "attention" not in plain.config
    assert windowed.config["window_size"] == 7


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_windows_lie_within_a_band_group_and_a_date(kind: str) -> None:
    images = torch.rand(1, 6, 32, 32)
    changed = images.clone()
    changed[:, 4:] = 0  # The last of three groups.
    for depth, is_mixed in ((2, False), (3, True)):
        encoder = shaken(add_windows(plain_encoder(kind, depth=depth), 3))
        found, other = encoder(images), encoder(changed)
        assert found.shape == (1, 3, 4, 4, 32)
        assert torch.equal(found[:, :2], other[:, :2]) is not is_mixed
        assert not torch.allclose(found[:, 2], other[:, 2], atol=0.1)
    series = torch.stack((images, changed), dim=1)
    encoder = shaken(add_windows(plain_encoder(kind, depth=2), 3))
    torch.testing.assert_close(encoder(series)[:, 1], encoder(changed))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_windowed_encoder_is_built_again_and_resized(kind: str) -> None:
    encoder = shaken(add_windows(plain_encoder(kind), 3))
    again = build_model(model_config(encoder))
    assert isinstance(again, Encoder)
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 6, 40, 24)
    torch.testing.assert_close(again.eval()(images), encoder(images))

    larger = resize_model(encoder, image_size=56)
    assert isinstance(larger, Encoder)
    assert larger.config["attention"] == "rvsa"
    large = torch.rand(2, 6, 56, 56)
    # Tables for the larger grid are those that it is interpolated to.
    torch.testing.assert_close(larger(large), encoder(large), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_absent_groups_are_left_out_of_windows(kind: str) -> None:
    encoder = shaken(add_windows(plain_encoder(kind), 3))
    encoder.absent_groups = (2,)
    images = torch.rand(1, 6, 32, 32)
    changed = images.clone()
    changed[:, 4:] = 0
    assert torch.equal(encoder(images), encoder(changed))


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    encoder = shaken(add_windows(plain_encoder("spectral"), 3))
    images = torch.rand(2, 6, 32, 32)
    found = []
    for recomputes in (False, True):
        encoder.blocks.recomputes = recomputes
        encoder.zero_grad()
        encoder(images).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


def test_windows_that_do_not_go_are_refused() -> None:
    encoder = add_windows(plain_encoder("spectral"), 3)
    tokens = torch.rand(1, 48, 128)
    grid = encoder.grid_of(torch.rand(1, 6, 32, 32))
    with pytest.raises(ShapeError, match="for fine-tuning, not for masked pretraining"):
        encoder.encode_visible(tokens, torch.arange(12)[None], grid)
    with pytest.raises(ConfigError, match="the encoder has windows of 3"):
        add_windows(encoder, 5)
    assert add_windows(encoder).config["window_size"] == 3
    with pytest.raises(ConfigError, match="attention 'local': use 'global' or 'rvsa'"):
        SpectralEncoder(32, 6, 8, 2, 32, 1, 4, attention="local")  # type: ignore
    with pytest.raises(ConfigError, match="relative positions of its own"):
        VisionTransformer(
            32,
            6,
            8,
            32,
            1,
            4,
            positions="relative",
            class_token=False,
            attention="rvsa",
        )
    with pytest.raises(ConfigError, match="window_size is 0: use 1 to 256"):
        SpectralEncoder(32, 6, 8, 2, 32, 1, 4, attention="rvsa", window_size=0)


def test_adapters_fit_the_maps_of_a_windowed_encoder() -> None:
    pytest.importorskip("peft")
    encoder = add_adapters(shaken(add_windows(plain_encoder("spectral"), 3)), rank=2)
    encoder(torch.rand(1, 6, 32, 32)).sum().backward()
    trained = {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
