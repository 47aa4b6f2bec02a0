"""Rasters of embeddings: every dimension a layer, as Cloud-Optimized GeoTIFFs.

Such a file says which encoder made it, so that vectors of different ones are never
compared. Mean reflectance of each cell may follow the dimensions.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import RasterError
from spectralgpt.files import parse_json
from spectralgpt.rasters.files import Header, open_raster, read_header
from spectralgpt.rasters.gdal import quiet_gdal, reading
from spectralgpt.rasters.grid import Grid, Window
from spectralgpt.rasters.write import (
    NO_INT8,
    Layers,
    NumberType,
    RowWriter,
    writing_map,
)
from spectralgpt.sensors import Band

FloatArray = NDArray[np.float32]
_log = logging.getLogger(__name__)
_MAKE_ONE = "make one with `spectralgpt embed SCENE --format geotiff`."
EMBEDDING_TAG = "SPECTRALGPT_EMBEDDING"
"""Stands in rasters of embeddings, with what they are of."""
_BLOCK_PX = 128
"""The smallest that a COG may have: a block holds every dimension of its cells."""
_MOST_NUMBERS = 2**24
"""Of a window that is read at once."""


@dataclass(frozen=True)
class EmbeddingSource:
    """What embeddings are of, stored in their raster.

    Args:
        encoder: fingerprint of weights and preprocessing.
        scene: name of the scene.
        width: dimensions D.
        patch_px: side of a patch of the scene, px.
        cell_px: side of a cell of the raster in pixels of the scene.
        bands: whose mean reflectance follows the dimensions; may be empty.
        version: of this package.
        trained_on: labelled images that the encoder was fine-tuned on; may be empty.
        resampling: how the scene's bands became the encoder's; empty if they are its.
        deviations: whether the deviation of each band within a cell follows the means.
    """

    encoder: str
    scene: str
    width: int
    patch_px: int
    cell_px: int
    bands: tuple[Band, ...]
    version: str
    trained_on: str = ""
    resampling: str = ""
    deviations: bool = False

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Descriptions of the layers: D000, D001, ..., then the bands."""
        dimensions = tuple(f"D{i:03d}" for i in range(self.width))
        means = tuple(band.name for band in self.bands)
        deviations = tuple(f"{name}_deviation" for name in means)
        return dimensions + means + (deviations if self.deviations else ())


@dataclass(frozen=True, kw_only=True)
class EmbeddingRaster(Header):
    """A raster of embeddings on disk; its pixels are cells.

    Its numbers are `float32`, in which NaN is nodata, or `int8`, in which -128 is.

    Args:
        path: its file.
        source: what it says of itself.
    """

    path: Path
    source: EmbeddingSource

    def read(
        self, window: Window | None = None, size: tuple[int, int] | None = None
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Read cells.

        Args:
            window: of cells; all if None.
            size: (rows, columns) to thin the window out to; None reads every cell.

        Returns:
            values (rows, columns, D + C), 0 where there is nothing, and whether there
            is something (rows, columns).

        Raises:
            RasterError: the file cannot be read to its end.
        """
        place = window or Window(0, 0, self.grid.height, self.grid.width)
        with quiet_gdal(), open_raster(self.path) as dataset, reading(self.path):
            shape = None if size is None else (dataset.count, *size)
            numbers = dataset.read(window=place.slices, out_shape=shape)
        is_int8 = self.dtypes[0] == "int8"
        valid = numbers[0] != NO_INT8 if is_int8 else np.isfinite(numbers[0])
        scales, offsets = np.array(self.scales, np.float32).T[..., None, None]
        values = numbers.astype(np.float32) * scales
        values = np.where(valid, values + offsets, np.float32(0))
        return np.ascontiguousarray(np.moveaxis(values, 0, -1)), valid

    def blocks(self) -> Iterator[Window]:
        """Cut the raster into windows of bounded memory, by rows, then columns."""
        layers = len(self.source.layer_names)
        columns = max(1, _MOST_NUMBERS // (_BLOCK_PX**2 * layers)) * _BLOCK_PX
        for row in range(0, self.grid.height, _BLOCK_PX):
            height = min(_BLOCK_PX, self.grid.height - row)
            for column in range(0, self.grid.width, columns):
                width = min(columns, self.grid.width - column)
                yield Window(row, column, height, width)


def list_embeddings(paths: Sequence[Path]) -> list[Path]:
    """Return rasters of embeddings: files as they are, all that lie in folders.

    Raises:
        RasterError: a folder holds none, or a GeoTIFF that cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(path.glob("*.tif"))
        own = [file for file in files if EMBEDDING_TAG in read_header(file).tags]
        if not own:
            raise RasterError(f"{path} holds no raster of embeddings: {_MAKE_ONE}")
        # Maps may have been made beside them.
        if others := [file.name for file in files if file not in own]:
            text = "%s: %d GeoTIFFs without embeddings are left out, such as %s."
            _log.warning(text, path, len(others), others[0])
        found += own
    return list(dict.fromkeys(found))


def open_embeddings(path: Path) -> EmbeddingRaster:
    """Read what a raster of embeddings says of itself.

    Raises:
        RasterError: it is missing, corrupt, or no raster of embeddings.
    """
    header = read_header(path)
    text = header.tags.get(EMBEDDING_TAG)
    if text is None:
        raise RasterError(f"{path} is no raster of embeddings: {_MAKE_ONE}")
    try:
        values = parse_json(text, EMBEDDING_TAG)
        bands = tuple(Band(**band) for band in values.pop("bands"))
        source = EmbeddingSource(bands=bands, **values)
        if len(source.layer_names) != header.count:
            raise ValueError(f"{header.count} layers")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RasterError(
            f"{path} has a broken tag {EMBEDDING_TAG} ({error}): embed the scene again."
        ) from None
    return EmbeddingRaster(**vars(header), source=source)


@contextmanager
def writing_embeddings(
    path: Path, grid: Grid, source: EmbeddingSource, number_type: NumberType
) -> Iterator[RowWriter]:
    """Write embeddings as they are made; the file appears when it is whole.

    Args:
        path: where to; an existing file is replaced.
        grid: where the cells lie.
        source: what they are of.
        number_type: `float16` for as many digits, or `int8` with a scale and an offset
            per layer, which is less than half the size and within half of a 254th of
            each layer's range.

    Yields:
        A function that writes rows (D + C, rows, W) from the top down, NaN for nodata.

    Raises:
        OutputError: the file cannot be written.
    """
    tags = {EMBEDDING_TAG: json.dumps(asdict(source))}
    layers = Layers(source.layer_names, "float32", float("nan"), "average", tags=tags)
    with writing_map(path, grid, layers, _BLOCK_PX, number_type) as write:
        yield write
