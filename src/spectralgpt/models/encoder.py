"""The encoder: visible tokens in, features out; its positions and its blocks.

Learnable tables tell where a token lies and its band group; they are exact on the grid
and bands that they were learned on, and interpolated for others. Dates tell season, and
gap in days: they are days since 1 January 1970, not a number (NaN) where unknown.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.cpu import Linear, attend, split_batch
from spectralgpt.models.sizes import check_settings, check_wavelengths
from spectralgpt.models.tokens import (
    TokenGrid,
    add_dates,
    dates_of_tokens,
    group_wavelengths,
    patchify,
    resize_spatial,
    resize_spectral,
)

NORM_EPS = 1e-6  # Source: the published weights.
MLP_RATIO = 4
_PositionKind = Literal["separable", "joint"]
# As Vaswani et al. 2017, arXiv:1706.03762, but for tens of patches, not for text.
_LONGEST_PERIOD = 100.0
_YEAR_DAYS = 365.2425  # Mean length of a year; seasons stay within a day of it.
_HARMONICS = 4
# Each period four times the one before, from a revisit or two to a decade.
_GAP_PERIODS_DAYS = (16.0, 64.0, 256.0, 1024.0, 4096.0)
_DATE_FEATURES = 2 * (_HARMONICS + len(_GAP_PERIODS_DAYS))


class _TokenEmbedding(nn.Module):
    """One linear map from the values of a token to the width of the encoder."""

    def __init__(self, token_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(embed_dim, token_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, K, S * P * P), of the weights' type, to (B, K, D)."""
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
        return F.linear(tokens, self.weight, self.bias)


def _sine_cosine(places: Tensor, dim: int) -> Tensor:
    """Encode places (M,) on a line by sines and cosines of falling frequency: (M, dim).

    Learnable tables start from these: from noise, a short run does not find out which
    tokens are neighbours. An odd last value is 0.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32) / max(1, half)
    angles = places[:, None] * _LONGEST_PERIOD**-steps
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(code, (0, dim - 2 * half))


def _date_features(dates: Tensor) -> Tensor:
    """Describe dates by fixed sines and cosines.

    Season: harmonics of the place in the year, so that 31 December lies beside
    1 January. Gap: days since the sample's earliest known date, at several periods, as
    sin and 1 - cos, so that the earliest date has the code 0.

    Args:
        dates: (B, T), days since 1970-01-01; the code of an unknown date (NaN) is 0.

    Returns:
        float32 (B, T, features).
    """
    known = dates.isfinite()
    days = torch.where(known, dates, 0).float()
    first = torch.where(known, days, torch.inf).amin(dim=1, keepdim=True)
    gap = torch.where(known, days - first, 0)
    turn = 2 * math.pi
    harmonics = torch.arange(1, _HARMONICS + 1, device=dates.device)
    season = turn * (days % _YEAR_DAYS / _YEAR_DAYS)[..., None] * harmonics
    periods = torch.tensor(_GAP_PERIODS_DAYS, device=dates.device)
    apart = turn * gap[..., None] / periods
    code = [season.sin(), season.cos(), apart.sin(), 1 - apart.cos()]
    return torch.cat(code, dim=-1) * known[..., None]  # (B, T, features)


class _DateEmbedding(nn.Module):
    """A linear map of `_date_features`, zero at the start.

    Until it is trained, dates change nothing, and a model that was trained on single
    dates can be given one at any time.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(embed_dim, _DATE_FEATURES))

    def forward(self, dates: Tensor | None, grid: TokenGrid) -> Tensor:
        """Embed dates (B, T), in days: (B, T, D); if all are unknown, (1, T, D)."""
        if dates is None:
            dates = self.weight.new_full((1, grid.dates), torch.nan)
        grid.check_dates(dates, len(dates))
        features = _date_features(dates.to(self.weight.device))
        return F.linear(features.to(self.weight.dtype), self.weight)


