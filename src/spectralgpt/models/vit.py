"""The vision transformer of the paper's family: MAE, SatMAE, ST-MAE, SimMIM, BEiT.

A token is a patch of all bands, or of the bands of a stated group; of several dates
together in tubelets. A class token goes with the patches; features are those of the
patches alone. It takes its own bands only.

Sources: Dosovitskiy et al. 2020, arXiv:2010.11929; positions by He et al. 2021,
arXiv:2111.06377, Cong et al. 2022, arXiv:2207.08051, Feichtenhofer et al. 2022,
arXiv:2205.09113, and Bao et al. 2021, arXiv:2106.08254.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.blocks import (
    MLP_RATIO,
    NORM_EPS,
    BlockStack,
    build_blocks,
    relative_index,
)
from spectralgpt.models.cpu import Linear
from spectralgpt.models.encoder import AttentionKind
from spectralgpt.models.own_bands import OwnBandsEncoder
from spectralgpt.models.rvsa import WINDOW_SIZE
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.stems import (
    SPECTRA_FEATURES,
    PassingNorm,
    PiEmbedding,
    SpectraEmbedding,
    StemKind,
    check_stem,
)
from spectralgpt.models.tokens import resize_spatial

Groups = Sequence[Sequence[int]]
PositionKind = Literal["fixed", "learned", "relative"]
InitKind = Literal["xavier", "truncated"]
_STD = 0.02
_PERIOD = 10_000.0
# Of the Gregorian calendar, from 1 March of the year 0.
_DAYS_TO_1970, _DAYS_PER_ERA = 719_468, 146_097
_FIRST_YEAR = 2002  # Source: SatMAE counts the years of fMoW from here.


def _sine_code(places: Tensor, dim: int) -> Tensor:
    """Encode places (...) on a line by sines, then cosines: float32 (..., dim)."""
    steps = torch.arange(dim // 2, dtype=torch.float64, device=places.device)
    angles = places.double()[..., None] * _PERIOD ** -(steps / (dim / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def _grid_code(side: int, dim: int) -> Tensor:
    """Encode the places of a square grid, columns first: (side * side, dim)."""
    line = _sine_code(torch.arange(side), dim // 2)
    columns = line[None].expand(side, side, -1)
    rows = line[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)


def date_parts(dates: Tensor) -> Tensor:
    """Part days since 1970-01-01 (B, T) into year from 2002, month 0 to 11, hour.

    Returns:
        float64 (B, T, 3); NaN where the date is unknown.
    """
    days = dates.double().floor()
    # Years begin in March here, so that leap days end them; eras are 400 of these.
    since = days + _DAYS_TO_1970
    era = (since / _DAYS_PER_ERA).floor()
    day = since - era * _DAYS_PER_ERA
    leaps = (day / 1460).floor() - (day / 36_524).floor() + (day / 146_096).floor()
    year = ((day - leaps) / 365).floor()
    day = day - 365 * year - (year / 4).floor() + (year / 100).floor()
    month = ((5 * day + 2) / 153).floor()  # 0 is March.
    is_next = (month >= 10).double()
    year = year + 400 * era + is_next
    hour = ((dates.double() - days) * 24).floor()
    return torch.stack([year - _FIRST_YEAR, (month + 2) % 12, hour], dim=-1)


class GridCodes(nn.Module):
    """What tells the tokens of a vision transformer apart.

    Args:
        side: patches along a side of the grid that the tables are for.
        embed_dim: width D of the codes.
        learned: tables are learned; else they are sines and cosines, and fixed.
        groups: band groups; their codes stand beside those of places.
        group_dim: width of the code of a band group; 0 has none.
        date_dim: width of each of the codes of year, month and hour; 0 has none.
        frames: learned places in time; 0 has none.
        joint: one learned table for all places in time and space.
        codes_token: whether the class token has a code.

    Raises:
        ConfigError: the parts leave no width, or one that cannot be split, for places.
    """

    spatial: Tensor
    token: Tensor
    temporal: Tensor
    group: Tensor

    def __init__(
        self,
        side: int,
        embed_dim: int,
        *,
        learned: bool = False,
        groups: int = 1,
        group_dim: int = 0,
        date_dim: int = 0,
        frames: int = 0,
        joint: bool = False,
        codes_token: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.embed_dim, self.date_dim = side, embed_dim, date_dim
        self.codes_token, self.joint, self.frames = codes_token, joint, frames
        width = embed_dim - group_dim - 3 * date_dim
        if width < 4 or (not learned and width % 4) or group_dim % 2 or date_dim % 2:
            raise ConfigError(
                f"of width {embed_dim}, {group_dim} for band groups and 3 x {date_dim} "
                f"for dates leave {width} for places: they need a multiple of 4, the "
                "others even numbers."
            )
        if learned:
            count = side * side * (frames if joint else 1)
            tables = {"spatial": count}
            if codes_token:
                tables["token"] = 1
            if frames and not joint:
                tables["temporal"] = frames
            for name, rows in tables.items():
                table = nn.Parameter(torch.empty(1, rows, width))
                self.register_parameter(name, table)
                nn.init.trunc_normal_(table, std=_STD)
        else:
            # Buffers: nothing that unfreezes a model for fine-tuning trains them.
            self.register_buffer("spatial", _grid_code(side, width)[None])
            self.register_buffer("token", torch.zeros(1, 1, width))
        self.has_groups, self.has_time = group_dim > 0, frames > 0 and not joint
        if group_dim:
            # The row after the last group's is the class token's, where it has a code.
            places = torch.arange(groups + int(codes_token))
            self.register_buffer("group", _sine_code(places, group_dim)[None])

    def forward(self, shape: Sequence[int], dates: Tensor | None = None) -> Tensor:
        """Return the codes of all tokens, (B or 1, T * G * Hp * Wp, D).

        Args:
            shape: T, G, Hp, Wp of the tokens.
            dates: (B, T), days since 1970-01-01; or (B, T, 3), their years from 2002,
                months 0 to 11 and hours. Unknown ones (NaN) have the code 0.

        Raises:
            ShapeError: there are more dates than places in time were learned for, or
                other ones than images.
        """
        frames, groups, *size = shape
        own, wanted = (self.side, self.side), (size[0], size[1])
        table = self.spatial
        if self.joint:
            self._check_frames(frames)
            table = table[0].unflatten(0, (self.frames, -1))[:frames]  # (T, places, D)
        by_place = resize_spatial(table, own, wanted)[:, None]  # (T or 1, 1, places, D)
        if self.has_time:
            self._check_frames(frames)
            by_place = by_place + self.temporal[0, :frames, None, None]
        places = size[0] * size[1]
        code = by_place.expand(frames, groups, places, -1)[None]  # (1, T, G, places, D)
        if self.has_groups:
            by_group = self.group[:, None, :groups, None].expand(
                1, frames, -1, places, -1
            )
            code = torch.cat([code, by_group], dim=-1)
        if self.date_dim:
            code = self._add_dates(code, dates)
        return code.flatten(1, 3)

    def _add_dates(self, code: Tensor, dates: Tensor | None) -> Tensor:
        """Put the codes of dates beside others (1, T, G, places, ...)."""
        if dates is None:
            by_date = code.new_zeros(1, code.shape[1], 3 * self.date_dim)
        else:
            parts = dates.double() if dates.ndim == 3 else date_parts(dates)
            if parts.shape[1:] != (code.shape[1], 3):
                raise ShapeError(
                    f"dates have shape {tuple(dates.shape)} for {code.shape[1]} dates "
                    "of images: give (batch, dates) in days since 1970-01-01, or "
                    "(batch, dates, 3)."
                )
            known = _sine_code(parts.nan_to_num(), self.date_dim)
            known = known * parts.isfinite()[..., None]
            by_date = known.flatten(2).to(code)  # (B, T, 3 * date_dim)
        size = (len(by_date), -1, *code.shape[2:4], -1)
        beside = by_date[:, :, None, None].expand(size)
        return torch.cat([code.expand(len(by_date), *code.shape[1:]), beside], dim=-1)

    def _check_frames(self, found: int) -> None:
        if found > self.frames:
            raise ShapeError(
                f"images have {found} places in time, the model learns {self.frames}: "
                "give it fewer dates, or train one for more."
            )

    def of_token(self) -> Tensor | None:
        """Return the code of the class token, (1, 1, D); None if it has none."""
        if not self.codes_token:
            return None
        parts: list[Tensor] = [self.token]
        if self.has_groups:
            parts.append(self.group[:, -1:])
        code = torch.cat(parts, dim=-1)
        return F.pad(code, (0, self.embed_dim - code.shape[-1]))


class RelativeBias(nn.Module):
    """What attention adds by how far tokens lie apart, shared by all blocks.

    Args:
        side: patches along a side of the grid that it is learned on.
        num_heads: attention heads.

    Source: Bao et al. 2021, arXiv:2106.08254; three rows more for the class token.
    """

    def __init__(self, side: int, num_heads: int) -> None:
        super().__init__()
        self.side = side
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, num_heads))

    def forward(self, rows: int, columns: int) -> Tensor:
        """Return the bias of a grid and the class token, (heads, 1 + N, 1 + N).

        Of another grid it is interpolated bicubically.
        """
        spans = (2 * rows - 1, 2 * columns - 1)
        own = (2 * self.side - 1,) * 2
        table = resize_spatial(self.table[None, :-3], own, spans)[0]  # (spans, heads)
        grid = (rows, columns)
        bias = table[relative_index(grid, grid, table.device)]  # (N, N, heads)
        N = rows * columns
        to_row, from_row, itself = self.table[-3:]
        whole = bias.new_empty(1 + N, 1 + N, bias.shape[-1])
        whole[1:, 1:] = bias
        whole[0, 1:], whole[1:, 0], whole[0, 0] = to_row, from_row, itself
        return whole.permute(2, 0, 1)


def resize_relative(table: Tensor, side: int, new_side: int) -> Tensor:
    """Interpolate the table of a `RelativeBias` to a grid of another side."""
    own, wanted = ((2 * each - 1,) * 2 for each in (side, new_side))
    return torch.cat([resize_spatial(table[None, :-3], own, wanted)[0], table[-3:]])


def check_groups(groups: Groups | None, num_bands: int) -> tuple[tuple[int, ...], ...]:
    """Return the bands of each group, by number; all together where none are stated.

    Raises:
        ConfigError: a band is in no group, in two, or not there.
    """
    if groups is None:
        return (tuple(range(num_bands)),)
    try:
        checked = tuple(tuple(int(band) for band in group) for group in groups)
    except (TypeError, ValueError):
        raise ConfigError(
            f"groups must be lists of band numbers, found {str(groups)[:60]}."
        ) from None
    if sorted(band for group in checked for band in group) != list(range(num_bands)):
        raise ConfigError(
            f"groups {[list(group) for group in checked]} must hold each of the "
            f"{num_bands} bands, 0 to {num_bands - 1}, once."
        )
    if not all(checked):
        raise ConfigError("a group holds no band: leave it out.")
    return checked


def fill_tubelets(series: Tensor, frames: int) -> Tensor:
    """Repeat the last date of series (B, T, ...) until T is a multiple of `frames`."""
    missing = -series.shape[1] % frames
    return torch.cat([series, *[series[:, -1:]] * missing], dim=1)


def cut_patches(images: Tensor, patch_size: int, frames: int = 1) -> Tensor:
    """Cut series into patches of several dates.

    Args:
        images: (B, T, C, H, W).
        patch_size: side P, px.
        frames: dates t that share a patch; T is a multiple.

    Returns:
        (B, T / t, C, Hp * Wp, t, P * P), pixels by row, then column.
    """
    B, T, C, H, W = images.shape
    P = patch_size
    x = images.reshape(B, T // frames, frames, C, H // P, P, W // P, P)
    return x.permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(
        B, T // frames, C, (H // P) * (W // P), frames, P * P
    )


class VisionTransformer(OwnBandsEncoder):
    """A vision transformer on patches of its own bands.

    Args:
        image_size: side in px of the images whose positions are learned.
        num_bands: bands C.
        patch_size: side P of a patch, px.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads.
        groups: bands of each group, by number, each with tokens and a patch map of its
            own; None puts all bands into one token.
        frames_per_token: dates that share a token.
        num_dates: most dates that are encoded together, where places in time are
            learned; None encodes dates one by one, but where `date_dim` codes them.
        positions: `fixed` sines and cosines, `learned` tables, or `relative`, a bias of
            attention.
        joint_positions: learned positions are one table over time and space.
        group_dim: width of the code of a band group.
        date_dim: width of each of the codes of year, month and hour.
        codes_token: whether the class token has a position, if there are any.
        class_token: whether there is one.
        mlp_ratio: hidden width of the MLPs over D.
        layer_scale: first value of the factors of each branch; None has none.
        drop_path: stochastic depth of the last block, 0..1.
        init: `xavier`, as masked autoencoders; `truncated`, as BEiT.
        stem: how patches become tokens: by a `linear` map, a `SpectraEmbedding`, whose
            features pass all blocks by and stand beside each token's D others, or a
            `PiEmbedding` of all bands of single dates.
        attention: see `SpectralEncoder`; `rvsa` has no class token, and relative
            positions of its own.
        window_size: most patches along a side of a window.

    Raises:
        ConfigError: a setting is out of range, see `check_settings`, or does not go
            with the attention.
    """

    kind = "vit"
    blocks: BlockStack

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        groups: Groups | None = None,
        frames_per_token: int = 1,
        num_dates: int | None = None,
        positions: PositionKind = "fixed",
        joint_positions: bool = False,
        group_dim: int = 0,
        date_dim: int = 0,
        codes_token: bool = True,
        class_token: bool = True,
        mlp_ratio: float = MLP_RATIO,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        init: InitKind = "xavier",
        stem: StemKind = "linear",
        attention: AttentionKind = "global",
        window_size: int = WINDOW_SIZE,
    ) -> None:
        super().__init__()
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        if image_size % patch_size:
            raise ConfigError(
                f"image_size {image_size} is no multiple of patch_size {patch_size}."
            )
        check_stem(stem, patch_size)
        self.band_groups = check_groups(groups, num_bands)
        stored = None if groups is None else self.band_groups
        self._settings = settings | {"groups": stored}
        self.image_size, self.num_bands = image_size, num_bands
        self.patch_size = patch_size
        passing = SPECTRA_FEATURES if stem == "spectra" else 0
        self.embed_dim = embed_dim + passing
        self.depth, self.num_heads = depth, num_heads
        self.groups, self.frames_per_token = len(self.band_groups), frames_per_token
        self.bands_per_token = _run_length(self.band_groups)
        # A run of bands is a view, a list of them a copy.
        self.band_index = [_index_of(group) for group in self.band_groups]
        self.joins_dates = num_dates is not None or date_dim > 0
        size = frames_per_token * patch_size**2
        self.stem: StemKind = stem
        self.embedding: nn.ModuleList | PiEmbedding
        if stem in ("linear", "spectra"):
            self.embedding = nn.ModuleList(
                Linear(len(group) * size, embed_dim)
                if stem == "linear"
                else SpectraEmbedding(len(group), size, embed_dim)
                for group in self.band_groups
            )
        elif self.groups == frames_per_token == 1:
            self.embedding = PiEmbedding(num_bands, patch_size, embed_dim, stem)
        else:
            raise ConfigError(f"stem {stem} takes all bands of single dates together.")
        token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.class_token = token if class_token else None
        side = image_size // patch_size
        self.positions: GridCodes | None = None
        self.relative: RelativeBias | None = None
        if positions == "relative":
            self.relative = RelativeBias(side, num_heads)
        else:
            self.positions = GridCodes(
                side,
                embed_dim,
                learned=positions == "learned",
                groups=self.groups,
                group_dim=group_dim,
                date_dim=date_dim,
                frames=(num_dates or 0) // frames_per_token,
                joint=joint_positions,
                codes_token=codes_token,
            )
        self.blocks = build_blocks(
            embed_dim, depth, num_heads, drop_path, False, mlp_ratio, layer_scale
        )
        self.blocks.passing = passing
        norm = PassingNorm if passing else nn.LayerNorm
        self.norm = norm(embed_dim, eps=NORM_EPS)
        if class_token and init == "truncated":
            nn.init.trunc_normal_(token, std=_STD, a=-_STD, b=_STD)
        elif class_token:
            nn.init.normal_(token, std=_STD)
        initialise_linears(self, init)
        if attention == "rvsa" and (class_token or positions == "relative"):
            raise ConfigError(
                "attention 'rvsa' has no class token, and relative positions of its "
                "own: leave both out."
            )
        self.set_attention(attention, window_size)

    def shape_of(self, images: Tensor) -> tuple[int, int, int, int]:
        """Return T, G, Hp, Wp of the tokens of images or series, see `own_grid`."""
        size = self.own_grid(images)
        dates = images.shape[1] if images.ndim == 5 else 1
        return -(-dates // self.frames_per_token), self.groups, *size

    def embed(self, images: Tensor) -> Tensor:
        """Map images (B, [T,] C, H, W) to tokens without positions, (B, N, D)."""
        self.shape_of(images)
        if isinstance(self.embedding, PiEmbedding):
            if images.ndim == 4:
                x: Tensor = self.embedding(images)
                return x.flatten(2).mT
            x = self.embedding(images.flatten(0, 1)).flatten(2).mT
            return x.unflatten(0, (len(images), -1)).flatten(1, 2)
        t = self.frames_per_token
        series = fill_tubelets(images if images.ndim == 5 else images[:, None], t)
        patches = cut_patches(series, self.patch_size, t)  # (B, T, C, places, t, PP)
        patches = patches.movedim(3, 2)  # (B, T, places, C, t, PP)
        tokens = [
            embed(patches[:, :, :, bands].flatten(3))
            for embed, bands in zip(self.embedding, self.band_index, strict=True)
        ]
        return torch.stack(tokens, dim=2).flatten(1, 3)  # (B, T * G * places, D)

    def place(self, x: Tensor, shape: Sequence[int], dates: Tensor | None) -> Tensor:
        """Add positions to the tokens (B, N, D) of a grid of T, G, Hp, Wp."""
        if self.positions is None:
            return x
        return x + F.pad(self.positions(shape, dates), (0, self.blocks.passing))

    def run(self, x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Put the class token in front and run all blocks, without the final norm.

        Args:
            x: (B, K, D), embedded tokens with positions.
            shape: T, G, Hp, Wp of all tokens, which relative positions need; so does
                attention `rvsa`.

        Returns:
            (B, 1 + K, D), or (B, K, D) without class token.
        """
        if self.class_token is not None:
            code = None if self.positions is None else self.positions.of_token()
            token = self.class_token if code is None else self.class_token + code
            token = F.pad(token, (0, self.blocks.passing))
            x = torch.cat([token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        bias = []
        if self.relative is not None:
            assert shape is not None, "relative positions need the grid"
            full = self.relative(*shape[-2:])
            bias = [full if self.class_token is not None else full[:, 1:, 1:]]
        grid = self.grid_for_blocks(None if shape is None else shape[-2:])
        return self.blocks.run(x, *bias, *grid)

    def encode_own(self, images: Tensor, dates: Tensor | None) -> Tensor:
        """Encode images, or series whose dates are encoded together."""
        shape = self.shape_of(images)
        x = self.place(self.embed(images), shape, dates)
        absent = self._absent()
        if absent:
            x = self.encode_present(x, shape, absent)
        else:
            first = int(self.class_token is not None)
            x = self.run(x, shape)[:, first:]
        x = x.unflatten(1, shape)
        return x if images.ndim == 5 else x[:, 0]

    def transform(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Run embedded tokens (B, K, D) through all blocks; returns them alone."""
        return self.run(x, size)[:, int(self.class_token is not None) :]

    def _absent(self) -> list[int]:
        """Return the groups all of whose bands are absent."""
        S, groups = self.bands_per_token, self.band_groups
        bands = {b for g in self.absent_groups for b in range(g * S, g * S + S)}
        return [g for g, group in enumerate(groups) if all(b in bands for b in group)]


def _index_of(group: tuple[int, ...]) -> slice | list[int]:
    """Return what picks the bands of a group: a slice where they are neighbours."""
    run = slice(group[0], group[-1] + 1)
    is_run = group == tuple(range(run.start, run.stop))
    return run if is_run else list(group)


def _run_length(groups: Sequence[Sequence[int]]) -> int:
    """Return how many neighbouring bands each group holds; 1 if that differs."""
    S = len(groups[0])
    runs = [tuple(range(first, first + S)) for first in range(0, S * len(groups), S)]
    return S if [tuple(group) for group in groups] == runs else 1


def initialise_linears(module: nn.Module, init: InitKind = "xavier") -> None:
    """Initialise all linear maps of a module; biases are 0.

    Args:
        module: its blocks are those of `build_blocks`.
        init: `xavier`, uniform; `truncated`, normal of deviation 0.02 cut at one
            deviation, with the last map of each branch smaller the deeper it lies.
    """
    for each in module.modules():
        if not isinstance(each, nn.Linear):
            continue
        if init == "xavier":
            nn.init.xavier_uniform_(each.weight)
        else:
            nn.init.trunc_normal_(each.weight, std=_STD, a=-_STD, b=_STD)
        if each.bias is not None:
            nn.init.zeros_(each.bias)
    if init == "xavier":
        return
    for stack in module.modules():
        if isinstance(stack, BlockStack):
            for number, block in enumerate(stack, start=1):
                for last in ("attn.proj", "mlp.fc2"):
                    weight = block.get_submodule(last).get_parameter("weight")
                    weight.data.div_((2 * number) ** 0.5)
