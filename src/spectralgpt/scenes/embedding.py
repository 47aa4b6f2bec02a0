"""Embeddings of whole scenes: one a window, or one a token cell without seams.

A cell is a patch, or a part of one: windows that lie between the patches of others show
the encoder each place in several cuttings, and cells hold what the patches centred on
them say. Memory follows the scene's width, not its size.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import ConfigError
from spectralgpt.models.building import check_output
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import OpenFiles, Raster, RasterFile, Window, read_raster
from spectralgpt.rasters.footprints import coarsen
from spectralgpt.rasters.grid import Grid
from spectralgpt.scenes.strips import WindowBatch, compute_strips, cut_batches
from spectralgpt.scenes.windows import (
    Fit,
    WindowPlan,
    check_size,
    choose_bands,
    cover_axis,
    prepared_windows,
    stride_px,
)
from spectralgpt.sensors import Band

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_FLAT_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class CellOptions:
    """How a scene is embedded.

    Args:
        cell_px: side of a cell, px; divides the patch. None takes the patch.
        overlap: share of a window that its neighbour covers again, 0 to below 1; cells
            smaller than a patch may need more.
        batch_size: windows encoded at once.
    """

    cell_px: int | None = None
    overlap: float = 0.5
    batch_size: int = 16

    def side(self, patch: int) -> int:
        """Return the side of a cell, px.

        Raises:
            ConfigError: it does not divide the patch.
        """
        side = patch if self.cell_px is None else self.cell_px
        if side < 1 or patch % side:
            fitting = [str(s) for s in range(1, patch + 1) if patch % s == 0]
            raise ConfigError(
                f"cells of {side} px do not divide the model's patches of {patch} px: "
                f"use {', '.join(fitting)}."
            )
        return side


@dataclass(frozen=True)
class CellStrip:
    """A few rows of cells, over the whole width of the scene.

    Args:
        row: the first of them.
        values: (rows, columns, D); 0 where no window showed anything.
        valid: (rows, columns), share of valid pixels in each cell, 0..1.
        reflectance: (rows, columns, C), mean over each cell's valid pixels, 0 where
            there is none.
    """

    row: int
    values: FloatArray
    valid: FloatArray
    reflectance: FloatArray


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
    item: RasterFile,
    *,
    overlap: float = 0.5,
    batch_size: int = 16,
    window: Window | None = None,
) -> SceneEmbedding:
    """Embed every token cell of a scene.

    Each cell is the mean over the windows it is in and over the spectral groups; see
    `embed_strips`, which needs no more memory than a strip.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the scene.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        batch_size: windows encoded at once.
        window: part of the scene; None embeds all of it.

    Raises:
        BandError: the scene lacks a band of the model.
        ShapeError: the scene is smaller than a token.
    """
    options = CellOptions(overlap=overlap, batch_size=batch_size)
    strips = list(embed_strips(encoder, preprocessing, item, options, place=window))
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
    item: RasterFile,
    *,
    fit: Fit = "auto",
    batch_size: int = 16,
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Embed a file as one image, or the windows that cover it.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the file.
        fit: see `prepared_windows`.
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


def cell_grid(
    item: RasterFile, preprocessing: Preprocessing, place: Window | None, side: int
) -> Grid:
    """Return the grid whose pixels are the cells of a scene, or of a part of it.

    The last row and column may reach beyond the scene.
    """
    scene = item.grid(choose_bands(preprocessing, item))
    return coarsen(scene, place or Window(0, 0, scene.height, scene.width), side)


def embed_strips(
    encoder: SpectralEncoder,
    preprocessing: Preprocessing,
    item: RasterFile,
    options: CellOptions | None = None,
    *,
    place: Window | None = None,
) -> Iterator[CellStrip]:
    """Embed every cell of a scene, from the top down.

    Windows of the model's image size overlap. A cell is the mean of the tokens whose
    centre lies on it, or on its corner where patches have an even number of cells a
    side, over all windows, weighted towards their centres, so that window borders leave
    no seam. What only tells where in the window a token lies is subtracted (see
    `position_response`). Beyond the scene's edge pixels are mirrored.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the scene.
        options: how.
        place: part of the scene; None embeds all of it.

    Yields:
        Rows; together all cells of `cell_grid`.

    Raises:
        BandError: the scene lacks a band of the model.
        ShapeError: the scene is smaller than a token.
        ConfigError: the cells do not divide a patch.
    """
    options = options or CellOptions()
    patch, size = encoder.patch_size, preprocessing.image_size
    cell = options.side(patch)
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, patch)
    scene = item.grid(bands)
    place = place or Window(0, 0, scene.height, scene.width)
    covered = coarsen(scene, place, cell)
    height, width = covered.height * cell, covered.width * cell
    rows, columns = (
        _starts(length, size, patch, cell, options.overlap)
        for length in (height, width)
    )
    plan = WindowPlan(rows, columns, size, height, width)
    strips, again = tee(_read_mirrored(item, bands, place, plan))
    shown = (
        (strip, row, below)
        for strip, (row, below) in zip(again, plan.strips(), strict=True)
        if below > 0
    )
    encode = partial(
        _encode_cells, encoder, position_response(encoder, size), patch // cell
    )
    embedded = compute_strips(
        cut_batches([strips], plan, options.batch_size),
        plan,
        preprocessing,
        encode,
        encoder.embed_dim,
        cell=cell,
        # Not for speed's sake: what numpy computes with more threads may differ.
        ahead=False,
    )
    for (first, values), (strip, row, below) in zip(embedded, shown, strict=True):
        left = -columns[0]
        seen = np.s_[:, first - row : below - row, left : left + width]
        valid, reflectance = _average(strip.valid[seen], strip.pixels[seen], cell)
        known = np.ascontiguousarray(np.moveaxis(np.nan_to_num(values), 0, -1))
        yield CellStrip(first // cell, known, valid, reflectance)


def position_response(encoder: SpectralEncoder, size: int) -> FloatArray:
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
    flat = levels.expand(-1, encoder.num_bands, size, size)
    response = _encode(encoder, flat).mean(axis=0)
    centred: FloatArray = response - response.mean(axis=(0, 1))
    return centred


def _encode_cells(
    encoder: SpectralEncoder,
    by_place: FloatArray,
    parts: int,
    batch: WindowBatch,
    images: FloatArray,
    _: BoolArray,
) -> tuple[WindowBatch, Iterator[FloatArray]]:
    """Encode windows to cells (D, h, w) each, known on and beside tokens' centres.

    Args:
        encoder: its device is used.
        by_place: see `position_response`.
        parts: cells along a patch.
        batch: the windows.
        images: (B, 1, C, H, W).
    """
    tokens = _encode(encoder, torch.from_numpy(images[:, 0])) - by_place
    at = np.arange(tokens.shape[1] * parts) % parts
    is_core = np.abs(2 * at + 1 - parts) <= 1
    known = [np.outer(is_core, is_core)] * len(tokens)
    # One window after the other, as small cells are many.
    cells = (
        np.moveaxis(window, -1, 0).repeat(parts, axis=1).repeat(parts, axis=2)
        for window in tokens
    )
    return replace(batch, is_known=known), cells


def _starts(length: int, size: int, patch: int, cell: int, overlap: float) -> list[int]:
    """Return the first pixels of windows along an axis; some lie before or beyond it.

    With cells smaller than a patch, windows step so that each cell is met by patches in
    every cutting: `patch // cell` windows in turn cover it, no two alike.
    """
    parts = patch // cell
    if parts == 1:
        return cover_axis(length, size, stride_px(size, overlap, patch))
    most = min(stride_px(size, overlap, cell), size // parts)
    stride = next(
        step
        for step in range(most // cell * cell, 0, -cell)
        if gcd(step // cell, parts) == 1
    )
    return list(range(-(parts - 1) * stride, length, stride))


def _read_mirrored(
    item: RasterFile, bands: tuple[Band, ...], place: Window, plan: WindowPlan
) -> Generator[Raster]:
    """Read what each row of windows shows of `place`, mirrored beyond its edges."""
    first, last = plan.columns[0], plan.columns[0] + plan.span
    left, right = max(0, first), min(last, place.width)
    files = OpenFiles()
    try:
        for row in plan.rows:
            below = row + plan.side
            top, bottom = max(0, row), min(below, place.height)
            window = Window(
                place.row + top, place.column + left, bottom - top, right - left
            )
            raster = read_raster(item, bands, window, files=files)
            missing = (
                (0, 0),
                (top - row, below - bottom),
                (left - first, last - right),
            )
            yield replace(
                raster,
                pixels=np.pad(raster.pixels, missing, mode="symmetric"),
                valid=np.pad(raster.valid, missing, mode="symmetric"),
            )
    finally:
        files.close()


def _average(
    valid: BoolArray, pixels: FloatArray, cell: int
) -> tuple[FloatArray, FloatArray]:
    """Return valid shares (rows, columns) and mean reflectance of cells, bands last."""
    counts = _block_sums(valid, cell)
    sums = _block_sums(np.where(valid, pixels, 0), cell)
    means = sums / np.maximum(counts, 1)
    shares = counts.mean(axis=0) / cell**2
    return shares.astype(np.float32), np.moveaxis(means, 0, -1).astype(np.float32)


def _block_sums(pixels: NDArray[np.generic], cell: int) -> NDArray[np.float64]:
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // cell, cell, width // cell, cell)
    return np.asarray(np.add.reduce(blocks, axis=(2, 4), dtype=np.float64))


def _encode(encoder: SpectralEncoder, images: Tensor) -> FloatArray:
    """Encode windows to tokens averaged over spectral groups, (B, h, w, D)."""
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        tokens = encoder(images.to(device))  # (B, G, Hp, Wp, D)
        cells = check_output(tokens.mean(dim=1).float().cpu())  # (B, Hp, Wp, D)
    return cells.numpy()
