"""A model opened for work in Python: scenes in, arrays with their place out.

What is computed is what the commands `predict`, `embed` and `reconstruct` compute, by
the same windows; results stay in memory, so a scene of any size is for the commands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spectralgpt.building import Quantization
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.config import build_config
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.samples import CHANGE, MULTI_LABEL
from spectralgpt.data.statistics import tell_if_far
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    UnitError,
)
from spectralgpt.models.heads import DenseModel
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import NO_BAND, Bounds, Grid, RasterFile, Stated, Window
from spectralgpt.rasters.footprints import LONLAT
from spectralgpt.rasters.read import BandFile
from spectralgpt.rasters.stac import is_stac_object
from spectralgpt.scenes.embedding import SceneEmbedding, embed_scene
from spectralgpt.scenes.inputs import describe_input, find_input
from spectralgpt.scenes.loading import (
    Precision,
    in_precision,
    load_on_device,
    stated_contract,
)
from spectralgpt.scenes.maps import build_mapper, classes_of, map_in_memory
from spectralgpt.scenes.reconstruction import (
    RebuiltWindow,
    centre_window,
    rebuild_window,
    rebuilding_model,
)
from spectralgpt.scenes.tables import Fit, classify_windows
from spectralgpt.scenes.windows import choose_bands
from spectralgpt.sensors import find_sensor

if TYPE_CHECKING:
    from affine import Affine
    from pystac import Item
    from xarray import DataArray

Image: TypeAlias = "str | Path | Item | RasterFile | NDArray[Any]"
"""A path as the commands take it, what `describe_raster` gives, or (C, H, W)."""
_ARRAY = "array"
_OVERLAP = 0.5
_NUMBERS = 6
"""Of a transform that say something; the last three are always 0, 0, 1."""
_DIMENSIONS = ("C", "H", "W")


@dataclass(frozen=True, kw_only=True)
class _Told(Stated):
    """What is stated of a scene; see `OpenModel`."""

    bounds: tuple[float, float, float, float] | None = None
    bounds_crs: str = LONLAT
    transform: Any = None
    crs: str | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a fine-tuned model says of a scene.

    Attributes:
        values: of a model of maps (K, H, W), of classes of images (K, windows):
            probabilities, or (1, H, W) numbers of a target. NaN where nothing is shown.
        class_names: K names, or that of the target.
        grid: the pixels; of classes of images those of the scene.
        windows: of classes of images, which parts of the scene they are of.
        unit: of numbers; None for classes.
        is_multilabel: any number of the classes may be there at once.
    """

    values: NDArray[np.float32]
    class_names: tuple[str, ...]
    grid: Grid
    windows: tuple[Window, ...] = ()
    unit: str | None = None
    is_multilabel: bool = False

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Of each class, (K, H, W) or (K, windows).

        Raises:
            ConfigError: the model gives numbers.
        """
        if self.unit is not None:
            raise ConfigError(
                f"{self.class_names[0]} is a number ({self.unit}) and has no "
                "probabilities: take `values`."
            )
        return self.values

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The most probable class, (H, W) or (windows,); 255 where nothing is shown.

        Raises:
            ConfigError: the model gives numbers, or several labels at once.
        """
        if self.is_multilabel:
            raise ConfigError("images have several labels: take `probabilities`.")
        return classes_of(self.probabilities)

    @property
    def transform(self) -> "Affine | None":
        """From (column, row) to coordinates, None without georeference."""
        return self.grid.transform

    @property
    def crs(self) -> str | None:
        """Coordinate reference system as text, None without georeference."""
        return self.grid.crs

    def to_xarray(self) -> "DataArray":
        """Return `values` as (class, y, x), see `Grid.to_xarray`.

        Raises:
            ConfigError: they are of images, not of pixels; or xarray is not installed.
        """
        if self.windows:
            raise ConfigError("these are classes of images, which have no pixels.")
        name = "class" if self.unit is None else "target"
        return self.grid.to_xarray(self.values, **{name: self.class_names})

    def __repr__(self) -> str:
        names = ", ".join(self.class_names)
        kind = f"classes {names}" if self.unit is None else f"{names} ({self.unit})"
        of = f"{self.grid.height} x {self.grid.width} px"
        of = f"{len(self.windows)} windows in {of}" if self.windows else of
        return f"<Prediction: {kind} of {of}, {self.crs or 'no georeference'}>"


