"""Rotated varied-size window attention, and global attention with relative positions.

Both are for fine-tuning: they take over the weights of plain attention, and add where
to look. Their names of weights are those of the published code, but for the maps that
say where a window's keys and values are read.

Source: Wang et al. 2022, "Advancing Plain Vision Transformer Toward Remote Sensing
Foundation Model", IEEE TGRS 61, arXiv:2208.03987.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.blocks import BlockStack, relative_index
from spectralgpt.models.cpu import Linear, in_full_precision
from spectralgpt.models.weights import load_weights

WINDOW_SIZE = 7  # Source: the paper.
_INIT_STD = 0.02  # Source: the published code.
_GLOBAL_EVERY = 3  # Source: the paper; the last of so many blocks.
_INDEX = "relative_position_index"  # A published table of constants.
_SAMPLING = re.compile(r"sampling_(offsets|scales|angles)(?:_([kv]))?\.2\.")


class _RelativeAttention(nn.Module):
    """What both kinds share: linear maps, and tables by rows and columns apart."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid_size: tuple[int, int],
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"dim {dim} is no multiple of num_heads {num_heads}.")
        check_range("at least 1", {"grid_size": min(grid_size)})
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=_INIT_STD)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
            for side in grid_size
        )

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of one attention of the published code, strictly.

        Args:
            state_dict: tensors by published names, without the block's prefix.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        load_weights(self, {k: v for k, v in state_dict.items() if k != _INDEX})


def _check_tokens(x: Tensor, size: tuple[int, int]) -> None:
    """Refuse tokens (B, N, C) that are not those of whole grids of a size."""
    if x.ndim != 3 or min(size) < 1 or x.shape[1] % math.prod(size):
        raise ShapeError(
            f"tokens have shape {tuple(x.shape)}: (B, {size[0]} * {size[1]}, C) is "
            "needed, or several such grids."
        )


def _distances(size: int, reach: int, like: Tensor) -> Tensor:
    """Return rows (size, size) of a table: query less key, from -(reach - 1)."""
    places = torch.arange(size, device=like.device)
    return places[:, None] - places + reach - 1


def _score_distances(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Score (..., H, W, d) by keys' rows, (..., H, W, H), and columns, likewise."""
    return (
        torch.einsum("...ijd,ikd->...ijk", q, rows),
        torch.einsum("...ijd,jld->...ijl", q, columns),
    )


class GlobalAttention(_RelativeAttention):
    """Attention of all tokens to all, which knows how far their rows and columns lie.

    Tokens may be those of several grids of one place, such as band groups or dates: the
    relative positions are those within a grid.

    Args:
        dim: width C.
        num_heads: heads; C must be a multiple.
        grid_size: rows and columns of the relative positions; for grids of another
            size they are interpolated.
        qkv_bias: whether query, key and value have biases.

    Raises:
        ConfigError: C is no multiple of the number of heads, or a size is below 1.

    Source: see the module; every third block.
    """

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Mix the tokens of grids.

        Args:
            x: (B, R * H * W, C), of R grids one after the other, each by rows.
            size: H and W.

        Returns:
            Shaped as x.

        Raises:
            ShapeError: x is not made of whole grids.
        """
        _check_tokens(x, size)
        H, W = size
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
        q = q * q.shape[-1] ** -0.5
        terms = _score_distances(
            q.unflatten(2, (-1, H, W)),
            resize_distances(self.rel_pos_h, H)[_distances(H, H, x)],
            resize_distances(self.rel_pos_w, W)[_distances(W, W, x)],
        )
        # Scores by row and column become products with keys that name their own.
        N = x.shape[1]
        place = torch.arange(N, device=x.device)
        named = (F.one_hot(place // W % H, H), F.one_hot(place % W, W))
        q = torch.cat((q, *(each.flatten(2, 4).to(q) for each in terms)), -1)
        k = torch.cat((k, *(each.to(k).expand(*k.shape[:3], -1) for each in named)), -1)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def resize_distances(table: Tensor, size: int) -> Tensor:
    """Interpolate a table by distance (2 * old - 1, d) to (2 * size - 1, d)."""
    if len(table) == 2 * size - 1:
        return table
    spread = F.interpolate(table.T[None], 2 * size - 1, mode="linear")
    return spread[0].T


@dataclass(frozen=True)
class _Windows:
    """A grid of rows and columns, padded to whole windows of rows and columns."""

    size: tuple[int, int]
    window: tuple[int, int]

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        (H, W), (h, w) = self.size, self.window
        return -(-H // h), -(-W // w)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Columns left and right, rows above and below."""
        (H, W), (nh, nw), (h, w) = self.size, self.count, self.window
        rows, columns = nh * h - H, nw * w - W
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    def pad(self, x: Tensor) -> Tensor:
        """Put zeros around maps (..., H, W, C): (..., Hp, Wp, C)."""
        return F.pad(x, (0, 0, *self.padding))

    def crop(self, x: Tensor) -> Tensor:
        """Undo `pad`."""
        (left, _, top, _), (H, W) = self.padding, self.size
        return x[..., top : top + H, left : left + W, :]

    def split(self, x: Tensor) -> Tensor:
        """Cut maps (B, heads, Hp, Wp, d) into (B, nh, nw, heads, h * w, d)."""
        (nh, nw), (h, w) = self.count, self.window
        x = x.unflatten(3, (nw, w)).unflatten(2, (nh, h))
        return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)

    def join(self, x: Tensor) -> Tensor:
        """Put windows (B, nh, nw, heads, h * w, d) together: (B, Hp, Wp, heads * d)."""
        x = x.unflatten(4, self.window).permute(0, 1, 4, 2, 5, 3, 6)
        return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)


