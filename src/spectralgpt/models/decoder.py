"""The light decoders: features of visible tokens in, pixels of the others out.

The published one rebuilds all tokens together. In the fast one, a departure from the
paper, masked tokens look at the visible ones only: they do not see each other, so that
the work grows with masked times visible tokens, a tenth of all times all; and some of
the masked tokens can be left out of a step. Visible tokens are not rebuilt: they are
known.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spectralgpt.models.cpu.kernels import Linear, attend
from spectralgpt.models.positions import SeparablePositions, add_dates, dates_of_tokens
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.models.transformer import (
    NORM_EPS,
    Attention,
    build_blocks,
    initialise_linear,
    split_heads,
)

_MASK_TOKEN_STD = 0.02
_PREDICTION_STD = 0.02


class _Decoder(nn.Module):
    """What both decoders consist of: maps in and out, positions, blocks.

    Args:
        grid: the token grid that the positions are learned on.
        encoder_dim: width of the encoder's features.
        embed_dim: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads.
        wavelengths_nm: centre wavelength of each band, nm; None if unknown.
    """

    attention: type[nn.Module] = Attention

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
        self.blocks = build_blocks(
            embed_dim, depth, num_heads, attention=self.attention
        )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.prediction = Linear(embed_dim, grid.token_dim)
        nn.init.normal_(self.mask_token, std=_MASK_TOKEN_STD)
        initialise_linear(self.embedding)
        initialise_linear(self.prediction)
        # Pixels lie in 0..1: predictions of Xavier's size would cost the first steps.
        nn.init.trunc_normal_(self.prediction.weight, std=_PREDICTION_STD)


class ReconstructionDecoder(_Decoder):
    """A small transformer that rebuilds every token from the visible ones."""

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


class _CrossAttention(nn.Module):
    """Multi-head attention from tokens to a memory."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(embed_dim, embed_dim)
        self.kv = Linear(embed_dim, 2 * embed_dim)
        self.proj = Linear(embed_dim, embed_dim)
        initialise_linear(self.q)
        initialise_linear(self.kv, parts=2)
        initialise_linear(self.proj)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Mix a memory (B, K, D) into tokens (B, M, D) -> (B, M, D)."""
        (q,) = split_heads(self.q(x), 1, self.num_heads)
        k, v = split_heads(self.kv(memory), 2, self.num_heads)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class CrossDecoder(_Decoder):
    """A small transformer that rebuilds masked tokens from the visible ones.

    Args:
        grid: see `_Decoder`, as all others.
        encoder_dim: width of the encoder's features.
        embed_dim: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads.
        wavelengths_nm: centre wavelength of each band, nm; None if unknown.

    Source: Fu et al. 2024, arXiv:2401.14391 (cross-attention and partial targets).
    """

    attention = _CrossAttention

    def __init__(
        self,
        grid: TokenGrid,
        encoder_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        wavelengths_nm: Sequence[float] | None = None,
    ) -> None:
        super().__init__(grid, encoder_dim, embed_dim, depth, num_heads, wavelengths_nm)
        self.memory_norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)

    def forward(
        self,
        latent: Tensor,
        visible: Tensor,
        hidden: Tensor,
        grid: TokenGrid,
        wavelengths_nm: Sequence[float] | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Rebuild the pixel values of some masked tokens.

        Args:
            latent: (B, K, encoder width), the encoder's output.
            visible: (B, K), which token each row of `latent` is.
            hidden: (B, M), the tokens to rebuild.
            grid: token grid of the images.
            wavelengths_nm: centre of each band, nm; None for the model's own.
            dates: (B, T), days since 1970-01-01; None if unknown.

        Returns:
            (B, M, S * P * P).
        """
        positions = self.positions(grid, wavelengths_nm)  # (N, D)
        by_date = self.positions.embed_dates(dates, grid.dates)
        x = self.mask_token + positions[hidden]  # (B, M, D)
        memory = self.embedding(latent) + positions[visible]  # (B, K, D)
        if by_date is not None:
            x = x + dates_of_tokens(by_date, hidden, grid.tokens_per_date)
            memory = memory + dates_of_tokens(by_date, visible, grid.tokens_per_date)
        x = self.blocks(x, self.memory_norm(memory))
        prediction: Tensor = self.prediction(self.norm(x))
        return prediction
