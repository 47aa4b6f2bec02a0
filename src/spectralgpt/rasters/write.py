"""Writing rasters, whole or not at all: GeoTIFFs, and maps row by row.

On a full disk GDAL does not always say that blocks are missing, so that what was
written is checked before it gets its name.

A compressed file that is cut off in the middle is lost. While a map is made its numbers
therefore lie uncompressed in a file, each at a place given by its row, so that whatever
was written stays usable; GDAL turns it into a Cloud-Optimized GeoTIFF when it is whole.
"""

import contextlib
import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning

from spectralgpt import __version__
from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.files import folder_beside, may_replace, sync_file
from spectralgpt.rasters.files import SENSOR_TAG, UNIT_TAG
from spectralgpt.rasters.gdal import quiet_gdal, writing
from spectralgpt.rasters.grid import Grid, Raster, Window
from spectralgpt.rasters.styles import LEGEND_SUFFIX, style_paths, write_styles

NumberType = Literal["float16", "int8"]
RowWriter = Callable[[int, NDArray[Any]], object]
"""Takes the first row and the numbers (layers, rows, W)."""
NO_INT8 = -128
"""What a map of `int8` holds where nothing is known."""
_LEVELS = 127
_SOFTWARE = f"spectralgpt {__version__}"
NO_CLASS = 255
"""What a map of classes holds where the image shows nothing."""
CLASS_TAG, SOFTWARE_TAG = "CLASS_", "TIFFTAG_SOFTWARE"
_TYPES = {"uint8": 1, "float32": 4}
"""ENVI's numbers of NumPy's types."""
_PREDICTORS = {"uint8": "NO", "float32": "FLOATING_POINT"}
_READ_BYTES = 64 * 2**20
_OPAQUE = 255
_HEX = 16
_GIGABYTE = 1e9