class _Sampling(nn.Module):
    """Where each head of each window reads, by the mean of the window's tokens."""

    def __init__(self, dim: int, num_heads: int, published: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.published = published
        self.offsets = nn.Conv2d(dim, 2 * num_heads, 1)
        self.scales = nn.Conv2d(dim, 2 * num_heads, 1)
        self.angles = nn.Conv2d(dim, num_heads, 1)
        if not published:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        """Choose sampling points for padded maps (B, Hp, Wp, C).

        Returns:
            (B, heads, Hp, Wp, 2): x and y, -1 and 1 at the centres of the outermost
            tokens; never in less than float32.
        """
        (nh, nw), (h, w) = windows.count, windows.window
        # Half precision would place a point to no better than parts of a token.
        with in_full_precision(x.device):
            x = x.to(self.offsets.weight)
            means = x.unflatten(2, (nw, w)).unflatten(1, (nh, h)).mean(dim=(2, 4))
            means = F.leaky_relu(means).permute(0, 3, 1, 2)  # (B, C, nh, nw)
            moved, scaled, (angles,) = (
                self._by_head(each(means))
                for each in (self.offsets, self.scales, self.angles)
            )
            centre_y, dy = _places(nh, h, angles)
            centre_x, dx = _places(nw, w, angles)
            dx, dy = dx * (1 + scaled[0]), dy[:, None, None] * (1 + scaled[1])
            columns, rows = self._units(windows)
            cos, sin = angles.cos(), angles.sin()
            x = dx * cos - dy * sin + centre_x[:, None] + moved[0] / columns
            y = dx * sin + dy * cos + centre_y[:, None, None, None] + moved[1] / rows
            return torch.stack((x, y), -1).flatten(4, 5).flatten(2, 3)

    def _by_head(self, x: Tensor) -> Tensor:
        """Rearrange (B, heads * n, nh, nw) to (n, B, heads, nh, 1, nw, 1)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.unflatten(1, (self.num_heads, -1)).movedim(2, 0)[..., :, None, :, None]

    def _units(self, windows: _Windows) -> tuple[int, int]:
        """Return what offsets along x and y are divided by."""
        (H, W), (h, w) = windows.size, windows.window
        return (H // h, W // w) if self.published else (W // w, H // h)


def _places(count: int, window: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Place windows along a side, in -1..1: centres, and tokens from a centre."""
    length = count * window
    sides = torch.linspace(-1, 1, length, device=like.device, dtype=like.dtype)
    steps = torch.arange(window, device=like.device, dtype=like.dtype)
    steps = (steps - (window - 1) / 2) * 2 / max(1, length - 1)
    return sides.unflatten(0, (-1, window)).mean(dim=1), steps


class RotatedWindowAttention(_RelativeAttention):
    """Attention within windows whose keys and values are read where the input says.

    For each window and head, the mean of the window's tokens gives an offset, a scale
    and an angle; keys and values are read, bilinearly, from the window so moved, scaled
    and turned. A grid is padded with zeros to whole windows, and the padding, like all
    that lies outside of it, takes part as keys and values of zero.

    Args:
        dim: width C.
        num_heads: heads; C must be a multiple.
        window_size: tokens along a side of a window. A side of a grid that is shorter
            is one window, unless `published`.
        qkv_bias: whether query, key and value have biases.
        published: as the published code. Else windows start as they are (sampling maps
            and tables at zero), and offsets along x are divided by windows in a row:
            the published code mistakes rows for columns.
        separate_sampling: keys and values are read at places of their own, the
            published variant `kvdiff`.

    Raises:
        ConfigError: C is no multiple of the number of heads, or the window is below 1.

    Source: see the module.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        published: bool = False,
        separate_sampling: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, (window_size, window_size), qkv_bias)
        self.window_size = window_size
        self.published = published
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        if published:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=_INIT_STD)
        self._add_sampling(separate_sampling)

    def _add_sampling(self, separate: bool) -> None:
        self.sampling = nn.ModuleDict()
        for what in ("k", "v") if separate else ("kv",):
            maps = _Sampling(self.proj.in_features, self.num_heads, self.published)
            self.sampling[what] = maps.to(self.proj.weight)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of one attention of the published code, strictly.

        Their names say whether keys and values are sampled apart, whatever this module
        was built with.

        Args:
            state_dict: tensors by published names, such as `sampling_offsets.2.weight`,
                without the block's prefix.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        weights = {
            _SAMPLING.sub(
                lambda part: f"sampling.{part[2] or 'kv'}.{part[1]}.", name
            ): v
            for name, v in state_dict.items()
        }
        self._add_sampling(any(name.startswith("sampling.k.") for name in weights))
        super().load_published_state_dict(weights)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Mix the tokens of each grid.

        Args:
            x: (B, H * W, C), by rows; or (B, R * H * W, C), of R grids one after the
                other, each on its own.
            size: H and W.

        Returns:
            Shaped as x.

        Raises:
            ShapeError: x is not made of whole grids, or they are smaller than a window,
                for which the published arithmetic has no finite answer.
        """
        _check_tokens(x, size)
        shape = x.shape
        x = x.reshape(-1, math.prod(size), shape[-1])  # (B * R, H * W, C)
        windows = self._cut(size)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unflatten(1, size)
        q, k, v = windows.pad(qkv.permute(3, 0, 4, 1, 2, 5))  # (B, heads, Hp, Wp, d)
        padded = windows.pad(x.unflatten(1, size))
        points = [each(padded, windows) for each in self.sampling.values()]
        q = windows.split(q)
        k = windows.split(_read(k, points[0]))
        v = windows.split(_read(v, points[-1]))
        bias = self._bias(q, windows.window)
        mixed = F.scaled_dot_product_attention(
            q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2), bias.flatten(0, 2)
        )
        joined = windows.join(mixed.view_as(q))
        return self.proj(windows.crop(joined).reshape(shape))

    def _cut(self, size: tuple[int, int]) -> _Windows:
        side = self.window_size
        if not self.published:
            return _Windows(size, (min(side, size[0]), min(side, size[1])))
        if min(size) < side:
            raise ShapeError(
                f"a grid of {size[0]} x {size[1]} tokens is smaller than the window of "
                f"{side}: the published arithmetic divides by zero there. Take larger "
                "images, or published=False."
            )
        return _Windows(size, (side, side))

    def _bias(self, q: Tensor, window: tuple[int, int]) -> Tensor:
        """Score queries by relative positions: (B, nh, nw, heads, h * w, h * w)."""
        reach = self.window_size
        rows, columns = (_distances(side, reach, q) for side in window)
        by_row, by_column = _score_distances(
            q.unflatten(4, window), self.rel_pos_h[rows], self.rel_pos_w[columns]
        )
        bias = (by_row[..., None] + by_column[..., None, :]).flatten(-2).flatten(-3, -2)
        index = relative_index(window, (reach, reach), q.device)
        table = self.relative_position_bias_table[index]  # (h * w, h * w, heads)
        return (bias + table.permute(2, 0, 1)).to(q)


