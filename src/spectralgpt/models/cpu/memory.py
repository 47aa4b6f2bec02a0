"""How a processor's memory is used: a batch part by part, and freed blocks again.

The activations of a few images stay in the cache and are gone before the next images
come; those of a whole batch would be written to memory and read again. Results, sums
and gradients are the same but for their rounding.
"""

import ctypes
import logging
import mmap
import os
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_log = logging.getLogger(__name__)

# Takes rows of x and where they lie in the batch; gives their share of the loss, 0-d,
# and whatever else is wanted of them, without gradient.
_PartLoss = Callable[[Tensor, slice], tuple[Tensor, tuple[Tensor, ...]]]

# A part's hidden state has at least so many values: its products are then fast.
_PART_VALUES = 1152 * 512

# Larger blocks are mapped anew by glibc each time (M_MMAP_THRESHOLD is at most 32 MiB),
# and their fresh pages cost more than what is computed in them.
_BLOCK_BYTES = 30 * 2**20

# Source: mallopt(3), malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_TOP_PAD_BYTES = 64 * 2**20


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
    part_loss: _PartLoss, x: Tensor, module: nn.Module, size: int
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
        part_loss: _PartLoss,
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


@cache
def keep_freed_memory() -> bool:
    """Keep freed blocks in this process, where glibc allocates; once a process.

    By default glibc maps each block over 32 MB anew and gives it back when it is freed,
    so that every large tensor pays for fresh pages: up to a tenth of a training step,
    and far more where pages are dear. Memory stays with the process until it ends.
    Linux is asked to back it with pages of 2 MiB, whose addresses the processor finds
    faster: another twentieth of a step.

    Returns:
        Whether blocks are kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = (
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    done = all(libc.mallopt(name, value) == 1 for name, value in settings)
    if done:
        _log.debug("freed memory is kept for the next tensors (mallopt).")
        _ask_for_large_pages(libc)
    return done


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Mark the addresses that the next blocks will lie at; none of it is used yet."""
    libc.malloc.restype = ctypes.c_void_p
    page = mmap.PAGESIZE
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    start = libc.malloc(ctypes.c_size_t(size))
    if not start:  # The system promises no more than it has.
        return
    first = -(-start // page) * page
    length = (start + size - first) // page * page
    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(start))
