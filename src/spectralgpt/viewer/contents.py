"""What the page shows, by opaque ids: nothing else can be asked for.

Paths that a user names are told apart: models, maps, rasters of embeddings, scenes. One
heavy job runs at a time, and memories are bounded: that keeps the server small.
"""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.models.sizes import WEIGHTS_FILE
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import OpenFiles, RasterFile, Window, is_product
from spectralgpt.rasters.embeddings import (
    EMBEDDING_TAG,
    EmbeddingRaster,
    open_embeddings,
)
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.lookup import lay_under, reaches, sample_scene
from spectralgpt.rasters.maps import MapFile, open_map
from spectralgpt.scenes.inputs import describe_input
from spectralgpt.scenes.windows import choose_bands
from spectralgpt.sensors import Band
from spectralgpt.viewer.layers import (
    BandPictures,
    BoolArray,
    Cells,
    FloatArray,
    MapLayer,
    thin_grid,
)
from spectralgpt.viewer.model import Rebuilt, ViewModel

_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
_RUN_FILES = ("config.yaml", "checkpoints")
_MAP_LIKE = (".tif", ".tiff", ".jp2", ".vrt", ".png")
_ID_BYTES = 4
_KEPT_WINDOWS = 6
_CHECK_PX = 64
_GONE, _BUSY = 404, 503
Source = RasterFile | MapFile | EmbeddingRaster
"""What is shown: a scene in reflectance, a map, or a raster of embeddings."""
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def _name_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Name files for people by their own names, and folders where those are alike."""
    names: dict[Path, str] = {}
    for path in paths:
        alike = [each for each in paths if each.name == path.name and each != path]
        names[path] = _name_among(path, alike)
    return names


def _name_among(path: Path, others: Sequence[Path]) -> str:
    """Return a file's name, with the nearest folders that no other one shares."""
    folders = path.absolute().parts[:-1]
    shown, last = path.name, 0
    for up in range(1, len(folders) + 1):
        left = [each for each in others if _folder_above(each, up) == folders[-up]]
        if len(left) < len(others):
            gap = "" if up == last + 1 else "…/"
            shown, last = f"{folders[-up].rstrip('/')}/{gap}{shown}", up
        others = left
    return shown


def _folder_above(path: Path, up: int) -> str | None:
    folders = path.absolute().parts[:-1]
    return folders[-up] if up <= len(folders) else None


def take_models(
    paths: Sequence[Path], stated: str | None
) -> tuple[str | None, list[Path]]:
    """Separate the model from what will be shown.

    Args:
        paths: what the user named; a run folder or file of weights among them is the
            model.
        stated: a model that was named as such.

    Returns:
        The model's name or path, None without one, and the other paths.

    Raises:
        ConfigError: more than one model is named, or nothing to show.
    """
    models = [path for path in paths if _is_model(path)]
    names = [*map(str, models), *([stated] if stated else [])]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} are models: name one of them.")
    others = [path for path in paths if path not in models]
    if not others:
        raise ConfigError(
            f"{names[0] if names else 'nothing'} alone shows nothing: name a scene, a "
            "map or a raster of embeddings as well."
        )
    return (names[0] if names else None), others


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix in _WEIGHTS
    # A run whose weights are missing is a broken run, not a scene.
    files = (WEIGHTS_FILE, *_RUN_FILES)
    return any((path / name).exists() for name in files) and not is_product(path)


def open_sources(
    paths: Sequence[Path],
    image_format: ImageFormat | None = None,
    contract: Preprocessing | None = None,
) -> list[Source]:
    """Tell scenes, maps and rasters of embeddings apart by looking at them.

    Args:
        paths: what the user named, without models.
        image_format: what is stated about the scenes.
        contract: of the model, if there is one; scenes that do not say their sensor
            are taken to be of the model's.

    Raises:
        RasterError: a path is nothing of that, or cannot be read; says why.
    """
    stated = image_format or ImageFormat()
    return [_open(path, stated, contract) for path in dict.fromkeys(paths)]


def _open(
    path: Path, image_format: ImageFormat, contract: Preprocessing | None
) -> Source:
    if not path.exists():
        raise RasterError(f"{path} does not exist. Check the path.")
    if path.is_file() and path.suffix.lower() in _MAP_LIKE:
        if EMBEDDING_TAG in read_header(path).tags:
            return open_embeddings(path)
        found = open_map(path)
        # One layer may be a scene of one band, where the user names one.
        is_scene = image_format.bands is not None and len(image_format.bands) == 1
        if found is not None and (found.is_certain or not is_scene):
            return found
    try:
        if contract is None:
            item = image_format.describe(path)
        else:
            item = describe_input(path, image_format, contract)
        # Bands on grids that do not fit each other are told now, not by empty tiles.
        item.grid()
        return item
    except SpectralGPTError as error:
        raise RasterError(
            f"{path} is no model, map or raster of embeddings, and as a scene it "
            f"cannot be shown: {error}"
        ) from error


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: of the answer, as in HTTP.
        message: what was wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _OneAtATime:
    """Runs heavy jobs one after the other, and refuses more than a few."""

    def __init__(self, most: int = 4) -> None:
        self._places, self._lock = threading.Semaphore(most), threading.Lock()

    def run(self, job: Callable[[], Result]) -> Result:
        """Wait for those before, then run."""
        if not self._places.acquire(blocking=False):
            raise RequestError(
                _BUSY, "the model is busy with earlier requests: try again soon."
            )
        try:
            with self._lock:
                return job()
        finally:
            self._places.release()


