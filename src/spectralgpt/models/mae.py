"""The masked autoencoder: tokens, mask, encoder, decoder and loss, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import ShapeError
from spectralgpt.losses import (
    denormalize_tokens,
    normalize_tokens,
    spectral_loss,
    token_loss,
)
from spectralgpt.models.dates import check_dates
from spectralgpt.models.decoder import ReconstructionDecoder
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.masking import (
    MaskStyle,
    draw_mask,
    draw_noise,
    find_available,
)
from spectralgpt.models.tokens import TokenGrid, patchify, token_weights, unpatchify

__all__ = ["MaskedAutoencoder", "MaskedAutoencoderOutput"]


@dataclass(frozen=True)
class MaskedAutoencoderOutput:
    """What one pass through the masked autoencoder gives.

    Attributes:
        loss: 0-d, the weighted sum of both terms.
        token_loss: 0-d, masked tokens against their targets.
        spectral_loss: 0-d, sums over the spectrum of each date, all positions.
        prediction: (B, N, S * P * P), what the decoder gives for all tokens.
        rebuilt: (B, N, S * P * P), the prediction in the scale of the images. It is the
            prediction itself, unless targets are normalised: then each token's mean and
            variance are no part of it, and are taken from the image.
        mask: (B, N) float, 1 where a token was masked.
        latent: (B, K, D), the encoder's output for the visible tokens.
        grid: the token grid of the images.
    """

    loss: Tensor
    token_loss: Tensor
    spectral_loss: Tensor
    prediction: Tensor
    rebuilt: Tensor
    mask: Tensor
    latent: Tensor
    grid: TokenGrid


class MaskedAutoencoder(nn.Module):
    """SpectralGPT's pretraining model.

    Args:
        image_size: side in px of the images whose positions are learned.
        num_bands: bands of the images.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.
        embed_dim: width of the encoder.
        depth: blocks of the encoder.
        num_heads: attention heads of the encoder.
        decoder_embed_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of the decoder.
        wavelengths_nm: centre wavelength of each band, nm; needed for other bands.
        normalize_targets: compare tokens normalised one by one (the token term only).
        token_loss_weight: weight of the token term.
        spectral_loss_weight: weight of the spectral term.
        date_embedding: whether dates can be told apart; zero at the start.

    Source: Hong et al. 2024, arXiv:2311.07113; numbers follow the published weights.
    """

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        bands_per_token: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 4,
        decoder_num_heads: int = 16,
        wavelengths_nm: Sequence[float] | None = None,
        normalize_targets: bool = False,
        token_loss_weight: float = 1.0,
        spectral_loss_weight: float = 1.0,
        date_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = SpectralEncoder(
            image_size,
            num_bands,
            patch_size,
            bands_per_token,
            embed_dim,
            depth,
            num_heads,
            wavelengths_nm,
        )
        self.decoder = ReconstructionDecoder(
            self.encoder.positions.grid,
            embed_dim,
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            self.encoder.wavelengths_nm,
        )
        self.normalize_targets = normalize_targets
        self.token_loss_weight = token_loss_weight
        self.spectral_loss_weight = spectral_loss_weight
        self.config: dict[str, Any] = {
            name: value
            for name, value in self.encoder.config.items()
            if name not in ("drop_path", "positions")
        } | {
            "decoder_embed_dim": decoder_embed_dim,
            "decoder_depth": decoder_depth,
            "decoder_num_heads": decoder_num_heads,
            "normalize_targets": normalize_targets,
            "token_loss_weight": token_loss_weight,
            "spectral_loss_weight": spectral_loss_weight,
        }
        if date_embedding:
            self.add_date_embedding()

    def add_date_embedding(self) -> None:
        """Let dates be told apart; until trained, it changes no number."""
        self.encoder.add_date_embedding()
        self.decoder.positions.add_dates()
        self.config["date_embedding"] = True

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.9,
        noise: Tensor | None = None,
        *,
        wavelengths: Sequence[float] | Tensor | None = None,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        mask_style: MaskStyle = "cube",
        generator: torch.Generator | None = None,
    ) -> MaskedAutoencoderOutput:
        """Mask images, rebuild them, and measure the error.

        Args:
            images: (B, C, H, W), scaled to about 0..1; H, W multiples of the patch. A
                series of T dates is (B, T, C, H, W).
            mask_ratio: share of masked tokens, 0 <= ratio < 1.
            noise: uniform values that choose the mask (see `draw_mask`); None draws it.
            wavelengths: centre of each band, nm; None if they are the model's own.
            valid: bool, shaped as the images, false where a pixel counts in no loss.
            dates: (B, T), days since 1970-01-01, NaN where unknown; None if all are.
            mask_style: one of `MASK_STYLES`.
            generator: source of the noise, if that is not given.

        Raises:
            ShapeError: images, mask or noise do not fit each other or the model.
            ConfigError: the ratio or the style is wrong, or dates for a model without
                date embedding.
        """
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        if valid is not None and valid.shape != images.shape:
            raise ShapeError(
                f"valid has shape {tuple(valid.shape)}, the images "
                f"{tuple(images.shape)}: they must be equal."
            )
        grid = self.encoder.grid_of(images)
        check_dates(dates, len(images), grid.dates)
        if noise is None:
            noise = draw_noise(grid, len(images), mask_style, generator, images.device)
        available = find_available(valid, grid)
        mask = draw_mask(grid, noise, mask_ratio, mask_style, available)
        tokens = patchify(images, grid)
        positions = self.encoder.position_table(grid, wavelengths)
        latent = self.encoder.encode_visible(
            tokens, mask.visible, positions, self.encoder.embed_dates(dates, grid)
        )
        prediction = self.decoder(latent, mask.visible, grid, wavelengths, dates)
        weights = token_weights(valid, grid)
        if weights is not None:
            weights = weights.to(prediction.device)
        targets, rebuilt = tokens, prediction
        if self.normalize_targets:
            targets = normalize_tokens(tokens)
            rebuilt = denormalize_tokens(prediction.detach(), tokens)
        by_token = token_loss(prediction, targets, mask.is_masked, weights)
        by_spectrum = spectral_loss(
            prediction, tokens, grid.groups, weights, grid.dates
        )
        loss = (
            self.token_loss_weight * by_token + self.spectral_loss_weight * by_spectrum
        )
        return MaskedAutoencoderOutput(
            loss,
            by_token,
            by_spectrum,
            prediction,
            rebuilt,
            mask.is_masked,
            latent,
            grid,
        )

    @staticmethod
    def reconstruct(output: MaskedAutoencoderOutput) -> Tensor:
        """Return what a forward pass rebuilt, shaped as the images."""
        return unpatchify(output.rebuilt, output.grid)