class Positions(nn.Module):
    """What tells tokens apart: where they lie, their band group and their date.

    Args:
        grid: the token grid that the tables are learned on.
        embed_dim: width D.
        wavelengths_nm: centre wavelength of each band, nm; None if unknown.
        joint: one table with a row for each token, as published classifiers have it,
            instead of a spatial and a spectral one, added.

    Attributes:
        dates: what tells dates apart; None in a model of single dates.
    """

    def __init__(
        self,
        grid: TokenGrid,
        embed_dim: int,
        wavelengths_nm: Sequence[float] | None = None,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.wavelengths_nm = wavelengths_nm
        self.is_joint = joint
        if joint:
            self.joint = nn.Parameter(torch.zeros(1, grid.num_tokens, embed_dim))
        else:
            half = embed_dim // 2
            rows = _sine_cosine(torch.arange(grid.rows), half)[:, None]
            columns = _sine_cosine(torch.arange(grid.columns), embed_dim - half)
            size = (grid.rows, grid.columns, -1)
            by_place = torch.cat([rows.expand(size), columns.expand(size)], dim=-1)
            self.spatial = nn.Parameter(by_place.flatten(0, 1)[None])
            by_group = _sine_cosine(torch.arange(grid.groups), embed_dim)
            self.spectral = nn.Parameter(by_group[None])
        self.dates: _DateEmbedding | None = None

    def forward(
        self, grid: TokenGrid, wavelengths_nm: Sequence[float] | None = None
    ) -> Tensor:
        """Return the positions of the tokens of `grid`, (N, D), alike for all dates.

        Args:
            grid: token grid of the images, of any size.
            wavelengths_nm: wavelength of each band in nm; None for the model's own.

        Raises:
            ShapeError: another band count without wavelengths.
            ConfigError: wavelengths for a model that knows none.
        """
        own, size = ((each.rows, each.columns) for each in (self.grid, grid))
        if self.is_joint:
            table = self.joint.reshape(self.grid.groups, self.grid.positions, -1)
            table = resize_spatial(table, own, size)
            table = self._resize_groups(table, grid, wavelengths_nm)
        else:
            spatial = resize_spatial(self.spatial, own, size)
            spectral = self._resize_groups(self.spectral[0], grid, wavelengths_nm)
            table = spectral[:, None] + spatial  # (G, Hp * Wp, D)
        table = table.flatten(0, 1)  # (G * Hp * Wp, D)
        return table.repeat(grid.dates, 1) if grid.dates > 1 else table

    def add_dates(self) -> None:
        """Add the embedding of dates, if it is not there, as zeros."""
        if self.dates is None:
            table = next(self.parameters())
            self.dates = _DateEmbedding(table.shape[-1]).to(table)

    def embed_dates(self, dates: Tensor | None, grid: TokenGrid) -> Tensor | None:
        """Return what dates add to their tokens.

        Args:
            dates: (B, T), days since 1970-01-01, NaN if unknown; None if all are.
            grid: token grid of the images.

        Returns:
            (B, T, D), or (1, T, D) without dates; None without date embedding.

        Raises:
            ShapeError: dates are not (B, T).
            ConfigError: dates for a model that has no date embedding.
        """
        if self.dates is not None:
            embedded: Tensor = self.dates(dates, grid)
            return embedded
        if dates is not None:
            raise ConfigError(
                "this model has no date embedding, so it cannot use dates: give it "
                "one with add_date_embedding(), or pass no dates."
            )
        return None

    def _resize_groups(
        self, table: Tensor, grid: TokenGrid, wavelengths_nm: Sequence[float] | None
    ) -> Tensor:
        """Interpolate a table (G, ...) to the groups of bands at `wavelengths_nm`."""
        if wavelengths_nm is None:
            if grid.num_bands != self.grid.num_bands:
                raise ShapeError(
                    f"images have {grid.num_bands} bands, the model knows "
                    f"{self.grid.num_bands}: pass the wavelengths of the bands in nm."
                )
            return table
        if self.wavelengths_nm is None:
            raise ConfigError(
                "this model was built without wavelengths, so bands cannot be placed "
                "by wavelength: build it with wavelengths_nm=..., or pass none."
            )
        if len(wavelengths_nm) != grid.num_bands:
            raise ShapeError(
                f"{len(wavelengths_nm)} wavelengths for images of {grid.num_bands} "
                "bands: give one wavelength in nm for each band."
            )
        S = grid.bands_per_token
        return resize_spectral(
            table,
            group_wavelengths(self.wavelengths_nm, S),
            group_wavelengths(wavelengths_nm, S),
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
        wavelengths_nm: centre wavelength of each band, nm; needed for other bands.
        drop_path: stochastic depth of the last block, 0..1, rising from 0.
        positions: `separable` tables, or one `joint` table as published classifiers.
        date_embedding: whether dates can be told apart; zero at the start.

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
        wavelengths_nm: Sequence[float] | None = None,
        drop_path: float = 0.0,
        positions: _PositionKind = "separable",
        date_embedding: bool = False,
    ) -> None:
        super().__init__()
        self._settings = {
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
        self.wavelengths_nm = check_wavelengths(wavelengths_nm, num_bands)
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

    def add_date_embedding(self) -> None:
        """Let dates be told apart; until trained, it changes no number."""
        self.positions.add_dates()

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
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images to normalised tokens.

        Args:
            images: (B, C, H, W), scaled as in pretraining; H, W multiples of P. A
                series of T dates is (B, T, C, H, W).
            wavelengths: centre of each band, nm; None if they are the model's own.
                Bands share tokens in the order given: sort them by wavelength, as in
                pretraining, or they are grouped otherwise.
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
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images without the final norm; see `forward`."""
        grid = self.grid_of(images)
        grid.check_dates(dates, images.shape[0])
        x = self.embedding(patchify(images, grid)) + self.position_table(
            grid, wavelengths
        )
        x = add_dates(x, self.embed_dates(dates, grid))
        x = self.transform(x)  # (B, N, D)
        return x.unflatten(1, grid.token_shape)

    def encode_visible(
        self,
        tokens: Tensor,
        visible: Tensor,
        positions: Tensor,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode only the visible tokens of each image.

        Args:
            tokens: (B, N, S * P * P), all tokens of the images.
            visible: (B, K) indices of the visible tokens.
            positions: (N, D), from `position_table`.
            dates: (B or 1, T, D), from `embed_dates`; None adds nothing.

        Returns:
            (B, K, D), after the final norm, in the order of `visible`.
        """
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        x = self.embedding(tokens.gather(1, index)) + positions[visible]  # (B, K, D)
        if dates is not None:
            x = x + dates_of_tokens(dates, visible, tokens.shape[1] // dates.shape[1])
        return self.norm(self.transform(x))

    def position_table(
        self, grid: TokenGrid, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return the positions (N, D) of all tokens of a grid."""
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        if wavelengths is not None:
            wavelengths = check_wavelengths(wavelengths, grid.num_bands)
        table: Tensor = self.positions(grid, wavelengths)
        return table

    def embed_dates(self, dates: Tensor | None, grid: TokenGrid) -> Tensor | None:
        """Return what dates (B, T) add to their tokens; see `Positions.embed_dates`."""
        return self.positions.embed_dates(dates, grid)

    def transform(self, x: Tensor) -> Tensor:
        """Run embedded tokens (B, K, D) through all blocks."""
        parts: list[Tensor] = [self.blocks(part) for part in split_batch(x, MLP_RATIO)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def pooled(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the mean of each sample's normalised tokens, (B, D); see `forward`."""
        return self(images, wavelengths, dates).flatten(1, -2).mean(dim=1)

    @torch.no_grad()
    def pooled_by_group(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
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
