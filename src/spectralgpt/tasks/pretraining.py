"""Pretraining as a task: mask, rebuild, measure the error on held-out images."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from spectralgpt.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from spectralgpt.models.masking import MaskStyle, draw_noise
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.tasks.reconstruction import ErrorSum, score_fillers

__all__ = [
    "PretrainingTask",
    "draw_sample_noise",
    "pixel_mask",
    "score_reconstructions",
]


def draw_sample_noise(grid: TokenGrid, seeds: Tensor, style: MaskStyle) -> Tensor:
    """Draw the masking noise of each image from its own seed.

    A mask thus depends on the sample alone: not on the batch it is in, the process, the
    device, or what was drawn before. The draw is on the CPU for the same reason.

    Args:
        grid: token geometry.
        seeds: (B,) int64.
        style: what is masked as a whole.

    Returns:
        (B, units of the style), uniform, on the CPU.
    """
    rows = [
        draw_noise(grid, 1, style, torch.Generator().manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.cat(rows)


def pixel_mask(is_masked: Tensor, grid: TokenGrid) -> Tensor:
    """Spread a token mask (B, N) over pixels: bool (B, C, H, W), true where masked."""
    cubes = is_masked.bool().reshape(-1, grid.groups, grid.rows, grid.columns)
    pixels = cubes.repeat_interleave(grid.bands_per_token, dim=1)
    pixels = pixels.repeat_interleave(grid.patch_size, dim=2)
    pixels = pixels.repeat_interleave(grid.patch_size, dim=3)
    return pixels[:, : grid.num_bands]  # (B, C, H, W)


class PretrainingTask:
    """Masked-image modelling with both reconstruction targets.

    Batches hold `images` (B, C, H, W) float, `valid` (B, C, H, W) bool and `seed` (B,).

    Args:
        model: the masked autoencoder.
        mask_ratio: share of masked tokens, 0..1.
        mask_style: cube, tube or spectral.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        mask_ratio: float = 0.9,
        mask_style: MaskStyle = "cube",
    ) -> None:
        self.model = model
        self.mask_ratio = mask_ratio
        self.mask_style: MaskStyle = mask_style
        self._error = ErrorSum()

    def forward(self, batch: dict[str, Any]) -> MaskedAutoencoderOutput:
        """Mask by each sample's seed and rebuild."""
        images = batch["images"]
        grid = self.model.encoder.grid_of(images)
        noise = draw_sample_noise(grid, batch["seed"], self.mask_style)
        output: MaskedAutoencoderOutput = self.model(
            images,
            self.mask_ratio,
            noise.to(images.device),
            valid=_valid_or_none(batch["valid"]),
            mask_style=self.mask_style,
        )
        return output

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Give the loss and both of its terms."""
        output = self.forward(batch)
        return {
            "loss": output.loss,
            "token_loss": output.token_loss,
            "spectral_loss": output.spectral_loss,
        }

    @torch.no_grad()
    def validate(self, batch: dict[str, Any]) -> None:
        """Add the squared error of masked, valid pixels of one held-out batch."""
        images = batch["images"]
        output = self.forward(batch)
        rebuilt = self.model.reconstruct(output).float()
        counted = pixel_mask(output.mask, output.grid) & batch["valid"]
        self._error.add(rebuilt, images, counted)

    def metrics(self) -> dict[str, float]:
        """Give the mean squared error of masked pixels, in scaled units, and reset."""
        error, self._error = self._error.mean, ErrorSum()
        return {"masked_error": error}


def score_reconstructions(
    task: PretrainingTask, batches: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Score a model and simple fillers on the same masked images.

    Args:
        task: holds the model, on the CPU, and how images are masked.
        batches: held-out batches.

    Returns:
        Mean squared errors over masked pixels; see `score_fillers`.
    """

    def rebuilt() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for batch in batches:
            with torch.no_grad():
                output = task.forward(batch)
            masked = pixel_mask(output.mask, output.grid)
            guess = task.model.reconstruct(output)
            valid = batch["valid"]
            yield batch["images"], guess, ~masked & valid, masked & valid

    return score_fillers(rebuilt())


def _valid_or_none(valid: Tensor) -> Tensor | None:
    # Without invalid pixels the model takes its shorter path, with the same result.
    return None if bool(valid.all()) else valid
