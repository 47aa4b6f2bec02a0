"""How like a chosen cell all others are: cosine of embeddings, as a picture."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import DataError
from spectralgpt.rasters import Window
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.sampling import shown_grid
from spectralgpt.scenes.similarity import Query, query_of
from spectralgpt.viewer.layers import Cells, take_cells
from spectralgpt.viewer.pictures import Picture, draw_measures

__all__ = ["LIKENESS_COLOURS", "LIKENESS_LIMITS", "Likeness"]

LIKENESS_COLOURS = "inferno"
LIKENESS_LIMITS = (0.0, 1.0)
"""What is less alike than all places on average is shown as not alike."""
_THIN_CELLS = 256
_SLACK = 1e-3
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """Embeddings under a base, to be compared with one of them.

    Args:
        cells: the embeddings.
        base: the grid whose pixels are pointed at.
    """

    cells: Cells
    base: Grid

    @property
    def level(self) -> int:
        """Level of tiles that show a cell a pixel: finer ones only repeat cells."""
        base = self.base.pixel_area if self.base.transform is not None else 1.0
        side = (self.cells.under(self.base).pixel_area / base) ** 0.5
        return max(0, math.floor(math.log2(side) + _SLACK))

    @cached_property
    def mean(self) -> FloatArray:
        """(D,), of cells picked evenly: what all places share tells nothing."""
        grid = self.cells.under(self.base)
        size = min(grid.height, _THIN_CELLS), min(grid.width, _THIN_CELLS)
        whole = Window(0, 0, grid.height, grid.width)
        with self.cells.lock:
            values, valid = self.cells.read(whole, size)
        if not valid.any():
            raise DataError("there is no embedding anywhere: nothing is valid.")
        mean: FloatArray = values[valid][:, : self.cells.width].mean(axis=0)
        return mean

    def query_at(self, row: int, column: int) -> Query:
        """Return the query for the cell under a pixel of the base.

        Raises:
            DataError: there is no embedding there.
            RasterError: the embeddings cannot be read.
        """
        shown = shown_grid(self.base, row, column, 1, 1)
        width = self.cells.width
        found, valid = take_cells(
            self.cells, shown, self.base, lambda cells: cells[..., :width]
        )
        if not valid[0, 0]:
            raise DataError("there is no embedding at this place: choose another.")
        return query_of(found[None, :, 0, 0], self.mean)

    def draw(self, query: Query, shown: Grid) -> Picture:
        """Draw how like a query all cells are under a grid."""
        width = self.cells.width
        found, valid = take_cells(
            self.cells,
            shown,
            self.base,
            lambda cells: query.similarity(cells[..., :width])[..., None],
        )
        return draw_measures(found[0], valid, LIKENESS_LIMITS, LIKENESS_COLOURS)
