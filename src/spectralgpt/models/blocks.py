"""Transformer blocks: attention, MLP, and stacks of them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu import Linear, attend, split_batch

NORM_EPS = 1e-6  # Source: the published weights.
MLP_RATIO = 4
# A block, the width of its results, and how many times finer than features they are.
Tap = tuple[int, int, int]


def initialise_linear(linear: nn.Linear, parts: int = 1) -> None:
    """Xavier-initialise a linear map made of `parts` stacked maps; zero its bias."""
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(linear.bias)


def relative_index(
    size: Sequence[int], reach: Sequence[int], device: torch.device
) -> Tensor:
    """Return which row of a table says how far the tokens of a grid lie apart.

    Args:
        size: rows and columns.
        reach: those that the table is for: it holds (2 rows - 1) * (2 columns - 1)
            distances, of query less key, by row, then column.
        device: of the table.

    Returns:
        (N, N), by query, then key.
    """
    down, on = (
        torch.arange(side, device=device).expand(side, -1).mT
        - torch.arange(side, device=device)
        + most
        - 1
        for side, most in zip(size, reach, strict=True)
    )
    index = down[:, None, :, None] * (2 * reach[1] - 1) + on[:, None]
    return index.flatten(2, 3).flatten(0, 1)


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

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, D) -> (B, N, D).

        Args:
            x: the tokens.
            bias: (heads, N, N), added to what queries (rows) and keys have in common.
        """
        q, k, v = _split_heads(self.qkv(x), 3, self.num_heads)
        if bias is None:
            mixed = attend(q, k, v)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(mixed.transpose(1, 2).flatten(2))


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

    def __init__(self, embed_dim: int, ratio: float = MLP_RATIO) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dim, int(ratio * embed_dim))
        self.fc2 = Linear(int(ratio * embed_dim), embed_dim)
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
        mlp_ratio: hidden width of the MLP over D.
        layer_scale: first value of the factors of each branch; None has none.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        is_cross: bool = False,
        mlp_ratio: float = MLP_RATIO,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        attention = _CrossAttention if is_cross else _Attention
        self.attn = attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.mlp = _MLP(embed_dim, mlp_ratio)
        self.drop_path = drop_path
        self.has_scale = layer_scale is not None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((embed_dim,), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dim,), float(layer_scale)))

    def forward(self, x: Tensor, *memory: Tensor | tuple[int, int]) -> Tensor:
        """Transform tokens (B, N, D) -> (B, N, D).

        Attention may look at a memory, add a bias, or need rows and columns of a grid.
        """
        mixed = self.attn(self.norm1(x), *memory)
        x = x + self._drop(self.gamma_1 * mixed if self.has_scale else mixed)
        mapped = self.mlp(self.norm2(x))
        return x + self._drop(self.gamma_2 * mapped if self.has_scale else mapped)

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
        passing: values at the end of each token that pass the blocks by.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.recomputes = False
        self.passing = 0

    def forward(self, x: Tensor, *memory: Tensor | tuple[int, int]) -> Tensor:
        """Run tokens (B, N, D) through all blocks, each with the same memory."""
        x, passed = self._parted(x)
        for block in self:
            x = self.run_one(block, x, *memory)
        return torch.cat([x, passed], dim=-1) if self.passing else x

    def _parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Part tokens into what blocks see and what passes them by."""
        width = x.shape[-1] - self.passing
        return x[..., :width], x[..., width:]

    def run(self, x: Tensor, *memory: Tensor | tuple[int, int]) -> Tensor:
        """Run tokens through all blocks, in parts where that is faster."""
        parts: list[Tensor] = [
            self(part, *memory) for part in split_batch(x, MLP_RATIO, self)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def run_one(
        self, block: nn.Module, x: Tensor, *memory: Tensor | tuple[int, int]
    ) -> Tensor:
        """Run tokens through one of the blocks."""
        if self.recomputes and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x, *memory, use_reentrant=False)
            return again
        found: Tensor = block(x, *memory)
        return found


class TappedStack(BlockStack):
    """Blocks whose results at several depths come together, side by side.

    Maps that are finer than features are folded: the values of the tokens in the place
    of a feature lie one after the other, as `pixel_unshuffle` has them.

    Args:
        blocks: the blocks themselves, not copies.
        taps: whose results are kept, see `Encoder.taps`, from early to late.
        stops_early: run no block after the last of these.
    """

    def __init__(
        self, blocks: BlockStack, taps: Sequence[Tap], stops_early: bool = False
    ) -> None:
        super().__init__(blocks[: taps[-1][0] + 1] if stops_early else blocks)
        self.recomputes, self.passing = blocks.recomputes, blocks.passing
        self.taps = tuple(taps)

    def forward(self, x: Tensor, *memory: Tensor | tuple[int, int]) -> Tensor:
        """Run (B, N, D) or maps (B, rows, columns, D); returns them of more width."""
        found = {}
        wanted = {number for number, _, _ in self.taps}
        x, passed = self._parted(x)
        for number, block in enumerate(self):
            x = self.run_one(block, x, *memory)
            if number in wanted:
                found[number] = torch.cat([x, passed], -1) if self.passing else x
        maps = [_folded(found[number], finer) for number, _, finer in self.taps]
        return torch.cat(maps, dim=-1)


def unfold_taps(x: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
    """Part features of several depths (..., channels, Hp, Wp) into maps, unfolded."""
    parts = x.split([width * finer**2 for _, width, finer in taps], dim=-3)
    return [
        F.pixel_shuffle(part, finer)
        for part, (_, _, finer) in zip(parts, taps, strict=True)
    ]


def _folded(x: Tensor, scale: int) -> Tensor:
    """Fold a map (B, rows, columns, D) to a grid so many times coarser."""
    if scale == 1:
        return x
    return F.pixel_unshuffle(x.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1)


def build_blocks(
    embed_dim: int,
    depth: int,
    num_heads: int,
    drop_path: float = 0.0,
    is_cross: bool = False,
    mlp_ratio: float = MLP_RATIO,
    layer_scale: float | None = None,
) -> BlockStack:
    """Build `depth` blocks whose drop path rises linearly from 0 to `drop_path`.

    Args:
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads; D must be a multiple.
        drop_path: of the last block, 0..1.
        is_cross: blocks attend to a memory.
        mlp_ratio: hidden width of the MLPs over D.
        layer_scale: first value of the factors of each branch; None has none.

    Raises:
        ConfigError: D is no multiple of the number of heads.
    """
    rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
    return BlockStack(
        _Block(embed_dim, num_heads, rate, is_cross, mlp_ratio, layer_scale)
        for rate in rates
    )
