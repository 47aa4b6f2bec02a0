"""Rasters of embeddings: every dimension a layer, as Cloud-Optimized GeoTIFFs.

Such a file says which encoder made it, so that vectors of different ones are never
compared. Mean reflectance of each cell may follow the dimensions.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import RasterError
from spectralgpt.files import parse_json
from spectralgpt.rasters.files import open_place, open_raster
from spectralgpt.rasters.gdal import quiet_gdal, reading, writing
from spectralgpt.rasters.grid import Grid, Window
from spectralgpt.rasters.maps import RowWriter, making_in_folder, move_map
from spectralgpt.rasters.write import (
    Layers,
    RowFile,
    check_whole,
    copy_as_cog,
    create_geotiff,
)
from spectralgpt.sensors import Band

__all__ = [
    "EmbeddingRaster",
    "EmbeddingSource",
    "NumberType",
    "StoredNumbers",
    "is_embeddings",
    "open_embeddings",
    "writing_embeddings",
]

NumberType = Literal["float16", "int8"]
FloatArray = NDArray[np.float32]
_TAG = "SPECTRALGPT_EMBEDDING"
_BLOCK_PX = 128
"""The smallest that a COG may have: a block holds every dimension of its cells."""
_MOST_NUMBERS = 2**24
"""Of a window that is read at once."""
_LEVELS = 127
_NO_INT8 = -128


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
    """

    encoder: str
    scene: str
    width: int
    patch_px: int
    cell_px: int
    bands: tuple[Band, ...]
    version: str
    trained_on: str = ""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Descriptions of the layers: D000, D001, ..., then the bands."""
        dimensions = tuple(f"D{i:03d}" for i in range(self.width))
        return dimensions + tuple(band.name for band in self.bands)


@dataclass(frozen=True)
class StoredNumbers:
    """How a raster of embeddings stores its numbers.

    Args:
        dtype: `float32`, in which NaN is nodata, or `int8`, in which -128 is.
        scales: one a layer; values are numbers * scale + offset.
        offsets: one a layer.
    """

    dtype: Literal["float32", "int8"]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]


@dataclass(frozen=True)
class EmbeddingRaster:
    """A raster of embeddings on disk.

    Args:
        path: its file.
        grid: where the cells lie.
        source: what it says of itself.
    """

    path: Path
    grid: Grid
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
        with quiet_gdal(), open_raster(self.path) as dataset:
            with reading(self.path):
                shape = None if size is None else (dataset.count, *size)
                numbers = dataset.read(window=place.slices, out_shape=shape)
            scales = np.asarray(dataset.scales, np.float32)
            offsets = np.asarray(dataset.offsets, np.float32)
            is_int8 = dataset.dtypes[0] == "int8"
        valid = numbers[0] != _NO_INT8 if is_int8 else np.isfinite(numbers[0])
        values = numbers.astype(np.float32) * scales[:, None, None]
        values = np.where(valid, values + offsets[:, None, None], np.float32(0))
        return np.ascontiguousarray(np.moveaxis(values, 0, -1)), valid

    def stored(self) -> "StoredNumbers":
        """Say how the numbers are stored.

        Raises:
            RasterError: the file cannot be read.
        """
        with quiet_gdal(), open_raster(self.path) as dataset:
            scales, offsets = tuple(dataset.scales), tuple(dataset.offsets)
            is_int8 = dataset.dtypes[0] == "int8"
        return StoredNumbers("int8" if is_int8 else "float32", scales, offsets)

    def blocks(self) -> Iterator[Window]:
        """Cut the raster into windows of bounded memory, by rows, then columns."""
        layers = len(self.source.layer_names)
        columns = max(1, _MOST_NUMBERS // (_BLOCK_PX**2 * layers)) * _BLOCK_PX
        for row in range(0, self.grid.height, _BLOCK_PX):
            height = min(_BLOCK_PX, self.grid.height - row)
            for column in range(0, self.grid.width, columns):
                width = min(columns, self.grid.width - column)
                yield Window(row, column, height, width)


def is_embeddings(path: Path) -> bool:
    """Whether a raster says that it holds embeddings.

    Raises:
        RasterError: it is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        return _TAG in dataset.tags()


