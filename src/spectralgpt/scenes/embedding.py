"""Embeddings of whole scenes, one per token cell without seams; as GeoTIFFs, too.

A cell is a patch, or a part of one: windows shifted by part of a patch show the encoder
each place cut in several ways, and cells hold what the patches centred on them say.
Memory follows the scene's width, not its size.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt import __version__
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import OpenFiles, Raster, RasterFile, Window, read_raster
from spectralgpt.rasters.embeddings import (
    EmbeddingRaster,
    EmbeddingSource,
    open_embeddings,
    writing_embeddings,
)
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.write import NumberType
from spectralgpt.resampling import absent_groups, present, resampling_of
from spectralgpt.scenes.stac import describe_asset, write_item
from spectralgpt.scenes.windows import (
    WindowBatch,
    WindowPlan,
    check_size,
    choose_bands,
    compute_strips,
    cover_axis,
    cut_batches,
    stride_px,
)
from spectralgpt.sensors import Band

if TYPE_CHECKING:
    from xarray import DataArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_FLAT_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_DIGITS = 16
_NM_PER_UM = 1000
_CellStrip = tuple[int, FloatArray, FloatArray, FloatArray]
"""The first of some rows of cells over the whole width of a scene; their embeddings
(rows, columns, D), 0 where no window showed anything; the share of valid pixels in each
cell (rows, columns), 0..1; mean reflectance over them, then its deviation (rows,
columns, 2 * C), 0 where there is none."""


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

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns, D)."""
        return self.values.shape

    def to_xarray(self) -> "DataArray":
        """Return the embeddings as (embedding, y, x), see `Grid.to_xarray`."""
        names = [f"e{i}" for i in range(self.values.shape[-1])]
        values = np.moveaxis(self.values, -1, 0)
        return self.grid.to_xarray(values, embedding=names)

    def __repr__(self) -> str:
        rows, columns, width = self.values.shape
        cells = f"{rows} x {columns} cells of {self.cell_px} px"
        return f"<SceneEmbedding: {width} numbers of {cells}, {self.grid.crs}>"


def embed_scene(
    encoder: Encoder,
    preprocessing: Preprocessing,
    item: RasterFile,
    *,
    overlap: float = 0.5,
    batch_size: int = 16,
    window: Window | None = None,
    cell_px: int | None = None,
) -> SceneEmbedding:
    """Embed every token cell of a scene.

    Each is the mean over the windows it is in and over the spectral groups, see
    `embed_to_raster`, which needs no more memory than a strip.

    Args:
        encoder: its device is used.
        preprocessing: the encoder's contract.
        item: the scene.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        batch_size: windows encoded at once.
        window: part of the scene; None embeds all of it.
        cell_px: see `cell_side`.

    Raises:
        BandError: the scene lacks a band of the model.
        ShapeError: the scene is smaller than a token.
        ConfigError: such cells do not fit the model.
    """
    side = cell_side(encoder.patch_size, cell_px)
    strips = _embed_strips(
        encoder, preprocessing, item, window, side, overlap, batch_size
    )
    _, values, valid, _ = zip(*strips, strict=True)
    grid = _cell_grid(item, preprocessing, window, side)
    return SceneEmbedding(np.concatenate(values), np.concatenate(valid), grid, side)


def cell_side(patch: int, cell_px: int | None) -> int:
    """Return the side of a cell, px: that of a patch, unless another one is stated.

    Raises:
        ConfigError: it does not divide the patch.
    """
    side = patch if cell_px is None else cell_px
    if side < 1 or patch % side:
        fitting = [str(s) for s in range(1, patch + 1) if patch % s == 0]
        raise ConfigError(
            f"cells of {side} px do not divide the model's patches of {patch} px: "
            f"use {', '.join(fitting)}."
        )
    return side


def fingerprint(loaded: LoadedModel) -> str:
    """Return a text that is the same for the same encoder and preprocessing only."""
    contract = loaded.preprocessing
    found = hashlib.sha256()
    found.update(json.dumps(contract and contract.to_dict(), sort_keys=True).encode())
    for name, weights in sorted(loaded.encoder.state_dict().items()):
        found.update(name.encode())
        found.update(weights.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:_DIGITS]


