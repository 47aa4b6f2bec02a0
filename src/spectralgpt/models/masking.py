"""Choosing which tokens the encoder does not see."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.tokens import TokenGrid

__all__ = ["MASK_STYLES", "MaskStyle", "TokenMask", "draw_mask", "draw_noise"]

MaskStyle = Literal["cube", "tube", "spectral"]
MASK_STYLES: tuple[MaskStyle, ...] = ("cube", "tube", "spectral")


@dataclass(frozen=True)
class TokenMask:
    """Which tokens of each image are visible.

    Attributes:
        visible: (B, K) indices of the visible tokens, in the order of their noise.
        is_masked: (B, N) float, 1 where a token is masked and 0 where it is visible.
    """

    visible: Tensor
    is_masked: Tensor


def _units(grid: TokenGrid, style: MaskStyle) -> int:
    """Return how many things are masked independently."""
    units = {
        "cube": grid.num_tokens,
        "tube": grid.positions,
        "spectral": grid.groups,
    }
    if style not in units:
        raise ConfigError(
            f"mask style {style!r} is unknown: use {', '.join(MASK_STYLES)}."
        )
    return units[style]


def _tokens_of_units(units: Tensor, grid: TokenGrid, style: MaskStyle) -> Tensor:
    """Return the indices (B, K) of all tokens that belong to units (B, M)."""
    if style == "cube":
        return units
    if style == "tube":
        offsets = torch.arange(grid.groups, device=units.device) * grid.positions
        return (offsets[:, None] + units[:, None, :]).flatten(1)  # (B, G * M)
    offsets = torch.arange(grid.positions, device=units.device)
    return (units[:, :, None] * grid.positions + offsets).flatten(1)  # (B, M * Hp * Wp)


def draw_mask(
    grid: TokenGrid,
    noise: Tensor,
    mask_ratio: float,
    style: MaskStyle = "cube",
) -> TokenMask:
    """Keep the tokens of smallest noise visible and mask the others.

    Args:
        grid: token geometry.
        noise: uniform values, (B, N) for `cube`, (B, Hp * Wp) for `tube` (one spatial
            mask for all band groups), (B, G) for `spectral` (whole band groups).
        mask_ratio: share of masked units, 0 <= ratio < 1; at least one stays visible.
        style: what is masked as a whole.

    Raises:
        ConfigError: the ratio or the style is wrong.
        ShapeError: the noise does not fit the style.

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
    kept = noise.argsort(dim=1)[:, :num_visible]
    visible = _tokens_of_units(kept, grid, style)
    is_masked = torch.ones(len(noise), grid.num_tokens, device=noise.device)
    return TokenMask(visible, is_masked.scatter(1, visible, 0.0))


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