def open_embeddings(path: Path) -> EmbeddingRaster:
    """Read what a raster of embeddings says of itself.

    Raises:
        RasterError: it is missing, corrupt, or no raster of embeddings.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        grid, count = open_place(path)[0], dataset.count
        text = dataset.tags().get(_TAG)
    if text is None:
        raise RasterError(
            f"{path} is no raster of embeddings: make one with "
            "`spectralgpt embed SCENE --format geotiff`."
        )
    try:
        values = parse_json(text, _TAG)
        bands = tuple(Band(**band) for band in values.pop("bands"))
        source = EmbeddingSource(bands=bands, **values)
        if len(source.layer_names) != count:
            raise ValueError(f"{count} layers")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RasterError(
            f"{path} has a broken tag {_TAG} ({error}): embed the scene again."
        ) from None
    return EmbeddingRaster(path, grid, source)


@contextmanager
def writing_embeddings(
    path: Path, grid: Grid, source: EmbeddingSource, number_type: NumberType
) -> Iterator[RowWriter]:
    """Write embeddings as they are made; the file appears when it is whole.

    Args:
        path: where to; a file that is there is replaced.
        grid: where the cells lie.
        source: what they are of.
        number_type: `float16` for as many digits, or `int8` with a scale and an offset
            a layer, which is less than half the size and within half of a 254th of each
            layer's range.

    Yields:
        A function that writes rows (D + C, rows, W) from the top down, NaN for nodata.

    Raises:
        OutputError: the file cannot be written.
    """
    layers = Layers(
        source.layer_names,
        "float32",
        float("nan"),
        "average",
        tags={_TAG: json.dumps(asdict(source))},
    )
    with making_in_folder(path) as folder:
        whole = folder / path.name
        with RowFile(folder / f"{path.name}.rows", grid, layers) as rows:
            if number_type == "float16":
                yield lambda row, numbers: rows.write(row, _to_half(numbers))
                rows.export(whole, _BLOCK_PX)
            else:
                yield rows.write
                with writing(path), quiet_gdal():
                    levels = _to_int8(rows, folder / f"{path.name}.levels", source)
                    copy_as_cog(levels, whole, "average", blocksize=_BLOCK_PX)
        move_map(whole, path)


def _to_int8(rows: RowFile, path: Path, source: EmbeddingSource) -> Path:
    """Spread the range of each layer over the numbers of 8 bits."""
    grid = rows.grid
    low = np.full(len(source.layer_names), np.inf)
    high = -low
    for _, numbers in rows.read():
        np.minimum(low, _fill(numbers, np.inf).min(axis=(1, 2)), out=low)
        np.maximum(high, _fill(numbers, -np.inf).max(axis=(1, 2)), out=high)
    known = np.isfinite(low)
    low, high = np.where(known, low, 0.0), np.where(known, high, 0.0)
    offsets = (low + high) / 2
    scales = np.maximum(high - low, np.finfo(np.float32).tiny) / (2 * _LEVELS)
    with create_geotiff(
        path,
        grid,
        len(source.layer_names),
        "int8",
        nodata=_NO_INT8,
        blockysize=1,
        interleave="pixel",
        zlevel=1,
        bigtiff="if_safer",
    ) as target:
        target.descriptions = source.layer_names
        target.update_tags(**rows.layers.tags)
        target.scales, target.offsets = tuple(scales), tuple(offsets)
        for row, numbers in rows.read():
            levels = (numbers - offsets[:, None, None]) / scales[:, None, None]
            rounded = np.clip(np.rint(levels), -_LEVELS, _LEVELS)
            place = Window(row, 0, numbers.shape[1], grid.width)
            written = _fill(rounded, _NO_INT8).astype(np.int8)
            target.write(written, window=place.slices)
    check_whole(path)
    return path


def _to_half(numbers: NDArray[Any]) -> NDArray[Any]:
    """Round to the digits of 16-bit floats, which compress to about half the size.

    They stay float32: of 16-bit floats GDAL 3.10 writes what happens to lie in memory
    beside them, other bytes each time.
    """
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(half), half, numbers)


def _fill(numbers: NDArray[Any], value: float) -> NDArray[Any]:
    return np.where(np.isfinite(numbers), numbers, value)
