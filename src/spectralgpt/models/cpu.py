"""What makes processors fast: other products, and how memory is used.

On a GPU linear maps and attention are PyTorch's own. On processors two things are
mended: float32 products go through oneDNN, since PyTorch's default, MKL, reaches half
of its speed on some; and attention works on a few heads at a time in buffers that stay
in the cache, since the kernel for processors is slow at narrow heads, but for float32
without gradients.

Batches go part by part, and freed blocks are used again: the activations of a few
images stay in the cache and are gone before the next images come; those of a whole
batch would be written to memory and read again. The mathematics is the same: results,
sums and gradients differ by rounding alone.
"""

import ctypes
import logging
import math
import mmap
import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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

# Scores of a few heads: small enough for the cache, by benchmarks of base at 96 and
# 128 px; without gradients nothing else is in it.
_SCORE_BYTES = 8 * 2**20
_SCORE_BYTES_ALONE = 4 * 2**20
# So many attention weights are kept for the backward pass, more are made anew: those of
# the images that base's decoder has in a part at 128 px are kept.
_KEPT_VALUES = 2**25


class Linear(nn.Linear):
    """`torch.nn.Linear`, on a processor through oneDNN in float32, smaller in bfloat16.

    Attributes:
        keeps_rounded: whether a step of training in bfloat16 keeps the rounded weights,
            as autocast does. It pays for a map that a step uses many times; else they
            are rounded once more for the backward pass.
    """

    keeps_rounded = False

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        dtype = _product_type(input)
        is_theirs = dtype != torch.float32 and (
            self.keeps_rounded or not torch.is_grad_enabled()
        )
        if is_theirs or not _has_onednn(input, self.weight, dtype):
            return F.linear(input, self.weight, self.bias)
        mapped: Tensor = _LinearMap.apply(input.to(dtype), self.weight, self.bias)
        return mapped

    def gelu(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to exact GELU of (..., out_features).

        Where a processor needs no gradients, oneDNN applies it within the product.
        """
        dtype = _product_type(input)
        has_kernel = dtype == torch.float32 or _has_bfloat16()
        if (
            torch.is_grad_enabled()
            or not has_kernel
            or _has_hooks(self)
            or not _has_onednn(input, self.weight, dtype)
        ):
            return F.gelu(self(input))
        bias: Tensor | None = self.bias
        if bias is not None:
            bias = bias.to(dtype)
        return _onednn(input.to(dtype), self.weight.to(dtype), bias, "gelu")


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Leave autocast out, on tensors without values too."""
    # There, autocast does not know what it would cast to.
    return (
        nullcontext()
        if device.type == "meta"
        else torch.autocast(device.type, enabled=False)
    )


def keep_rounded(module: nn.Module) -> None:
    """Let every linear map of a module keep its rounded weights through a step."""
    for each in module.modules():
        if isinstance(each, Linear):
            each.keeps_rounded = True


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, scaled by the root of the head's width.

    Args:
        q: queries (B, heads, N, D / heads).
        k: keys (B, heads, M, D / heads).
        v: values, shaped as the keys.

    Returns:
        (B, heads, N, D / heads).
    """
    if (
        q.device.type != "cpu"
        or torch.compiler.is_compiling()
        or (q.dtype == torch.float32 and not torch.is_grad_enabled())
    ):
        return F.scaled_dot_product_attention(q, k, v)
    attended: Tensor = _CachedAttention.apply(q, k, v)
    return attended


def _product_type(x: Tensor) -> torch.dtype:
    """Return the type that a product of x is computed in on a processor."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def _has_onednn(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        x.device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))
        # Quantised weights bring their own products.
        and type(weight) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.is_available())
        and bool(torch.backends.mkldnn.enabled)
    )


