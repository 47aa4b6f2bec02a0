"""Square blocks of tiles on the pixels of a scene, with a gap between blocks.

Scenes whose pixels lie on each other share one lattice, so that a block is the same
ground in all of them. Pure geometry: nothing is read here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spectralgpt.errors import RasterError
from spectralgpt.rasters import Grid, Window

__all__ = ["Cell", "Lattice", "Placement", "place_scenes"]

Cell = tuple[int, int, int]
"""Lattice, and row and column of a block in it."""
_ALIGNED = 1e-3
"""Pixels; georeferences are rounded where they are written."""


@dataclass(frozen=True)
class Lattice:
    """How blocks and tiles follow each other.

    Args:
        tile_px: side of a tile.
        tiles: tiles of a block along (rows, columns).
        gap_px: pixels between blocks along (rows, columns).
    """

    tile_px: int
    tiles: tuple[int, int]
    gap_px: tuple[int, int]

    def cut(
        self, offset: tuple[int, int], shape: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Window]]:
        """Cut a scene: yield (row, column) of the block and window of each tile.

        Args:
            offset: (row, column) of the scene's first pixel in the lattice.
            shape: (H, W) of the scene; tiles that do not fit are left out.
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


@dataclass(frozen=True)
class Placement:
    """Where a scene lies among the lattices.

    Args:
        lattice: number of its lattice.
        offset: (row, column) of its first pixel in it.
    """

    lattice: int
    offset: tuple[int, int]


def place_scenes(grids: Sequence[Grid]) -> list[Placement]:
    """Give scenes whose pixels lie on each other one lattice, others their own.

    A lattice begins at the first pixel of its first scene.
    """
    anchors: list[Grid] = []
    places = []
    for grid in grids:
        for number, anchor in enumerate(anchors):
            offset = _offset(grid, anchor)
            if offset is not None:
                places.append(Placement(number, offset))
                break
        else:
            places.append(Placement(len(anchors), (0, 0)))
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
