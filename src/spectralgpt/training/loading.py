"""Which sample comes when: shuffling, slicing over processes, starting mid-epoch.

A batch is of one data set, so that its images have one shape, and at each step all
processes take a batch of the same data set.

The order is a pure function of (seed, epoch, position), and so is the seed of each
sample's own randomness. Nothing depends on what was drawn before, on the number of
workers, or on how a batch is split over processes and accumulation steps: that is what
makes a resumed run equal an uninterrupted one, and two processes equal one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from spectralgpt.errors import ConfigError
from spectralgpt.threads import start_worker

# Tells the seeds of steps from those of samples.
_SHARED = 1
# Tells the draws of a mixture from the order of a single data set.
_KINDS, _ITEMS = 1, 2


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
    """Mix a sample's own 63-bit seed.

    Args:
        seed: of the run.
        epoch: from 0.
        position: of the sample in the epoch's order, over all processes.
    """
    return _mix(seed, epoch, position)


def _shared_seed(seed: int, epoch: int, step: int) -> int:
    """Mix run seed, epoch and step into the seed of what a step's samples share."""
    return _mix(seed, epoch, step, _SHARED)


def _mix(*numbers: int) -> int:
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches of one process, the same for the same (seed, epoch, batch).

    An epoch takes `samples_per_epoch` items: a permutation of all items, then another,
    until there are enough. A remainder that fills no optimizer step is dropped, so that
    each step sees exactly the effective batch; the next epoch's order is another.

    In each epoch a data set of a mixture gets its share of the batches, rounded up or
    down at random so that the mean over epochs is exact.

    Args:
        items: in the data set; of a mixture in each, whose indices follow each other.
        samples_per_epoch: draws in an epoch, over all processes and data sets.
        batch_size: samples of one process in one micro-batch.
        accumulate: micro-batches in an optimizer step; they may differ in data set.
        seed: seed of the order and of the samples' own seeds.
        rank: index of this process.
        world_size: number of processes.
        weights: how often each data set is drawn, relative to each other.

    Raises:
        ConfigError: an epoch does not fill one optimizer step, or weights are wrong.
    """

    def __init__(
        self,
        items: int | Sequence[int],
        samples_per_epoch: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[float] = (1.0,),
    ) -> None:
        self.sizes = (items,) if isinstance(items, int) else tuple(items)
        self.num_items = sum(self.sizes)
        if len(self.sizes) != len(weights) or not all(weight > 0 for weight in weights):
            raise ConfigError(
                f"a mixture needs a weight above 0 for each data set, found "
                f"{list(weights)} for {len(self.sizes)}."
            )
        per_step = batch_size * accumulate * world_size
        if samples_per_epoch < per_step or self.num_items < 1:
            raise ConfigError(
                f"an epoch of {samples_per_epoch} samples from {self.num_items} images "
                f"does not fill one step of {per_step} (batch_size {batch_size} x "
                f"accumulate {accumulate} x {world_size} processes). Lower one of "
                "these, or raise samples_per_epoch."
            )
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        self.num_batches = samples_per_epoch // per_step * accumulate
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int) -> None:
        """Make the next pass that of `epoch`, from its batch `first_batch` on."""
        if epoch != self.epoch or first_batch:
            self.epoch, self.first_batch = epoch, first_batch

    def kinds(self) -> np.ndarray:
        """Give the data set of each batch of this epoch, (batches,)."""
        rng = np.random.default_rng((self.seed, self.epoch, 0, 0, _KINDS))
        places = (np.arange(self.num_batches) + rng.random()) / self.num_batches
        ends = np.cumsum(self.shares)
        # The last end may fall short of 1 by rounding.
        kinds = np.searchsorted(ends[:-1], places, side="right")
        return np.asarray(rng.permutation(kinds))

    def order(self) -> np.ndarray:
        """Give the item of each position of this epoch, over all processes.

        Returns:
            (num_batches * world_size * batch_size,) int64.
        """
        per_batch = self.batch_size * self.world_size
        if len(self.sizes) == 1:
            return self._shuffle(self.num_items, self.num_batches * per_batch)
        kinds, first = self.kinds(), 0
        order = np.empty((self.num_batches, per_batch), dtype=np.int64)
        for number, size in enumerate(self.sizes):
            chosen = kinds == number
            count = int(chosen.sum()) * per_batch
            items = self._shuffle(size, count, number, _ITEMS)
            order[chosen] = first + items.reshape(-1, per_batch)
            first += size
        return order.ravel()

    def _shuffle(self, size: int, count: int, *of: int) -> np.ndarray:
        """Take `count` of so many items: a permutation, then another."""
        orders = [
            np.random.default_rng((self.seed, self.epoch, turn, *of)).permutation(size)
            for turn in range(-(-count // size))
        ]
        return np.concatenate([np.empty(0, np.int64), *orders])[:count]

    def __len__(self) -> int:
        """Count the batches of a whole epoch, also when this one starts midway."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Give the batches of this process from the first one that is due."""
        order = self.order()
        for batch in range(self.first_batch, self.num_batches):
            start = (batch * self.world_size + self.rank) * self.batch_size
            shared = _shared_seed(self.seed, self.epoch, batch // self.accumulate)
            yield [
                SampleKey(int(order[p]), sample_seed(self.seed, self.epoch, p), shared)
                for p in range(start, start + self.batch_size)
            ]


class FixedBatchSampler(Sampler[list[SampleKey]]):
    """Chosen items, in order, with the same seeds each time: for held-out images.

    Each process takes all of them: there are few, and so the figure does not depend on
    the number of processes.

    Args:
        parts: the items of each data set, in the order in which they come; a number
            takes the first so many of one.
        batch_size: largest batch; the last of each data set may be smaller.
        seed: seed of the samples' own seeds.
    """

    def __init__(
        self, parts: Sequence[Sequence[int]] | int, batch_size: int, seed: int
    ) -> None:
        self.parts = [range(parts)] if isinstance(parts, int) else parts
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Count the batches."""
        return sum(-(-len(items) // self.batch_size) for items in self.parts)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Give the batches in order."""
        for items in self.parts:
            for start in range(0, len(items), self.batch_size):
                shared = _shared_seed(self.seed, 0, start)
                yield [
                    SampleKey(i, sample_seed(self.seed, 0, i), shared)
                    for i in items[start : start + self.batch_size]
                ]


class _Drawable(Protocol):
    """A data set whose items are drawn with a generator of their own."""

    def __len__(self) -> int: ...

    @property
    def draw(self) -> Callable[..., dict[str, Any]]:
        """Give a sample by index and generator; all chance in it comes from that."""
        ...


class KeyedDataset(Dataset[dict[str, Any]]):
    """Draw items by `SampleKey`, and hand each sample's seed on under `seed`.

    Args:
        dataset: what is drawn from.
        by_batch: whether it takes the seed of the batch as well, for what samples
            share, such as the spectral cubes of a mixture.
    """

    def __init__(self, dataset: _Drawable, by_batch: bool = False) -> None:
        self.dataset = dataset
        self.by_batch = by_batch

    def __len__(self) -> int:
        """Count the items."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Draw one sample."""
        generator = torch.Generator().manual_seed(key.seed)
        shared = (key.batch_seed,) if self.by_batch else ()
        sample = self.dataset.draw(key.item, generator, *shared)
        return {**sample, "seed": torch.tensor(key.seed, dtype=torch.int64)}


def build_loader(
    dataset: _Drawable | KeyedDataset,
    batches: Sampler[list[SampleKey]],
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[dict[str, Any]]:
    """Return what loads batches of a data set.

    Args:
        dataset: drawn by `SampleKey`.
        batches: which samples come in which batch.
        workers: processes that read; 0 reads in this one.
        pin_memory: hand batches over in memory that a GPU copies from faster.
    """
    return DataLoader(
        dataset if isinstance(dataset, KeyedDataset) else KeyedDataset(dataset),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
