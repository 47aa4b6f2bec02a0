"""The encoder: visible tokens in, features out; and its blocks."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.cpu import Linear, attend, split_batch
from spectralgpt.models.positions import Positions
from spectralgpt.models.sizes import check_settings, check_wavelengths
from spectralgpt.models.tokenizer import SpectralTokenizer
from spectralgpt.models.tokens import (
    TokenGrid,
    Wavelengths,
    add_dates,
    dates_of_tokens,
    group_wavelengths,
    patchify,
    pick_tokens,
)

NORM_EPS = 1e-6  # Source: the published weights.
MLP_RATIO = 4
_PositionKind = Literal["separable", "joint"]
TokenizerKind = Literal["linear", "spectral"]


class _TokenEmbedding(nn.Module):
    """One linear map from the values of a token to the width of the encoder."""

    def __init__(self, token_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(embed_dim, token_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, K, S * P * P), of the weights' type, to (B, K, D)."""
        self.check_type(tokens)
        return F.linear(tokens, self.weight, self.bias)

    def check_type(self, tokens: Tensor) -> None:
        """Refuse tokens of another floating type than the weights."""
        # Autocast brings all floating types together, but for float64.
        if tokens.dtype != self.weight.dtype and not (
            torch.is_autocast_enabled(tokens.device.type)
            and tokens.is_floating_point()
            and tokens.dtype != torch.float64
        ):
            raise ShapeError(
                f"images are {tokens.dtype}, the weights {self.weight.dtype}: convert "
                f"scaled images with .to({self.weight.dtype})."
            )


def initialise_linear(linear: nn.Linear, parts: int = 1) -> None:
    """Xavier-initialise a linear map made of `parts` stacked maps; zero its bias."""
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(linear.bias)


class _Attention(nn.Module):
    """Multi-head self-attention with one fused map for query, key and value.

    Args:
        embed_dim: width D.
        num_heads: heads; D must be a multiple.

    Raises:
        ConfigError: D is no multiple of the number of heads.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(
                f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}."
            )
        self.num_heads = num_heads
        self.qkv = Linear(embed_dim, 3 * embed_dim)
        self.proj = Linear(embed_dim, embed_dim)
        initialise_linear(self.qkv, parts=3)
        initialise_linear(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, N, D) -> (B, N, D)."""
        q, k, v = _split_heads(self.qkv(x), 3, self.num_heads)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


def _split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Part (B, N, parts * D) into `parts` tensors (B, heads, N, D / heads)."""
    split = x.unflatten(-1, (parts, num_heads, -1))
    return split.permute(2, 0, 3, 1, 4).unbind()


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
        (q,) = _split_heads(self.q(x), 1, self.num_heads)
        k, v = _split_heads(self.kv(memory), 2, self.num_heads)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dim, MLP_RATIO * embed_dim)
        self.fc2 = Linear(MLP_RATIO * embed_dim, embed_dim)
        initialise_linear(self.fc1)
        initialise_linear(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token (B, N, D) -> (B, N, D)."""
        return self.fc2(self.fc1.gelu(x))


class _Block(nn.Module):
    """Pre-norm transformer block with stochastic depth.

    Args:
        embed_dim: width D.
        num_heads: attention heads.
        drop_path: probability that a sample skips a branch in training, 0..1.
        is_cross: attend to a memory, not to each other.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        is_cross: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        attention = _CrossAttention if is_cross else _Attention
        self.attn = attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.mlp = _MLP(embed_dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        """Transform tokens (B, N, D) -> (B, N, D); attention may look at a memory."""
        x = x + self._drop(self.attn(self.norm1(x), *memory))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        shape = (len(branch),) + (1,) * (branch.ndim - 1)
        kept = torch.rand(shape, device=branch.device, dtype=branch.dtype) < keep
        return branch * kept / keep


class BlockStack(nn.ModuleList):
    """Blocks that run one after the other.

    Attributes:
        recomputes: where gradients are taken, keep only what goes into each block, and
            run it once more in the backward pass: less memory, one more forward pass.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.recomputes = False

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        """Run tokens (B, N, D) through all blocks, each with the same memory."""
        for block in self:
            if self.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, x, *memory, use_reentrant=False)
            else:
                x = block(x, *memory)
        return x


def build_blocks(
    embed_dim: int,
    depth: int,
    num_heads: int,
    drop_path: float = 0.0,
    is_cross: bool = False,
) -> BlockStack:
    """Build `depth` blocks whose drop path rises linearly from 0 to `drop_path`.

    Args:
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads; D must be a multiple.
        drop_path: of the last block, 0..1.
        is_cross: blocks attend to a memory.

    Raises:
        ConfigError: D is no multiple of the number of heads.
    """
    rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
    return BlockStack(_Block(embed_dim, num_heads, rate, is_cross) for rate in rates)


