"""What the decoder is asked for, and what its answer is compared with."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectralgpt.losses import (
    count_masked,
    count_spectral_values,
    normalize_tokens,
    spectral_loss,
    token_loss,
)
from spectralgpt.models.masking import TokenMask
from spectralgpt.models.tokens import TokenGrid

__all__ = ["Targets", "find_targets"]


@dataclass(frozen=True)
class Targets:
    """The targets of a batch, or of some of its images.

    Attributes:
        tokens: (B, N, S * P * P), the images.
        wanted: (B, N, S * P * P), what the token term compares with.
        visible: (B, K), indices of the visible tokens.
        hidden: (B, M), indices of the masked tokens that count.
        is_counted: (B, N) float, 1 where a token is among `hidden`.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere; None if all
            do.
        dates: (B, T), days since 1970-01-01; None if unknown.
        grid: the token grid of the images.
        counts: (2,), masked tokens and sums over a spectrum of the whole batch, which
            the two terms average over.
    """

    tokens: Tensor
    wanted: Tensor
    visible: Tensor
    hidden: Tensor
    is_counted: Tensor
    weights: Tensor | None
    dates: Tensor | None
    grid: TokenGrid
    counts: Tensor

    def of(self, rows: slice) -> "Targets":
        """Return the targets of some images; the batch is still averaged over."""
        weights = self.weights
        if weights is not None and len(weights) > 1:
            weights = weights[rows]
        return replace(
            self,
            tokens=self.tokens[rows],
            wanted=self.wanted[rows],
            visible=self.visible[rows],
            hidden=self.hidden[rows],
            is_counted=self.is_counted[rows],
            weights=weights,
            dates=None if self.dates is None else self.dates[rows],
        )

    def place(self, rebuilt: Tensor) -> Tensor:
        """Put rebuilt hidden tokens (B, M, S * P * P) among the image's others."""
        index = self.hidden.unsqueeze(-1).expand_as(rebuilt)
        return self.tokens.to(rebuilt.dtype).scatter(1, index, rebuilt)

    def compare(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Give these images' share of both terms for all tokens (B, N, S * P * P)."""
        num_masked, num_spectral = self.counts
        by_token = token_loss(
            prediction, self.wanted, self.is_counted, self.weights, num_masked
        )
        by_spectrum = spectral_loss(
            prediction,
            self.tokens,
            self.grid.groups,
            self.weights,
            self.grid.dates,
            num_spectral,
        )
        return by_token, by_spectrum


def find_targets(
    tokens: Tensor,
    mask: TokenMask,
    grid: TokenGrid,
    weights: Tensor | None = None,
    dates: Tensor | None = None,
    share: float = 1.0,
    normalize: bool = False,
) -> Targets:
    """Choose the targets of a batch.

    Args:
        tokens: (B, N, S * P * P), the images.
        mask: which of them are masked.
        grid: token grid of the images.
        weights: see `Targets`.
        dates: see `Targets`.
        share: share of the masked tokens that count, 0..1; those of smallest noise.
        normalize: whether the token term compares tokens normalised one by one.
    """
    hidden, is_counted = mask.hidden, mask.is_masked
    if share < 1:
        hidden = hidden[:, : max(1, round(share * hidden.shape[1]))]
        is_counted = torch.zeros_like(is_counted).scatter(1, hidden, 1.0)
    weights = None if weights is None else weights.to(tokens.device)
    num_masked = count_masked(is_counted, weights)
    num_spectral = count_spectral_values(tokens, grid.groups, weights, grid.dates)
    return Targets(
        tokens=tokens,
        wanted=normalize_tokens(tokens) if normalize else tokens,
        visible=mask.visible,
        hidden=hidden,
        is_counted=is_counted,
        weights=weights,
        dates=dates,
        grid=grid,
        counts=torch.stack([num_masked.float(), num_spectral.float()]),
    )
