"""Which batch is of which data set: a mixture's order, exact on resume.

A batch is of one data set, so that its images have one shape, and at each step all
processes take a batch of the same data set. Which one, and which of its samples, is a
pure function of (seed, epoch, batch), as for a single data set.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from spectralgpt.data.pretraining import MixedDataset
from spectralgpt.errors import ConfigError
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    KeyedDataset,
    SampleKey,
)

# Tells the draws of a mixture from the order of a single data set.
_KINDS, _ITEMS = 1, 2


class MixedBatchSampler(EpochBatchSampler):
    """Shuffled batches, each of one data set, in proportion to the weights.

    In each epoch a data set gets its share of the batches, rounded up or down at
    random so that the mean over epochs is exact. With one data set the order is that of
    `EpochBatchSampler`.

    Args:
        sizes: items in each data set; their indices follow each other.
        weights: how often each is drawn, relative to each other.
        samples_per_epoch: draws in an epoch, over all processes and data sets.
        batch_size: samples of one process in one micro-batch.
        accumulate: micro-batches in an optimizer step; they may differ in data set.
        seed: seed of the order and of the samples' own seeds.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ConfigError: an epoch does not fill one optimizer step, or weights are wrong.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        samples_per_epoch: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(sizes) != len(weights) or not all(weight > 0 for weight in weights):
            raise ConfigError(
                f"a mixture needs a weight above 0 for each data set, found "
                f"{list(weights)} for {len(sizes)}."
            )
        super().__init__(
            sum(sizes), samples_per_epoch, batch_size, accumulate, seed, rank,
            world_size,
        )  # fmt: skip
        self.sizes = tuple(sizes)
        self.shares = np.asarray(weights, dtype=np.float64) / sum(weights)

    def kinds(self) -> np.ndarray:
        """Give the data set of each batch of this epoch, (batches,)."""
        rng = np.random.default_rng((self.seed, self.epoch, 0, 0, _KINDS))
        places = (np.arange(self.num_batches) + rng.random()) / self.num_batches
        ends = np.cumsum(self.shares)
        # The last end may fall short of 1 by rounding.
        kinds = np.searchsorted(ends[:-1], places, side="right")
        return np.asarray(rng.permutation(kinds))

    def order(self) -> np.ndarray:
        """Give the item of each position of this epoch, over all processes."""
        if len(self.sizes) == 1:
            return super().order()
        kinds, per_batch = self.kinds(), self.batch_size * self.world_size
        order = np.empty((self.num_batches, per_batch), dtype=np.int64)
        first = 0
        for number, size in enumerate(self.sizes):
            chosen = kinds == number
            items = self._shuffle(number, int(chosen.sum()) * per_batch)
            order[chosen] = first + items.reshape(-1, per_batch)
            first += size
        return order.ravel()

    def _shuffle(self, number: int, count: int) -> np.ndarray:
        """Take `count` items of a data set: a permutation, then another."""
        size = self.sizes[number]
        orders = [
            np.random.default_rng(
                (self.seed, self.epoch, turn, number, _ITEMS)
            ).permutation(size)
            for turn in range(-(-count // size))
        ]
        return np.concatenate([np.empty(0, np.int64), *orders])[:count]


class HeldOutBatches(Sampler[list[SampleKey]]):
    """Chosen items of each data set, in order, with the same seeds each time.

    Args:
        items: for each data set the items that are scored.
        batch_size: largest batch; the last of each data set may be smaller.
        seed: seed of the samples' own seeds.
    """

    def __init__(
        self, items: Sequence[Sequence[int]], batch_size: int, seed: int
    ) -> None:
        self.parts = [FixedBatchSampler(chosen, batch_size, seed) for chosen in items]

    def __len__(self) -> int:
        """Count the batches."""
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Give the batches in order."""
        for part in self.parts:
            yield from part


class KeyedMixture(KeyedDataset):
    """Draw samples of a mixture by `SampleKey`; a batch shares its spectral cubes.

    Args:
        dataset: what is drawn from.
    """

    def __init__(self, dataset: MixedDataset) -> None:
        super().__init__(dataset)
        self.mixture = dataset

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Draw one sample."""
        generator = torch.Generator().manual_seed(key.seed)
        sample = self.mixture.draw(key.item, generator, key.batch_seed)
        return {**sample, "seed": torch.tensor(key.seed, dtype=torch.int64)}
