"""The light decoder: features of visible tokens in, pixels of all tokens out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spectralgpt.models.dates import add_dates
from spectralgpt.models.positions import SeparablePositions
from spectralgpt.models.products import Linear
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.models.transformer import (
    NORM_EPS,
    BlockStack,
    build_blocks,
    initialise_linear,
)

__all__ = ["BaseDecoder", "ReconstructionDecoder"]

_MASK_TOKEN_STD = 0.02
_PREDICTION_STD = 0.02


class BaseDecoder(nn.Module):
    """What both decoders consist of: maps in and out, positions, blocks.

    Args:
        grid: the token grid that the positions are learned on.
        encoder_dim: width of the encoder's features.
        embed_dim: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads.
        wavelengths_nm: centre wavelength of each band, nm; None if unknown.
    """

    def __init__(
        self,
        grid: TokenGrid,
        encoder_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        wavelengths_nm: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.embedding = Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.positions = SeparablePositions(grid, embed_dim, wavelengths_nm)
        self.blocks = self._build_blocks(embed_dim, depth, num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.prediction = Linear(embed_dim, grid.token_dim)
        nn.init.normal_(self.mask_token, std=_MASK_TOKEN_STD)
        initialise_linear(self.embedding)
        initialise_linear(self.prediction)
        # Pixels lie in 0..1: predictions of Xavier's size would cost the first steps.
        nn.init.trunc_normal_(self.prediction.weight, std=_PREDICTION_STD)

    def _build_blocks(self, embed_dim: int, depth: int, num_heads: int) -> BlockStack:
        raise NotImplementedError


class ReconstructionDecoder(BaseDecoder):
    """A small transformer that rebuilds every token from the visible ones."""

    def _build_blocks(self, embed_dim: int, depth: int, num_heads: int) -> BlockStack:
        return build_blocks(embed_dim, depth, num_heads)

    def forward(
        self,
        latent: Tensor,
        visible: Tensor,
        grid: TokenGrid,
        wavelengths_nm: Sequence[float] | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Rebuild the pixel values of all tokens.

        Args:
            latent: (B, K, encoder width), the encoder's output.
            visible: (B, K), which token each row of `latent` is.
            grid: token grid of the images.
            wavelengths_nm: centre of each band, nm; None for the model's own.
            dates: (B, T), days since 1970-01-01; None if unknown.

        Returns:
            (B, N, S * P * P).
        """
        x = self.embedding(latent)  # (B, K, D)
        B, _, D = x.shape
        index = visible.unsqueeze(-1).expand(-1, -1, D)
        hidden = self.mask_token.to(x.dtype).expand(B, grid.num_tokens, D)
        x = hidden.scatter(1, index, x) + self.positions(grid, wavelengths_nm)
        x = add_dates(x, self.positions.embed_dates(dates, grid.dates))
        prediction: Tensor = self.prediction(self.norm(self.blocks(x)))
        return prediction