@cache
def _has_bfloat16() -> bool:
    """Whether oneDNN has products in bfloat16 for this processor (AVX-512, say)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none"
) -> Tensor:
    """Give x @ weight.T + bias, or what `then` makes of it."""
    exact = "none"  # Of GELU's two forms; ignored where nothing follows.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, then, [], exact
    )
    return product


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give x @ weight.T + bias, in the type of x by what is fastest in it."""
    if x.dtype == torch.float32:
        return _onednn(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class _LinearMap(torch.autograd.Function):
    """A linear map in the type of x that keeps x and the weights as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        of_x = of_weight = of_bias = None
        if needs_x:
            of_x = _product(grad_rows, weight.t()).view_as(x)
        if needs_weight:
            of_weight = _weight_grad(rows, grad_rows).to(weight.dtype)
        if needs_bias:
            of_bias = grad_rows.sum(0, dtype=weight.dtype)
        return of_x, of_weight, of_bias


def _weight_grad(rows: Tensor, grad_rows: Tensor) -> Tensor:
    """Give grad_rows.T @ rows; oneDNN is faster with the shorter side first."""
    if rows.dtype != torch.float32 or grad_rows.shape[1] <= rows.shape[1]:
        return _product(grad_rows.t(), rows.t())
    return _product(rows.t(), grad_rows.t()).t()


class _CachedAttention(torch.autograd.Function):
    """Attention over a few heads at a time, in buffers that are used again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, heads, N, width = q.shape
        q, k, v = (part.reshape(B * heads, -1, width) for part in (q, k, v))
        shape = (B * heads, N, k.shape[1])
        trains = any(ctx.needs_input_grad)
        keeps = trains and math.prod(shape) <= _KEPT_VALUES
        weights = q.new_empty(shape) if keeps else None
        buffers = _Buffers(q, shape, _SCORE_BYTES if trains else _SCORE_BYTES_ALONE)
        attended = torch.empty_like(q)
        with torch.autocast("cpu", enabled=False):
            for part in buffers.parts:
                kept = weights[part] if weights is not None else None
                found = buffers.weights(q[part], k[part], kept)
                torch.bmm(found, v[part], out=attended[part])
        ctx.save_for_backward(q, k, v, weights)
        return attended.view(B, heads, N, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, kept = ctx.saved_tensors
        B, heads, N, width = grad.shape
        grad, scale = grad.reshape(B * heads, N, width), width**-0.5
        buffers = _Buffers(q, (B * heads, N, k.shape[1]), _SCORE_BYTES)
        grad_q = torch.empty_like(q)
        # Transposed, these products are a third faster.
        grad_k, grad_v = (k.new_empty(len(k), width, k.shape[1]) for _ in range(2))
        with torch.autocast("cpu", enabled=False):
            for part in buffers.parts:
                weights = kept[part] if kept is not None else None
                if weights is None:
                    weights = buffers.weights(q[part], k[part])
                torch.bmm(grad[part].transpose(1, 2), weights, out=grad_v[part])
                scores = buffers.score_grad(grad[part], v[part], weights)
                _scaled_product(scores, k[part], scale, grad_q[part])
                _scaled_product(q[part].transpose(1, 2), scores, scale, grad_k[part])
        split = (B, heads, -1, width)
        return (
            grad_q.view(split),
            grad_k.transpose(1, 2).unflatten(0, (B, heads)),
            grad_v.transpose(1, 2).unflatten(0, (B, heads)),
        )


class _Buffers:
    """Room for the scores of a few heads, and what is computed in it."""

    def __init__(
        self, like: Tensor, shape: tuple[int, int, int], score_bytes: int
    ) -> None:
        pairs, N, M = shape
        most = max(1, score_bytes // (N * M * like.element_size()))
        self.parts = [slice(i, min(i + most, pairs)) for i in range(0, pairs, most)]
        self.first, self.second = (
            like.new_empty(min(most, pairs), N, M) for _ in range(2)
        )

    def weights(self, q: Tensor, k: Tensor, out: Tensor | None = None) -> Tensor:
        """Give softmax(q @ k.T / sqrt(width)), in `out` or a buffer."""
        scores = self.first[: len(q)]
        out = self.second[: len(q)] if out is None else out
        _scaled_product(q, k.transpose(1, 2), q.shape[-1] ** -0.5, scores)
        torch.ops.aten._softmax.out(scores, -1, False, out=out)
        return out

    def score_grad(self, grad: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        """Give the gradient of the scores, in a buffer that holds no weights."""
        of_weights = self.first[: len(grad)]
        torch.bmm(grad, v.transpose(1, 2), out=of_weights)
        torch.ops.aten._softmax_backward_data.out(
            of_weights, weights, -1, weights.dtype, grad_input=of_weights
        )
        return of_weights


def _scaled_product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """Write scale * a @ b to `out`."""
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def move(values: Tensor, like: Tensor) -> Tensor:
    """Move values to where another tensor is; no GPU that they go to is waited for."""
    return values.to(like.device, non_blocking=values.is_cpu)


def _has_hooks(module: nn.Module) -> bool:
    """Whether a forward hook is on a module, within it, or on all modules."""
    of_all = torch.nn.modules.module
    return bool(
        of_all._global_forward_hooks or of_all._global_forward_pre_hooks
    ) or any(
        each._forward_hooks or each._forward_pre_hooks for each in module.modules()
    )


def split_batch(x: Tensor, growth: int, module: nn.Module) -> tuple[Tensor, ...]:
    """Part tokens (B, N, D) that no gradient is taken of, so that each block is small.

    Args:
        x: on a processor; elsewhere, and where gradients are taken, it stays whole.
        growth: how many times wider than x what is computed of it becomes.
        module: what computes it; its hooks see whole batches, once.
    """
    pays = x.device.type == "cpu" and x.numel() > 0 and not torch.is_grad_enabled()
    if not pays or torch.compiler.is_compiling():
        return (x,)
    is_half = torch.is_autocast_enabled("cpu")
    value_bytes = 2 if is_half else x.element_size()
    size = _BLOCK_BYTES // max(1, x[0].numel() * growth * value_bytes)
    parts = x.chunk(-(-len(x) // max(1, size)))
    return parts if len(parts) == 1 or not _has_hooks(module) else (x,)


def part_size(num_tokens: int, embed_dim: int) -> int:
    """Return how many images of so many tokens, so wide, a part has; at least 1."""
    return -(-_PART_VALUES // (num_tokens * embed_dim))


def loss_in_parts(
    part_loss: _PartLoss, x: Tensor, module: nn.Module, size: int
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Sum a loss over parts of a batch, taking gradients on the way.

    On other devices, and where nothing is trained or hooks look on, the batch is one
    part.

    Args:
        part_loss: the loss of some rows; only `x` and the module get gradients.
        x: (B, ...).
        module: what `part_loss` runs.
        size: rows of x in a part.

    Returns:
        The loss, 0-d and differentiable once, and what else each part gave.
    """
    trained = [each for each in module.parameters() if each.requires_grad]
    if not _pays(x, trained, size) or _has_hooks(module):
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


def peak_rss_bytes() -> int | None:
    """Return the most memory that this process has held so far; None on Windows."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage gives on Linux is at least what the parent held at the start.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def keep_freed_memory() -> bool:
    """Keep freed blocks in this process, where glibc allocates; once per process.

    By default glibc maps each block over 32 MB anew and gives it back when it is freed,
    so that every large tensor pays for fresh pages: up to a tenth of a training step,
    and far more where page faults are costly. Memory stays with the process until it
    ends. Linux is asked to back it with pages of 2 MiB, whose addresses the processor
    finds faster: another twentieth of a step.

    Returns:
        Whether blocks are kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
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