class SpectralEncoder(nn.Module):
    """A vision transformer on spectral-spatial tokens.

    Images of any size (a multiple of the patch) and any bands are taken: positions are
    interpolated in space, and over wavelength in the spectrum. A series of dates of one
    place is a fifth axis, (B, T, C, H, W): its tokens are encoded together.

    Args:
        image_size: side in px of the images whose positions are learned.
        num_bands: bands whose positions are learned.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads.
        wavelengths_nm: centre wavelength of each band, nm, needed for other bands; or
            rows of its centre (nm), width (nm) and ground sampling distance (m), which
            a spectral tokeniser needs.
        drop_path: stochastic depth of the last block, 0..1, rising from 0.
        positions: `separable` tables, or one `joint` table as published classifiers.
        date_embedding: whether dates can be told apart; zero at the start.
        tokenizer: `linear`, the published one, with the same weights for all band
            groups; or `spectral`, see `SpectralTokenizer`.

    Attributes:
        absent_groups: band groups that are not shown to the blocks, because the images
            do not have them; their features are the mean of the others' at their place.
            Not a setting: it is not stored with the weights.

    Raises:
        ConfigError: a setting is out of range, see `check_settings`.
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
        wavelengths_nm: Wavelengths | None = None,
        drop_path: float = 0.0,
        positions: _PositionKind = "separable",
        date_embedding: bool = False,
        tokenizer: TokenizerKind = "linear",
    ) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "image_size": image_size,
            "num_bands": num_bands,
            "patch_size": patch_size,
            "bands_per_token": bands_per_token,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "wavelengths_nm": wavelengths_nm,
            "drop_path": drop_path,
            "positions": positions,
            "date_embedding": date_embedding,
        }
        check_settings(self._settings)
        self.image_size = image_size
        self.num_bands = num_bands
        self.patch_size = patch_size
        self.bands_per_token = bands_per_token
        self.embed_dim = embed_dim
        self.depth = depth
        self.num_heads = num_heads
        self.drop_path = drop_path
        bands = check_wavelengths(wavelengths_nm, num_bands)
        self.wavelengths_nm = None if bands is None else group_wavelengths(bands, 1)
        self._settings["wavelengths_nm"] = self.wavelengths_nm
        grid = TokenGrid(num_bands, image_size, image_size, patch_size, bands_per_token)
        if positions not in ("separable", "joint"):
            raise ConfigError(f"positions {positions!r}: use 'separable' or 'joint'.")
        self.embedding = _TokenEmbedding(grid.token_dim, embed_dim)
        is_joint = positions == "joint"
        self.positions = Positions(grid, embed_dim, self.wavelengths_nm, is_joint)
        self.blocks = build_blocks(embed_dim, depth, num_heads, drop_path)
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        if date_embedding:
            self.add_date_embedding()
        self.absent_groups: tuple[int, ...] = ()
        self.tokenizer: SpectralTokenizer | None = None
        if tokenizer not in ("linear", "spectral"):
            raise ConfigError(f"tokenizer {tokenizer!r}: use 'linear' or 'spectral'.")
        if tokenizer == "spectral":
            self.add_spectral_tokenizer(bands)

    def add_date_embedding(self) -> None:
        """Let dates be told apart; until trained, it changes no number."""
        self.positions.add_dates()

    def add_spectral_tokenizer(self, bands: Wavelengths | None) -> None:
        """Let weights follow the bands; until trained, it changes no number.

        That holds for tokens that are full; tokens of fewer bands share the weights.

        Args:
            bands: rows of centre (nm), width (nm) and ground sampling distance (m) of
                the model's own bands.

        Raises:
            ConfigError: the rows are wrong.
        """
        rows = check_wavelengths(bands, self.num_bands)
        self.tokenizer = SpectralTokenizer(
            self.embed_dim, self.bands_per_token, self.patch_size, rows
        ).to(self.embedding.weight)
        self._settings |= {"wavelengths_nm": rows, "tokenizer": "spectral"}

    @property
    def has_date_embedding(self) -> bool:
        """Whether dates can be passed."""
        return self.positions.dates is not None

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that build this encoder again."""
        return {**self._settings, "date_embedding": self.has_date_embedding}

    def grid_of(self, images: Tensor) -> TokenGrid:
        """Return the token grid of images (B, C, H, W) or series (B, T, C, H, W)."""
        return TokenGrid.of(images, self.patch_size, self.bands_per_token)

    def forward(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images to normalised tokens.

        Args:
            images: (B, C, H, W), scaled as in pretraining; H, W multiples of P. A
                series of T dates is (B, T, C, H, W).
            wavelengths: centre of each band, nm, or (C, 3) rows of centre in nm, width
                in nm and ground sampling distance in m, which a spectral tokeniser
                needs; None if they are the model's own. Bands share tokens in the order
                given: sort them by wavelength, as in pretraining, or they are grouped
                otherwise.
            dates: (B, T), days since 1970-01-01, NaN where unknown; None if all are.
                Images without a date axis have T = 1.

        Returns:
            (B, G, Hp, Wp, D); (B, T, G, Hp, Wp, D) of a series.

        Raises:
            ShapeError: the images do not fit the patch or the type of the weights,
                bands are in doubt, or dates do not fit the images.
            ConfigError: wavelengths that are not in nm, or dates for a model without
                date embedding.
        """
        return self.norm(self.encode(images, wavelengths, dates))

    def encode(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images without the final norm; see `forward`."""
        grid = self.grid_of(images)
        grid.check_dates(dates, images.shape[0])
        bands = self._check_bands(grid, wavelengths)
        x = self._embed(patchify(images, grid), grid, bands)
        x = x + self._place(grid, bands)
        x = add_dates(x, self.positions.embed_dates(dates, grid))
        if self.absent_groups:
            return self._transform_present(x, grid)
        x = self.transform(x)  # (B, N, D)
        return x.unflatten(1, grid.token_shape)

    def _transform_present(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """Run the tokens (B, N, D) of groups that are not absent through all blocks."""
        present = [g for g in range(grid.groups) if g not in self.absent_groups]
        if not present:
            raise ShapeError("all band groups are absent: nothing is left to encode.")
        size = (grid.dates, grid.groups, grid.rows, grid.columns)
        x = x.unflatten(1, size)[:, :, present]  # (B, T, present, Hp, Wp, D)
        shape = x.shape
        x = self.transform(x.flatten(1, 4)).view(shape)
        filled = x.mean(dim=2, keepdim=True).repeat(1, 1, grid.groups, 1, 1, 1)
        filled[:, :, present] = x
        return filled.flatten(1, 4).unflatten(1, grid.token_shape)

    def encode_visible(
        self,
        tokens: Tensor,
        visible: Tensor,
        grid: TokenGrid,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode only the visible tokens of each image.

        Args:
            tokens: (B, N, S * P * P), all tokens of the images.
            visible: (B, K) indices of the visible tokens.
            grid: token grid of the images.
            wavelengths: see `forward`; so are the dates.
            dates: (B, T).

        Returns:
            (B, K, D), after the final norm, in the order of `visible`.
        """
        bands = self._check_bands(grid, wavelengths)
        positions = self._place(grid, bands)
        embedded = self.positions.embed_dates(dates, grid)
        x = self._embed(tokens, grid, bands, visible) + positions[visible]  # (B, K, D)
        if embedded is not None:
            x = x + dates_of_tokens(embedded, visible, grid.tokens_per_date)
        return self.norm(self.transform(x))

    def _check_bands(
        self, grid: TokenGrid, wavelengths: Wavelengths | Tensor | None
    ) -> Wavelengths | None:
        """Return wavelengths as plain numbers, checked; None for the model's own."""
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        return check_wavelengths(wavelengths, grid.num_bands)

    def _embed(
        self,
        tokens: Tensor,
        grid: TokenGrid,
        bands: Wavelengths | None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Embed all tokens (B, N, S * P * P), or the visible ones (B, K): (B, K, D)."""
        if self.tokenizer is None:
            return self.embedding(pick_tokens(tokens, visible))
        self.embedding.check_type(tokens)
        weight, bias = self.embedding.weight, self.embedding.bias
        x = self.tokenizer.embed(tokens, weight, bias, grid, bands)
        return pick_tokens(x, visible)

    def _place(self, grid: TokenGrid, bands: Wavelengths | None) -> Tensor:
        """Return the positions (N, D) of all tokens of a grid."""
        table: Tensor = self.positions(grid, bands)
        return (
            table
            if self.tokenizer is None
            else self.tokenizer.place(table, grid, bands)
        )

    def transform(self, x: Tensor) -> Tensor:
        """Run embedded tokens (B, K, D) through all blocks."""
        parts: list[Tensor] = [self.blocks(part) for part in split_batch(x, MLP_RATIO)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def pooled(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the mean of each sample's normalised tokens, (B, D); see `forward`."""
        return self(images, wavelengths, dates).flatten(1, -2).mean(dim=1)

    @torch.no_grad()
    def pooled_by_group(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the mean of each band group's tokens, side by side: (B, G * D).

        It keeps apart what a mean over all tokens mixes: the parts of the spectrum. For
        the arguments see `forward`.
        """
        return mean_by_group(self(images, wavelengths, dates)).flatten(1)


def mean_by_group(tokens: Tensor) -> Tensor:
    """Average tokens (B, [T,] G, Hp, Wp, D) over places and dates: (B, G, D)."""
    by_group = tokens.mean(dim=(-3, -2))  # (B, [T,] G, D)
    return by_group.mean(dim=1) if by_group.ndim == 4 else by_group
