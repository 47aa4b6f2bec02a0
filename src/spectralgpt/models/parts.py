"""What a processor does with a batch part by part: a loss, and work without gradients.

The activations of a few images stay in the cache and are gone before the next images
come; those of a whole batch would be written to memory and read again. Results, sums
and gradients are the same but for their rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["PartLoss", "loss_in_parts", "part_size", "split_batch"]

# Takes rows of x and where they lie in the batch; gives their share of the loss, 0-d,
# and whatever else is wanted of them, without gradient.
PartLoss = Callable[[Tensor, slice], tuple[Tensor, tuple[Tensor, ...]]]

# A part's hidden state has at least so many values: its products are then fast.
_PART_VALUES = 1152 * 512

# Larger blocks are mapped anew by glibc each time (M_MMAP_THRESHOLD is at most 32 MiB),
# and their fresh pages cost more than what is computed in them.
_BLOCK_BYTES = 30 * 2**20


def split_batch(x: Tensor, growth: int) -> tuple[Tensor, ...]:
    """Part tokens (B, N, D) that no gradient is taken of, so that each block is small.

    Args:
        x: on a processor; elsewhere, and where gradients are taken, it stays whole.
        growth: how many times wider than x what is computed of it becomes.
    """
    pays = x.device.type == "cpu" and x.numel() > 0 and not torch.is_grad_enabled()
    if not pays or torch.compiler.is_compiling():
        return (x,)
    is_half = torch.is_autocast_enabled("cpu")
    value_bytes = 2 if is_half else x.element_size()
    size = _BLOCK_BYTES // max(1, x[0].numel() * growth * value_bytes)
    return x.chunk(-(-len(x) // max(1, size)))


def part_size(num_tokens: int, embed_dim: int) -> int:
    """Return how many images of so many tokens, so wide, a part has; at least 1."""
    return -(-_PART_VALUES // (num_tokens * embed_dim))


def loss_in_parts(
    part_loss: PartLoss, x: Tensor, module: nn.Module, size: int
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Sum a loss over parts of a batch, taking gradients on the way.

    On other devices, and where nothing is trained, the batch is one part.

    Args:
        part_loss: the loss of some rows; only `x` and the module get gradients.
        x: (B, ...).
        module: what `part_loss` runs.
        size: rows of x in a part.

    Returns:
        The loss, 0-d and differentiable once, and what else each part gave.
    """
    trained = [each for each in module.parameters() if each.requires_grad]
    if not _pays(x, trained, size):
        loss, other = part_loss(x, slice(0, len(x)))
        return loss, [other]
    others: list[tuple[Tensor, ...]] = []
    total: Tensor = _LossInParts.apply(part_loss, others, size, x, *trained)
    return total, others


def _pays(x: Tensor, trained: list[nn.Parameter], size: int) -> bool:
    return (
        x.device.type == "cpu"
        and len(x) > size
        and torch.is_grad_enabled()
        and (x.requires_grad or bool(trained))
        and not torch.compiler.is_compiling()
        # Sharded weights are gathered by hooks of the backward pass.
        and all(type(each) is nn.Parameter for each in trained)
    )


class _LossInParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        part_loss: PartLoss,
        others: list[tuple[Tensor, ...]],
        size: int,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        of_x = torch.empty_like(x)
        sums: tuple[Tensor, ...] = ()
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            with torch.enable_grad():
                part = x[rows].detach().requires_grad_()
                share, other = part_loss(part, rows)
            found = torch.autograd.grad(
                share, (part, *parameters), materialize_grads=True
            )
            of_x[rows] = found[0]
            # Not in place: gradients of two parameters may be one tensor.
            sums = torch._foreach_add(sums, found[1:]) if sums else found[1:]
            loss += share.detach()
            others.append(other)
        ctx.save_for_backward(of_x, *sums)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if float(grad) != 1:
            gradients = tuple(each * grad for each in gradients)
        return None, None, None, *gradients