def write_geotiff(
    path: Path | str, raster: Raster, sensor: str | None = None, overwrite: bool = False
) -> Path:
    """Write a raster as float32 reflectance, NaN where invalid.

    Bands are described by name, and the unit and sensor stand in tags, so that
    `describe_raster` needs nothing else. The file appears whole or not at all.

    Args:
        path: where to.
        raster: what.
        sensor: name in the registry, for the tag.
        overwrite: replace an existing file.

    Raises:
        RasterError: the file is there already, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RasterError(f"{path} exists. Choose another name, or pass overwrite.")
    tags = {UNIT_TAG: raster.unit} | ({SENSOR_TAG: sensor} if sensor else {})
    bands, height, width = raster.pixels.shape
    grid = Grid(height, width, raster.transform, raster.crs)
    with _making(path, grid, bands, "float32", nodata=float("nan")) as dataset:
        dataset.write(np.where(raster.valid, raster.pixels, np.float32("nan")))
        dataset.descriptions = raster.band_names
        dataset.update_tags(**tags)
    return path


def write_numbers(
    path: Path,
    numbers: NDArray[np.generic],
    grid: Grid,
    descriptions: Sequence[str],
    *,
    nodata: float | None,
    scale: tuple[float, float] = (1.0, 0.0),
    tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> Path:
    """Write whole numbers with what they mean; makes the folder, replaces the file.

    Args:
        path: where to.
        numbers: (C, H, W) integers.
        grid: where they lie.
        descriptions: C names of the layers.
        nodata: number that means no measurement.
        scale: (factor, addend) that the file states: value = number * factor + addend.
        tags: of the file.
        colours: (red, green, blue) of each number, 0..255, for one layer of uint8.

    Raises:
        OutputError: the file cannot be written.
    """
    count = len(numbers)
    options = {"nodata": nodata, "zlevel": 1, "predictor": 2, "interleave": "band"}
    with _making(path, grid, count, numbers.dtype, **options) as dataset:
        if colours is not None:
            dataset.write_colormap(1, dict(colours))
        dataset.write(numbers)
        dataset.descriptions = tuple(descriptions)
        dataset.scales = (scale[0],) * count
        dataset.offsets = (scale[1],) * count
        dataset.update_tags(**dict(tags or {}))
    return path


def write_strips(path: Path, grid: Grid, strips: Iterable[NDArray[np.uint8]]) -> Path:
    """Write one layer of uint8 from strips of rows, from the top down.

    Args:
        path: where to.
        grid: where it lies.
        strips: (h, W) each; their heights sum to that of the grid.

    Raises:
        OutputError: the file cannot be written.
    """
    row = 0
    with _making(path, grid, 1, "uint8", zlevel=1) as dataset:
        for strip in strips:
            window = Window(row, 0, len(strip), grid.width)
            dataset.write(strip, 1, window=window.slices)
            row += len(strip)
    return path


@contextmanager
def _making(
    path: Path, grid: Grid, count: int, dtype: Any, **options: Any
) -> Iterator[rasterio.io.DatasetWriter]:
    """Open a GeoTIFF to be written, which is moved to its place when it is whole."""
    with writing(path), folder_beside(path) as folder:
        made = folder / path.name
        # GDAL does not say why it can make no file.
        made.touch()
        with (
            quiet_gdal(),
            _create_geotiff(made, grid, count, dtype, **options) as dataset,
        ):
            yield dataset
        _check_whole(made)
        made.replace(path)


def _create_geotiff(
    path: Path, grid: Grid, count: int, dtype: Any, **options: Any
) -> rasterio.io.DatasetWriter:
    """Open a GeoTIFF on a grid, inside `quiet_gdal`; see `_check_whole`."""
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=count,
        dtype=dtype,
        crs=grid.crs,
        transform=grid.transform,
        compress="deflate",
        **options,
    )


def _check_whole(path: Path) -> None:
    """Check every block of a GeoTIFF, compressed by deflate, that was just written."""
    sync_file(path)
    with quiet_gdal(), rasterio.open(path, driver="GTiff") as dataset:
        levels = range(len(dataset.overviews(1)))
    for level in (None, *levels):
        choice = {} if level is None else {"overview_level": level}
        with (
            quiet_gdal(),
            rasterio.open(path, driver="GTiff", **choice) as dataset,
            path.open("rb") as file,
        ):
            is_shared = dataset.interleaving == Interleaving.pixel
            for layer in [1] if is_shared else dataset.indexes:
                _check_blocks(dataset, layer, file)


def _check_blocks(dataset: rasterio.DatasetReader, layer: int, file: BinaryIO) -> None:
    """Compare the blocks of a layer with their checksums, which GDAL does not do.

    GDAL reads a missing block as nodata, and a truncated one as whatever it decodes to.
    """
    for (row, column), _ in dataset.block_windows(layer):
        offset, size = (
            int(dataset.get_tag_item(f"{name}_{column}_{row}", "TIFF", layer) or 0)
            for name in ("BLOCK_OFFSET", "BLOCK_SIZE")
        )
        file.seek(offset)
        try:
            zlib.decompress(file.read(size))
        except zlib.error:
            raise OSError(f"block {row}, {column} of layer {layer} is lost") from None


@dataclass(frozen=True)
class Layers:
    """What the layers of a map hold, and how programs are to show them.

    Args:
        names: one per layer.
        dtype: NumPy's name of the type of the numbers.
        nodata: number that means nothing is known.
        overviews: how smaller versions are made; `nearest` and `mode` invent no class.
        categories: what the numbers 0, 1, ... of a single layer are called.
        colours: one a category, such as "#1b7837".
        tags: text by key.
        layer_tags: the same of each layer; none if empty.
        unit: of the numbers, as GDAL keeps it of each layer; "" states none.
    """

    names: tuple[str, ...]
    dtype: Literal["uint8", "float32"]
    nodata: float
    overviews: Literal["mode", "nearest", "average"]
    categories: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    layer_tags: tuple[dict[str, str], ...] = ()
    unit: str = ""

    @classmethod
    def of_classes(
        cls,
        names: Sequence[str],
        colours: Sequence[str],
        tags: Mapping[str, str] | None = None,
    ) -> "Layers":
        """Describe a map of class indices in 8-bit numbers.

        Names stand in tags CLASS_0, CLASS_1, ..., which `spectralgpt.data.dense` reads
        in masks, and as GDAL's names of categories, of which QGIS makes its legend.

        Args:
            names: of the classes, in the order of their indices.
            colours: one per class, such as "#1b7837".
            tags: further text by key.

        Raises:
            ConfigError: there are more classes than 8-bit numbers.
        """
        if len(names) > NO_CLASS:
            raise ConfigError(
                f"{len(names)} classes do not fit a map of 8-bit numbers, which holds "
                f"{NO_CLASS}. Fine-tune with fewer classes."
            )
        classes = {f"{CLASS_TAG}{i}": name for i, name in enumerate(names)}
        stated = {SOFTWARE_TAG: _SOFTWARE, **(tags or {})} | classes
        categories, shown = tuple(names), tuple(colours)
        return cls(("class",), "uint8", NO_CLASS, "mode", categories, shown, stated)

    @classmethod
    def of_measures(
        cls, names: Sequence[str], tags: Mapping[str, str] | None = None, unit: str = ""
    ) -> "Layers":
        """Describe layers of measured numbers, float32, NaN for nodata."""
        stated = {SOFTWARE_TAG: _SOFTWARE, **(tags or {})}
        nodata = float("nan")
        return cls(tuple(names), "float32", nodata, "average", tags=stated, unit=unit)


@contextmanager
def writing_map(
    path: Path,
    grid: Grid,
    layers: Layers,
    block_px: int = 512,
    number_type: NumberType | None = None,
) -> Iterator[RowWriter]:
    """Write a map that appears when it is whole, or not at all.

    Args:
        path: where to; an existing file is replaced.
        grid: where the pixels lie.
        layers: what it holds.
        block_px: see `RowFile.export`.
        number_type: to round floats to, None for all their digits: `float16` for as
            many digits as that has, or `int8` with a scale and an offset per layer,
            which is less than half the size and within half of a 254th of each layer's
            range.

    Yields:
        A function that writes rows (layers, rows, W) from the top down.

    Raises:
        OutputError: the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            folder = stack.enter_context(folder_beside(path))
        made = folder / path.name
        with RowFile(folder / f"{path.name}.rows", grid, layers) as rows:
            if number_type == "float16":
                yield lambda row, numbers: rows.write(row, _to_half(numbers))
            else:
                yield rows.write
            if number_type == "int8":
                with writing(path), quiet_gdal():
                    levels = _to_int8(rows, folder / f"{path.name}.levels")
                    _copy_as_cog(levels, made, layers.overviews, blocksize=block_px)
            else:
                rows.export(made, block_px)
        move_map(made, path)


