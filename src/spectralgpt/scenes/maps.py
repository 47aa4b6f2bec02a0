"""Maps of classes: of a scene by rows, as its GeoTIFF, and of many with a table.

Which task this is stays with the function that predicts. No more of a scene is held
than one row of windows and a few batches, so memory follows its width, not its size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError, RasterError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import (
    MODEL_TAG,
    NO_CLASS,
    Grid,
    Layers,
    RasterFile,
    class_layers,
    measure_layers,
    read_class_rows,
    write_polygons,
)
from spectralgpt.scenes.inputs import (
    on_same_pixels,
    polygons_path,
    probabilities_path,
)
from spectralgpt.scenes.stac import (
    class_asset,
    measure_asset,
    picture_asset,
    polygon_asset,
    write_item,
)
from spectralgpt.scenes.strips import WindowBatch, compute_strips, read_batches
from spectralgpt.scenes.unfinished import (
    digest_facts,
    making_maps,
    scene_facts,
)
from spectralgpt.scenes.windows import check_size, choose_bands, plan_windows
from spectralgpt.sensors import Band

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_PREVIEW_PX = 900
"""Longest side of the thinned-out map that is kept for a picture."""


@dataclass(frozen=True)
class Mapper:
    """What makes maps.

    Args:
        predict: prepared images (B, C, H, W), or (B, 2, C, H, W) of two dates, to class
            probabilities (B, K, H, W).
        preprocessing: the contract for its input.
        class_names: K names.
        window_px: side of the images that it was trained on, px.
        name: what the model is called in the maps' tags.
        digest: tells its weights and settings from all others; an interrupted map is
            continued by a mapper of the same digest only, and never without one.
    """

    predict: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    window_px: int
    name: str = ""
    digest: str = ""

    def bands(self, item: RasterFile) -> tuple[Band, ...]:
        """Return the bands of an image that are read, in the model's order."""
        return choose_bands(self.preprocessing, item)


