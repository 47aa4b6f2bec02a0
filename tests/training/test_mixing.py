from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.data.crops import CropConfig
from spectralgpt.data.pretraining import MixedDataset, PretrainingDataset
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    KeyedDataset,
    SampleKey,
    build_loader,
)
from tests.imagery import write_archive

SIZES = (50, 30, 7)
WEIGHTS = (2.0, 1.0, 1.0)


def sampler(rank: int = 0, world_size: int = 1, **changes: int) -> EpochBatchSampler:
    values = {"samples_per_epoch": 160, "batch_size": 4, "accumulate": 2, "seed": 3}
    return EpochBatchSampler(
        SIZES, **(values | changes), rank=rank, world_size=world_size, weights=WEIGHTS
    )


def kind_of(item: int) -> int:
    return int(np.searchsorted(np.cumsum(SIZES), item, side="right"))


def kinds_of(batches: EpochBatchSampler) -> list[int]:
    found = [{kind_of(key.item) for key in batch} for batch in batches]
    assert all(len(kinds) == 1 for kinds in found)
    return [kinds.pop() for kinds in found]


def test_batch_is_of_one_data_set_and_shares_follow_the_weights() -> None:
    batches = sampler()
    counts: Counter[int] = Counter()
    for epoch in range(10):
        batches.start_at(epoch, 0)
        counts.update(kinds_of(batches))
    assert sum(counts.values()) == 400
    assert counts == {0: 200, 1: 100, 2: 100}


def test_every_item_of_a_data_set_comes_before_one_comes_twice() -> None:
    batches = sampler(samples_per_epoch=120)
    keys = [key.item for batch in batches for key in batch]
    small = Counter(item for item in keys if kind_of(item) == 2)
    assert len(small) == SIZES[2]
    assert max(small.values()) - min(small.values()) <= 1


def test_processes_take_the_same_kind_at_a_step_and_other_items() -> None:
    one, two = (sampler(rank, 2, batch_size=2) for rank in range(2))
    assert kinds_of(one) == kinds_of(two)
    together = [a + b for a, b in zip(one, two, strict=True)]
    assert together == list(sampler(batch_size=4))


def test_epoch_that_starts_midway_goes_on_as_the_whole_one() -> None:
    whole, rest = sampler(), sampler()
    whole.start_at(5, 0)
    rest.start_at(5, 13)
    assert list(rest) == list(whole)[13:]


def test_epochs_differ() -> None:
    batches = sampler()
    first = batches.order().tolist()
    batches.start_at(1, 0)
    assert batches.order().tolist() != first


def test_mixture_of_one_is_the_plain_order() -> None:
    mixed = EpochBatchSampler([20], 20, 2, 2, seed=7, weights=[3.0])
    plain = EpochBatchSampler(20, 20, 2, 2, seed=7)
    for epoch in range(3):
        mixed.start_at(epoch, 0)
        plain.start_at(epoch, 0)
        assert list(mixed) == list(plain)


def test_rare_data_set_comes_in_proportion_over_epochs() -> None:
    batches = EpochBatchSampler([8, 8], 16, 4, 1, seed=0, weights=[19.0, 1.0])
    rare = 0
    for epoch in range(400):
        batches.start_at(epoch, 0)
        rare += int((batches.kinds() == 1).sum())
    # 4 batches an epoch, a twentieth of 1,600 is 80.
    assert 60 < rare < 100


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -1.0), (1.0,)])
def test_weights_that_cannot_be_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="a weight above 0 for each data set"):
        EpochBatchSampler([5, 5], 8, 2, 1, seed=0, weights=weights)


def test_held_out_batches_never_mix_data_sets() -> None:
    batches = list(FixedBatchSampler([[0, 1, 2], [10, 11]], 2, seed=0))
    assert [[key.item for key in batch] for batch in batches] == [[0, 1], [2], [10, 11]]
    assert batches == list(FixedBatchSampler([[0, 1, 2], [10, 11]], 2, seed=0))


@pytest.fixture
def mixture(tmp_path: Path) -> MixedDataset:
    datasets = {}
    for name, sensor, size, budget in [
        ("s2", "sentinel-2-l2a", 16, None),
        ("landsat", "landsat-8-9-l2", 24, None),
        ("enmap", "enmap-l2a", 16, 40),
    ]:
        source = read_source(write_archive(tmp_path, name, sensor, count=2))
        datasets[name] = PretrainingDataset(
            find_items([source], tmp_path),
            sensor_preprocessing(sensor, image_size=size),
            crops=CropConfig(val_share=0),
            token_budget=budget,
        )
    return MixedDataset(datasets)


def test_sample_carries_wavelengths_and_ground_distance(mixture: MixedDataset) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {}
    first = 0
    for name, size in zip(mixture.names, mixture.sizes, strict=True):
        sample = mixture.draw(first, generator)
        shapes[name] = tuple(sample["images"].shape)
        assert sample["bands"].shape == (len(sample["images"]), 3)
        assert mixture.names[sample["dataset"]] == name
        finest = {"s2": 10, "landsat": 30, "enmap": 30}[name]
        # A crop is between native resolution and the base window's, 1 / sqrt(0.2).
        assert 0.9 * finest <= sample["gsd_m"] <= 2.3 * finest
        first += size
    # 40 tokens are 10 band groups of 4 places; the last group of all has two bands.
    assert shapes.pop("enmap") in {(30, 16, 16), (29, 16, 16)}
    assert shapes == {"s2": (12, 16, 16), "landsat": (7, 24, 24)}


def test_batch_shares_its_cubes_and_batches_differ(mixture: MixedDataset) -> None:
    first = sum(mixture.sizes[:2])
    keys = [[SampleKey(first + i, i, seed) for i in range(4)] for seed in (1, 2)]
    batches = list(build_loader(KeyedDataset(mixture, True), keys, 0))
    for batch in batches:
        assert -(-batch["images"].shape[1] // 3) == 10
        assert bool((batch["bands"] == batch["bands"][0]).all())
    one, two = (batch["bands"][0].tolist() for batch in batches)
    assert one != two
    assert one == sorted(one)
