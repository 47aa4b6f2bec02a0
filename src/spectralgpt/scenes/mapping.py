"""Map a scene of any size: read windows, predict them in batches, join them by rows.

Which task this is stays with the function that predicts. No more of a scene is held
than one row of windows and a few batches, so memory follows its width, not its size.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import NO_CLASS, RasterItem
from spectralgpt.scenes.prefetch import prefetch
from spectralgpt.scenes.strips import (
    WindowBatch,
    blend,
    plan_windows,
    prepare_windows,
    read_batches,
)
from spectralgpt.scenes.windows import check_size, choose_bands
from spectralgpt.sensors import Band

__all__ = ["MapStrip", "Mapper", "map_scene"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


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

    def bands(self, item: RasterItem) -> tuple[Band, ...]:
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


def map_scene(
    mapper: Mapper,
    items: Sequence[RasterItem],
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
    patch = mapper.preprocessing.patch_size
    bands = [mapper.bands(item) for item in items]
    layout = plan_windows(items[0], bands[0], mapper.window_px, overlap, patch)
    for item, used in zip(items, bands, strict=True):
        check_size(item, used, patch)
    batches = read_batches(items, bands, layout, batch_size, first_row)
    predicted = prefetch(_predict(mapper, prefetch(_prepare(mapper, batches))))
    layers = len(mapper.class_names)
    for row, probabilities in blend(predicted, layout, layers, first_row):
        yield MapStrip(row, probabilities, ~np.isnan(probabilities[0]))


def _prepare(
    mapper: Mapper, batches: Iterator[WindowBatch]
) -> Generator[tuple[WindowBatch, Tensor | None]]:
    """Give the model's input for each batch: (B, C, H, W), or (B, 2, C, H, W)."""
    for batch in batches:
        if not batch.windows:
            yield batch, None
            continue
        images, _ = prepare_windows(batch, mapper.preprocessing, mapper.window_px)
        stacked = torch.from_numpy(images)
        yield batch, stacked if stacked.shape[1] > 1 else stacked[:, 0]


def _predict(
    mapper: Mapper, prepared: Iterator[tuple[WindowBatch, Tensor | None]]
) -> Generator[tuple[WindowBatch, FloatArray | None]]:
    for batch, images in prepared:
        if images is None:
            yield batch, None
            continue
        found = mapper.predict(images).float().cpu().numpy()
        if not np.isfinite(found).all():
            name = batch.rasters[0][0].name
            raise DataError(f"{name}: the model gives no finite probabilities.")
        yield batch, found