@dataclass(frozen=True)
class MapStrip:
    """A few rows of a map, over the whole width of its scene.

    Args:
        row: the first of them.
        probabilities: (K, rows, W), NaN where `is_mapped` is false.
        is_mapped: (rows, W), false where no band shows anything, at one of the dates.
    """

    row: int
    probabilities: NDArray[np.float32]
    is_mapped: BoolArray

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(rows, W) class indices, `NO_CLASS` where there is none."""
        likeliest = np.where(self.is_mapped, self.probabilities, 0).argmax(axis=0)
        return np.where(self.is_mapped, likeliest, NO_CLASS).astype(np.uint8)


@dataclass(frozen=True)
class MapOptions:
    """How maps are made and written.

    Args:
        colours: one a class, such as "#1b7837".
        probabilities: write them too.
        polygons: write the outlines of classes too.
        batch_size: windows predicted at once.
        overwrite: replace maps that are there.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
    """

    colours: tuple[str, ...]
    probabilities: bool = False
    polygons: bool = False
    batch_size: int = 16
    overwrite: bool = False
    overlap: float = 0.5


@dataclass(frozen=True)
class SceneMap:
    """A map that was made.

    Args:
        path: its file.
        items: the image, or before and after.
        pixels: (K,) pixels of each class.
        preview: the map thinned out without blending, (h, w); `NO_CLASS` is nothing.
    """

    path: Path
    items: tuple[RasterFile, ...]
    pixels: NDArray[np.int64]
    preview: NDArray[np.uint8]


def map_scene(
    mapper: Mapper,
    items: Sequence[RasterFile],
    *,
    overlap: float = 0.5,
    batch_size: int = 16,
    first_row: int = 0,
) -> Iterator[MapStrip]:
    """Map one image, or two dates on the same pixels.

    Windows have the size of the training images and are prepared as those were, each
    for itself. They overlap, and probabilities are means weighted towards the windows'
    centres. The last windows of rows and columns end with the scene; where the scene is
    smaller, they are padded with invalid pixels below and to the right. Reading and
    predicting run ahead in threads of their own.

    Args:
        mapper: predicts.
        items: the image, or before and after.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        batch_size: windows predicted at once.
        first_row: of the first strip to yield; the others come out the same to the bit.

    Yields:
        Rows from the top downwards; together all pixels of the grid of the finest band
        that is read, from `first_row` on.

    Raises:
        BandError: the image lacks a band of the model.
        ShapeError: it is smaller than a token.
        DataError: the model gives no numbers.
    """
    contract, patch = mapper.preprocessing, mapper.preprocessing.patch_size
    bands = [mapper.bands(item) for item in items]
    plan = plan_windows(items[0], bands[0], mapper.window_px, overlap, patch)
    for item, used in zip(items, bands, strict=True):
        check_size(item, used, patch)
    batches = read_batches(items, bands, plan, batch_size, first_row)
    for row, probabilities in compute_strips(
        batches,
        plan,
        contract,
        partial(_predict, mapper),
        len(mapper.class_names),
        first_row=first_row,
    ):
        yield MapStrip(row, probabilities, ~np.isnan(probabilities[0]))


def _predict(
    mapper: Mapper, batch: WindowBatch, images: FloatArray, _: BoolArray
) -> tuple[WindowBatch, FloatArray]:
    """Predict windows (B, 1, C, H, W), or (B, 2, C, H, W), to (B, K, H, W)."""
    given = torch.from_numpy(images)
    given = given if given.shape[1] > 1 else given[:, 0]
    found = mapper.predict(given).float().cpu().numpy()
    if not np.isfinite(found).all():
        name = batch.rasters[0][0].name
        raise DataError(f"{name}: the model gives no finite probabilities.")
    return batch, found


def map_image(
    mapper: Mapper,
    items: tuple[RasterFile, ...],
    path: Path,
    options: MapOptions,
    progress: Callable[[float], None] | None = None,
) -> SceneMap:
    """Map one image, or what two dates both show, on the finest band that is read.

    The files appear when they are whole, or not at all. A run that was stopped is
    continued, and gives the same bytes as one that was not.

    Args:
        mapper: predicts.
        items: the image, or before and after.
        path: the map of classes; other files are named after it.
        options: what is written.
        progress: called with the share that is done, 0..1.

    Raises:
        RasterError: the dates do not lie on each other, or a file cannot be read or
            written.
        DataError: there is no valid pixel.
        ConfigError: another run was stopped here, with another model or image.
    """
    bands = [mapper.bands(item) for item in items]
    items = on_same_pixels(items, bands)
    grid = items[0].grid(bands[0])
    if options.polygons and grid.crs is None:
        raise RasterError(f"{items[0].name} has no georeference: leave out --polygons.")
    maps = _plan_maps(mapper, path, options)
    facts = _facts(mapper, items, options)
    with making_maps(maps, grid, facts, options.overwrite) as made:
        for strip in map_scene(
            mapper,
            items,
            overlap=options.overlap,
            batch_size=options.batch_size,
            first_row=made.next_row,
        ):
            # In the order of `maps`.
            numbers: list[NDArray[Any]] = [strip.classes[None], strip.probabilities]
            made.write(strip.row, numbers[: len(maps)])
            if progress is not None:
                progress(made.next_row / grid.height)
        whole = made.export()[0]
        pixels, preview = _count_pixels(whole, grid)
        if not pixels[:NO_CLASS].any():
            raise DataError(f"{items[0].name} has no valid pixel: leave it out.")
        if options.polygons:
            outlines = polygons_path(path)
            write_polygons(whole, made.folder / outlines.name, mapper.class_names)
            made.place(outlines)
        made.publish()
    return SceneMap(path, items, pixels[: len(mapper.class_names)], preview)


def _facts(
    mapper: Mapper, items: Sequence[RasterFile], options: MapOptions
) -> dict[str, str] | None:
    """Return what a map depends on, None if the mapper does not say."""
    if not mapper.digest:
        return None
    settings = {
        "batch size": str(options.batch_size),
        "overlap": str(options.overlap),
        "model": mapper.digest,
    }
    return scene_facts(items, mapper.preprocessing) | settings


def _plan_maps(mapper: Mapper, path: Path, options: MapOptions) -> dict[Path, Layers]:
    """Return what each map holds, the map of classes first."""
    names, tags = mapper.class_names, {MODEL_TAG: mapper.name} if mapper.name else {}
    maps = {path: class_layers(names, options.colours, tags)}
    if options.probabilities:
        maps[probabilities_path(path)] = measure_layers(names, tags)
    return maps


def digest_map(
    mapper: Mapper, items: Sequence[RasterFile], path: Path, options: MapOptions
) -> str:
    """Tell what a map depends on from all else; empty if the mapper does not say."""
    facts = _facts(mapper, items, options)
    if facts is None:
        return ""
    return digest_facts(facts, _plan_maps(mapper, path, options), options)


def look_at_map(mapper: Mapper, items: tuple[RasterFile, ...], path: Path) -> SceneMap:
    """Return a map that is there."""
    pixels, preview = _count_pixels(path, items[0].grid(mapper.bands(items[0])))
    return SceneMap(path, items, pixels[: len(mapper.class_names)], preview)


def _count_pixels(
    path: Path, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the pixels of each class and of none, and the map thinned out."""
    pixels = np.zeros(NO_CLASS + 1, dtype=np.int64)
    step = -(-max(grid.height, grid.width) // _PREVIEW_PX)
    preview = []
    for row, classes in read_class_rows(path):
        pixels += np.bincount(classes.ravel(), minlength=len(pixels))
        preview.append(classes[-row % step :: step, ::step])
    return pixels, np.concatenate(preview)


def write_map_item(mapper: Mapper, made: SceneMap, options: MapOptions) -> Path | None:
    """Describe the map and the files beside it as a STAC item, if it can be one."""
    path, first = made.path, made.items[0]
    classes = list(zip(mapper.class_names, options.colours, strict=True))
    assets = {"classes": class_asset(path, classes)}
    if options.probabilities:
        assets["probabilities"] = measure_asset(
            probabilities_path(path), "Probability of each class", mapper.class_names
        )
    if options.polygons:
        assets["polygons"] = polygon_asset(polygons_path(path))
    picture = path.with_suffix(".png")
    if picture.is_file():
        assets["quicklook"] = picture_asset(picture)
    dates = [item.date for item in made.items]
    grid = first.grid(mapper.bands(first))
    return write_item(path.with_suffix(".json"), grid, assets, dates, mapper.name)
