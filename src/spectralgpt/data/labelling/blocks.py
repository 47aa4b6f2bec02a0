"""Which tiles are labelled, how large blocks are, and which split each block is in."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.labelling.config import UNLABELLED, TileRules
from spectralgpt.data.labelling.lattice import Cell, Lattice, Placement, place_scenes
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene
from spectralgpt.data.splits import Fractions, spread_classes, wanted_splits
from spectralgpt.errors import DataError
from spectralgpt.rasters import Window, read_codes

__all__ = [
    "Layout",
    "Tile",
    "assign_splits",
    "choose_layout",
    "count_classes",
]

_Counts = NDArray[np.int64]
_MOST_TILES = 10
"""Tiles along a block, unless the user states its size."""
_ENOUGH_BLOCKS = 15
"""Blocks that the size is chosen for: three of them in a split of one fifth."""
_REACH_PX = 4
"""Pixels of the coarsest band; resampling reaches two beyond a tile on each side."""
_TRIALS = 64
"""Orders in which blocks are dealt out; the most even result is taken."""
_TIE = 1e-9
_ROUNDING = 0.01
"""Pixels that a gap may be shorter by, as lengths on maps are that exact at best."""


@dataclass(frozen=True)
class Tile:
    """A part of a scene.

    Args:
        scene: number of the scene.
        window: pixels of its grid.
        cell: its block.
        counts: labelled pixels of each class, (K,).
    """

    scene: int
    window: Window
    cell: Cell
    counts: _Counts


@dataclass(frozen=True)
class Layout:
    """Blocks of one size, and the labelled tiles in them.

    Args:
        tiles: those that are labelled enough.
        block_m: side of a block, m.
        gap_m: least distance of tiles in different blocks, m.
    """

    tiles: tuple[Tile, ...]
    block_m: float
    gap_m: float

    @property
    def num_blocks(self) -> int:
        """Blocks with a tile."""
        return len({tile.cell for tile in self.tiles})


def choose_layout(labelled: LabelledScenes, rules: TileRules) -> Layout:
    """Lay out blocks of the size that is stated, or else the largest that gives enough.

    Raises:
        DataError: no tile is labelled enough, or there are fewer blocks than splits;
            says which block size would work.
    """
    needed = len(wanted_splits(rules.fractions))
    tile_m = max(rules.tile_px * side for side in labelled.scenes[0].pixel_m)
    most, enough, stated = _MOST_TILES, _ENOUGH_BLOCKS, None
    if rules.block_m is not None:
        stated = _lay(labelled, rules.block_m, rules)
        if stated.num_blocks >= needed:
            return stated
        most, enough = math.ceil(rules.block_m / tile_m) - 1, needed
    best = _lay(labelled, tile_m, rules)
    if not best.tiles:
        raise DataError(_no_tiles(labelled.scenes, rules))
    for tiles in range(most, 1, -1):
        layout = _lay(labelled, tiles * tile_m, rules)
        if layout.num_blocks >= enough:
            best = layout
            break
    _refuse_too_few(best, stated, needed, rules)
    return best


def assign_splits(
    tiles: Sequence[Tile], fractions: Fractions, seed: int
) -> dict[Cell, str]:
    """Deal blocks out to the splits, with similar shares of every class in each.

    Each block goes to the split that still lacks most of what the block holds, rare
    classes counting as much as others. That is done in several orders, and the result
    whose shares are nearest to the wanted ones is taken. Where a split then lacks a
    class that other blocks could give it, they do.

    Args:
        tiles: those of all blocks.
        fractions: wanted shares of the labelled pixels.
        seed: of the orders.
    """
    counts: dict[Cell, _Counts] = {}
    for tile in tiles:
        counts[tile.cell] = counts.get(tile.cell, 0) + tile.counts
    cells = sorted(counts)
    table = np.array([counts[cell] for cell in cells], np.float64)  # (blocks, K)
    table = table[:, table.sum(axis=0) > 0]
    table /= table.sum(axis=0)
    names = wanted_splits(fractions)
    wanted = np.array([fractions.of(name) for name in names])
    rng = np.random.default_rng(seed)
    best, best_error = np.zeros(len(cells), int), np.inf
    for _ in range(_TRIALS):
        dealt, error = _deal(table, wanted, rng.permutation(len(cells)))
        if error < best_error:
            best, best_error = dealt, error
    held = [np.flatnonzero(row).tolist() for row in table]
    dealt_out = spread_classes([names[at] for at in best.tolist()], held, names)
    return dict(zip(cells, dealt_out, strict=True))


def _deal(
    table: NDArray[np.float64], wanted: NDArray[np.float64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], float]:
    """Deal blocks out in one order; returns their splits, and how uneven it came out.

    No split stays empty as long as there are blocks.
    """
    got = np.zeros((len(wanted), table.shape[1]))
    dealt = np.full(len(table), -1)
    for turn, block in enumerate(order):
        lacking = (1 - got / wanted[:, None]) @ table[block]  # (splits,)
        empty = ~np.isin(np.arange(len(wanted)), dealt)
        if len(order) - turn <= empty.sum():
            lacking[~empty] = -np.inf
        # Large splits first where all lack the same.
        split = int(np.argmax(lacking + _TIE * wanted))
        dealt[block] = split
        got[split] += table[block]
    return dealt, float(np.abs(got - wanted[:, None]).sum())


def _lay(labelled: LabelledScenes, block_m: float, rules: TileRules) -> Layout:
    """Cut blocks of about this size, and keep the tiles that are labelled enough."""
    coarsest_px = max(scene.coarsest_px for scene in labelled.scenes)
    places = place_scenes([scene.grid for scene in labelled.scenes])
    tiles: list[Tile] = []
    lattices: dict[int, Lattice] = {}
    gap_m = math.inf
    for number, (scene, place) in enumerate(zip(labelled.scenes, places, strict=True)):
        # All scenes of a lattice take the pixel size of its first one.
        own = _lattice(scene, block_m, coarsest_px, rules)
        lattice = lattices.setdefault(place.lattice, own)
        sides = zip(lattice.gap_px, scene.pixel_m, strict=True)
        gap_m = min([gap_m, *(px * side for px, side in sides)])
        tiles += _survey(number, place, lattice, labelled, rules)
    along = lattices[0].tiles[0] * rules.tile_px * labelled.scenes[0].pixel_m[0]
    return Layout(tuple(tiles), along, gap_m)


def _lattice(
    scene: Scene, block_m: float, coarsest_px: int, rules: TileRules
) -> Lattice:
    def gap_px(pixel_m: float) -> int:
        if rules.gap_m is None:
            return _REACH_PX * coarsest_px
        return math.ceil(rules.gap_m / pixel_m - _ROUNDING)

    height_m, width_m = scene.pixel_m
    rows, columns = (
        max(1, round(block_m / (rules.tile_px * side))) for side in scene.pixel_m
    )
    gaps = gap_px(height_m), gap_px(width_m)
    return Lattice(rules.tile_px, (rows, columns), gaps)


def _survey(
    number: int,
    place: Placement,
    lattice: Lattice,
    labelled: LabelledScenes,
    rules: TileRules,
) -> Iterator[Tile]:
    """Yield the tiles of a scene that are labelled enough, a row after the other."""
    least = rules.min_labelled * rules.tile_px**2
    shape = labelled.scenes[number].shape
    columns = np.arange(shape[1])
    row, strip = -1, np.empty((0, 0), np.int64)
    for cell, window in lattice.cut(place.offset, shape):
        if window.row != row:
            row = window.row
            rows = np.arange(row, row + window.height)
            strip, _ = read_codes(labelled.masks[number], 1, rows, columns)
        part = strip[:, window.column : window.column + window.width]
        counts = count_classes(part, len(labelled.colours))
        if counts.sum() >= least:
            yield Tile(number, window, (place.lattice, *cell), counts)


def count_classes(mask: NDArray[Any], num_classes: int) -> _Counts:
    """Count the pixels of each class, (K,); unlabelled ones are left out."""
    counts = np.bincount(mask.ravel(), minlength=UNLABELLED + 1)
    return counts[:num_classes].astype(np.int64)


def _no_tiles(scenes: Sequence[Scene], rules: TileRules) -> str:
    height, width = (max(s.shape[axis] for s in scenes) for axis in (0, 1))
    if min(height, width) < rules.tile_px:
        return (
            f"no scene holds a tile of {rules.tile_px} x {rules.tile_px} px (the "
            f"largest has {height} x {width}). Make tile_px smaller."
        )
    return (
        f"no tile of {rules.tile_px} px has labels on {rules.min_labelled:.0%} of its "
        "pixels. Make min_labelled or tile_px smaller, or name a background class."
    )


def _refuse_too_few(
    best: Layout, stated: Layout | None, needed: int, rules: TileRules
) -> None:
    names = ", ".join(wanted_splits(rules.fractions))
    if best.num_blocks < needed:
        raise DataError(
            f"the {len(best.tiles)} labelled tiles lie in {best.num_blocks} blocks "
            f"even of one tile: too few for the {needed} splits {names}. Make tile_px "
            "or min_labelled smaller, or take more scenes."
        )
    if stated is not None:
        raise DataError(
            f"block_m {rules.block_m:g} gives {stated.num_blocks} blocks with labels, "
            f"too few for the {needed} splits {names}. block_m {best.block_m:g} would "
            f"work, with {best.num_blocks} blocks."
        )