def _read(x: Tensor, points: Tensor) -> Tensor:
    """Read maps (B, heads, Hp, Wp, d) bilinearly at points (B, heads, Hp, Wp, 2)."""
    maps = x.flatten(0, 1).permute(0, 3, 1, 2).to(points)  # (B * heads, d, Hp, Wp)
    read = F.grid_sample(maps, points.flatten(0, 1), align_corners=True)
    return read.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).to(x)


def look_in_windows(blocks: BlockStack, side: int, window_size: int) -> None:
    """Let blocks attend within windows, and every third globally, in place.

    Their linear maps stay; what is new changes nothing else at the start. The blocks
    then take the rows and columns of a grid beside tokens.

    Args:
        blocks: of plain attention.
        side: tokens along a side of the grid of the relative positions.
        window_size: tokens along a side of a window.

    Source: see the module.
    """
    for number, block in enumerate(blocks, start=1):
        plain: Any = block.attn
        width, heads = plain.proj.in_features, plain.num_heads
        attention: RotatedWindowAttention | GlobalAttention
        if number % _GLOBAL_EVERY:
            attention = RotatedWindowAttention(width, heads, window_size)
        else:
            attention = GlobalAttention(width, heads, (side, side))
        attention.qkv, attention.proj = plain.qkv, plain.proj
        block.attn = attention
