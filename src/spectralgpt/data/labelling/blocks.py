"""Which tiles of scenes are labelled, in blocks on the ground, and each block's split.

Tiles lie on the pixels of a scene in square blocks, with a gap between blocks. Scenes
whose pixels lie on each other share one lattice, so that a block is the same ground in
all of them. Scenes of other zones or pixels may show the same ground again, and there
tiles near one of another split are left out.
"""

import datetime
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import check_range
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.labels import UNLABELLED
from spectralgpt.data.listings import list_candidates
from spectralgpt.data.series import SeriesRule, find_day
from spectralgpt.data.splits import Fractions, refuse_untaught, spread_classes
from spectralgpt.errors import DataError, DatasetNotFoundError, RasterError
from spectralgpt.rasters import Grid, RasterFile, Window, read_codes
from spectralgpt.rasters.footprints import (
    EARTH_RADIUS_M,
    cut_at_180,
    footprint_lonlat,
    pixel_size_m,
)
from spectralgpt.sensors import find_sensor

_EPOCH = datetime.date(1970, 1, 1)
_NAMED = 3
"""A scene's own name and those of the folders above it that may hold its date."""
Cell = tuple[int, int, int]
"""_Lattice, and row and column of a block in it."""
_Counts = NDArray[np.int64]
_Place = tuple[int, tuple[int, int]]
"""Number of a scene's lattice, and (row, column) of its first pixel in it."""
_ALIGNED = 1e-3
"""Pixels; georeferences are rounded where they are written."""
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
_SAFE = 1.01
"""The earth is no sphere: a degree may be so much shorter."""


