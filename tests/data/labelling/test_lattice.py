from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine

from spectralgpt.data.labelling.lattice import Lattice, Placement, place_scenes
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
    lattice = Lattice(tile_px, tiles, gap_px)
    cut = list(lattice.cut(offset, shape))
    for _, window in cut:
        assert Grid(*shape).contains(window)
        assert (window.height, window.width) == (tile_px, tile_px)
    for i, (cell, window) in enumerate(cut):
        for other_cell, other in cut[:i]:
            gap = apart(window, other)
            assert gap >= (0 if cell == other_cell else min(gap_px))
    blocks = [cell for cell, _ in cut]
    assert all(blocks.count(b) <= tiles[0] * tiles[1] for b in blocks)


@given(
    shift=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    gap=st.integers(0, 5),
)
def test_scenes_of_one_lattice_share_blocks_on_the_ground(
    shift: tuple[int, int], gap: int
) -> None:
    lattice = Lattice(4, (2, 2), (gap, gap))
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
    places = place_scenes([GRID, moved, between, zone, between])
    assert places == [
        Placement(0, (0, 0)),
        Placement(0, (-2, 7)),
        Placement(1, (0, 0)),
        Placement(2, (0, 0)),
        Placement(1, (0, 0)),
    ]
