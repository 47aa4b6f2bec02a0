"""The transformer block that encoder and decoder share, and a stack of blocks."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu.kernels import Linear, attend

NORM_EPS = 1e-6  # Source: the published weights.
MLP_RATIO = 4


def initialise_linear(linear: nn.Linear, parts: int = 1) -> None:
    """Xavier-initialise a linear map made of `parts` stacked maps; zero its bias."""
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(linear.bias)


class Attention(nn.Module):
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
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Part (B, N, parts * D) into `parts` tensors (B, heads, N, D / heads)."""
    split = x.unflatten(-1, (parts, num_heads, -1))
    return split.permute(2, 0, 3, 1, 4).unbind()


class MLP(nn.Module):
    """Two linear maps with an exact GELU between them.

    Args:
        embed_dim: width D.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dim, MLP_RATIO * embed_dim)
        self.fc2 = Linear(MLP_RATIO * embed_dim, embed_dim)
        initialise_linear(self.fc1)
        initialise_linear(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token (B, N, D) -> (B, N, D)."""
        return self.fc2(self.fc1.gelu(x))


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth.

    Args:
        embed_dim: width D.
        num_heads: attention heads.
        drop_path: probability that a sample skips a branch in training, 0..1.
        attention: kind of attention, built of width and heads.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        attention: Callable[[int, int], nn.Module] = Attention,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.attn = attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.mlp = MLP(embed_dim)
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
    attention: Callable[[int, int], nn.Module] = Attention,
) -> BlockStack:
    """Build `depth` blocks whose drop path rises linearly from 0 to `drop_path`."""
    rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
    return BlockStack(Block(embed_dim, num_heads, rate, attention) for rate in rates)
