"""From scenes to rasters of embeddings, and which of them may be compared."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spectralgpt import __version__
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import DataError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile
from spectralgpt.rasters.embeddings import (
    EmbeddingRaster,
    EmbeddingSource,
    open_embeddings,
    writing_embeddings,
)
from spectralgpt.rasters.write import NumberType
from spectralgpt.scenes.embedding import CellOptions, cell_grid, embed_strips
from spectralgpt.scenes.inputs import name_maps
from spectralgpt.scenes.stac import embedding_asset, picture_asset, write_item
from spectralgpt.scenes.windows import choose_bands

_DIGITS = 16


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
    cells: CellOptions,
    *,
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
        cells: how the scene is embedded.
        number_type: `float16` or `int8`.
        reflectance: write the mean reflectance of each cell, too.
        progress: called with the share that is done, 0..1.

    Raises:
        DataError: the scene has no valid pixel, or the model gives no numbers.
        RasterError: the scene cannot be read, or the raster not written.
    """
    side = cells.side(loaded.encoder.patch_size)
    source = EmbeddingSource(
        encoder=encoder,
        scene=item.name,
        width=loaded.encoder.embed_dim,
        patch_px=loaded.encoder.patch_size,
        cell_px=side,
        bands=choose_bands(contract, item) if reflectance else (),
        version=__version__,
        trained_on=str(loaded.extra.get("trained_on", "")),
    )
    grid = cell_grid(item, contract, None, side)
    some = False
    with writing_embeddings(path, grid, source, number_type) as write:
        for strip in embed_strips(loaded.encoder, contract, item, cells):
            known = strip.valid > 0
            some = some or bool(known.any())
            layers = [strip.values, strip.reflectance][: 1 + reflectance]
            values = np.concatenate(layers, axis=-1)
            if not np.isfinite(values[known]).all():
                raise DataError(f"{item.name}: the model gives no finite embeddings.")
            values[~known] = np.nan
            write(strip.row, np.moveaxis(values, -1, 0))
            if progress is not None:
                progress((strip.row + len(values)) / grid.height)
        if not some:
            raise DataError(f"{item.name} has no valid pixel: leave it out.")
    return open_embeddings(path)


def write_embedding_item(
    made: EmbeddingRaster, item: RasterFile, model: str
) -> Path | None:
    """Describe a raster of embeddings, and its picture, as a STAC item.

    Args:
        made: the raster.
        item: the scene.
        model: what made it.

    Returns:
        The file beside the raster; None if it cannot be one, see `write_item`.
    """
    assets = {"embeddings": embedding_asset(made)}
    picture = made.path.with_suffix(".png")
    if picture.is_file():
        assets["quicklook"] = picture_asset(picture, "Principal components as colours")
    return write_item(
        made.path.with_suffix(".json"), made.grid, assets, [item.date], model
    )


def open_alike(paths: Sequence[Path]) -> list[EmbeddingRaster]:
    """Open rasters of embeddings that one encoder made, on cells of one size.

    Raises:
        DataError: they are of different encoders or cells, or none is named.
        RasterError: one cannot be read, or is none.
    """
    if not paths:
        raise DataError("name at least one raster of embeddings.")
    rasters = [open_embeddings(path) for path in paths]
    first = rasters[0]
    for other in rasters[1:]:
        for what in ("encoder", "cell_px", "width"):
            values = [getattr(raster.source, what) for raster in (first, other)]
            if values[0] != values[1]:
                raise DataError(
                    f"{first.path} and {other.path} differ in {what} ({values[0]} and "
                    f"{values[1]}): embed both scenes with the same model and cells."
                )
    return rasters


def name_results(paths: Sequence[Path], output: Path, what: str) -> list[Path]:
    """Return NAME_what.tif in the output folder for each raster.

    Raises:
        ConfigError: two rasters would share a result.
    """
    named = name_maps(list(paths), output)
    return [named[path].with_name(f"{named[path].stem}_{what}.tif") for path in paths]
