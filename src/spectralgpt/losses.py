"""Losses as pure functions of tensors: the two reconstruction targets, and maps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.errors import ConfigError, ShapeError

IGNORE = -1  # The target of a pixel that counts in no loss.
_DICE_SMOOTHING = 1.0  # Pixels; keeps the gradient finite where areas are small.

_VARIANCE_EPS = 1e-6  # Source: the published code, per-token target normalisation.


def normalize_tokens(tokens: Tensor) -> Tensor:
    """Scale each token (..., S * P * P) to zero mean and unit (unbiased) variance."""
    mean, deviation = _moments(tokens)
    return (tokens - mean) / deviation


def denormalize_tokens(normalized: Tensor, tokens: Tensor) -> Tensor:
    """Give normalised tokens the mean and variance of others, both (..., S * P * P)."""
    mean, deviation = _moments(tokens)
    return normalized * deviation + mean


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    variance = tokens.var(dim=-1, keepdim=True)
    return tokens.mean(dim=-1, keepdim=True), (variance + _VARIANCE_EPS).sqrt()


def count_masked(is_masked: Tensor, weights: Tensor | None = None) -> Tensor:
    """Count the masked tokens of a batch that hold a value that counts.

    Args:
        is_masked: (B, N), 1 where a token is masked.
        weights: as of `token_loss`.

    Returns:
        0-d.
    """
    if weights is not None:
        is_masked = is_masked * (weights.sum(dim=-1) > 0)
    return is_masked.sum()


def token_loss(
    prediction: Tensor,
    target: Tensor,
    is_masked: Tensor,
    weights: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Compare each masked token with its target.

    Args:
        prediction: (B, N, S * P * P).
        target: (B, N, S * P * P).
        is_masked: (B, N), 1 where a token is masked.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere; None if
            all do.
        count: masked tokens to divide by, where these are a part of a batch; None
            counts the given ones.

    Returns:
        0-d: mean squared error of a masked token, over all masked tokens of the batch.

    Source: Hong et al. 2024, arXiv:2311.07113, token-to-token reconstruction.
    """
    if count is None:
        count = count_masked(is_masked, weights).clamp(min=1)
    squared = (prediction - target) ** 2
    if weights is None:
        error = squared.mean(dim=-1)  # (B, N)
    else:
        values = weights.sum(dim=-1).clamp(min=1)  # (B or 1, N)
        error = (squared * weights).sum(dim=-1) / values
    return (error * is_masked).sum() / count


def count_spectral_values(
    target: Tensor, groups: int, weights: Tensor | None = None, num_dates: int = 1
) -> Tensor:
    """Count the sums over a spectrum that have a value that counts.

    Args:
        target: (B, N, S * P * P).
        groups: band groups G.
        weights: as of `spectral_loss`.
        num_dates: dates T.

    Returns:
        0-d.
    """
    if weights is None:
        return target.new_full((), target.numel() / groups)
    counted = weights.unflatten(1, (num_dates, groups, -1)).amax(dim=2) > 0
    return counted.sum() * (len(target) / len(weights))


def spectral_loss(
    prediction: Tensor,
    target: Tensor,
    groups: int,
    weights: Tensor | None = None,
    num_dates: int = 1,
    count: Tensor | None = None,
) -> Tensor:
    """Compare the sums over all band groups at each spatial position of each date.

    All tokens count, visible ones too: the sum is that of a whole spectrum.

    Args:
        prediction: (B, N, S * P * P), tokens ordered by date, then band group.
        target: (B, N, S * P * P).
        groups: band groups G.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere and else 1;
            None if all do.
        num_dates: dates T; the sum is over the spectrum, never over dates.
        count: sums to divide by, where these are a part of a batch; None counts the
            given ones.

    Returns:
        0-d: mean squared difference over dates, positions and values.

    Source: Hong et al. 2024, arXiv:2311.07113, spectral-to-spectral reconstruction.
    """
    if count is None:
        count = count_spectral_values(target, groups, weights, num_dates).clamp(min=1)
    difference = prediction - target
    if weights is not None:
        difference = difference * weights
    summed = difference.unflatten(1, (num_dates, groups, -1)).sum(dim=2)
    return (summed**2).sum() / count  # from (B, T, Hp * Wp, values)


