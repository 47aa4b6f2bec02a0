import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.data.chips import Chip, LabelledSet, keep_fraction, split_stratified
from spectralgpt.data.labelled import LabelledDataConfig, divide
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import DataError
from spectralgpt.rasters import BandFile, Grid, RasterItem, Window
from spectralgpt.sensors import load_sensor

SENSOR = load_sensor("sentinel-2-l2a")


def item(name: str, place: str = "") -> RasterItem:
    files = {"B04": BandFile(Path(f"{name}.tif"), 1, Grid(64, 64))}
    return RasterItem(name, SENSOR, files, 10_000.0, 0.0, place=place)


def labelled(labels: Sequence[Sequence[int]], task: str = "multi-label") -> LabelledSet:
    chips = tuple(
        Chip(item(str(number)), tuple(sorted(each)))
        for number, each in enumerate(labels)
    )
    count = max(label for each in labels for label in each) + 1
    return LabelledSet(chips, tuple("abcdefgh"[:count]), task, "a set")


def in_train(found: LabelledSet) -> Counter[int]:
    chips = found.select("train").chips
    return Counter(label for chip in chips for label in chip.labels)


def test_a_tenth_of_train_keeps_every_class() -> None:
    sizes = {0: 40, 1: 10, 2: 4}
    every = labelled([[c] for c, n in sizes.items() for _ in range(n)], "single-label")
    train = LabelledSet(
        tuple(Chip(chip.item, chip.labels, "train") for chip in every.chips),
        every.class_names, every.task, every.source,
    )  # fmt: skip
    assert in_train(keep_fraction(train, 0.1, 0)) == {0: 4, 1: 1, 2: 1}


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
    divided = split_stratified(labelled([sorted(each) for each in labels]), seed=seed)
    every = {label for chip in divided.chips for label in chip.labels}
    assert set(in_train(divided)) == every
    kept = keep_fraction(divided, fraction, seed)
    assert set(in_train(kept)) == every
    larger = keep_fraction(divided, min(1.0, fraction + 0.2), seed)
    names = [{chip.name for chip in each.chips} for each in (kept, larger)]
    assert names[0] <= names[1]


@pytest.mark.parametrize(
    "shares", [(0.1, 0.5, 0.4), (0.6, 0.2, 0.2), (0.9, 0.05, 0.05)]
)
def test_each_split_gets_each_class_that_has_enough_images(
    shares: tuple[float, float, float],
) -> None:
    sizes = {0: 30, 1: 4, 2: 3}
    every = labelled([[c] for c, n in sizes.items() for _ in range(n)], "single-label")
    counts = split_stratified(every, Fractions(*shares)).counts()
    assert all(counts[split][name] for split in counts for name in "abc")


def test_two_images_of_a_class_are_enough_for_train_and_val() -> None:
    every = labelled([[0]] * 20 + [[1]] * 2, "single-label")
    counts = split_stratified(every, Fractions(0.8, 0.2, 0.0)).counts()
    assert counts["train"]["b"] == counts["val"]["b"] == 1


def test_a_class_that_a_split_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    every = labelled([[0]] * 20 + [[1]], "single-label")
    with caplog.at_level(logging.WARNING):
        divided = divide(every, LabelledDataConfig(root="."), 0)
    assert in_train(divided)[1] == 1
    assert "a set: split test shows nothing of b" in caplog.text


def test_parts_of_one_image_stay_in_one_split() -> None:
    windows = [Window(0, 0, 32, 32), Window(0, 32, 32, 32), Window(32, 0, 32, 32)]
    chips = [
        Chip(item(f"scene {n}"), (part % 2,), window=window)
        for n in range(8)
        for part, window in enumerate(windows)
    ]
    every = LabelledSet(tuple(chips), ("a", "b"), "single-label", "a set")
    for seed in range(5):
        divided = split_stratified(every, seed=seed)
        splits: dict[str, set[str]] = {}
        for chip in divided.chips:
            splits.setdefault(chip.item.name, set()).add(chip.split)
        assert all(len(found) == 1 for found in splits.values())
        assert {chip.split for chip in divided.chips} == {"train", "val", "test"}


def test_images_of_one_place_stay_in_one_split() -> None:
    chips = [
        Chip(item(f"{place} {date}"), (place % 2,), place=f"place {place}")
        for place in range(10)
        for date in range(3)
    ]
    every = LabelledSet(tuple(chips), ("a", "b"), "single-label", "a set")
    divided = split_stratified(every)
    pairs = {(chip.place, chip.split) for chip in divided.chips}
    assert len(pairs) == 10


def test_tiles_of_too_few_images_are_refused_with_the_way_out() -> None:
    chips = [
        Chip(item("scene"), (n % 2,), window=Window(0, n, 1, 1)) for n in range(20)
    ]
    every = LabelledSet(tuple(chips), ("a", "b"), "single-label", "a set")
    with pytest.raises(DataError, match=r"shows 1 places.*'blocks'"):
        split_stratified(every)
