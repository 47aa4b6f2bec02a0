"""A GPU that is not there: its tensors have shapes only, the host's are real.

A tensor in the wrong place fails as on a real GPU. What would make the host wait for
the GPU raises `WaitedError`: a value that is read, a size that values decide, a copy
back, and a copy there that is not `non_blocking`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class WaitedError(Exception):
    """The host would have waited for the GPU."""


class _FakeDevice(FakeTensorMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        place = kwargs.get("device")
        is_there = place is not None and torch.device(place).type == "cuda"
        if not is_there and not any(isinstance(t, FakeTensor) for t in given):
            return func(*args, **kwargs)
        try:
            found: Any = super().__torch_dispatch__(func, types, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WaitedError(str(error)) from error
        if func in _COPIES:
            places = {t.device.type for t in (*given, found)}
            # The third argument of `copy_`.
            goes_on = kwargs.get("non_blocking") or args[2:] == (True,)
            if places == {"cpu", "cuda"} and (found.is_cpu or not goes_on):
                raise WaitedError(f"{func} from {given[-1].device} to {found.device}")
        return found


@contextlib.contextmanager
def fake_device() -> Iterator[None]:
    """Let tensors be made on, and moved to, a GPU that is not there."""
    cuda: Any = torch.cuda
    state = cuda.get_rng_state, cuda.set_rng_state
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    cuda.get_rng_state = lambda device=None: torch.empty(0)
    cuda.set_rng_state = lambda state, device=None: None
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        # PyTorch's own kernels: those of cuDNN ask for a GPU.
        with (
            torch.backends.cudnn.flags(enabled=False),
            _FakeDevice(allow_non_fake_inputs=True),
        ):
            yield
    finally:
        cuda.get_rng_state, cuda.set_rng_state = state
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def to_gpu(model: nn.Module) -> nn.Module:
    """Move a model, within `fake_device`."""
    return model._apply(lambda t: t.to(GPU, non_blocking=True))
