"""The Swin transformer: attention in windows, over maps that grow coarser by stages.

Its blocks are timm's; windows follow each map, so that images of any size are taken. A
token is a patch of all bands. It takes its own bands only.

Source: Liu et al. 2021, arXiv:2103.14030.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError, require
from spectralgpt.models.blocks import BlockStack, Tap, relative_index
from spectralgpt.models.own_bands import OwnBandsEncoder
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.stems import PiEmbedding, StemKind, check_stem

require("timm")
from timm.models.swin_transformer import (  # noqa: E402
    PatchMerging,
    SwinTransformerBlock,
    window_partition,
    window_reverse,
)

_STD = 0.02
_NORM_EPS = 1e-5  # Source: the published code.
_PI_NORM_EPS = 1e-6  # Source: RingMo's published code.
_APART = -100.0
_MOST_STAGES, _LONG_STAGE = 4, 2
_LONGEST = 1000


class _SwinBlock(SwinTransformerBlock):
    """A block whose windows shrink with the map.

    If `is_shifted` they lie half a window on; if it `merges`, it first brings together
    2 x 2 tokens of half the width.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        window: int,
        is_shifted: bool,
        merges: bool,
        drop_path: float,
    ) -> None:
        super().__init__(
            width,
            (2 * window, 2 * window),
            num_heads,
            window_size=window,
            drop_path=drop_path,
            dynamic_mask=True,
        )
        self.window, self.is_shifted = window, is_shifted
        self.merge = PatchMerging(width // 2) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, rows, columns, width), of twice the width of before if merging."""
        if self.merge is not None:
            x = self.merge(x)
        x = x + self.drop_path1(self._mix(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _mix(self, x: Tensor) -> Tensor:
        """Let tokens of a window attend to each other."""
        size = x.shape[1:3]
        window = min(self.window, size[0]), min(self.window, size[1])
        shift = tuple(
            self.window // 2 if self.is_shifted and side > self.window else 0
            for side in size
        )
        below, right = (-side % each for side, each in zip(size, window, strict=True))
        x = F.pad(x, (0, 0, 0, right, 0, below))
        x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        rows, columns = x.shape[1:3]
        parts = window_partition(x, window).flatten(1, 2)  # (B * windows, N, width)
        parts = parts.unflatten(0, (x.shape[0], -1))  # (B, windows, N, width)
        bias = self._relative(window)
        if any(shift) or below or right:
            bias = bias + _regions(size, window, shift, x.device)[:, None]
        mixed = self._attend(parts, bias).flatten(0, 1).unflatten(1, window)
        x = window_reverse(mixed, window, rows, columns)
        return x.roll(shift, dims=(1, 2))[:, : size[0], : size[1]]

    def _relative(self, window: tuple[int, ...]) -> Tensor:
        """Return the bias by how far tokens lie apart, (heads, N, N)."""
        table = self.attn.relative_position_bias_table
        index = relative_index(window, (self.window, self.window), table.device)
        bias: Tensor = table[index]
        return bias.permute(2, 0, 1)

    def _attend(self, parts: Tensor, bias: Tensor) -> Tensor:
        """Mix (B, windows, N, width), given a bias (heads or windows, heads; N, N)."""
        split = self.attn.qkv(parts).unflatten(-1, (3, self.attn.num_heads, -1))
        q, k, v = split.permute(3, 0, 1, 4, 2, 5).unbind()  # (B, windows, heads, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        mapped: Tensor = self.attn.proj(mixed.transpose(2, 3).flatten(3))
        return mapped


def _regions(
    size: Sequence[int],
    window: tuple[int, int],
    shift: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Return what keeps tokens apart that the shift brought together: (windows, N, N).

    Padding is kept apart from all that is there.
    """
    numbers = []
    for side, each, on in zip(size, window, shift, strict=True):
        padded = side - side % -each
        at = torch.arange(padded, device=device)
        part = (at >= padded - each).long() + (at >= padded - on).long()
        # Places before the shift; what lies beyond the map is padding.
        is_padding = (at + on) % padded >= side
        numbers.append(part * 2 + is_padding if on else is_padding.long())
    number = numbers[0][:, None] * 8 + numbers[1]
    parts = window_partition(number[None, :, :, None], window).flatten(1)
    apart = parts[:, None] != parts[:, :, None]
    return apart.float() * _APART


def stages_of(
    embed_dim: int, depth: int, num_heads: int
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Share out a size among up to four stages, as the published sizes are.

    Args:
        embed_dim: width of the last stage.
        depth: blocks of all stages: two each, the third has all others.
        num_heads: half the attention heads of the last stage, which is what a vision
            transformer of this width has; each stage before has half as many.

    Returns:
        Width of the first stage, blocks and heads of each: of base those of Swin-T, of
        large those of Swin-B.

    Raises:
        ConfigError: the width cannot be halved so often.
    """
    count = min(_MOST_STAGES, max(1, depth // 2))
    depths = [2] * count
    depths[min(_LONG_STAGE, count - 1)] += depth - 2 * count
    if embed_dim % 2 ** (count - 1):
        raise ConfigError(
            f"embed_dim {embed_dim} cannot be halved for {count} stages of a Swin "
            f"transformer: use a multiple of {2 ** (count - 1)}."
        )
    heads = [max(1, 2 * num_heads // 2**back) for back in reversed(range(count))]
    return embed_dim // 2 ** (count - 1), tuple(depths), tuple(heads)


class SwinEncoder(OwnBandsEncoder):
    """A Swin transformer on patches of its own bands.

    Features are those of the last stage: one for `patch_size` x 2 ** (stages - 1)
    pixels, which is its attribute `patch_size`, of width `embed_dim` x 2 ** (stages -
    1), which is its attribute `embed_dim`.

    Args:
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side of a patch of the first stage, px.
        embed_dim: width of the first stage; each stage has twice that of the one
            before.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of a window, tokens, or that of each stage. One for all
            shrinks to the map of `image_size` where that is smaller.
        drop_path: stochastic depth of the last block, 0..1.
        stem: how patches become tokens, see `VisionTransformer`.

    Raises:
        ConfigError: a setting is out of range.
    """

    kind = "swin"
    blocks: BlockStack
    class_token = None

    def __init__(
        self,
        image_size: int = 192,
        num_bands: int = 12,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 6,
        drop_path: float = 0.0,
        stem: StemKind = "linear",
    ) -> None:
        super().__init__()
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        check_stem(stem, patch_size, ("linear", "pi", "pi-tanh"))
        depths, num_heads = _counts("depths", depths), _counts("num_heads", num_heads)
        stages = len(depths)
        stride = patch_size * 2 ** (stages - 1)
        _check_stages(image_size, stride, embed_dim, depths, num_heads)
        sides = [image_size // patch_size // 2**stage for stage in range(stages)]
        windows = _windows(window_size, sides)
        self._settings = settings | {
            "depths": depths,
            "num_heads": num_heads,
            "window_size": windows,
        }
        self.image_size, self.num_bands = image_size, num_bands
        self.first_patch, self.patch_size = patch_size, stride
        self.embed_dim = embed_dim * 2 ** (stages - 1)
        self.depth, self.num_heads = sum(depths), num_heads[-1]
        self.groups, self.bands_per_token, self.stem = 1, num_bands, stem
        if stem == "linear":
            self.embedding: nn.Module = nn.Conv2d(
                num_bands, embed_dim, patch_size, patch_size
            )
        else:
            self.embedding = PiEmbedding(num_bands, patch_size, embed_dim, stem)
        eps = _NORM_EPS if stem == "linear" else _PI_NORM_EPS
        self.embedding_norm = nn.LayerNorm(embed_dim, eps=eps)
        self.blocks = BlockStack(
            _SwinBlock(
                embed_dim * 2**stage,
                num_heads[stage],
                windows[stage],
                is_shifted=number % 2 == 1,
                merges=stage > 0 and number == 0,
                drop_path=drop_path
                * (sum(depths[:stage]) + number)
                / max(1, self.depth - 1),
            )
            for stage in range(stages)
            for number in range(depths[stage])
        )
        self.norm = nn.LayerNorm(self.embed_dim, eps=_NORM_EPS)
        for each in self.blocks.modules():
            if isinstance(each, nn.Linear):
                nn.init.trunc_normal_(each.weight, std=_STD)
                if each.bias is not None:
                    nn.init.zeros_(each.bias)

    @property
    def levels(self) -> tuple[Tap, ...]:
        """All stages."""
        return self.taps

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The last block of each stage, its width, and by what its grid is finer."""
        depths = self._settings["depths"]
        last = len(depths) - 1
        return tuple(
            (sum(depths[: at + 1]) - 1, self.embed_dim >> last - at, 1 << last - at)
            for at in range(last + 1)
        )

    def shape_of(self, images: Tensor) -> tuple[int, int, int, int]:
        """Return T, G, rows, columns of the tokens of the first stage.

        Raises:
            ShapeError: images are series, or do not fit, see `own_grid`.
        """
        if images.ndim == 5:
            raise ShapeError("these are series: give (batch, bands, rows, columns).")
        rows, columns = self.own_grid(images)
        finer = self.patch_size // self.first_patch
        return 1, 1, rows * finer, columns * finer

    def embed(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens of the first stage, (B, N, D)."""
        self.shape_of(images)
        x: Tensor = self.embedding_norm(self.embedding(images).flatten(2).mT)
        return x

    def place(self, x: Tensor, shape: Sequence[int], dates: Tensor | None) -> Tensor:
        """Return tokens (B, N, D) as they are: places are told apart by attention."""
        return x

    def run(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Run all blocks, without the final norm.

        Args:
            x: (B, N, D), of the first stage.
            shape: T, G, rows, columns of these tokens.

        Returns:
            (B, K, last D), by row, then column.
        """
        x = x.unflatten(1, tuple(shape[-2:]))
        return self.blocks.run(x).flatten(1, 2)

    def encode_own(self, images: Tensor, dates: Tensor | None) -> Tensor:
        """Encode images; each is a date of its own."""
        x = self.run(self.embed(images), self.shape_of(images))
        return x.unflatten(1, (1, *self.own_grid(images)))


def _counts(name: str, values: Any) -> tuple[int, ...]:
    """Return whole numbers of stages, checked."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(
        isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= _LONGEST
        for v in values
    ):
        raise ConfigError(
            f"{name} is {str(values)[:40]}; it must be a list of whole numbers of at "
            "least 1, one a stage."
        )
    return tuple(values)


def _check_stages(
    image_size: int,
    stride: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
) -> None:
    if len(num_heads) != len(depths):
        raise ConfigError(
            f"depths has {len(depths)} stages and num_heads {len(num_heads)}: give one "
            "of each a stage."
        )
    if image_size % stride:
        raise ConfigError(
            f"image_size {image_size} is no multiple of the {stride} px that a feature "
            f"of {len(depths)} stages covers: use another size, a smaller patch_size "
            "or fewer stages."
        )
    for stage, (heads, depth) in enumerate(zip(num_heads, depths, strict=True)):
        width = embed_dim * 2**stage
        check_settings({"embed_dim": width, "num_heads": heads, "depth": depth})


def _windows(window_size: int | Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """Return the side of each stage's windows."""
    if not isinstance(window_size, int) or isinstance(window_size, bool):
        windows = _counts("window_size", window_size)
        if len(windows) != len(sides):
            raise ConfigError(
                f"window_size has {len(windows)} stages, the transformer {len(sides)}."
            )
        return windows
    (whole,) = _counts("window_size", [window_size])
    return tuple(min(whole, side) for side in sides)
