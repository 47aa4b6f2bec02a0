"""Where a model, a loss and a metric meet, and what all such tasks have in common.

A step is the same however it is cut: chance is drawn from seeds of samples, and losses
average over sums of a whole step.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spectralgpt.threads import start_worker

__all__ = [
    *("READ", "Batch", "Gather", "Task"),
    *("mirrors", "own_sums", "read_batches", "seeded"),
]

Batch = dict[str, Any]

READ = ("seed", "dataset", "bands", "valid")
"""Entries of a batch that tasks read: on a GPU, each would be waited for."""

Gather = Callable[[Tensor], Tensor]
"""Takes the sums of a micro-batch, gives those over its whole optimizer step."""

_NUMPY_SEEDS = 2**32


def own_sums(sums: Tensor) -> Tensor:
    """Give the sums of a batch that is a step of its own."""
    return sums


def mirrors(flips: bool) -> Iterator[tuple[int, ...]]:
    """Yield the axes to flip for the image as it is, and for its three mirror images.

    Args:
        flips: whether the mirror images are wanted.
    """
    yield ()
    if flips:
        yield from ((-1,), (-2,), (-2, -1))


class Task(Protocol):
    """Where a model, a loss and its metrics meet.

    A batch is a dict of tensors; those of `READ` stay on the processor. `seed` (B,)
    int64 holds one seed per sample, from which everything random about that sample is
    drawn, so that a step depends on nothing before it.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained and saved."""
        ...

    def sums(self, batch: Batch) -> Tensor:
        """Sum up what the loss averages over; sums of micro-batches add up.

        Their shape is a task's own, and the same for all batches.
        """
        ...

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give 0-d loss terms; `loss` is minimised, the others are logged beside it.

        Args:
            batch: a micro-batch.
            gather: turns its `sums` into those of its optimizer step, so that the mean
                of the terms over the step's micro-batches, and that of their gradients,
                is what all of them as one batch would give.
        """
        ...

    def validate(self, batch: Batch) -> None:
        """Add one held-out batch to the metrics."""
        ...

    def metrics(self) -> dict[str, float]:
        """Give the metrics over the batches since the last call, and start anew."""
        ...


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


def read_batches(
    dataset: Dataset[dict[str, Tensor]],
    batch_size: int,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Batch]:
    """Yield batches of a data set in its order; nothing is random.

    Args:
        dataset: its samples have one shape.
        batch_size: samples in a batch.
        num_workers: processes that read; 0 reads in this one.
        progress: called with the number of samples when a batch has been worked on.
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=start_worker,
    )
    for batch in loader:
        yield batch
        if progress is not None:
            progress(len(batch["image"]))
