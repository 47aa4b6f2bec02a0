"""Embeddings of whole scenes: one a window, or one a token cell without seams."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.models.building import check_output
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterItem, Window
from spectralgpt.rasters.geometry import Grid
from spectralgpt.scenes.cells import CellOptions, cell_grid, embed_strips
from spectralgpt.scenes.windows import Fit, check_size, choose_bands, prepared_windows

__all__ = ["SceneEmbedding", "embed_scene", "embed_windows"]


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

    Each cell is the mean over the windows it is in and over the spectral groups; see
    `spectralgpt.scenes.cells.embed_strips`, which needs no more memory than a strip.

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
    options = CellOptions(overlap=overlap, batch_size=batch_size)
    strips = list(
        embed_strips(
            encoder, preprocessing, item, options, place=window, progress=progress
        )
    )
    cell_px = options.side(encoder.patch_size)
    return SceneEmbedding(
        np.concatenate([strip.values for strip in strips]),
        np.concatenate([strip.valid for strip in strips]),
        cell_grid(item, preprocessing, window, cell_px),
        cell_px,
    )


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
    device = next(encoder.parameters()).device
    for windows, images in prepared_windows(
        item, preprocessing, fit=fit, batch_size=batch_size
    ):
        with torch.inference_mode():
            pooled = check_output(encoder.pooled(images.to(device)).float().cpu())
        yield from zip(windows, pooled.numpy(), strict=True)
