"""Choosing which tokens the encoder does not see."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.tokens import TokenGrid

MaskStyle = Literal["cube", "tube", "spectral", "date"]
MASK_STYLES: tuple[MaskStyle, ...] = ("cube", "tube", "spectral", "date")


@dataclass(frozen=True)
class TokenMask:
    """Which tokens of each image are visible.

    Attributes:
        visible: (B, K) indices of the visible tokens, in the order of their noise.
        is_masked: (B, N) float, 1 where a token is masked and 0 where it is visible.
        hidden: (B, N - K) indices of the masked tokens, in the order of their noise.
    """

    visible: Tensor
    is_masked: Tensor
    hidden: Tensor


def _units(grid: TokenGrid, style: MaskStyle) -> int:
    """Return how many things are masked independently."""
    units = {
        "cube": grid.num_tokens,
        "tube": grid.dates * grid.positions,
        "spectral": grid.dates * grid.groups,
        "date": grid.dates,
    }
    if style not in units:
        raise ConfigError(
            f"mask style {style!r} is unknown: use {', '.join(MASK_STYLES)}."
        )
    if style == "date" and grid.dates == 1:
        raise ConfigError(
            "mask style 'date' hides whole dates, but there is one date only: use "
            "another style, or series of several dates."
        )
    return units[style]


def _tokens_of_units(units: Tensor, grid: TokenGrid, style: MaskStyle) -> Tensor:
    """Return the indices (B, K) of all tokens that belong to units (B, M)."""
    if style == "cube":
        return units
    if style == "tube":
        dates = units.div(grid.positions, rounding_mode="floor")
        units = units + dates * (grid.tokens_per_date - grid.positions)
        offsets = torch.arange(grid.groups, device=units.device) * grid.positions
        return (offsets[:, None] + units[:, None, :]).flatten(1)  # (B, G * M)
    # Tokens of a band group, and those of a date, follow each other.
    size = grid.positions if style == "spectral" else grid.tokens_per_date
    offsets = torch.arange(size, device=units.device)
    return (units[:, :, None] * size + offsets).flatten(1)  # (B, M * size)


def find_available(valid: Tensor | None, grid: TokenGrid) -> Tensor | None:
    """Find the tokens whose band group has any valid pixel in the image or date.

    Args:
        valid: bool (B, C, H, W) or (B, T, C, H, W), true where a pixel holds data; None
            if all do.
        grid: token geometry.

    Returns:
        bool (B, N); None if all tokens of all images are available.
    """
    if valid is None:
        return None
    bands = valid.flatten(-2).any(dim=-1)  # (B, C) or (B, T, C)
    if bool(bands.all()):
        return None
    filled = F.pad(bands, (0, grid.padded_bands))  # (..., G * S)
    groups = filled.unflatten(-1, (grid.groups, grid.bands_per_token)).any(dim=-1)
    if bool(groups.all()):
        return None
    return groups.flatten(1).repeat_interleave(grid.positions, dim=1)  # (B, N)


def draw_mask(
    grid: TokenGrid,
    noise: Tensor,
    mask_ratio: float,
    style: MaskStyle = "cube",
    available: Tensor | None = None,
) -> TokenMask:
    """Keep the tokens of smallest noise visible and mask the others.

    Tokens that are not available are never visible. Each image of a batch shows the
    same number of tokens: as many as a complete image does, or as the image with the
    fewest has. An image that lacks band groups thus shows more of the others.

    Args:
        grid: token geometry.
        noise: uniform values, (B, N) for `cube`, (B, T * Hp * Wp) for `tube` (one
            spatial mask for all band groups of a date), (B, T * G) for `spectral`
            (whole band groups of a date), (B, T) for `date` (whole dates).
        mask_ratio: share of masked units, 0 <= ratio < 1; at least one stays visible.
        style: what is masked as a whole.
        available: bool (B, N), false for tokens without data; None if all have data.

    Raises:
        ConfigError: the ratio or the style is wrong.
        ShapeError: the noise does not fit the style, or `available` the tokens, or an
            image has no available token.

    Source: Hong et al. 2024, arXiv:2311.07113, 3D masking.
    """
    if not 0 <= mask_ratio < 1:
        raise ConfigError(f"mask_ratio is {mask_ratio}: use 0 <= mask_ratio < 1.")
    units = _units(grid, style)
    if noise.ndim != 2 or noise.shape[1] != units:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}: mask style {style!r} on this image "
            f"needs (batch, {units})."
        )
    # The published code truncates the float product; 0.9 of 576 leaves 57 visible.
    num_visible = max(1, int(units * (1 - mask_ratio)))
    if available is None:
        order = noise.argsort(dim=1)
        visible = _tokens_of_units(order[:, :num_visible], grid, style)
        hidden = _tokens_of_units(order[:, num_visible:], grid, style)
    else:
        most = num_visible * grid.num_tokens // units
        visible, hidden = _choose_available(grid, noise, most, style, available)
    is_masked = torch.ones(len(noise), grid.num_tokens, device=noise.device)
    return TokenMask(visible, is_masked.scatter(1, visible, 0.0), hidden)


def _choose_available(
    grid: TokenGrid, noise: Tensor, most: int, style: MaskStyle, available: Tensor
) -> tuple[Tensor, Tensor]:
    """Part tokens into the K <= most available ones of smallest noise, and the others.

    Tokens of one unit follow each other, so that units stay whole as far as they can.
    """
    if available.shape != (len(noise), grid.num_tokens):
        raise ShapeError(
            f"available has shape {tuple(available.shape)}: it needs one value for "
            f"each token, ({len(noise)}, {grid.num_tokens})."
        )
    least = int(available.sum(dim=1).min())
    if least == 0:
        raise ShapeError("an image has no available token: leave it out of the batch.")
    by_token = noise
    if style == "tube":
        by_date = noise.unflatten(1, (grid.dates, 1, -1))
        by_token = by_date.expand(-1, -1, grid.groups, -1).flatten(1)  # (B, N)
    elif style == "spectral":
        by_token = noise.repeat_interleave(grid.positions, dim=1)  # (B, N)
    elif style == "date":
        by_token = noise.repeat_interleave(grid.tokens_per_date, dim=1)  # (B, N)
    by_token = by_token.masked_fill(~available, torch.inf)
    order = by_token.argsort(dim=1, stable=True)
    return order[:, : min(most, least)], order[:, min(most, least) :]


def draw_noise(
    grid: TokenGrid,
    batch_size: int,
    style: MaskStyle = "cube",
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Draw the uniform noise that `draw_mask` needs.

    It is drawn on the generator's device (the CPU without one) and then moved, so that
    a CPU generator gives the same masks on every device.
    """
    source = generator.device if generator is not None else device
    shape = (batch_size, _units(grid, style))
    return torch.rand(shape, generator=generator, device=source).to(device)