def move_map(made: Path, path: Path) -> None:
    """Move a whole map, with its classes' names and style, to where it is wanted.

    Names and style that spectralgpt did not write stay as they are.

    Raises:
        OutputError: it cannot be moved.
    """
    with writing(path):
        for source, target in zip(style_paths(made), style_paths(path), strict=True):
            if source.is_file() and may_replace(target):
                source.replace(target)
        made.replace(path)


def _copy_as_cog(
    source: rasterio.DatasetReader | Path,
    path: Path,
    overviews: str,
    predictor: str = "YES",
    **options: Any,
) -> None:
    """Copy a raster as Cloud-Optimized GeoTIFF, inside `quiet_gdal`."""
    try:
        rasterio.shutil.copy(
            source,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor=predictor,
            overview_resampling=overviews.upper(),
            bigtiff="IF_SAFER",
            num_threads="ALL_CPUS",
            **options,
        )
        _check_whole(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class RowFile:
    """The numbers of a map: rows, in each the layers in turn; a context manager.

    Args:
        path: the file; one of the right size is written further.
        grid: where the pixels lie.
        layers: what they hold.

    Raises:
        OutputError: the file cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path, grid: Grid, layers: Layers) -> None:
        self.path, self.grid, self.layers = path, grid, layers
        self._row_bytes = (
            len(layers.names) * grid.width * np.dtype(layers.dtype).itemsize
        )
        size = grid.height * self._row_bytes
        with writing(path):
            path.touch()
            self._file = path.open("r+b")
            try:
                if path.stat().st_size != size:
                    # Refused before a part of it is reserved.
                    if size > shutil.disk_usage(path.parent).free + path.stat().st_size:
                        raise OSError(f"it takes {size / _GIGABYTE:.3g} GB")
                    _reserve(self._file.fileno(), size)
            except OSError:
                self.close()
                # What was reserved of it holds nothing.
                path.unlink(missing_ok=True)
                raise

    def write(self, row: int, numbers: NDArray[Any]) -> str:
        """Write rows (layers, rows, W), the first of them `row`.

        Returns:
            Their checksum, see `digest`.

        Raises:
            OutputError: they cannot be written, such as on a full disk.
        """
        rows = numbers.astype(self.layers.dtype).swapaxes(0, 1)
        data = np.ascontiguousarray(rows).data
        with writing(self.path):
            self._file.seek(row * self._row_bytes)
            self._file.write(data)
        return hashlib.sha256(data).hexdigest()

    def digest(self, row: int, below: int) -> str:
        """Return the checksum of the rows from `row` to above `below` in the file.

        Raises:
            OutputError: they cannot be read.
        """
        found = hashlib.sha256()
        with writing(self.path), self.path.open("rb") as file:
            file.seek(row * self._row_bytes)
            left = (below - row) * self._row_bytes
            while left > 0 and (part := file.read(min(left, _READ_BYTES))):
                found.update(part)
                left -= len(part)
        return found.hexdigest()

    def read(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the first row, and rows (layers, rows, W), from the top down.

        Raises:
            OutputError: they cannot be read.
        """
        self.flush()
        shape = (-1, len(self.layers.names), self.grid.width)
        rows = max(1, _READ_BYTES // self._row_bytes)
        for row in range(0, self.grid.height, rows):
            size = min(rows, self.grid.height - row) * self._row_bytes
            with writing(self.path), self.path.open("rb") as file:
                file.seek(row * self._row_bytes)
                numbers = np.frombuffer(file.read(size), self.layers.dtype)
            yield row, numbers.reshape(shape).swapaxes(0, 1)

    def flush(self) -> None:
        """Make sure that what was written is on the disk.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def export(self, path: Path, block_px: int = 512) -> None:
        """Write a Cloud-Optimized GeoTIFF, the same bytes for the same numbers.

        Names and colours of categories stand beside it, see `write_styles`.

        Args:
            path: where to.
            block_px: side of its blocks, 128 at least.

        Raises:
            OutputError: it cannot be written.
        """
        self.flush()
        with writing(path), quiet_gdal(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with self._open() as source:
                _copy_as_cog(
                    source,
                    path,
                    self.layers.overviews,
                    _PREDICTORS[self.layers.dtype],
                    blocksize=block_px,
                )
            if self.layers.categories:
                write_styles(path, self.layers.categories, self.layers.colours)

    def close(self) -> None:
        """Close the file; may be called twice."""
        # A full disk was reported when the rows were flushed.
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> rasterio.io.DatasetWriter:
        """Open the file as a raster that says what it holds, inside `quiet_gdal`."""
        values = {
            "samples": self.grid.width,
            "lines": self.grid.height,
            "bands": len(self.layers.names),
            "data type": _TYPES[self.layers.dtype],
            "interleave": "bil",
            "byte order": 0,
        }
        header = "".join(f"{key} = {value}\n" for key, value in values.items())
        self._beside(".hdr").write_text(f"ENVI\n{header}", encoding="ascii")
        # What an export that was stopped had GDAL say of the file.
        self._beside(LEGEND_SUFFIX).unlink(missing_ok=True)
        dataset = rasterio.open(self.path, "r+", driver="ENVI")
        if self.grid.transform is not None:
            dataset.transform = self.grid.transform
        if self.grid.crs is not None:
            dataset.crs = CRS.from_user_input(self.grid.crs)
        dataset.nodata = self.layers.nodata
        dataset.descriptions = self.layers.names
        dataset.update_tags(**self.layers.tags)
        for layer, tags in enumerate(self.layers.layer_tags, start=1):
            dataset.update_tags(layer, **tags)
        if self.layers.unit:
            dataset.units = [self.layers.unit] * len(self.layers.names)
        if self.layers.colours:
            table = dict(enumerate(map(_rgba, self.layers.colours)))
            dataset.write_colormap(1, table)
        return dataset

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size, and the room for it where the system can."""
    os.ftruncate(descriptor, 0)
    if hasattr(os, "posix_fallocate"):
        # A disk that is too small is found out before hours of work.
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _rgba(colour: str) -> tuple[int, ...]:
    return (*(int(colour[i : i + 2], _HEX) for i in (1, 3, 5)), _OPAQUE)


def _to_int8(rows: RowFile, path: Path) -> Path:
    """Spread the range of each layer over the numbers of 8 bits."""
    grid, names = rows.grid, rows.layers.names
    low = np.full(len(names), np.inf)
    high = -low
    for _, numbers in rows.read():
        np.minimum(low, _fill(numbers, np.inf).min(axis=(1, 2)), out=low)
        np.maximum(high, _fill(numbers, -np.inf).max(axis=(1, 2)), out=high)
    known = np.isfinite(low)
    low, high = np.where(known, low, 0.0), np.where(known, high, 0.0)
    offsets = (low + high) / 2
    scales = np.maximum(high - low, np.finfo(np.float32).tiny) / (2 * _LEVELS)
    with _create_geotiff(
        path,
        grid,
        len(names),
        "int8",
        nodata=NO_INT8,
        blockysize=1,
        interleave="pixel",
        zlevel=1,
        bigtiff="if_safer",
    ) as target:
        target.descriptions = names
        target.update_tags(**rows.layers.tags)
        target.scales, target.offsets = tuple(scales), tuple(offsets)
        for row, numbers in rows.read():
            levels = (numbers - offsets[:, None, None]) / scales[:, None, None]
            rounded = np.clip(np.rint(levels), -_LEVELS, _LEVELS)
            place = Window(row, 0, numbers.shape[1], grid.width)
            written = _fill(rounded, NO_INT8).astype(np.int8)
            target.write(written, window=place.slices)
    _check_whole(path)
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