class OpenModel:
    """A model on its device, for scenes; see `open_model`.

    A scene is a path, as the commands take it, a `pystac.Item`, or an array (C, H, W).
    What is stated of it by name is what the commands have options for: `sensor`,
    `bands`, `unit`, `offset`, `quantification`, `nodata`, `band_pattern`, and `bounds`,
    `bounds_crs`. An array needs `bands`, and is reflectance with NaN for no
    measurement, unless `quantification` and `offset` are stated; it may have a
    `transform` (of rasterio, or a, b, c, d, e, f) and `crs`. Its sensor is the model's
    unless stated.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        name: str,
        batch_size: int = 32,
        precision: Precision = "fp32",
    ) -> None:
        self.loaded = loaded
        self.name = name
        self.batch_size = batch_size
        self.precision = precision
        # Weights are digested once.
        self._mapper = cache(lambda flips: build_mapper(loaded, name, flips, precision))

    @property
    def contract(self) -> Preprocessing:
        """Which bands and scaling the model takes.

        Raises:
            CheckpointError: it does not say.
        """
        return stated_contract(self.loaded, self.name)

    def predict(
        self,
        scene: Image,
        after: "Image | None" = None,
        *,
        test_flips: bool = False,
        overlap: float = _OVERLAP,
        fit: Fit = "auto",
        **stated: Any,
    ) -> Prediction:
        """Map a scene, or tell its class, as `spectralgpt predict` does.

        Args:
            scene: see `OpenModel`; for models of change the first date.
            after: for models of change the second date.
            test_flips: of maps: average over mirror images.
            overlap: of maps: share of a window that its neighbour covers again.
            fit: of classes of images: how a scene becomes images, see
                `spectralgpt.scenes.tables.embed_files`.
            **stated: see `OpenModel`.

        Raises:
            CheckpointError: the model is not fine-tuned.
            ConfigError: the scenes are not as many as the model takes, or what is
                stated cannot be.
            RasterError: a file cannot be read, or is too large for the memory.
            DataError: there is no valid pixel.
        """
        is_mapper = isinstance(self.loaded.model, DenseModel)
        task = self.loaded.classes(self.name, maps=is_mapper)[1]
        if (after is not None) != (task == CHANGE):
            wanted = "two dates" if task == CHANGE else "one scene"
            raise ConfigError(f"{self.name} takes {wanted}: {task} is its task.")
        if fit != "auto" if is_mapper else (test_flips, overlap) != (False, _OVERLAP):
            wrong = "fit" if is_mapper else "test_flips and overlap"
            raise ConfigError(f"{wrong}: not for {task}, leave it out.")
        dates = [scene] if after is None else [scene, after]
        items = tuple(self._describe(each, stated) for each in dates)
        with in_precision(self.loaded, self.precision):
            if not is_mapper:
                return self._classify(items[0], fit)
            mapper = self._mapper(test_flips)[0]
            mapper = replace(mapper, batch_size=self.batch_size, overlap=overlap)
            values, grid = map_in_memory(mapper, items)
        return Prediction(values, mapper.class_names, grid, unit=mapper.unit)

    def embed(
        self, scene: Image, *, cell_px: int | None = None, **stated: Any
    ) -> SceneEmbedding:
        """Embed every cell of a scene, as `spectralgpt embed --format geotiff` does.

        Args:
            scene: see `OpenModel`.
            cell_px: side of a cell; it divides the model's patch, which is the default.
            **stated: see `OpenModel`.

        Returns:
            float32, NaN in cells without a valid pixel.

        Raises:
            CheckpointError: the model does not say what it takes.
            ConfigError: what is stated cannot be, or such cells do not fit.
            RasterError: a file cannot be read.
            DataError: there is no valid pixel.
        """
        item = self._describe(scene, stated)
        encoder = self.loaded.encoder
        with in_precision(self.loaded, self.precision):
            made = embed_scene(
                encoder,
                self.contract,
                item,
                batch_size=self.batch_size,
                cell_px=cell_px,
            )
        is_known = made.valid > 0
        if not is_known.any():
            raise DataError(f"{item.name} has no valid pixel: leave it out.")
        values = np.where(is_known[..., None], made.values, np.float32("nan"))
        return replace(made, values=values)

    def reconstruct(
        self,
        scene: Image,
        *,
        mask_ratio: float = 0.75,
        seed: int = 0,
        size_px: int = 512,
        test_flips: bool = False,
        **stated: Any,
    ) -> RebuiltWindow:
        """Hide tokens in the middle of a scene, and rebuild them.

        As `spectralgpt reconstruct` does; `scores` of the result says how well.

        Args:
            scene: see `OpenModel`.
            mask_ratio: share of hidden tokens.
            seed: of the mask.
            size_px: side of the part that is rebuilt.
            test_flips: average over mirror images.
            **stated: see `OpenModel`.

        Raises:
            CheckpointError: the model cannot rebuild images.
            ConfigError: what is stated cannot be.
            RasterError: a file cannot be read.
        """
        model, contract = rebuilding_model(self.loaded, self.name)
        item = self._describe(scene, stated)
        bands = choose_bands(contract, item)
        window = centre_window(item, bands, size_px, contract.image_size)
        return rebuild_window(
            *(model, contract, item, window, mask_ratio, seed, self.batch_size),
            flips=test_flips,
        )

    def __repr__(self) -> str:
        sizes = sum(each.numel() for each in self.loaded.model.parameters())
        kind = type(self.loaded.model).__name__
        contract = self.loaded.preprocessing
        takes = (
            f", {len(contract.bands)} bands of {contract.sensor}" if contract else ""
        )
        return f"<OpenModel {self.name}: {kind}, {sizes / 1e6:.1f} M numbers{takes}>"

    def _classify(self, item: RasterFile, fit: Fit) -> Prediction:
        names, task = self.loaded.classes(self.name)
        found = classify_windows(self.loaded, self.name, item, fit, self.batch_size)
        windows, rows = zip(*found, strict=True)
        values = np.stack([row.numpy() for row in rows], axis=1)
        grid = item.grid(choose_bands(self.contract, item))
        multilabel = task == MULTI_LABEL
        return Prediction(values, names, grid, windows, is_multilabel=multilabel)

    def _describe(self, scene: Image, stated: dict[str, Any]) -> RasterFile:
        told = build_config(stated, _Told, "what is stated of the scene")
        if isinstance(scene, str | Path) or is_stac_object(scene):
            return self._describe_file(scene, told)
        if not isinstance(scene, RasterFile):
            item = _in_memory(np.asarray(scene), told, self.contract)
            tell_if_far([item], self.contract, item.name)
            return item
        if stated:
            raise ConfigError(
                f"{scene.name} is described: leave out {', '.join(stated)}."
            )
        return scene

    def _describe_file(self, scene: "str | Path | Item", told: _Told) -> RasterFile:
        if (told.transform, told.crs) != (None, None):
            raise ConfigError("files say where they lie: leave out transform and crs.")
        area = None if told.bounds is None else Bounds(*told.bounds, told.bounds_crs)
        if isinstance(scene, str | Path):
            scene = find_input(Path(scene), told.sensor, self.contract)
        stated = ImageFormat(**told.facts, area=area)
        return describe_input(scene, stated, self.contract)


class _Layers:
    """Layers of an array, see `StoredLayers`."""

    def __init__(self, numbers: NDArray[Any]) -> None:
        self._numbers = numbers

    def read(self, indices: Sequence[int], window: Window) -> NDArray[Any]:
        """Return layers (1-based) of a window."""
        return self._numbers[np.subtract(indices, 1), *window.slices]


def _in_memory(
    numbers: NDArray[Any], told: _Told, contract: Preprocessing
) -> RasterFile:
    """Describe an array; nothing but what is told says what its numbers mean."""
    sensor, names = find_sensor(told.sensor or contract.sensor), told.layers or ()
    if told.bounds is not None or told.band_pattern or told.resamples:
        raise ConfigError(
            "bounds, band_pattern and bands 'resample' are for files: write the array "
            "to one, or leave them out."
        )
    if numbers.ndim != len(_DIMENSIONS) or len(names) != len(numbers):
        raise BandError(
            f"an array is (bands, rows, columns), with bands=[...] naming all of the "
            f"first; found shape {numbers.shape} and bands {list(names)}. The model "
            f"takes {', '.join(contract.band_names)}."
        )
    scale, offset = told.quantification, told.offset
    is_scaled = numbers.dtype.kind != "f" or (scale, offset) != ("auto", "auto")
    if "auto" in (scale, offset) and (is_scaled or told.unit == "digital-numbers"):
        raise UnitError(
            "an array of digital numbers needs both quantification (numbers per unit "
            "of reflectance) and offset (0 if there is none)."
        )
    usual = [sensor.nodata] if is_scaled else []
    invalid = [*(usual if told.nodata == "auto" else told.nodata)]
    invalid += [sensor.saturated] if is_scaled else []
    height, width = numbers.shape[1:]
    grid = Grid.at(height, width, _as_numbers(told.transform), told.crs)
    store = _Layers(numbers)
    files = {
        sensor.band(name).name: BandFile(Path(_ARRAY), index, grid, store=store)
        for index, name in enumerate(names, start=1)
        if name != NO_BAND
    }
    return RasterFile(
        _ARRAY,
        sensor,
        files,
        float(scale) if is_scaled else 1.0,
        float(offset) if is_scaled else 0.0,
        unit="digital-numbers" if is_scaled else "reflectance",
        other_invalid=tuple(each for each in invalid if each is not None),
    )


def _as_numbers(transform: Any) -> tuple[float, ...] | None:
    try:
        numbers = None if transform is None else tuple(map(float, transform))
    except (TypeError, ValueError):
        numbers = ()
    if numbers is not None and len(numbers) < _NUMBERS:
        raise ConfigError(
            f"transform is rasterio's, or a, b, c, d, e, f; found {transform!r:.80}."
        )
    return numbers and numbers[:_NUMBERS]


def open_model(
    name: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 32,
    precision: Precision = "fp32",
    quantize: Quantization = "none",
    sensor: str | None = None,
) -> OpenModel:
    """Open a model for work on scenes.

    Args:
        name: what the commands take as MODEL: a run folder, a file, the name of
            published weights, or owner/name of the Hub.
        device: `auto`, or a name that torch knows.
        batch_size: windows that it takes at once.
        precision: of products in maps and embeddings, see `spectralgpt predict --help`.
        quantize: how the encoder's weights are held.
        sensor: of the scenes; a model of several sensors is opened for it.

    Raises:
        CheckpointError: there is no such model, or it cannot be read.
        ConfigError: there is no such device.
    """
    loaded = load_on_device(str(name), device, sensor, quantize=quantize)
    loaded.model.eval()
    return OpenModel(loaded, str(name), batch_size, precision)
