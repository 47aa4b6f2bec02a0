"""Counts against figures known for the published form, and against torch's counter."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from spectralgpt.benchmarks.settings import count_flops
from spectralgpt.building import build_autoencoder, build_encoder, model_config
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import DecoderKind, MaskedAutoencoder
from spectralgpt.models.tokens import TokenGrid
from tests.tiny import TINY


def grid_of(size: int, bands: int = 12) -> TokenGrid:
    return TokenGrid(bands, size, size)


def base_config(size: int, decoder: DecoderKind = "full") -> dict[str, Any]:
    with torch.device("meta"):
        model = build_autoencoder(
            "base", image_size=size, num_bands=12, decoder=decoder
        )
    return model_config(model)


@pytest.mark.parametrize(
    ("size", "decoder", "gflops"),
    [(96, "full", 81.9), (128, "full", 157.7), (96, "cross", 64.3)],
)
def test_base_model_counts_as_published(
    size: int, decoder: DecoderKind, gflops: float
) -> None:
    _, counted = count_flops(base_config(size, decoder), grid_of(size), 0.9)
    assert round(counted / 1e9, 1) == gflops


class Reference:
    """The published form in plain products: all tokens embedded, then masked."""

    def __init__(self, grid: TokenGrid, visible: int, cross: bool = False) -> None:
        self.grid, self.visible, self.cross = grid, visible, cross

    def linear(self, x: Tensor, width: int) -> Tensor:
        return F.linear(x, torch.rand(width, x.shape[-1], requires_grad=True))

    def block(self, x: Tensor, context: Tensor | None, heads: int) -> Tensor:
        B, _, D = x.shape
        seen = x if context is None else context

        def split(tokens: Tensor) -> Tensor:
            return tokens.reshape(B, -1, heads, D // heads).transpose(1, 2)

        q, k, v = (split(self.linear(t, D)) for t in (x, seen, seen))
        mixed = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x + self.linear(mixed.transpose(1, 2).reshape(x.shape), D)
        return x + self.linear(F.gelu(self.linear(x, 4 * D)), D)

    def loss(self, config: dict[str, Any], tokens: Tensor) -> Tensor:
        B, N, width = *tokens.shape[:2], config["decoder_embed_dim"]
        x = self.linear(tokens, config["embed_dim"])[:, : self.visible]
        for _ in range(config["depth"]):
            x = self.block(x, None, config["num_heads"])
        x = self.linear(x, width)
        hidden = torch.rand(B, N - self.visible, width, requires_grad=True)
        context = x if self.cross else None
        x = hidden if self.cross else torch.cat([x, hidden], dim=1)
        for _ in range(config["decoder_depth"]):
            x = self.block(x, context, config["decoder_num_heads"])
        return self.linear(x, self.grid.token_dim).sum()


@pytest.mark.parametrize("decoder", ["full", "cross"])
@pytest.mark.parametrize(("size", "bands"), [(32, 12), (48, 7)])
def test_counts_equal_those_of_torch(
    decoder: DecoderKind, size: int, bands: int
) -> None:
    grid = grid_of(size, bands)
    config = model_config(MaskedAutoencoder(size, bands, **TINY, decoder=decoder))
    visible = int(grid.num_tokens * (1 - 0.75))
    reference = Reference(grid, visible, cross=decoder == "cross")
    tokens = torch.rand(3, grid.num_tokens, grid.token_dim)
    with FlopCounterMode(display=False) as counter:
        reference.loss(config, tokens).backward()
    _, counted = count_flops(config, grid, 0.75)
    assert 3 * counted == counter.get_total_flops()


def test_classifier_adds_its_head_to_all_tokens() -> None:
    with torch.device("meta"):
        encoder = build_encoder("base", image_size=96, num_bands=12)
        classifier = ClassificationModel(encoder, 10)
    forward, grid = count_flops(model_config(encoder), grid_of(96))[0], grid_of(96)
    assert count_flops(model_config(classifier), grid)[0] - forward == 2 * 768 * 10
    # 576 tokens, 12 blocks of 12 D^2 weights, and two products of N x N x D each.
    blocks = 12 * (576 * 24 * 768**2 + 4 * 576**2 * 768)
    assert forward == blocks + 576 * 2 * 192 * 768
