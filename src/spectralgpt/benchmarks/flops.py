"""Floating-point operations of a step, counted from the model's shapes.

What is counted are the products of the published form of the mathematics: linear layers
and both products of attention, two operations a multiplication and addition. All tokens
are embedded before the masked ones are dropped. Whatever an implementation saves or
wastes, recomputation for one, is not in the count, so that it shows in the speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from spectralgpt.models.masking import draw_mask
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.models.transformer import MLP_RATIO

__all__ = ["ForwardFlops", "count_classifier", "count_encoder", "count_pretraining"]


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of one image's forward pass, by part.

    Args:
        embedding: pixels to tokens.
        encoder: blocks of the encoder.
        head: the decoder with both of its outer maps, or the classifier's.
    """

    embedding: int
    encoder: int
    head: int = 0

    @property
    def forward(self) -> int:
        """Of the forward pass."""
        return self.embedding + self.encoder + self.head

    @property
    def training(self) -> int:
        """Of forward and backward.

        Each product has two gradients of its own size, but for the embedding's: its
        input, the image, needs none.
        """
        return 3 * self.forward - self.embedding


def count_pretraining(
    config: Mapping[str, Any], grid: TokenGrid, mask_ratio: float
) -> ForwardFlops:
    """Count a masked autoencoder.

    In a full decoder all tokens attend to all; in a cross decoder masked tokens are the
    queries, visible ones the keys and values.

    Args:
        config: `MaskedAutoencoder.config`.
        grid: token grid of the images.
        mask_ratio: share of masked tokens, 0..1.
    """
    tokens = grid.num_tokens
    # The rule of how many stay visible stands in one place.
    noise = torch.zeros(1, tokens)
    visible = draw_mask(grid, noise, mask_ratio).visible.shape[1]
    encoder = count_encoder(config, grid, visible)
    width, depth = config["decoder_embed_dim"], config["decoder_depth"]
    is_full = config["decoder"] == "full"
    keys = tokens if is_full else visible
    queries = tokens if is_full else tokens - visible
    outer = _linear(visible, config["embed_dim"], width)
    outer += _linear(queries, width, grid.token_dim)
    blocks = depth * _block(queries, keys, width)
    return ForwardFlops(encoder.embedding, encoder.encoder, outer + blocks)


def count_encoder(
    config: Mapping[str, Any], grid: TokenGrid, visible: int | None = None
) -> ForwardFlops:
    """Count an encoder.

    Args:
        config: of the encoder, or of a masked autoencoder.
        grid: token grid of the images.
        visible: tokens that go through the blocks; None takes all.
    """
    tokens, width = grid.num_tokens, config["embed_dim"]
    seen = tokens if visible is None else visible
    return ForwardFlops(
        _linear(tokens, grid.token_dim, width),
        config["depth"] * _block(seen, seen, width),
    )


def count_classifier(
    config: Mapping[str, Any], grid: TokenGrid, num_classes: int
) -> ForwardFlops:
    """Count an encoder on all tokens with a classification head on their mean."""
    encoder = count_encoder(config, grid)
    head = _linear(1, config["embed_dim"], num_classes)
    return ForwardFlops(encoder.embedding, encoder.encoder, head)


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def _block(queries: int, keys: int, width: int) -> int:
    """Count a transformer block whose queries attend to the keys."""
    attention = 2 * 2 * queries * keys * width
    own_maps = _linear(queries, width, 2 * width)  # query and output
    mlp = 2 * _linear(queries, width, MLP_RATIO * width)
    return attention + own_maps + _linear(keys, width, 2 * width) + mlp