def balanced_class_weights(
    pixel_counts: Sequence[int], power: float = 1.0
) -> tuple[float, ...]:
    """Weigh classes against their share of the labels.

    Args:
        pixel_counts: labelled pixels, or images, of each class in the training data.
        power: 1 gives every class the same say; 0.5, the square root, is milder where a
            class is very rare; 0 weighs all pixels alike.

    Returns:
        One weight per class, proportional to count ** -power, with mean 1 over the
        pixels; 0 for a class without pixels.

    Raises:
        ConfigError: there are no pixels, a count is negative, or the power is not in
            0..1.
    """
    counts = torch.tensor(list(pixel_counts), dtype=torch.float64)
    within = "at least 0 and at most 1"
    check_range(within, {"power of the class weights": power})
    if counts.numel() == 0 or counts.min() < 0 or counts.sum() == 0:
        raise ConfigError(
            f"pixel counts {list(pixel_counts)} give no class weights: they must be at "
            "least 0, and not all 0."
        )
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0)
    weights = weights * counts.sum() / (weights * counts).sum()
    return tuple(weights.tolist())


def cross_entropy_sums(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compare class logits with a map: a sum over its labelled pixels, and its divisor.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64, 0..K-1, or `IGNORE` where nothing is known.
        class_weights: (K,), such as `balanced_class_weights`; None weighs all alike.
        label_smoothing: share of a target that is spread over all classes, 0..1.

    Returns:
        The sum over labelled pixels, weighted by the class of each, and the sum of
        their weights, both 0-d. Both are 0 if no pixel is labelled.

    Raises:
        ShapeError: logits, target and weights do not fit each other.
    """
    _check_map(logits, target, class_weights)
    logits = logits.float()  # Half precision counts no more than 256 pixels.
    weights = (
        None if class_weights is None else class_weights.to(logits, non_blocking=True)
    )
    summed = F.cross_entropy(
        logits,
        target,
        weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return summed, sum_weights(target, weights)


def sum_weights(target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Sum the weights of labelled pixels, 0-d; each weighs 1 without class weights."""
    is_labelled = target != IGNORE
    if class_weights is None:
        return is_labelled.sum().float()
    weights = class_weights.to(target.device, non_blocking=True).float()
    return (weights[target.clamp(min=0)] * is_labelled).sum()


def dice_areas(logits: Tensor, target: Tensor) -> Tensor:
    """Sum the areas that `dice_loss` compares; those of several batches add up.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64, 0..K-1 or `IGNORE`.

    Returns:
        (3, K), pixels of each class: where prediction and label meet, predicted,
        labelled.

    Raises:
        ShapeError: logits and target do not fit each other.
    """
    _check_map(logits, target, None)
    labelled = (target != IGNORE).float()[:, None]  # (B, 1, H, W)
    probabilities = logits.float().softmax(dim=1) * labelled
    wanted = F.one_hot(target.clamp(min=0), logits.shape[1]).movedim(-1, 1) * labelled
    meeting = probabilities * wanted
    areas = (meeting, probabilities, wanted)
    return torch.stack([area.sum(dim=(0, 2, 3)) for area in areas])


def dice_loss(areas: Tensor) -> Tensor:
    """Measure how little predicted and labelled areas overlap, each class alike.

    Args:
        areas: (3, K), from `dice_areas`.

    Returns:
        0-d, 0..1: the mean of 1 - Dice over the classes that the labels hold, areas
        summed over the batch; 0 if no pixel is labelled.

    Source: Milletari et al. 2016, arXiv:1606.04797, with areas instead of squares.
    """
    overlap, predicted, labelled = areas
    both = predicted + labelled
    dice = (2 * overlap + _DICE_SMOOTHING) / (both + _DICE_SMOOTHING)
    present = (labelled > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def _check_map(logits: Tensor, target: Tensor, class_weights: Tensor | None) -> None:
    if logits.ndim != 4 or target.shape != (len(logits), *logits.shape[2:]):
        raise ShapeError(
            f"logits {tuple(logits.shape)} do not fit a target of "
            f"{tuple(target.shape)}: give (B, K, H, W) and (B, H, W)."
        )
    if class_weights is not None and class_weights.shape != (logits.shape[1],):
        raise ShapeError(
            f"{class_weights.numel()} class weights for {logits.shape[1]} classes."
        )
