"""Maps of classes or numbers: of a scene by rows, as its GeoTIFF, and with a table.

Only the function that predicts knows the task. No more of a scene is held than one row
of windows and a few batches, so memory follows its width, not its size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.classes import class_colours, describe_classes
from spectralgpt.errors import DataError, RasterError
from spectralgpt.models.encoder import Encoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import (
    MODEL_TAG,
    NO_CLASS,
    Grid,
    Layers,
    RasterFile,
    read_map_rows,
    write_polygons,
)
from spectralgpt.rasters.gdal import check_memory
from spectralgpt.rasters.maps import TARGET_UNIT_TAG
from spectralgpt.resampling import absent_groups, resampling_of
from spectralgpt.scenes.inputs import Progress, on_same_pixels
from spectralgpt.scenes.loading import Precision, stated_contract
from spectralgpt.scenes.stac import describe_asset, write_item
from spectralgpt.scenes.unfinished import digest_model, making_maps, scene_facts
from spectralgpt.scenes.windows import (
    WindowBatch,
    check_size,
    choose_bands,
    compute_strips,
    plan_windows,
    read_batches,
)
from spectralgpt.sensors import Band
from spectralgpt.tasks.dense import predict_map

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_PREVIEW_PX = 900
"""Longest side of the thinned-out map that is kept for a picture."""
_TARGET_TAG = "TARGET"
_COPIES = 2
"""Of a map in memory: by rows, and joined."""


@dataclass(frozen=True)
class Mapper:
    """What makes maps, and how.

    Args:
        predict: prepared images (B, C, H, W), or (B, 2, C, H, W) of two dates, to class
            probabilities (B, K, H, W), or to the numbers (B, 1, H, W) of a target.
        preprocessing: the contract for its input.
        class_names: K names, or that of the target.
        colours: one per class, such as "#1b7837".
        window_px: side of the images that it was trained on, px.
        probabilities: write them beside the map, too.
        polygons: write the outlines of classes too.
        batch_size: windows predicted at once.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        overwrite: replace existing maps.
        name: what the model is called in the maps' tags.
        digest: tells its weights and settings from all others; an interrupted map is
            continued by a mapper of the same digest only, and never without one.
        encoder: of the model; it is told which band groups images lack.
        unit: of the numbers; None for classes.
    """

    predict: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    colours: tuple[str, ...]
    window_px: int
    probabilities: bool = False
    polygons: bool = False
    batch_size: int = 16
    overlap: float = 0.5
    overwrite: bool = False
    name: str = ""
    digest: str = ""
    encoder: Encoder | None = None
    unit: str | None = None

    def bands(self, item: RasterFile) -> tuple[Band, ...]:
        """Return the bands of an image that are read, in the model's order."""
        return choose_bands(self.preprocessing, item)

    def facts(self, items: Sequence[RasterFile]) -> dict[str, str] | None:
        """Return what a map depends on, None if the mapper does not say."""
        if not self.digest:
            return None
        settings = {
            "batch size": str(self.batch_size),
            "overlap": str(self.overlap),
            "model": self.digest,
        }
        return scene_facts(items, self.preprocessing) | settings

    def layers(
        self, path: Path, items: Sequence[RasterFile] = ()
    ) -> dict[Path, Layers]:
        """Return what each map of images holds, that of classes or numbers first."""
        names, tags = self.class_names, {MODEL_TAG: self.name} if self.name else {}
        tags |= resampling_of(items)
        if self.unit is not None:
            tags |= {_TARGET_TAG: names[0], TARGET_UNIT_TAG: self.unit}
            return {path: Layers.of_measures(names, tags, self.unit)}
        maps = {path: Layers.of_classes(names, self.colours, tags)}
        if self.probabilities:
            maps[self.beside(path)[0]] = Layers.of_measures(names, tags)
        return maps

    @staticmethod
    def beside(path: Path) -> tuple[Path, Path]:
        """Return the files of probabilities and of outlines beside a map of classes."""
        stem = path.stem
        return path.with_name(f"{stem}_probabilities.tif"), path.with_suffix(".gpkg")

    def write_item(self, made: "SceneMap") -> Path | None:
        """Describe a map and the files beside it as a STAC item, if it can be one."""
        path, first = made.path, made.items[0]
        probabilities, polygons = self.beside(path)
        if self.unit is not None:
            title = f"{self.class_names[0]} ({self.unit})"
            numbers = _measure_asset(path, title, self.class_names, self.unit)
            assets = {"numbers": numbers}
        else:
            classes = list(zip(self.class_names, self.colours, strict=True))
            assets = {"classes": _class_asset(path, classes)}
        if self.probabilities:
            title, names = "Probability of each class", self.class_names
            assets["probabilities"] = _measure_asset(probabilities, title, names)
        if self.polygons:
            assets["polygons"] = _polygon_asset(polygons)
        grid, dates = first.grid(self.bands(first)), [item.date for item in made.items]
        return write_item(path, grid, assets, dates, self.name, "Scene and map")

    def look_at(self, items: tuple[RasterFile, ...], path: Path) -> "SceneMap":
        """Return a map that is there."""
        pixels = np.zeros(NO_CLASS + 1, np.int64)
        least, total, most = np.inf, 0.0, -np.inf
        step = -(-max(items[0].shape(self.bands(items[0]))) // _PREVIEW_PX)
        preview = []
        for row, found in read_map_rows(path):
            classes = found
            if found.dtype.kind == "f":
                # All with a number count as class 0.
                known = found[np.isfinite(found)]
                classes = np.where(np.isfinite(found), 0, NO_CLASS)
                total += float(known.sum(dtype=np.float64))
                least, most = known.min(initial=least), known.max(initial=most)
            pixels += np.bincount(classes.ravel(), minlength=len(pixels))
            preview.append(found[-row % step :: step, ::step])
        values = (float(least), total / max(int(pixels[0]), 1), float(most))
        own = pixels[: len(self.class_names)]
        return SceneMap(path, items, own, np.concatenate(preview), values)


@dataclass(frozen=True)
class SceneMap:
    """A map that was made.

    Args:
        path: its file.
        items: the image, or before and after.
        pixels: (K,) pixels of each class, or (1,) with a number.
        preview: the map thinned out without blending, (h, w); `NO_CLASS`, or NaN, is
            nothing.
        values: least, mean and most of its numbers; NaN for classes.
    """

    path: Path
    items: tuple[RasterFile, ...]
    pixels: NDArray[np.int64]
    preview: NDArray[Any]
    values: tuple[float, float, float] = (np.nan, np.nan, np.nan)


def build_mapper(
    loaded: LoadedModel, name: str, flips: bool, precision: Precision = "fp32"
) -> tuple[Mapper, str]:
    """Return what makes maps with a model, and its task.

    Args:
        loaded: the model, on the device to use.
        name: what it is called in messages, and in the maps' tags.
        flips: average over mirror images.
        precision: that the maps are made in, see `spectralgpt.scenes.loading`.

    Raises:
        CheckpointError: it makes no maps, or does not say which classes and input.
    """
    names, task = loaded.classes(name, maps=True)
    contract = stated_contract(loaded, name)
    model: Any = loaded.model.eval()
    window_px = int(loaded.extra.get("window_px") or contract.image_size)
    device = next(model.parameters()).device.type
    colours = loaded.extra.get("colours") or class_colours(names).values()
    mapper = Mapper(
        partial(predict_map, model, flips),
        contract,
        names,
        tuple(colours),
        window_px,
        name=Path(name).name,
        digest=digest_model(model, flips, window_px, names, device, precision),
        encoder=loaded.encoder,
        unit=loaded.unit,
    )
    return mapper, task


def map_image(
    mapper: Mapper,
    items: tuple[RasterFile, ...],
    path: Path,
    progress: Progress | None = None,
) -> SceneMap:
    """Map one image, or what two dates both show, on the finest band that is read.

    Windows have the size of the training images and are prepared as those were, each
    for itself. They overlap, and probabilities are means weighted towards the windows'
    centres. The last windows of rows and columns end with the scene; where the scene is
    smaller, they are padded with invalid pixels below and to the right. Reading and
    predicting run ahead in threads of their own.

    The files appear when they are whole, or not at all. A run that was stopped is
    continued, and gives the same bytes as one that was not.

    Args:
        mapper: predicts.
        items: the image, or before and after.
        path: the map of classes; other files are named after it.
        progress: called with the share that is done, 0..1.

    Raises:
        BandError: the image lacks a band of the model.
        ShapeError: it is smaller than a token.
        RasterError: the dates do not lie on each other, or a file cannot be read or
            written.
        DataError: there is no valid pixel, or the model gives no numbers.
        ConfigError: another run was stopped here, with another model or image.
    """
    bands = [mapper.bands(item) for item in items]
    items = on_same_pixels(items, bands)
    grid = items[0].grid(bands[0])
    if mapper.polygons and grid.crs is None:
        raise RasterError(f"{items[0].name} has no georeference: leave out --polygons.")
    maps, facts = mapper.layers(path, items), mapper.facts(items)
    with making_maps(maps, grid, facts, mapper.overwrite) as made:
        for row, probabilities in _map_strips(mapper, items, made.next_row):
            # In the order of `maps`.
            numbers: list[NDArray[Any]] = [probabilities]
            if mapper.unit is None:
                numbers = [classes_of(probabilities)[None], probabilities]
            made.write(row, numbers[: len(maps)])
            if progress is not None:
                progress(made.next_row / grid.height)
        whole = made.export()[0]
        found = mapper.look_at(items, whole)
        if not found.pixels.any():
            raise DataError(f"{items[0].name} has no valid pixel: leave it out.")
        if mapper.polygons:
            outlines = mapper.beside(path)[1]
            names, colours = mapper.class_names, mapper.colours
            write_polygons(whole, made.folder / outlines.name, names, colours)
            made.place(outlines)
        made.publish()
    return replace(found, path=path)


def map_in_memory(
    mapper: Mapper, items: tuple[RasterFile, ...]
) -> tuple[FloatArray, Grid]:
    """Map one image, or what two dates both show, as `map_image` does, to an array.

    Args:
        mapper: predicts.
        items: the image, or before and after.

    Returns:
        Probabilities (K, H, W), or numbers (1, H, W); NaN where no band shows anything.
        The pixels that they are of.

    Raises:
        RasterError: there is not enough memory; else see `map_image`.
    """
    items = on_same_pixels(items, [mapper.bands(item) for item in items])
    grid = items[0].grid(mapper.bands(items[0]))
    layers = len(mapper.class_names)
    check_memory(items[0].name, _COPIES * 4 * layers * grid.height * grid.width)
    strips = [values for _, values in _map_strips(mapper, items)]
    values = np.concatenate(strips, axis=1)
    if np.isnan(values).all():
        raise DataError(f"{items[0].name} has no valid pixel: leave it out.")
    return values, grid


def _map_strips(
    mapper: Mapper, items: Sequence[RasterFile], first_row: int = 0
) -> Iterator[tuple[int, FloatArray]]:
    """Yield rows from the top downwards: the first, and probabilities (K, rows, W).

    They are NaN where no band shows anything, at one of the dates. Rows before
    `first_row` are left out; the others come out the same to the bit.
    """
    if mapper.encoder is not None:
        mapper.encoder.absent_groups = absent_groups(items)
    contract, patch = mapper.preprocessing, mapper.preprocessing.patch_size
    bands = [mapper.bands(item) for item in items]
    plan = plan_windows(items[0], bands[0], mapper.window_px, mapper.overlap, patch)
    for item, used in zip(items, bands, strict=True):
        check_size(item, used, patch)
    batches = read_batches(items, bands, plan, mapper.batch_size, first_row)

    def predict(
        batch: WindowBatch, images: FloatArray, _: BoolArray
    ) -> tuple[WindowBatch, FloatArray]:
        given = torch.from_numpy(images)
        given = given if given.shape[1] > 1 else given[:, 0]
        found = mapper.predict(given).float().cpu().numpy()
        if not np.isfinite(found).all():
            name = batch.rasters[0][0].name
            what = "probabilities" if mapper.unit is None else "numbers"
            raise DataError(f"{name}: the model gives no finite {what}.")
        return batch, found

    layers = len(mapper.class_names)
    return compute_strips(batches, plan, contract, predict, layers, first_row=first_row)


def classes_of(probabilities: FloatArray) -> NDArray[np.uint8]:
    """Return the most probable of (K, ...), `NO_CLASS` where there is none: (...)."""
    is_mapped = ~np.isnan(probabilities[0])
    likeliest = np.where(is_mapped, probabilities, 0).argmax(axis=0)
    return np.where(is_mapped, likeliest, NO_CLASS).astype(np.uint8)


def _class_asset(path: Path, classes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Describe a map of classes, (name, colour) in the order of their numbers."""
    band = {"name": "class", "data_type": "uint8", "nodata": 255}
    bands = [band | {"classification:classes": describe_classes(classes)}]
    return describe_asset(path, "Class of each pixel", bands=bands)


def _measure_asset(
    path: Path, title: str, names: Sequence[str], unit: str | None = None
) -> dict[str, Any]:
    """Describe a map of measured numbers, a layer a name."""
    about = {"data_type": "float32", "nodata": "nan"} | ({"unit": unit} if unit else {})
    bands = [{"name": name, **about} for name in names]
    return describe_asset(path, title, bands=bands)


def _polygon_asset(path: Path) -> dict[str, Any]:
    """Describe a GeoPackage of outlines."""
    media = "application/geopackage+sqlite3"
    return describe_asset(path, "Outlines of the classes", media)
