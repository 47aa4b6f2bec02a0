import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.data.labelling.blocks import Tile, assign_splits
from spectralgpt.data.splits import Fractions
from spectralgpt.rasters import Window


def tiles_of(table: np.ndarray) -> list[Tile]:
    """A tile a block, with these counts of its classes."""
    window = Window(0, 0, 8, 8)
    return [
        Tile(0, window, (0, number, 0), counts) for number, counts in enumerate(table)
    ]


@settings(max_examples=20)
@given(blocks=st.integers(3, 12), classes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_no_split_stays_empty(blocks: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Blocks of one class each are the hardest to deal out.
    table = np.zeros((blocks, classes), np.int64)
    table[np.arange(blocks), rng.integers(0, classes, blocks)] = 64
    splits = assign_splits(tiles_of(table), Fractions(), seed)
    assert set(splits.values()) == {"train", "val", "test"}
    assert len(splits) == blocks


def test_shares_of_a_rare_class_are_near_the_wanted_ones() -> None:
    rng = np.random.default_rng(0)
    table = np.stack([rng.integers(500, 1000, 40), np.zeros(40, int)], axis=1)
    table[:10, 1] = 50
    splits = assign_splits(tiles_of(table), Fractions(), 0)
    names = np.array([splits[(0, number, 0)] for number in range(40)])
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        found = table[names == split].sum(axis=0) / table.sum(axis=0)
        assert found == pytest.approx([share, share], abs=0.05)


def test_the_seed_decides_and_a_split_may_be_left_out() -> None:
    table = np.full((12, 1), 10)
    first = assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), 1)
    assert first == assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), 1)
    assert set(first.values()) == {"train", "val"}
    others = [
        assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), s) for s in range(5)
    ]
    assert any(other != first for other in others)


@pytest.mark.parametrize("seed", range(10))
def test_train_gets_each_class_and_so_does_every_split_that_can(seed: int) -> None:
    table = np.full((12, 3), [500, 0, 0])
    table[[1, 4, 7], 1] = 9
    table[8, 2] = 5
    splits = assign_splits(tiles_of(table), Fractions(), seed)
    names = np.array([splits[(0, number, 0)] for number in range(12)])
    assert (table[names == "train"].sum(axis=0) > 0).all()
    for split in ("val", "test"):
        assert (table[names == split].sum(axis=0)[:2] > 0).all()
