import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.data.division import SampleSetConfig, divide
from spectralgpt.data.masks import count_classes
from spectralgpt.data.samples import Sample, SampleSet
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import DataError
from spectralgpt.rasters import BandFile, Grid, RasterFile, Window
from spectralgpt.sensors import load_sensor

SENSOR = load_sensor("sentinel-2-l2a")


def item(name: str, place: str = "") -> RasterFile:
    files = {"B04": BandFile(Path(f"{name}.tif"), 1, Grid(64, 64))}
    return RasterFile(name, SENSOR, files, 10_000.0, 0.0, place=place)


def labelled(labels: Sequence[Sequence[int]], task: str = "multi-label") -> SampleSet:
    chips = tuple(
        Sample((item(str(number)),), tuple(sorted(each)))
        for number, each in enumerate(labels)
    )
    count = max(label for each in labels for label in each) + 1
    return SampleSet(chips, tuple("abcdefgh"[:count]), task, "a set")


def split(
    samples: SampleSet, how: Any = "stratified", seed: int = 0, **options: Any
) -> SampleSet:
    return divide(samples, SampleSetConfig(".", split=how, **options), seed)


def in_train(found: SampleSet) -> Counter[int]:
    chips = found.select("train").samples
    return Counter(label for chip in chips for label in chip.labels)


def test_a_tenth_of_train_keeps_every_class() -> None:
    sizes = {0: 41, 1: 10, 2: 4}
    every = labelled([[c] for c, n in sizes.items() for _ in range(n)], "single-label")
    names = ["val", *["train"] * (len(every.samples) - 1)]
    train = tuple(
        replace(sample, split=name)
        for sample, name in zip(every.samples, names, strict=True)
    )
    kept = split(replace(every, samples=train), "given", train_fraction=0.1)
    assert in_train(kept) == {0: 4, 1: 1, 2: 1}


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(
        st.sets(st.integers(0, 4), min_size=1, max_size=3), min_size=6, max_size=40
    ),
    fraction=st.sampled_from([0.01, 0.1, 0.3, 0.7]),
    seed=st.integers(0, 99),
)
def test_no_share_of_several_labels_loses_a_class(
    labels: list[set[int]], fraction: float, seed: int
) -> None:
    divided = split(labelled([sorted(each) for each in labels]), seed=seed)
    every = {label for chip in divided.samples for label in chip.labels}
    assert set(in_train(divided)) == every
    kept = split(divided, "given", seed, train_fraction=fraction)
    assert set(in_train(kept)) == every
    larger = split(divided, "given", seed, train_fraction=fraction + 0.2)
    names = [{chip.name for chip in each.samples} for each in (kept, larger)]
    assert names[0] <= names[1]


@pytest.mark.parametrize(
    "shares", [(0.1, 0.5, 0.4), (0.6, 0.2, 0.2), (0.9, 0.05, 0.05)]
)
def test_each_split_gets_each_class_that_has_enough_images(
    shares: tuple[float, float, float],
) -> None:
    sizes = {0: 30, 1: 4, 2: 3}
    every = labelled([[c] for c, n in sizes.items() for _ in range(n)], "single-label")
    counts = count_classes(split(every, fractions=Fractions(*shares)))
    assert all(counts[split][name] for split in counts for name in "abc")


def test_two_images_of_a_class_are_enough_for_train_and_val() -> None:
    every = labelled([[0]] * 20 + [[1]] * 2, "single-label")
    counts = count_classes(split(every, fractions=Fractions(0.8, 0.2, 0.0)))
    assert counts["train"]["b"] == counts["val"]["b"] == 1


def test_a_class_that_a_split_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    every = labelled([[0]] * 20 + [[1]], "single-label")
    with caplog.at_level(logging.WARNING):
        divided = split(every)
    assert in_train(divided)[1] == 1
    assert "a set: split test shows nothing of b" in caplog.text


def test_parts_of_one_image_stay_in_one_split() -> None:
    windows = [Window(0, 0, 32, 32), Window(0, 32, 32, 32), Window(32, 0, 32, 32)]
    chips = [
        Sample((item(f"scene {n}"),), (part % 2,), window=window)
        for n in range(8)
        for part, window in enumerate(windows)
    ]
    every = SampleSet(tuple(chips), ("a", "b"), "single-label", "a set")
    for seed in range(5):
        divided = split(every, seed=seed)
        splits: dict[str, set[str]] = {}
        for chip in divided.samples:
            splits.setdefault(chip.item.name, set()).add(chip.split)
        assert all(len(found) == 1 for found in splits.values())
        assert {chip.split for chip in divided.samples} == {"train", "val", "test"}


def test_images_of_one_place_stay_in_one_split() -> None:
    chips = [
        Sample((item(f"{place} {date}"),), (place % 2,), place=f"place {place}")
        for place in range(10)
        for date in range(3)
    ]
    every = SampleSet(tuple(chips), ("a", "b"), "single-label", "a set")
    divided = split(every)
    pairs = {(chip.place, chip.split) for chip in divided.samples}
    assert len(pairs) == 10


def test_tiles_of_too_few_images_are_refused_with_the_way_out() -> None:
    chips = [
        Sample((item("scene"),), (n % 2,), window=Window(0, n, 1, 1)) for n in range(20)
    ]
    every = SampleSet(tuple(chips), ("a", "b"), "single-label", "a set")
    with pytest.raises(DataError, match=r"has 1 places.*blocks"):
        split(every)