def embed_to_raster(
    loaded: LoadedModel,
    contract: Preprocessing,
    item: RasterFile,
    encoder: str,
    path: Path,
    *,
    cell_px: int | None = None,
    batch_size: int = 16,
    number_type: NumberType = "float16",
    reflectance: bool = True,
    progress: Callable[[float], None] | None = None,
) -> EmbeddingRaster:
    """Embed one scene; cells without a valid pixel are nodata.

    Args:
        loaded: the model, on the device to use.
        contract: its input.
        item: the scene.
        encoder: see `fingerprint`.
        path: the raster, which appears when it is whole.
        cell_px: see `cell_side`.
        batch_size: windows encoded at once.
        number_type: `float16` or `int8`.
        reflectance: write mean and deviation of the reflectance in each cell, too.
        progress: called with the share that is done, 0..1.

    Raises:
        DataError: the scene has no valid pixel, or the model gives no numbers.
        RasterError: the scene cannot be read, or the raster not written.
    """
    side = cell_side(loaded.encoder.patch_size, cell_px)
    bands = choose_bands(contract, item)
    source = EmbeddingSource(
        encoder=encoder,
        scene=item.name,
        width=loaded.encoder.embed_dim,
        patch_px=loaded.encoder.patch_size,
        cell_px=side,
        bands=tuple(bands[at] for at in present(item, bands)) if reflectance else (),
        version=__version__,
        trained_on=str(loaded.extra.get("trained_on", "")),
        resampling="".join(resampling_of([item]).values()),
        deviations=reflectance,
    )
    grid = _cell_grid(item, contract, None, side)
    some = False
    with writing_embeddings(path, grid, source, number_type) as write:
        for row, embedded, valid, described in _embed_strips(
            loaded.encoder, contract, item, None, side, batch_size=batch_size
        ):
            known = valid > 0
            some = some or bool(known.any())
            values = np.concatenate([embedded, described][: 1 + reflectance], axis=-1)
            if not np.isfinite(values[known]).all():
                raise DataError(f"{item.name}: the model gives no finite embeddings.")
            values[~known] = np.nan
            write(row, np.moveaxis(values, -1, 0))
            if progress is not None:
                progress((row + len(values)) / grid.height)
        if not some:
            raise DataError(f"{item.name} has no valid pixel: leave it out.")
    return open_embeddings(path)


def write_embedding_item(
    made: EmbeddingRaster, item: RasterFile, model: str
) -> Path | None:
    """Describe a raster of embeddings, and its picture, as a STAC item beside it.

    Args:
        made: the raster.
        item: the scene.
        model: what made it.

    Returns:
        The file; None if it cannot be one, see `write_item`.
    """
    assets = {"embeddings": _embedding_asset(made)}
    title = "Principal components as colours"
    return write_item(made.path, made.grid, assets, [item.date], model, title)


def _embedding_asset(raster: EmbeddingRaster) -> dict[str, Any]:
    """Describe a raster of embeddings: a layer per dimension, then the reflectance."""
    source = raster.source
    dtype = raster.dtypes[0]
    is_float = dtype == "float32"
    known = {band.name: band for band in source.bands}
    bands = []
    for name, (scale, offset) in zip(source.layer_names, raster.scales, strict=True):
        band: dict[str, Any] = {"name": name, "data_type": dtype}
        band["nodata"] = "nan" if is_float else -128
        if not is_float:
            band |= {"raster:scale": scale, "raster:offset": offset}
        if name in known:
            micrometres = known[name].wavelength_nm / _NM_PER_UM
            band["eo:center_wavelength"] = micrometres
        bands.append(band)
    encoder = {"spectralgpt:encoder": source.encoder}
    title = "Embedding of each cell"
    return describe_asset(raster.path, title, **encoder, bands=bands)


def _cell_grid(
    item: RasterFile, preprocessing: Preprocessing, place: Window | None, side: int
) -> Grid:
    """Return the grid whose pixels are the cells of a scene, or of a place in it."""
    scene = item.grid(choose_bands(preprocessing, item))
    return scene.coarsened(place or Window(0, 0, scene.height, scene.width), side)


