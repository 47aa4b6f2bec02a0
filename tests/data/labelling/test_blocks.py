from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine

from spectralgpt.data.labelling import blocks
from spectralgpt.data.labelling.blocks import Tile
from spectralgpt.data.splits import Fractions
from spectralgpt.rasters import Grid, Window
from tests.raster_files import LEFT, TOP

GRID = Grid(100, 200, Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32632")


def apart(one: Window, other: Window) -> float:
    """Pixels between two windows, along the axis on which they are further apart."""
    rows = max(one.row, other.row) - min(one.row + one.height, other.row + other.height)
    columns = max(one.column, other.column) - min(
        one.column + one.width, other.column + other.width
    )
    return max(rows, columns)


@given(
    tile_px=st.integers(1, 9),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    gap_px=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    offset=st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_tiles_lie_in_the_scene_and_blocks_keep_their_gap(
    tile_px: int,
    tiles: tuple[int, int],
    gap_px: tuple[int, int],
    offset: tuple[int, int],
    shape: tuple[int, int],
) -> None:
    lattice = blocks._Lattice(tile_px, tiles, gap_px)
    cut = list(lattice.cut(offset, shape))
    for _, window in cut:
        assert Grid(*shape).contains(window)
        assert (window.height, window.width) == (tile_px, tile_px)
    for i, (cell, window) in enumerate(cut):
        for other_cell, other in cut[:i]:
            gap = apart(window, other)
            assert gap >= (0 if cell == other_cell else min(gap_px))
    found = [cell for cell, _ in cut]
    assert all(found.count(b) <= tiles[0] * tiles[1] for b in found)


@given(
    shift=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    gap=st.integers(0, 5),
)
def test_scenes_of_one_lattice_share_blocks_on_the_ground(
    shift: tuple[int, int], gap: int
) -> None:
    lattice = blocks._Lattice(4, (2, 2), (gap, gap))
    first = {(w.row, w.column): cell for cell, w in lattice.cut((0, 0), (40, 40))}
    second = {
        (w.row + shift[0], w.column + shift[1]): cell
        for cell, w in lattice.cut(shift, (40, 40))
    }
    shared = first.keys() & second.keys()
    assert all(first[at] == second[at] for at in shared)
    if max(map(abs, shift)) < 20:
        assert shared


def test_scenes_whose_pixels_lie_on_each_other_share_a_lattice() -> None:
    moved = replace(GRID, transform=Affine(10, 0, LEFT + 70, 0, -10, TOP + 20))
    between = replace(GRID, transform=Affine(10, 0, LEFT + 5, 0, -10, TOP))
    zone = replace(GRID, crs="EPSG:32633")
    places = blocks._place_scenes([GRID, moved, between, zone, between])
    assert places == [
        (0, (0, 0)),
        (0, (-2, 7)),
        (1, (0, 0)),
        (2, (0, 0)),
        (1, (0, 0)),
    ]


def tiles_of(table: np.ndarray) -> list[Tile]:
    """A tile a block, with these counts of its classes."""
    window = Window(0, 0, 8, 8)
    return [
        Tile(0, window, (0, number, 0), counts) for number, counts in enumerate(table)
    ]


@settings(max_examples=20)
@given(count=st.integers(3, 12), classes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_no_split_stays_empty(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Blocks of one class each are the hardest to deal out.
    table = np.zeros((count, classes), np.int64)
    table[np.arange(count), rng.integers(0, classes, count)] = 64
    splits = blocks._assign_splits(tiles_of(table), Fractions(), seed)
    assert set(splits.values()) == {"train", "val", "test"}
    assert len(splits) == count


def test_shares_of_a_rare_class_are_near_the_wanted_ones() -> None:
    rng = np.random.default_rng(0)
    table = np.stack([rng.integers(500, 1000, 40), np.zeros(40, int)], axis=1)
    table[:10, 1] = 50
    splits = blocks._assign_splits(tiles_of(table), Fractions(), 0)
    names = np.array([splits[(0, number, 0)] for number in range(40)])
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        found = table[names == split].sum(axis=0) / table.sum(axis=0)
        assert found == pytest.approx([share, share], abs=0.05)


def test_the_seed_decides_and_a_split_may_be_left_out() -> None:
    table = np.full((12, 1), 10)
    first = blocks._assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), 1)
    assert first == blocks._assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), 1)
    assert set(first.values()) == {"train", "val"}
    others = [
        blocks._assign_splits(tiles_of(table), Fractions(0.7, 0.3, 0), s)
        for s in range(5)
    ]
    assert any(other != first for other in others)


@pytest.mark.parametrize("seed", range(10))
def test_train_gets_each_class_and_so_does_every_split_that_can(seed: int) -> None:
    table = np.full((12, 3), [500, 0, 0])
    table[[1, 4, 7], 1] = 9
    table[8, 2] = 5
    splits = blocks._assign_splits(tiles_of(table), Fractions(), seed)
    names = np.array([splits[(0, number, 0)] for number in range(12)])
    assert (table[names == "train"].sum(axis=0) > 0).all()
    for split in ("val", "test"):
        assert (table[names == split].sum(axis=0)[:2] > 0).all()
