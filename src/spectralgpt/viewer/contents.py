"""What the page shows, by opaque ids: nothing else can be asked for."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import DataError, RasterError
from spectralgpt.rasters import RasterItem, Window
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.sampling import lay_under, reaches
from spectralgpt.scenes.windows import choose_bands
from spectralgpt.sensors import Band
from spectralgpt.viewer.layers import CellFile, MapLayer, SceneFiles, take_cells
from spectralgpt.viewer.likeness import Likeness
from spectralgpt.viewer.model import Rebuilt, ViewModel
from spectralgpt.viewer.pictures import BandPictures, thin_grid
from spectralgpt.viewer.sources import Sources, name_files
from spectralgpt.viewer.work import OneAtATime, Recent

__all__ = ["GoneError", "View", "Viewer"]

_ID_BYTES = 4
_KEPT_WINDOWS = 6
_CHECK_PX = 64


class GoneError(Exception):
    """Something that was asked for by id is not there, or no more."""


@dataclass(frozen=True)
class View:
    """A place that can be looked at: a scene, or a map that lies over none.

    Args:
        id: opaque.
        name: for people.
        base: the grid whose pixels the page counts in.
        pictures: of its bands; None for a map alone.
        item: the scene; None for others.
        maps: ids of the maps that lie over it.
        likenesses: of the embeddings that lie over it, by id.
    """

    id: str
    name: str
    base: Grid
    pictures: BandPictures | None = None
    item: RasterItem | None = None
    maps: list[str] = field(default_factory=list)
    likenesses: dict[str, Likeness] = field(default_factory=dict)


class Viewer:
    """Everything that is served; its methods may be called by several threads.

    Args:
        sources: what is shown.
        model: what rebuilds and embeds; None without one.

    Raises:
        RasterError: a file cannot be read.
        BandError: a scene's bands are in doubt.
    """

    def __init__(self, sources: Sources, model: ViewModel | None = None) -> None:
        self.model = model
        self.names = name_files(
            [
                *(Path(item.name) for item in sources.scenes),
                *(raster.path for raster in sources.embeddings),
                *(found.path for found in sources.maps),
            ]
        )
        self.views: dict[str, View] = {}
        self.maps: dict[str, MapLayer] = {}
        self.heavy = OneAtATime()
        self.rebuilt: Recent[str, tuple[View, Rebuilt]] = Recent(_KEPT_WINDOWS)
        self.embedded: Recent[str, Likeness] = Recent(_KEPT_WINDOWS)
        for item in sources.scenes:
            self._add_scene(item)
        for raster in sources.embeddings:
            self._add_embeddings(raster)
        for found in sources.maps:
            self._add_map(MapLayer(found))

    def rebuild(self, view: View, place: Window, ratio: float, seed: int) -> str:
        """Rebuild what is looked at, unless that is kept; returns the result's id.

        Raises:
            BusyError: too many such jobs wait.
            SpectralGPTError: the model cannot rebuild the scene.
        """
        model, item = self._able(view)
        window = model.rebuilt_window(item, place)
        id = _digest(view, window, ratio, seed)

        def work() -> None:
            # Who waited for the same finds it made.
            if self.rebuilt.get(id) is None:
                made = model.rebuild(item, window, ratio, seed)
                self.rebuilt.put(id, (view, made))

        if self.rebuilt.get(id) is None:
            self.heavy.run(work)
        return id

    def embed(
        self, view: View, place: Window, picked: tuple[int, int]
    ) -> tuple[str, Window]:
        """Embed what is looked at; returns the id of its likeness, and the window.

        Args:
            view: what is shown.
            place: the part of it that is looked at.
            picked: (row, column) of a pixel that the window is to hold.

        Raises:
            BusyError: too many such jobs wait.
            SpectralGPTError: the model cannot embed the scene.
        """
        model, item = self._able(view)
        window = model.embedded_window(item, place, picked)
        id = _digest(view, window)

        def work() -> None:
            if self.embedded.get(id) is None:
                cells = model.embed(item, window)
                self.embedded.put(id, Likeness(cells, view.base))

        if self.embedded.get(id) is None:
            self.heavy.run(work)
        return id, window

    def likeness(self, view: View, id: str) -> Likeness:
        """Return a raster's or a window's likeness by id.

        Raises:
            GoneError: there is none, or it is kept no more.
        """
        found = view.likenesses.get(id) or self.embedded.get(id)
        if found is None:
            raise GoneError("these embeddings are gone: click again.")
        return found

    def _able(self, view: View) -> tuple[ViewModel, RasterItem]:
        if self.model is None:
            raise DataError("no model was named: start the page with --model.")
        if view.item is None:
            raise DataError(f"{view.name} is no scene: the model takes scenes.")
        return self.model, view.item

    def _add_scene(self, item: RasterItem) -> None:
        base = item.grid()
        if self.model is not None and self.model.refuses(item) is None:
            # Windows of the model count in the pixels of its bands.
            base = item.grid(choose_bands(self.model.contract, item))
        files = SceneFiles(item, base)
        pictures = BandPictures(item.bands, base, files.read)
        # A file that cannot be read is told now, and not by empty tiles.
        pictures.stretch(pictures.choose(pictures.composites[0].band_names))
        name = self.names[Path(item.name)]
        self._add(View(_new_id(), name, base, pictures, item))

    def _add_embeddings(self, raster: EmbeddingRaster) -> None:
        id, cells = _new_id(), CellFile(raster)
        covered = [view for view in self.views.values() if _covers(view, raster.grid)]
        if not covered:
            bands = raster.source.bands
            read = partial(_read_reflectance, cells, raster.grid)
            pictures = BandPictures(bands, raster.grid, read) if bands else None
            covered = [View(_new_id(), self.names[raster.path], raster.grid, pictures)]
            self._add(covered[0])
        for view in covered:
            view.likenesses[id] = Likeness(cells, view.base)

    def _add_map(self, layer: MapLayer) -> None:
        id, grid = _new_id(), layer.map.grid
        self.maps[id] = layer
        covered = [view for view in self.views.values() if _covers(view, grid)]
        if not covered:
            covered = [View(_new_id(), self.names[layer.map.path], grid)]
            self._add(covered[0])
        for view in covered:
            view.maps.append(id)

    def _add(self, view: View) -> None:
        self.views[view.id] = view


def _read_reflectance(
    cells: CellFile, base: Grid, bands: Sequence[Band], shown: Grid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the mean reflectance that follows the dimensions of embeddings."""
    source = cells.raster.source
    at = [source.width + source.bands.index(band) for band in bands]
    pixels, valid = take_cells(cells, shown, base, lambda values: values[..., at])
    if len(pixels) != len(bands):
        pixels = np.zeros((len(bands), *valid.shape), np.float32)
    return pixels, np.broadcast_to(valid, pixels.shape)


def _covers(view: View, grid: Grid) -> bool:
    """Whether a raster can be laid over a view, and is seen there."""
    try:
        under = lay_under(view.base, grid)
    except RasterError:
        return False
    return reaches(thin_grid(view.base, _CHECK_PX), under)


def _new_id() -> str:
    return secrets.token_hex(_ID_BYTES)


def _digest(view: View, *asked: object) -> str:
    """Return an id of what was asked for, the same for the same."""
    text = repr((view.id, *asked)).encode()
    return hashlib.sha256(text).hexdigest()[: 2 * _ID_BYTES]
