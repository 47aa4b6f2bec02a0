"""Map a scene of any size: read windows, predict them in batches, join them by rows.

Which task this is stays with the function that predicts. No more of a scene is held
than one row of windows, so memory follows its width, not its size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import (
    NO_CLASS,
    OpenFiles,
    Raster,
    RasterItem,
    Window,
    read_raster,
)
from spectralgpt.scenes.blending import RowBlender
from spectralgpt.scenes.windows import check_size, choose_bands, cover_axis, stride_px
from spectralgpt.sensors import Band

__all__ = ["MapStrip", "Mapper", "map_scene"]

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Mapper:
    """What makes maps.

    Args:
        predict: prepared images (B, C, H, W), or (B, 2, C, H, W) of two dates, to class
            probabilities (B, K, H, W).
        preprocessing: the contract for its input.
        class_names: K names.
        window_px: side of the images that it was trained on, px.
    """

    predict: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    window_px: int

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
) -> Iterator[MapStrip]:
    """Map one image, or two dates on the same pixels.

    Windows have the size of the training images and are prepared as those were, each
    for itself. They overlap, and probabilities are means weighted towards the windows'
    centres. The last windows of rows and columns end with the scene; where the scene is
    smaller, they are padded with invalid pixels below and to the right.

    Args:
        mapper: predicts.
        items: the image, or before and after.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        batch_size: windows predicted at once.

    Yields:
        Rows from the top downwards; together all pixels of the grid of the finest band
        that is read.

    Raises:
        BandError: the image lacks a band of the model.
        ShapeError: it is smaller than a token.
        DataError: the model gives no numbers.
    """
    side, patch = mapper.window_px, mapper.preprocessing.patch_size
    for item in items:
        check_size(item, mapper.bands(item), patch)
    height, width = items[0].shape(mapper.bands(items[0]))
    stride = stride_px(side, overlap, patch)
    columns = cover_axis(width, side, stride)
    blender = RowBlender(len(mapper.class_names), width, side)
    files = OpenFiles()
    try:
        for row, below in pairwise([*cover_axis(height, side, stride), height]):
            rows = min(side, height - row)
            windows = [Window(row, at, rows, min(side, width)) for at in columns]
            for start in range(0, len(windows), batch_size):
                part = windows[start : start + batch_size]
                _add_windows(blender, mapper, items, part, files)
            probabilities = blender.take(below - row)
            yield MapStrip(row, probabilities, ~np.isnan(probabilities[0]))
    finally:
        files.close()


def _add_windows(
    blender: RowBlender,
    mapper: Mapper,
    items: Sequence[RasterItem],
    windows: Sequence[Window],
    files: OpenFiles,
) -> None:
    """Predict windows of one row and add them; those that show nothing are left out."""
    bands = [mapper.bands(item) for item in items]
    kept, known, images = [], [], []
    for window in windows:
        rasters = [
            read_raster(item, used, window, files=files)
            for item, used in zip(items, bands, strict=True)
        ]
        is_known = np.all([raster.valid.any(axis=0) for raster in rasters], axis=0)
        if is_known.any():
            kept.append(window)
            known.append(is_known)
            images.append(_prepare(mapper, rasters))
    if not kept:
        return
    found = mapper.predict(torch.stack(images)).float().cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError(f"{items[0].name}: the model gives no finite probabilities.")
    for window, is_known, values in zip(kept, known, found, strict=True):
        blender.add(window.column, values[:, : window.height, : window.width], is_known)


def _prepare(mapper: Mapper, rasters: Sequence[Raster]) -> Tensor:
    """Return the model's input: (C, H, W), or (2, C, H, W) of two dates."""
    side = mapper.window_px
    dates = [
        torch.from_numpy(
            # As in training, invalid pixels fill what is missing.
            mapper.preprocessing.prepare(raster.padded(side, side, "constant"))[0]
        )
        for raster in rasters
    ]
    return dates[0] if len(dates) == 1 else torch.stack(dates)
