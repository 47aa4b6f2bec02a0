"""Embeddings of whole scenes: one a window, or one a token cell without seams."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster, RasterItem, Window, read_raster
from spectralgpt.rasters.footprints import coarsen
from spectralgpt.rasters.geometry import Grid
from spectralgpt.scenes.blending import window_weight
from spectralgpt.scenes.windows import (
    Fit,
    check_size,
    choose_bands,
    cover_axis,
    prepared_windows,
    stride_px,
)
from spectralgpt.sensors import Band

__all__ = ["SceneEmbedding", "embed_scene", "embed_windows", "position_response"]

_FLAT_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class SceneEmbedding:
    """One embedding for each token cell of a scene.

    Args:
        values: (rows, columns, D) float32.
        valid: (rows, columns), share of valid pixels in each cell, 0..1.
        grid: where the cells lie, with the cells as its pixels; the last row and column
            may reach beyond the scene.
        cell_px: side of a cell in pixels of the scene.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.float32]
    grid: Grid
    cell_px: int


def embed_scene(
    encoder: SpectralEncoder,
    preprocessing: Preprocessing,
    item: RasterItem,
    *,
    overlap: float = 0.5,
    batch_size: int = 16,
    window: Window | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SceneEmbedding:
    """Embed every token cell of a scene.

    Windows of the model's image size overlap; each cell is the mean over the windows it
    is in, weighted towards their centres, and over the spectral groups, so that window
    borders leave no seam; what only tells where in the window a cell lies is subtracted
    (see `position_response`). Beyond the scene's edge pixels are mirrored.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the scene.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        batch_size: windows encoded at once.
        window: part of the scene; None embeds all of it.
        progress: called with (windows done, windows in all).

    Raises:
        BandError: the scene lacks a band of the model.
        ShapeError: the scene is smaller than a token.
    """
    patch, size = encoder.patch_size, preprocessing.image_size
    bands = choose_bands(preprocessing, item)
    scene = item.grid(bands)
    place = window or Window(0, 0, scene.height, scene.width)
    check_size(item, bands, patch)
    rows, columns = -(-place.height // patch), -(-place.width // patch)
    stride = stride_px(size, overlap, patch)
    starts = [
        (row, column)
        for row in cover_axis(rows * patch, size, stride)
        for column in cover_axis(columns * patch, size, stride)
    ]
    mosaic = _Mosaic(rows, columns, size // patch, encoder.embed_dim)
    by_place = position_response(encoder, size)
    for begin in range(0, len(starts), batch_size):
        part = starts[begin : begin + batch_size]
        read = [_read_padded(item, bands, place, at, size) for at in part]
        prepared = [_prepare(preprocessing, raster) for raster in read]
        tokens = _encode(encoder, torch.stack([image for image, _ in prepared]))
        for at, cells, (_, valid) in zip(part, tokens, prepared, strict=True):
            known = _cell_mean(valid, patch)
            mosaic.add(at[0] // patch, at[1] // patch, cells - by_place, known)
        if progress is not None:
            progress(begin + len(part), len(starts))
    values, shares = mosaic.means()
    return SceneEmbedding(values, shares, coarsen(scene, place, patch), patch)


def position_response(encoder: SpectralEncoder, size: int) -> NDArray[np.float32]:
    """Return what cells hold for where they lie in a window, whatever it shows.

    A map of embeddings would show it as stripes that repeat with the windows. It is the
    mean response to flat images, less its own mean over the cells, and so depends on
    the encoder alone.

    Args:
        encoder: its device is used.
        size: side of a window, px.

    Returns:
        (Hp, Wp, D).
    """
    levels = torch.tensor(_FLAT_LEVELS).reshape(-1, 1, 1, 1)
    cells = _encode(encoder, levels.expand(-1, encoder.num_bands, size, size))
    response = cells.mean(axis=0)
    centred: NDArray[np.float32] = response - response.mean(axis=(0, 1))
    return centred


def embed_windows(
    encoder: SpectralEncoder,
    preprocessing: Preprocessing,
    item: RasterItem,
    *,
    fit: Fit = "auto",
    batch_size: int = 16,
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Embed a file as one image, or the windows that cover it.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the file.
        fit: see `spectralgpt.scenes.windows.prepared_windows`.
        batch_size: windows encoded at once.

    Yields:
        The window and its embedding (D,): the mean of its normalised tokens.
    """
    check_size(item, choose_bands(preprocessing, item), encoder.patch_size)
    for windows, images in prepared_windows(
        item, preprocessing, fit=fit, batch_size=batch_size
    ):
        with torch.inference_mode():
            pooled = encoder.pooled(images.to(_device(encoder))).float().cpu().numpy()
        yield from zip(windows, pooled, strict=True)


class _Mosaic:
    """Weighted sums of overlapping windows of cells."""

    def __init__(self, rows: int, columns: int, side: int, width: int) -> None:
        self.side = side
        # The last window may reach beyond a scene smaller than it.
        shape = (max(rows, side), max(columns, side))
        self.rows, self.columns = rows, columns
        self.values = np.zeros((*shape, width), dtype=np.float64)
        self.valid = np.zeros(shape, dtype=np.float64)
        self.weight = np.zeros(shape, dtype=np.float64)
        self.window_weight = window_weight(side)

    def add(
        self,
        row: int,
        column: int,
        cells: NDArray[np.float32],
        valid: NDArray[np.float32],
    ) -> None:
        at = (slice(row, row + self.side), slice(column, column + self.side))
        self.values[at] += cells * self.window_weight[..., None]
        self.valid[at] += valid * self.window_weight
        self.weight[at] += self.window_weight

    def means(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = self.values / self.weight[..., None]
        valid = self.valid / self.weight
        crop = (slice(self.rows), slice(self.columns))
        return values[crop].astype(np.float32), valid[crop].astype(np.float32)


def _read_padded(
    item: RasterItem,
    bands: tuple[Band, ...],
    place: Window,
    at: tuple[int, int],
    size: int,
) -> Raster:
    """Read a full-size window of `place`, mirrored where the scene ends."""
    height = min(size, place.height - at[0])
    width = min(size, place.width - at[1])
    window = Window(place.row + at[0], place.column + at[1], height, width)
    return read_raster(item, bands, window).padded(size, size, "symmetric")


def _prepare(
    preprocessing: Preprocessing, raster: Raster
) -> tuple[Tensor, NDArray[np.bool_]]:
    if not raster.valid.any():
        # A hole in a scene is no error: its cells are marked as having no valid pixel.
        shape = (len(preprocessing.bands), *raster.pixels.shape[1:])
        return torch.zeros(shape), np.zeros(shape, dtype=np.bool_)
    image, valid = preprocessing.prepare(raster)
    return torch.from_numpy(image), valid


def _encode(encoder: SpectralEncoder, images: Tensor) -> NDArray[np.float32]:
    """Encode windows to cells: tokens averaged over spectral groups, (B, h, w, D)."""
    with torch.inference_mode():
        tokens = encoder(images.to(_device(encoder)))  # (B, G, Hp, Wp, D)
        cells: NDArray[np.float32] = tokens.mean(dim=1).float().cpu().numpy()
    return cells


def _device(encoder: SpectralEncoder) -> torch.device:
    return next(encoder.parameters()).device


def _cell_mean(valid: NDArray[np.bool_], patch: int) -> NDArray[np.float32]:
    bands, height, width = valid.shape
    blocks = valid.reshape(bands, height // patch, patch, width // patch, patch)
    share: NDArray[np.float32] = blocks.mean(axis=(0, 2, 4), dtype=np.float32)
    return share
