"""What a model makes of the part of a scene that is looked at."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError, SpectralGPTError
from spectralgpt.models.objective import Objective
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, Window
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.lookup import shown_grid
from spectralgpt.reports.style import ERROR_COLOURS, Stretch
from spectralgpt.scenes.embedding import embed_scene
from spectralgpt.scenes.loading import stated_contract
from spectralgpt.scenes.reconstruction import (
    RebuiltWindow,
    WindowScores,
    rebuild_window,
    rebuilding_model,
    score_window,
)
from spectralgpt.scenes.windows import check_size, choose_bands
from spectralgpt.sensors import Band
from spectralgpt.viewer.layers import Cells, Picture, draw_bands, draw_measures

KINDS = ("rebuilt", "visible", "angle")
ANGLE_LIMITS = (0.0, 20.0)
"""Degrees; the same for all mask ratios, so that pictures can be compared."""
_MOST_PX = 384
"""Side of what is rebuilt at once: a second or two for a small model on two cores."""
_MOST_EMBEDDED_PX = 768
_MOST_TILES = 12
"""A side of what is embedded at once: some ten seconds."""
_HIDDEN_GREY = 140


@dataclass(frozen=True)
class Rebuilt:
    """A window that was rebuilt, with how well.

    Args:
        window: what the model made of it.
        scores: of it.
        bands: of the scene, one for each of the model's.
    """

    window: RebuiltWindow
    scores: WindowScores
    bands: tuple[Band, ...]

    def draw(self, kind: str, bands: list[Band], stretch: Stretch) -> Picture:
        """Draw it: `rebuilt`, `visible` (to the model) or the spectral `angle`.

        Args:
            kind: one of `KINDS`.
            bands: of the scene, one or three.
            stretch: of these bands.

        Raises:
            CheckpointError: the model does not take one of the bands.
        """
        found = self.window
        if kind == "angle":
            angle = self.scores.angle.astype(np.float32)
            return draw_measures(angle, np.isfinite(angle), ANGLE_LIMITS, ERROR_COLOURS)
        missing = [band.name for band in bands if band not in self.bands]
        if missing:
            raise CheckpointError(f"the model does not take band {missing[0]}.")
        at = [self.bands.index(band) for band in bands]
        valid = found.known[at]
        if kind == "visible":
            picture = draw_bands(found.image[at], valid, stretch)
            # Plain grey only where all of the bands are hidden, as in reports.
            hidden = np.moveaxis(
                np.broadcast_to(found.is_masked[at], (3, *valid[0].shape)), 0, -1
            )
            picture[..., :3][hidden] = _HIDDEN_GREY
            return picture
        return draw_bands(found.pasted[at], found.shown[at], stretch)

    def spectrum(
        self, row: int, column: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """Return what was rebuilt at a pixel of the scene, and what was hidden there.

        Both are (C,), in the order of `bands`; None outside of the window.
        """
        place = self.window.window
        inside = 0 <= row - place.row < place.height
        if not (inside and 0 <= column - place.column < place.width):
            return None
        at = np.s_[:, *self.window.locate(row, column)]
        return self.window.rebuilt[at], self.window.is_masked[at]


@dataclass(frozen=True)
class ViewModel:
    """A loaded model, on its device, and what it is called.

    Args:
        loaded: the model.
        name: for people.
        batch_size: images it takes at once.
    """

    loaded: LoadedModel
    name: str
    batch_size: int = 16

    @property
    def contract(self) -> Preprocessing:
        """The model's contract.

        Raises:
            CheckpointError: it has none.
        """
        return stated_contract(self.loaded, self.name)

    @property
    def can_rebuild(self) -> bool:
        """Whether it has a decoder."""
        model = self.loaded.model
        return isinstance(model, Objective) and model.rebuilds

    def refuses(self, item: RasterFile) -> str | None:
        """Say why the model cannot take a scene; None if it can."""
        try:
            bands = choose_bands(self.contract, item)
            check_size(item, bands, self.loaded.encoder.patch_size)
        except SpectralGPTError as error:
            return " ".join(str(error).split())
        return None

    def rebuilt_window(self, item: RasterFile, view: Window) -> Window:
        """Return which part of what is looked at would be rebuilt."""
        return self._window(item, view, _MOST_PX)

    def embedded_window(
        self, item: RasterFile, view: Window, picked: tuple[int, int]
    ) -> Window:
        """Return which part of what is looked at would be embedded.

        Args:
            item: the scene.
            view: what is looked at.
            picked: (row, column) of a pixel that it is to hold.
        """
        most = min(_MOST_EMBEDDED_PX, _MOST_TILES * self.contract.image_size)
        window = self._window(item, view, most)
        row, column = (
            min(max(start, at - side + 1), at)
            for start, side, at in (
                (window.row, window.height, picked[0]),
                (window.column, window.width, picked[1]),
            )
        )
        return replace(window, row=row, column=column)

    def _window(self, item: RasterFile, view: Window, most: int) -> Window:
        side = self.contract.image_size
        shape = item.shape(choose_bands(self.contract, item))
        return _window_in_view(shape, view, side, max(side, most))

    def rebuild(
        self, item: RasterFile, window: Window, mask_ratio: float, seed: int
    ) -> Rebuilt:
        """Rebuild a window.

        Raises:
            SpectralGPTError: see `rebuild_window`; or the model has no decoder.
        """
        model, contract = rebuilding_model(self.loaded, self.name)
        found = rebuild_window(
            model, contract, item, window, mask_ratio, seed, self.batch_size
        )
        return Rebuilt(found, score_window(found), choose_bands(self.contract, item))

    def embed(self, item: RasterFile, window: Window) -> Cells:
        """Embed a window, a cell per patch.

        Raises:
            SpectralGPTError: see `embed_scene`.
        """
        made = embed_scene(
            self.loaded.encoder,
            self.contract,
            item,
            window=window,
            batch_size=self.batch_size,
        )
        scene = item.grid(choose_bands(self.contract, item))
        corner = shown_grid(scene, window.row, window.column, made.cell_px, 1)
        rows, columns = made.values.shape[:2]
        grid = Grid(rows, columns, corner.transform, scene.crs)
        return Cells.of_made(made, grid, scene)


def _window_in_view(
    shape: tuple[int, int], view: Window, tile: int, most: int
) -> Window:
    """Return the whole tiles of a model in the middle of what is looked at.

    A view may reach beyond the scene (H, W). Where the scene is smaller than a tile, it
    is taken whole; no side of the result is longer than `most`.
    """
    starts, sides = [], []
    for length, start, shown in zip(
        shape, (view.row, view.column), (view.height, view.width), strict=True
    ):
        first, last = min(start, length - 1), min(start + shown, length)
        side = min(most, max(tile, last - first)) // tile * tile
        side = min(side, length // tile * tile) or length
        middle = (first + last) // 2
        starts.append(max(0, min(middle - side // 2, length - side)))
        sides.append(side)
    return Window(starts[0], starts[1], sides[0], sides[1])