class _Recent(Generic[Key, Value]):
    """The last few values by key; the one longest unused goes first."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """Return a value, None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


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
        cells: the embeddings that lie over it, by id.
    """

    id: str
    name: str
    base: Grid
    pictures: BandPictures | None = None
    item: RasterFile | None = None
    maps: list[str] = field(default_factory=list)
    cells: dict[str, Cells] = field(default_factory=dict)


class Viewer:
    """Everything that is served; its methods may be called by several threads.

    Args:
        sources: what is shown.
        model: what rebuilds and embeds; None without one.

    Raises:
        RasterError: a file cannot be read.
        BandError: a scene's bands are in doubt.
    """

    def __init__(
        self, sources: Sequence[Source], model: ViewModel | None = None
    ) -> None:
        self.model = model
        scenes = [found for found in sources if isinstance(found, RasterFile)]
        rasters = [found for found in sources if isinstance(found, EmbeddingRaster)]
        maps = [found for found in sources if isinstance(found, MapFile)]
        paths = [Path(item.name) for item in scenes]
        paths += [raster.path for raster in rasters]
        self.names = _name_files([*paths, *(found.path for found in maps)])
        self.views: dict[str, View] = {}
        self.maps: dict[str, MapLayer] = {}
        self._heavy = _OneAtATime()
        self.rebuilt: _Recent[str, tuple[View, Rebuilt]] = _Recent(_KEPT_WINDOWS)
        self._embedded: _Recent[str, Cells] = _Recent(_KEPT_WINDOWS)
        for item in scenes:
            self._add_scene(item)
        for raster in rasters:
            self._add_embeddings(raster)
        for found in maps:
            self._add_map(MapLayer(found))

    def rebuild(self, view: View, place: Window, ratio: float, seed: int) -> str:
        """Rebuild what is looked at, unless that is kept; returns the result's id.

        Args:
            view: what is shown.
            place: the part of it that is looked at.
            ratio: share of masked tokens, 0..1.
            seed: of the mask.

        Raises:
            RequestError: too many such jobs wait.
            SpectralGPTError: the model cannot rebuild the scene.
        """
        model, item = self._able(view)
        window = model.rebuilt_window(item, place)
        id = _digest(view, window, ratio, seed)
        self._make_once(
            self.rebuilt, id, lambda: (view, model.rebuild(item, window, ratio, seed))
        )
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
            RequestError: too many such jobs wait.
            SpectralGPTError: the model cannot embed the scene.
        """
        model, item = self._able(view)
        window = model.embedded_window(item, place, picked)
        id = _digest(view, window)
        self._make_once(self._embedded, id, lambda: model.embed(item, window))
        return id, window

    def _make_once(
        self, kept: _Recent[str, Any], id: str, make: Callable[[], Any]
    ) -> None:
        def work() -> None:
            # Who waited for the same finds it made.
            if kept.get(id) is None:
                kept.put(id, make())

        if kept.get(id) is None:
            self._heavy.run(work)

    def cells(self, view: View, id: str) -> Cells:
        """Return the embeddings of a raster or a window by id.

        Raises:
            RequestError: there are none, or they are kept no more.
        """
        found = view.cells.get(id) or self._embedded.get(id)
        if found is None:
            raise RequestError(_GONE, "these embeddings are gone: click again.")
        return found

    def _able(self, view: View) -> tuple[ViewModel, RasterFile]:
        if self.model is None:
            raise DataError("no model was named: start the page with --model.")
        if view.item is None:
            raise DataError(f"{view.name} is no scene: the model takes scenes.")
        return self.model, view.item

    def _add_scene(self, item: RasterFile) -> None:
        base = item.grid()
        if self.model is not None and self.model.refuses(item) is None:
            # Windows of the model count in the pixels of its bands.
            base = item.grid(choose_bands(self.model.contract, item))
        files, lock = OpenFiles(), threading.Lock()

        def read(bands: Sequence[Band], shown: Grid) -> tuple[FloatArray, BoolArray]:
            # The files stay open.
            with lock:
                raster = sample_scene(item, bands, shown, base, files)
            return raster.pixels, raster.valid

        pictures = BandPictures(item.bands, base, read)
        # A file that cannot be read is told now, and not by empty tiles.
        pictures.stretch(pictures.choose(pictures.composites[0].band_names))
        name = self.names[Path(item.name)]
        self._add(View(_new_id(), name, base, pictures, item))

    def _add_embeddings(self, raster: EmbeddingRaster) -> None:
        id, lock = _new_id(), threading.Lock()
        covered = [view for view in self.views.values() if _covers(view, raster.grid)]
        if not covered:
            pictures = None
            if raster.source.bands:
                cells = Cells.of_raster(raster, raster.grid, lock)
                read = partial(_read_reflectance, raster, cells)
                pictures = BandPictures(raster.source.bands, raster.grid, read)
            covered = [View(_new_id(), self.names[raster.path], raster.grid, pictures)]
            self._add(covered[0])
        for view in covered:
            view.cells[id] = Cells.of_raster(raster, view.base, lock)

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
    raster: EmbeddingRaster, cells: Cells, bands: Sequence[Band], shown: Grid
) -> tuple[FloatArray, BoolArray]:
    """Read the mean reflectance that follows the dimensions of embeddings."""
    at = [raster.source.width + raster.source.bands.index(band) for band in bands]
    pixels, valid = cells.take(shown, lambda values: values[..., at])
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
