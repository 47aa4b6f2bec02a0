"""Which sample comes when: shuffling, slicing over processes, starting mid-epoch.

The order is a pure function of (seed, epoch, position), and so is the seed of each
sample's own randomness. Nothing depends on what was drawn before, on the number of
workers, or on how a batch is split over processes and accumulation steps: that is what
makes a resumed run equal an uninterrupted one, and two processes equal one.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from spectralgpt.errors import ConfigError
from spectralgpt.threads import start_worker

# Tells the seeds of steps from those of samples.
_SHARED = 1


class SampleKey(NamedTuple):
    """One draw from a data set.

    Attributes:
        item: which item.
        seed: of everything random in it alone.
        batch_seed: of what all samples of its step share, over all processes.
    """

    item: int
    seed: int
    batch_seed: int = 0


def sample_seed(seed: int, epoch: int, position: int) -> int:
    """Mix run seed, epoch and position in the epoch into a 63-bit seed."""
    state = np.random.SeedSequence((seed, epoch, position)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def shared_seed(seed: int, epoch: int, step: int) -> int:
    """Mix run seed, epoch and step into the seed of what a step's samples share."""
    mixed = np.random.SeedSequence((seed, epoch, step, _SHARED))
    state = mixed.generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches of one process, the same for the same (seed, epoch, batch).

    An epoch takes `samples_per_epoch` items: a permutation of all items, then another,
    until there are enough. A remainder that fills no optimizer step is dropped, so that
    each step sees exactly the effective batch; the next epoch's order is another.

    Args:
        num_items: items in the data set.
        samples_per_epoch: draws in an epoch, over all processes.
        batch_size: samples of one process in one micro-batch.
        accumulate: micro-batches in an optimizer step.
        seed: seed of the order and of the samples' own seeds.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ConfigError: an epoch does not fill one optimizer step.
    """

    def __init__(
        self,
        num_items: int,
        samples_per_epoch: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        per_step = batch_size * accumulate * world_size
        if samples_per_epoch < per_step or num_items < 1:
            raise ConfigError(
                f"an epoch of {samples_per_epoch} samples from {num_items} images does "
                f"not fill one step of {per_step} (batch_size {batch_size} x "
                f"accumulate {accumulate} x {world_size} processes). Lower one of "
                "these, or raise samples_per_epoch."
            )
        self.num_items = num_items
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.num_batches = samples_per_epoch // per_step * accumulate
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int) -> None:
        """Make the next pass that of `epoch`, from its batch `first_batch` on."""
        if epoch != self.epoch or first_batch:
            self.epoch, self.first_batch = epoch, first_batch

    def order(self) -> np.ndarray:
        """Give the item of each position of this epoch, over all processes."""
        length = self.num_batches * self.batch_size * self.world_size
        rounds = -(-length // self.num_items)
        orders = [
            np.random.default_rng((self.seed, self.epoch, k)).permutation(
                self.num_items
            )
            for k in range(rounds)
        ]
        return np.concatenate(orders)[:length]

    def __len__(self) -> int:
        """Count the batches of a whole epoch, also when this one starts midway."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Give the batches of this process from the first one that is due."""
        order = self.order()
        for batch in range(self.first_batch, self.num_batches):
            start = (batch * self.world_size + self.rank) * self.batch_size
            shared = shared_seed(self.seed, self.epoch, batch // self.accumulate)
            yield [
                SampleKey(int(order[p]), sample_seed(self.seed, self.epoch, p), shared)
                for p in range(start, start + self.batch_size)
            ]


class FixedBatchSampler(Sampler[list[SampleKey]]):
    """Chosen items, in order, with the same seeds each time: for held-out images.

    Each process takes all of them: there are few, and so the figure does not depend on
    the number of processes.

    Args:
        items: the items, in the order in which they come; a number takes the first
            so many.
        batch_size: largest batch; the last may be smaller.
        seed: seed of the samples' own seeds.
    """

    def __init__(self, items: Sequence[int] | int, batch_size: int, seed: int) -> None:
        self.items = tuple(range(items) if isinstance(items, int) else items)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Count the batches."""
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Give the batches in order."""
        for start in range(0, len(self.items), self.batch_size):
            chosen = self.items[start : start + self.batch_size]
            shared = shared_seed(self.seed, 0, start)
            yield [SampleKey(i, sample_seed(self.seed, 0, i), shared) for i in chosen]


class Drawable(Protocol):
    """A data set whose items are drawn with a generator of their own."""

    def __len__(self) -> int: ...

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Give one sample; all that is random in it comes from `generator`."""
        ...


class KeyedDataset(Dataset[dict[str, Any]]):
    """Draw items by `SampleKey`, and hand each sample's seed on under `seed`.

    Args:
        dataset: what is drawn from.
    """

    def __init__(self, dataset: Drawable) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Count the items."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Draw one sample."""
        generator = torch.Generator().manual_seed(key.seed)
        sample = self.dataset.draw(key.item, generator)
        return {**sample, "seed": torch.tensor(key.seed, dtype=torch.int64)}


class WholeSteps:
    """Micro-batches in order; the first of a step holds all of them under `step`.

    So a loss can average over the whole step before its later micro-batches come.

    Args:
        loader: gives the micro-batches, from the first of a step on.
        accumulate: micro-batches in a step.
    """

    def __init__(self, loader: DataLoader[dict[str, Any]], accumulate: int) -> None:
        self.loader = loader
        self.accumulate = accumulate

    def __len__(self) -> int:
        """Count the micro-batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the micro-batches, each step's once all of them are read."""
        batches = iter(self.loader)
        while step := list(itertools.islice(batches, self.accumulate)):
            yield {**step[0], "step": step}
            yield from step[1:]


def build_loader(
    dataset: Drawable | KeyedDataset,
    batches: Sampler[list[SampleKey]],
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[dict[str, Any]]:
    """Load the batches that `batches` names, in `workers` processes (0 is in this)."""
    return DataLoader(
        dataset if isinstance(dataset, KeyedDataset) else KeyedDataset(dataset),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
