"""The encoder: visible tokens in, features out."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.blocks import (
    NORM_EPS,
    BlockStack,
    Tap,
    TappedStack,
    build_blocks,
    unfold_taps,
)
from spectralgpt.models.positions import Positions
from spectralgpt.models.rvsa import WINDOW_SIZE, look_in_windows
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
from spectralgpt.models.weights import Pretrained

_PositionKind = Literal["separable", "joint"]
TokenizerKind = Literal["linear", "spectral"]
AttentionKind = Literal["global", "rvsa"]
_MOST_WINDOW = 256


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


class Encoder(Pretrained, nn.Module, ABC):
    """What turns images into features, whatever it was pretrained by.

    Tasks, maps, probes and exports take any. Images are (B, C, H, W), or series
    (B, T, C, H, W); features (B, G, Hp, Wp, D), or (B, T, G, Hp, Wp, D), of G band
    groups and patches of P x P pixels; where dates share tokens, T counts those.

    Attributes:
        kind: its name in checkpoints.
        image_size: side in px of the images that it was trained on.
        num_bands: bands C.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S of a band group; 1 where groups are stated
            band by band.
        embed_dim: width D of the features.
        groups: band groups G of its own bands.
        wavelengths_nm: centre of each band, nm; None if it takes its own bands only.
        attention: `global`, or `rvsa`, which takes whole grids of tokens.
        blocks: what it consists of, layer by layer.
        norm: normalises features.
        absent_groups: band groups that are not shown to the blocks, because the images
            do not have them; their features are the mean of the others' at their place.
            Not a setting: it is not stored with the weights.
    """

    kind: ClassVar[str]
    image_size: int
    num_bands: int
    patch_size: int
    bands_per_token: int
    embed_dim: int
    depth: int
    num_heads: int
    groups: int
    wavelengths_nm: tuple[float, ...] | None = None
    tokenizer: SpectralTokenizer | None
    attention: AttentionKind = "global"
    blocks: nn.ModuleList
    norm: nn.Module
    absent_groups: tuple[int, ...] = ()
    _settings: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that build this encoder again."""
        return dict(self._settings)

    @abstractmethod
    def encode(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images without the final norm; see `forward`."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What features can be had of, from early to late: here of each block."""
        return tuple((block, self.embed_dim, 1) for block in range(len(self.blocks)))

    @property
    def levels(self) -> tuple[Tap, ...]:
        """What dense heads take, from early to late.

        Here at a quarter, half, three quarters and the whole of the depth.
        """
        taps = self.taps
        ends = [max(1, len(taps) * part // 4) for part in range(1, 5)]
        return tuple(taps[end - 1] for end in ends)

    def encode_levels(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
        taps: Sequence[Tap] | None = None,
        stops_early: bool = False,
    ) -> Tensor:
        """Encode whole images to features of several depths; see `forward`.

        Args:
            images: see `forward`; so are wavelengths and dates.
            wavelengths: of the bands.
            dates: of the images.
            taps: which features; None takes `levels`.
            stops_early: see `TappedStack`.

        Returns:
            As `encode`, but that the last axis holds those of all taps, finer ones
            folded, see `TappedStack`.
        """
        assert isinstance(self.blocks, BlockStack)
        # A view of this encoder: it has the same weights, but other blocks around them.
        tapped = copy.copy(self)
        blocks = TappedStack(self.blocks, taps or self.levels, stops_early)
        tapped._modules = {**self._modules, "blocks": blocks}
        return tapped.encode(images, wavelengths, dates)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Encode whole images, and return features on the way, as timm's models do.

        Args:
            x: images, see `forward`; so are wavelengths and dates.
            indices: which of `taps`: the last so many, those named, of which negative
                ones count from the end, or all (None).
            norm: whether to normalise those that are as wide as the last ones.
            stop_early: run no block after the last one that is asked for.
            output_fmt: `NCHW`, maps with all band groups (and dates) side by side, (B,
                G * D, Hp, Wp); `NLC` has their places in one axis, (B, Hp * Wp, G * D).
            intermediates_only: leave the last features out.
            wavelengths: of the bands.
            dates: of the images.

        Returns:
            The last features, as `forward` gives them, and the features on the way,
            from early to late.

        Raises:
            ConfigError: an index or a format that there is not; else see `forward`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt {output_fmt!r}: use 'NCHW' or 'NLC'.")
        taps = [self.taps[at] for at in self.taken(indices)]
        last = taps[-1] if stop_early else self.taps[-1]
        kept = taps if intermediates_only or taps[-1] == last else [*taps, last]
        packed = self.encode_levels(x, wavelengths, dates, kept, stop_early)
        maps = unfold_taps(packed.movedim(-1, -3), kept)  # (B, [T,] G, D, Hp, Wp)
        found = []
        for each in maps[: len(taps)]:
            by_place = self._normed(each).movedim(-1, -3) if norm else each
            by_place = by_place.flatten(1, -3).contiguous()  # (B, G * D, Hp, Wp)
            is_map = output_fmt == "NCHW"
            found.append(by_place if is_map else by_place.flatten(2).mT.contiguous())
        return found if intermediates_only else (self._normed(maps[-1]), found)

    def taken(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return which of `taps` are meant, in order; see `forward_intermediates`."""
        count = len(self.taps)
        if indices is None or isinstance(indices, int):
            indices = range(-(count if indices is None else indices), 0)
        if not indices or not all(-count <= at < count for at in indices):
            raise ConfigError(
                f"indices {list(indices)}: this encoder has {count} features."
            )
        return sorted({at % count for at in indices})

    def _normed(self, maps: Tensor) -> Tensor:
        """Return (..., D, Hp, Wp) as (..., Hp, Wp, D), normalised if the norm fits."""
        maps = maps.movedim(-3, -1)
        normed: Tensor = self.norm(maps) if maps.shape[-1] == self.embed_dim else maps
        return normed

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
        normed: Tensor = self.norm(self.encode(images, wavelengths, dates))
        return normed

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

    def encode_present(
        self, x: Tensor, shape: Sequence[int], absent: Collection[int]
    ) -> Tensor:
        """Run embedded tokens through `transform`, but for absent band groups.

        Args:
            x: (B, N, D), of all band groups.
            shape: T, G, Hp, Wp of the tokens.
            absent: groups that are left out.

        Returns:
            (B, N, D); at absent groups the mean of the others.
        """
        present = [g for g in range(shape[1]) if g not in absent]
        if not present:
            raise ShapeError("all band groups are absent: nothing is left to encode.")
        x = x.unflatten(1, tuple(shape))[:, :, present]  # (B, T, present, Hp, Wp, D)
        size = x.shape
        x = self.transform(x.flatten(1, 4), shape[-2:]).unflatten(1, size[1:-1])
        filled = x.mean(dim=2, keepdim=True).repeat(1, 1, shape[1], 1, 1, 1)
        filled[:, :, present] = x
        return filled.flatten(1, 4)

    def transform(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Run embedded tokens (B, K, D), of grids of a size, through all blocks."""
        raise NotImplementedError

    def set_attention(self, attention: AttentionKind, window_size: int) -> None:
        """Let new blocks attend as a setting says, see `look_in_windows`.

        Raises:
            ConfigError: the setting is unknown, or the window out of range.
        """
        if attention not in get_args(AttentionKind):
            raise ConfigError(f"attention {attention!r}: use 'global' or 'rvsa'.")
        if not isinstance(window_size, int) or not 1 <= window_size <= _MOST_WINDOW:
            raise ConfigError(
                f"window_size is {str(window_size)[:40]}: use 1 to {_MOST_WINDOW}."
            )
        self.attention = attention
        if attention == "rvsa":
            assert isinstance(self.blocks, BlockStack)
            side = self.image_size // self.patch_size
            look_in_windows(self.blocks, side, window_size)

    def grid_for_blocks(
        self, size: Sequence[int] | None
    ) -> tuple[()] | tuple[tuple[int, int]]:
        """Return what blocks take beside tokens: nothing, or rows and columns."""
        if self.attention == "global":
            return ()
        if size is None:
            raise ShapeError(
                "attention 'rvsa' takes whole images: it is for fine-tuning, not for "
                "masked pretraining."
            )
        return ((size[0], size[1]),)


class SpectralEncoder(Encoder):
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
        attention: `global`; or, for fine-tuning, `rvsa`: within rotated windows of the
            patches of one band group and date, and in every third block global, see
            `RotatedWindowAttention`.
        window_size: most patches along a side of a window.

    Raises:
        ConfigError: a setting is out of range, see `check_settings`.
    """

    kind = "spectral"
    blocks: BlockStack

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
        attention: AttentionKind = "global",
        window_size: int = WINDOW_SIZE,
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
        if attention != "global":
            self._settings |= {"attention": attention, "window_size": window_size}
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
        self.set_attention(attention, window_size)
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        if date_embedding:
            self.add_date_embedding()
        self.groups = grid.groups
        self.absent_groups = ()
        self.tokenizer = None
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
        shape = (grid.dates, grid.groups, grid.rows, grid.columns)
        if self.absent_groups:
            x = self.encode_present(x, shape, self.absent_groups)
        else:
            x = self.transform(x, shape[-2:])  # (B, N, D)
        return x.unflatten(1, grid.token_shape)

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

    def transform(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Run embedded tokens (B, K, D), of grids of a size, through all blocks."""
        grid = self.grid_for_blocks(size)
        return self.blocks.run(x, *grid)


def mean_by_group(tokens: Tensor) -> Tensor:
    """Average tokens (B, [T,] G, Hp, Wp, D) over places and dates: (B, G, D)."""
    by_group = tokens.mean(dim=(-3, -2))  # (B, [T,] G, D)
    return by_group.mean(dim=1) if by_group.ndim == 4 else by_group