@dataclass(frozen=True)
class Scene:
    """A scene with its place.

    Args:
        name: short, different for each scene; begins the names of its tiles.
        path: the file or folder.
        item: where its bands lie.
        grid: that of its finest band.
        pixel_m: (height, width) of a pixel on the ground, m.
        date: of acquisition, "unknown" where neither name nor metadata say.
        mask: file of its class numbers, once they are laid on it.
    """

    name: str
    path: Path
    item: RasterFile
    grid: Grid
    pixel_m: tuple[float, float]
    date: str
    mask: Path

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the finest band."""
        return self.grid.height, self.grid.width

    @property
    def coarsest_px(self) -> int:
        """Side of a pixel of the coarsest band, in pixels of the finest."""
        largest = max(file.grid.pixel_area for file in self.item.files.values())
        return math.ceil(math.sqrt(largest / self.grid.pixel_area) - 1e-6)


def list_scenes(
    paths: Sequence[Path], image_format: ImageFormat, masks: Path
) -> list[Scene]:
    """Describe scenes; reads headers only.

    A folder is one scene with a file per band; where the sensor is stated, all scenes
    below it are taken.

    Args:
        paths: files and folders.
        image_format: what is stated about them.
        masks: folder for their masks.

    Raises:
        DatasetNotFoundError: a path does not exist.
        DataError: a scene has no place, or scenes have different bands.
        SpectralGPTError: a file cannot be read, or what it holds is in doubt.
    """
    found = [scene for path in paths for scene in _list(path, image_format.sensor)]
    if not found:
        raise DataError(f"There are no scenes in {', '.join(map(str, paths))}.")
    found = list(dict.fromkeys(found))
    scenes = [
        _describe(path, name, image_format, masks / f"{number}.tif")
        for number, (path, name) in enumerate(
            zip(found, _short_names(found), strict=True)
        )
    ]
    first = scenes[0].item
    for scene in scenes[1:]:
        if scene.item.bands != first.bands or scene.item.sensor != first.sensor:
            shown = [
                f"{s.sensor.name} {' '.join(b.name for b in s.bands)}"
                for s in (first, scene.item)
            ]
            raise DataError(
                f"{found[0]} and {scene.path} have different bands ({shown[0]} against "
                f"{shown[1]}). Make a data set of each, or name the bands to take."
            )
    return scenes


def _list(path: Path, sensor: str | None) -> list[Path]:
    if not path.exists():
        raise DatasetNotFoundError(f"There is no scene at {path}.")
    if path.is_file() or sensor is None or path.suffix == ".SAFE":
        return [path]
    return [found.path for found in list_candidates(path, find_sensor(sensor))]


def _short_names(paths: Sequence[Path]) -> list[str]:
    # A folder such as 10.5_R has no ending.
    stems = [
        path.resolve().name.removesuffix("" if path.is_dir() else path.suffix)
        for path in paths
    ]
    plain = ["".join(c if c.isalnum() or c == "-" else "_" for c in s) for s in stems]
    twice = Counter(name.lower() for name in plain)
    return [
        name if twice[name.lower()] == 1 else f"{name}-{number}"
        for number, name in enumerate(plain, start=1)
    ]


def _describe(path: Path, name: str, image_format: ImageFormat, mask: Path) -> Scene:
    item = image_format.describe(path)
    grid = item.grid()
    if grid.crs is None or grid.transform is None:
        raise RasterError(
            f"{path} has no georeference (CRS and transform), so labels cannot be laid "
            "on it. Set one with gdal_edit.py."
        )
    pixel_m = pixel_size_m(grid)
    if pixel_m is None:
        raise RasterError(f"{path}: nothing is known of its reference system.")
    return Scene(name, path, item, grid, pixel_m, _date(path), mask)


def _date(path: Path) -> str:
    try:
        # Folders further up belong to others.
        name = "/".join(path.resolve().parts[-_NAMED:])
        day = find_day(name, path, SeriesRule(1))
    except DataError:
        return "unknown"
    return (_EPOCH + datetime.timedelta(days=day)).isoformat()


@dataclass(frozen=True)
class TileRules:
    """How tiles are cut from scenes, and dealt out by blocks on the ground.

    Args:
        tile_px: side of a tile, pixels of the scene's finest band.
        min_labelled: least share of a tile that is labelled and valid, 0..1.
        block_m: side of a block on the ground, m; a whole number of tiles is taken.
            Null takes up to ten tiles, fewer where blocks would be too few.
        gap_m: least distance of tiles in different blocks, m. Null takes four pixels
            of the coarsest band: as far as resampling reaches from both sides.
        fractions: shares of the labelled pixels in train, val and test.
        seed: another seed deals the blocks out otherwise.

    Raises:
        ConfigError: a number makes no sense.
    """

    tile_px: int = 128
    min_labelled: float = 0.5
    block_m: float | None = None
    gap_m: float | None = None
    fractions: Fractions = field(default_factory=Fractions)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_range("at least 1", self, "tile_px")
        check_range("at least 0", self, "seed", "gap_m")
        check_range("above 0 and at most 1", self, "min_labelled")
        check_range("above 0", self, "block_m")


@dataclass(frozen=True)
class Tile:
    """A part of a scene.

    Args:
        scene: number of the scene.
        window: pixels of its grid.
        cell: its block.
        counts: labelled pixels of each class, (K,); of valid pixels once it is written.
        name: of its files, "" until they are written.
        extremes: least and largest reflectance of each band, (2, C), inf and -inf where
            none is valid; empty until it is written.
        split: "" until its block is dealt out.
    """

    scene: int
    window: Window
    cell: Cell
    counts: _Counts
    name: str = ""
    extremes: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((2, 0), np.float32)
    )
    split: str = ""


@dataclass(frozen=True)
class BlockPlan:
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


@dataclass(frozen=True)
class _Lattice:
    """How blocks and tiles follow each other; gaps lie along (rows, columns)."""

    tile_px: int
    tiles: tuple[int, int]
    gap_px: tuple[int, int]

    def cut(
        self, offset: tuple[int, int], shape: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Window]]:
        """Yield (row, column) of the block, and window, of each whole tile of a scene.

        The scene's first pixel lies at `offset` (row, column) in the lattice.
        """
        columns = list(self._starts(1, offset[1], shape[1]))
        for block_row, row in self._starts(0, offset[0], shape[0]):
            for block_column, column in columns:
                window = Window(row, column, self.tile_px, self.tile_px)
                yield (block_row, block_column), window

    def _starts(self, axis: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield block and first pixel of the tiles along one axis."""
        count = self.tiles[axis]
        pitch = count * self.tile_px + self.gap_px[axis]
        for block in range(offset // pitch, (offset + size) // pitch + 1):
            for tile in range(count):
                start = block * pitch + tile * self.tile_px - offset
                if 0 <= start <= size - self.tile_px:
                    yield block, start


def _place_scenes(grids: Sequence[Grid]) -> list[_Place]:
    """Give scenes whose pixels lie on each other one lattice, others their own.

    Of each scene: the lattice's number, and (row, column) of its first pixel in it. A
    lattice begins at the first pixel of its first scene.
    """
    anchors: list[Grid] = []
    places: list[_Place] = []
    for grid in grids:
        for number, anchor in enumerate(anchors):
            offset = _offset(grid, anchor)
            if offset is not None:
                places.append((number, offset))
                break
        else:
            places.append((len(anchors), (0, 0)))
            anchors.append(grid)
    return places


def _offset(grid: Grid, anchor: Grid) -> tuple[int, int] | None:
    """Return where a grid begins on the pixels of another, None if between them."""
    try:
        lines = grid.map_to(anchor)
    except RasterError:
        return None
    sizes = grid.height, grid.width
    for (scale, shift), size in zip(lines, sizes, strict=True):
        drift = abs(scale - 1) * size
        if drift > _ALIGNED or abs(shift - round(shift)) > _ALIGNED:
            return None
    return round(lines[0][1]), round(lines[1][1])


def plan_blocks(
    scenes: Sequence[Scene], num_classes: int, rules: TileRules
) -> BlockPlan:
    """Lay out blocks of the size that is stated, or else the largest that gives enough.

    Args:
        scenes: with their masks, all of the same bands.
        num_classes: in the masks.
        rules: sizes of tiles and blocks.

    Raises:
        DataError: no tile is labelled enough, or there are fewer blocks than splits;
            says which block size would work.
    """
    needed = len(rules.fractions.wanted)
    tile_m = max(rules.tile_px * side for side in scenes[0].pixel_m)
    most, enough, stated = _MOST_TILES, _ENOUGH_BLOCKS, None
    if rules.block_m is not None:
        stated = _lay(scenes, num_classes, rules.block_m, rules)
        if stated.num_blocks >= needed:
            return stated
        most, enough = math.ceil(rules.block_m / tile_m) - 1, needed
    best = _lay(scenes, num_classes, tile_m, rules)
    if not best.tiles:
        raise DataError(_no_tiles(scenes, rules))
    for tiles in range(most, 1, -1):
        plan = _lay(scenes, num_classes, tiles * tile_m, rules)
        if plan.num_blocks >= enough:
            best = plan
            break
    names = ", ".join(rules.fractions.wanted)
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
    return best


def _lay(
    scenes: Sequence[Scene], num_classes: int, block_m: float, rules: TileRules
) -> BlockPlan:
    """Cut blocks of about this size, and keep the tiles that are labelled enough."""
    coarsest_px = max(scene.coarsest_px for scene in scenes)
    places = _place_scenes([scene.grid for scene in scenes])
    tiles: list[Tile] = []
    lattices: dict[int, _Lattice] = {}
    gap_m = math.inf
    for number, (scene, (at, offset)) in enumerate(zip(scenes, places, strict=True)):
        # All scenes of a lattice take the pixel size of its first one.
        own = _lattice(scene, block_m, coarsest_px, rules)
        lattice = lattices.setdefault(at, own)
        sides = zip(lattice.gap_px, scene.pixel_m, strict=True)
        gap_m = min([gap_m, *(px * side for px, side in sides)])
        least = rules.min_labelled * rules.tile_px**2
        columns = np.arange(scene.shape[1])
        row, strip = -1, np.empty((0, 0), np.int64)
        for cell, window in lattice.cut(offset, scene.shape):
            if window.row != row:
                row = window.row
                rows = np.arange(row, row + window.height)
                strip, _ = read_codes(scene.mask, 1, rows, columns)
            part = strip[:, window.column : window.column + window.width]
            counts = count_classes(part, num_classes)
            if counts.sum() >= least:
                tiles.append(Tile(number, window, (at, *cell), counts))
    along = lattices[0].tiles[0] * rules.tile_px * scenes[0].pixel_m[0]
    return BlockPlan(tuple(tiles), along, gap_m)


def _lattice(
    scene: Scene, block_m: float, coarsest_px: int, rules: TileRules
) -> _Lattice:
    def gap_px(pixel_m: float) -> int:
        if rules.gap_m is None:
            return _REACH_PX * coarsest_px
        return math.ceil(rules.gap_m / pixel_m - _ROUNDING)

    height_m, width_m = scene.pixel_m
    rows, columns = (
        max(1, round(block_m / (rules.tile_px * side))) for side in scene.pixel_m
    )
    gaps = gap_px(height_m), gap_px(width_m)
    return _Lattice(rules.tile_px, (rows, columns), gaps)


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


def divide_tiles(
    written: Sequence[Tile],
    plan: BlockPlan,
    scenes: Sequence[Scene],
    rules: TileRules,
    names: Sequence[str],
) -> list[Tile]:
    """Give each tile the split of its block; leave out those too near another split.

    Args:
        written: the tiles of the plan that still show enough valid pixels.
        plan: the blocks.
        scenes: those that the tiles are cut from.
        rules: shares of the splits, and the seed.
        names: of the classes, in the order of their numbers.

    Returns:
        The tiles that are kept, with their splits.

    Raises:
        DataError: a split stays empty, or train would learn nothing of a class.
    """
    wanted = rules.fractions.wanted
    kept: list[Tile] = []
    if written:
        split_of = _assign_splits(written, rules.fractions, rules.seed)
        dealt = [replace(w, split=split_of[w.cell]) for w in written]
        kept = _keep_apart(dealt, scenes, plan.gap_m)
    empty = [name for name in wanted if name not in {tile.split for tile in kept}]
    if empty:
        raise DataError(
            f"{', '.join(empty)} would be empty: of {len(plan.tiles)} labelled tiles "
            f"in {plan.num_blocks} blocks, {len(kept)} show enough valid pixels. "
            f"A block_m below {plan.block_m:g}, a smaller tile_px or min_labelled, "
            "or more scenes would help."
        )
    held = [np.flatnonzero(tile.counts).tolist() for tile in kept]
    splits = [tile.split for tile in kept]
    refuse_untaught(splits, held, names, "the labelled tiles", rules.fractions)
    return kept


def _assign_splits(
    tiles: Sequence[Tile], fractions: Fractions, seed: int
) -> dict[Cell, str]:
    """Deal blocks out to the splits, with similar shares of every class in each.

    Each block goes to the split that still lacks most of what the block holds, rare
    classes counting as much as others. That is done in several orders, and the result
    whose shares are nearest to the wanted ones is taken. Where a split then lacks a
    class that other blocks could give it, they do.
    """
    counts: dict[Cell, _Counts] = {}
    for tile in tiles:
        counts[tile.cell] = counts.get(tile.cell, 0) + tile.counts
    cells = sorted(counts)
    table = np.array([counts[cell] for cell in cells], np.float64)  # (blocks, K)
    table = table[:, table.sum(axis=0) > 0]
    table /= table.sum(axis=0)
    names = fractions.wanted
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


def _keep_apart(
    tiles: Sequence[Tile], scenes: Sequence[Scene], gap_m: float
) -> list[Tile]:
    """Return the tiles that lie apart from those of other splits in other lattices.

    Of two that do not, the one of the lattice that comes later is left out. Tiles count
    as rectangles of longitude and latitude, which are a little larger than they are.
    """
    import shapely

    if len({tile.cell[0] for tile in tiles}) < 2:
        return list(tiles)
    bounds = np.array([_bounds(scenes, tile) for tile in tiles])
    tree = shapely.STRtree([cut_at_180(box) for box in shapely.box(*bounds.T)])
    # What makes bounds wider by a gap.
    degrees = _SAFE * math.degrees(gap_m / EARTH_RADIUS_M)
    furthest = np.abs(bounds[:, [1, 3]]).max(axis=1) + degrees
    east = degrees / np.cos(np.radians(furthest))
    north = np.full_like(east, degrees)
    wide = shapely.box(*(bounds + np.stack([-east, -north, east, north], axis=1)).T)
    near = [cut_at_180(box) for box in wide]
    one, other = tree.query(near, predicate="intersects")
    late = {
        int(i)
        for i, j in zip(one, other, strict=True)
        if tiles[i].split != tiles[j].split and tiles[i].cell[0] > tiles[j].cell[0]
    }
    return [tile for at, tile in enumerate(tiles) if at not in late]


def _bounds(scenes: Sequence[Scene], tile: Tile) -> tuple[float, ...]:
    """West, south, east and north of a tile, degrees."""
    scene = scenes[tile.scene]
    corners = footprint_lonlat(scene.grid, tile.window)
    assert corners is not None, "scenes without a place are refused"
    lon, lat = zip(*corners, strict=True)
    return min(lon), min(lat), max(lon), max(lat)
