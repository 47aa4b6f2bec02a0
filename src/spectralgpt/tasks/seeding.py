"""What makes a step the same however it is cut: chance, and sums over its parts."""

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["Gather", "own_sums", "seeded"]

Gather = Callable[[Tensor], Tensor]
"""Takes the sums of a micro-batch, gives those over its whole optimizer step."""

_NUMPY_SEEDS = 2**32


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that timm draws from, and put them back after.

    Args:
        seed: such as that of the batch's first sample.
        device: whose generator is seeded beside the processor's.
    """
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % _NUMPY_SEEDS)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def own_sums(sums: Tensor) -> Tensor:
    """Give the sums of a batch that is a step of its own."""
    return sums
