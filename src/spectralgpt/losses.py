"""The two reconstruction targets, as pure functions of tensors."""

import torch
from torch import Tensor

__all__ = ["normalize_tokens", "spectral_loss", "token_loss"]

_VARIANCE_EPS = 1e-6  # Source: the published code, per-token target normalisation.


def normalize_tokens(tokens: Tensor) -> Tensor:
    """Scale each token (..., S * P * P) to zero mean and unit (unbiased) variance."""
    mean = tokens.mean(dim=-1, keepdim=True)
    variance = tokens.var(dim=-1, keepdim=True)
    return (tokens - mean) / (variance + _VARIANCE_EPS).sqrt()


def token_loss(
    prediction: Tensor, target: Tensor, is_masked: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compare each masked token with its target.

    Args:
        prediction: (B, N, S * P * P).
        target: (B, N, S * P * P).
        is_masked: (B, N), 1 where a token is masked.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere; None if
            all do.

    Returns:
        0-d: mean squared error of a masked token, over all masked tokens of the batch.

    Source: Hong et al. 2024, arXiv:2311.07113, token-to-token reconstruction.
    """
    squared = (prediction - target) ** 2
    if weights is None:
        error = squared.mean(dim=-1)  # (B, N)
        return (error * is_masked).sum() / is_masked.sum().clamp(min=1)
    count = weights.sum(dim=-1)  # (B or 1, N)
    error = (squared * weights).sum(dim=-1) / count.clamp(min=1)  # (B, N)
    counted = is_masked * (count > 0)
    return (error * counted).sum() / counted.sum().clamp(min=1)


def spectral_loss(
    prediction: Tensor, target: Tensor, groups: int, weights: Tensor | None = None
) -> Tensor:
    """Compare the sums over all band groups at each spatial position.

    All tokens count, visible ones too: the sum is that of a whole spectrum.

    Args:
        prediction: (B, N, S * P * P), tokens ordered by band group first.
        target: (B, N, S * P * P).
        groups: band groups G.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere; None if
            all do.

    Returns:
        0-d: mean squared difference over positions and values.

    Source: Hong et al. 2024, arXiv:2311.07113, spectral-to-spectral reconstruction.
    """
    difference = prediction - target
    if weights is None:
        summed = difference.unflatten(1, (groups, -1)).sum(dim=1)
        return (summed**2).mean()
    summed = (difference * weights).unflatten(1, (groups, -1)).sum(dim=1)
    counted = weights.unflatten(1, (groups, -1)).amax(dim=1).expand_as(summed)
    return (summed**2 * counted).sum() / torch.clamp(counted.sum(), min=1)
