import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    build_loader,
    sample_seed,
)


class Counters:
    """Items that tell their index and one random draw."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def draw(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {
            "index": torch.tensor(index),
            "value": torch.rand((), generator=generator),
        }


def keys_of_epoch(sampler: EpochBatchSampler, epoch: int) -> list[list[tuple]]:
    sampler.start_at(epoch, 0)
    return [list(batch) for batch in sampler]


def test_epoch_visits_every_item_once() -> None:
    sampler = EpochBatchSampler(12, 12, batch_size=3, accumulate=2, seed=1)
    items = [key.item for batch in keys_of_epoch(sampler, 0) for key in batch]
    assert sorted(items) == list(range(12))


def test_longer_epoch_visits_items_equally_often() -> None:
    sampler = EpochBatchSampler(5, 15, batch_size=5, accumulate=1, seed=1)
    items = [key.item for batch in keys_of_epoch(sampler, 0) for key in batch]
    assert sorted(items) == sorted(list(range(5)) * 3)


def test_epochs_differ_in_order_and_seeds() -> None:
    sampler = EpochBatchSampler(64, 64, batch_size=64, accumulate=1, seed=1)
    (first,), (second,) = keys_of_epoch(sampler, 0), keys_of_epoch(sampler, 1)
    assert [k.item for k in first] != [k.item for k in second]
    assert not {k.seed for k in first} & {k.seed for k in second}


@given(
    batch=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    processes=st.integers(1, 3),
    items=st.integers(1, 40),
    start=st.integers(0, 5),
)
def test_splitting_over_processes_changes_no_step(
    batch: int, accumulate: int, processes: int, items: int, start: int
) -> None:
    per_step = batch * accumulate * processes
    whole = EpochBatchSampler(items, 3 * per_step, per_step, 1, seed=3)
    expected = [set(step) for step in keys_of_epoch(whole, 2)]
    parts = [
        keys_of_epoch(
            EpochBatchSampler(
                items, 3 * per_step, batch, accumulate, 3, rank, processes
            ),
            2,
        )
        for rank in range(processes)
    ]
    for step, wanted in enumerate(expected):
        micro = range(step * accumulate, (step + 1) * accumulate)
        found = [key for part in parts for m in micro for key in part[m]]
        assert len(found) == per_step
        assert set(found) == wanted


def test_start_midway_gives_the_rest_of_the_epoch() -> None:
    sampler = EpochBatchSampler(20, 20, batch_size=2, accumulate=1, seed=1)
    whole = keys_of_epoch(sampler, 3)
    sampler.start_at(3, 4)
    assert list(sampler) == whole[4:]
    assert len(sampler) == 10


def test_same_epoch_again_keeps_the_start_and_the_next_resets_it() -> None:
    sampler = EpochBatchSampler(20, 20, batch_size=2, accumulate=1, seed=1)
    sampler.start_at(1, 6)
    sampler.start_at(1, 0)
    assert len(list(sampler)) == 4
    sampler.start_at(2, 0)
    assert len(list(sampler)) == 10


def test_epoch_too_short_for_a_step_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"10 samples from 10 .* one step of 16"):
        EpochBatchSampler(10, 10, batch_size=4, accumulate=2, seed=1, world_size=2)


def test_chosen_items_come_in_order_with_equal_seeds_each_time() -> None:
    sampler = FixedBatchSampler([[4, 0, 1, 2, 3]], 2, seed=9)
    first = list(sampler)
    assert [key.item for batch in first for key in batch] == [4, 0, 1, 2, 3]
    assert list(sampler) == first
    assert len(sampler) == len(first) == 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_samples_do_not_depend_on_workers(workers: int) -> None:
    sampler = EpochBatchSampler(8, 8, batch_size=4, accumulate=1, seed=5)
    loaded = list(build_loader(Counters(8), sampler, workers))
    for batch, keys in zip(loaded, sampler, strict=True):
        assert batch["index"].tolist() == [key.item for key in keys]
        assert batch["seed"].tolist() == [key.seed for key in keys]
        drawn = [
            torch.rand((), generator=torch.Generator().manual_seed(key.seed))
            for key in keys
        ]
        assert torch.equal(batch["value"], torch.stack(drawn))


def test_seeds_depend_on_each_of_run_epoch_and_position() -> None:
    seeds = {
        sample_seed(run, epoch, position)
        for run in range(3)
        for epoch in range(3)
        for position in range(3)
    }
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