def _embed_strips(
    encoder: Encoder,
    preprocessing: Preprocessing,
    item: RasterFile,
    place: Window | None,
    cell: int,
    overlap: float = 0.5,
    batch_size: int = 16,
) -> Iterator[_CellStrip]:
    """Embed every cell of a scene, or of a place in it, from the top down.

    Windows of the model's image size overlap. A cell is the mean of the tokens whose
    centre lies on it, or on its corner where patches have an even number of cells a
    side, over all windows, weighted towards their centres, so that window borders leave
    no seam. What only tells where in the window a token lies is subtracted (see
    `_position_response`). Beyond the scene's edge pixels are mirrored. Cells smaller
    than a patch may need more overlap than they are asked to have.
    """
    patch, size = encoder.patch_size, preprocessing.image_size
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, patch)
    encoder.absent_groups, had = absent_groups([item]), present(item, bands)
    scene = item.grid(bands)
    place = place or Window(0, 0, scene.height, scene.width)
    covered = scene.coarsened(place, cell)
    height, width = covered.height * cell, covered.width * cell
    rows, columns = (
        _starts(length, size, patch, cell, overlap) for length in (height, width)
    )
    plan = WindowPlan(rows, columns, size, height, width)
    strips, again = tee(_read_mirrored(item, bands, place, plan))
    shown = (
        (strip, row, below)
        for strip, (row, below) in zip(again, plan.strips(), strict=True)
        if below > 0
    )
    by_place = _position_response(encoder, size)
    embedded = compute_strips(
        cut_batches([strips], plan, batch_size),
        plan,
        preprocessing,
        partial(_encode_cells, encoder, by_place, patch // cell),
        encoder.embed_dim,
        cell=cell,
        # Not for speed's sake: what numpy computes with more threads may differ.
        ahead=False,
    )
    for (first, values), (strip, row, below) in zip(embedded, shown, strict=True):
        left = -columns[0]
        seen = np.s_[had, first - row : below - row, left : left + width]
        valid = strip.valid[seen]
        described, shares = _describe_cells(strip.pixels[seen], valid, cell)
        known = np.ascontiguousarray(np.moveaxis(np.nan_to_num(values), 0, -1))
        yield first // cell, known, shares, described


def _position_response(encoder: Encoder, size: int) -> FloatArray:
    """Return what cells hold for where they lie in a window, whatever it shows.

    A map of embeddings would show it as stripes that repeat with the windows. It is the
    mean response to flat images, less its own mean over the cells, and so depends on
    the encoder alone: (Hp, Wp, D), of windows of `size` px.
    """
    levels = torch.tensor(_FLAT_LEVELS).reshape(-1, 1, 1, 1)
    flat = levels.expand(-1, encoder.num_bands, size, size)
    response = _encode(encoder, flat).mean(axis=0)
    centred: FloatArray = response - response.mean(axis=(0, 1))
    return centred


def _encode_cells(
    encoder: Encoder,
    by_place: FloatArray,
    parts: int,
    batch: WindowBatch,
    images: FloatArray,
    _: BoolArray,
) -> tuple[WindowBatch, Iterator[FloatArray]]:
    """Encode windows (B, 1, C, H, W), with some parts along a patch.

    Returns them with cells (D, h, w) each, known on and beside tokens' centres.
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


def _describe_cells(
    pixels: FloatArray, valid: BoolArray, cell: int
) -> tuple[FloatArray, FloatArray]:
    """Return mean and deviation of each band in cells, and their valid share."""
    counts = _block_sums(valid, cell)
    seen = np.where(valid, pixels, np.float32(0))
    squares = np.square(seen, dtype=np.float64)
    means, powers = (
        _block_sums(each, cell) / np.maximum(counts, 1) for each in (seen, squares)
    )
    # In double precision what is lost of a variance is far below reflectance's digits.
    deviations = np.sqrt(np.maximum(powers - means**2, 0))
    described = np.concatenate([means, deviations]).astype(np.float32)
    shares = (counts.mean(axis=0) / cell**2).astype(np.float32)
    return np.moveaxis(described, 0, -1), shares


def _block_sums(pixels: NDArray[np.generic], cell: int) -> NDArray[np.float64]:
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // cell, cell, width // cell, cell)
    return np.asarray(np.add.reduce(blocks, axis=(2, 4), dtype=np.float64))


def _encode(encoder: Encoder, images: Tensor) -> FloatArray:
    """Encode windows to tokens averaged over spectral groups, (B, h, w, D)."""
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        tokens = encoder(images.to(device))  # (B, G, Hp, Wp, D)
        cells = check_output(tokens.mean(dim=1).float().cpu())  # (B, Hp, Wp, D)
    return cells.numpy()
