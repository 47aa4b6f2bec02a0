"""Rows of a map on disk while it is made, and the Cloud-Optimized GeoTIFF in the end.

A compressed file that is cut off in the middle is lost. While a map is made its numbers
therefore lie plain in a file, each at a place that its row tells, so that whatever was
written stays usable; GDAL turns it into a Cloud-Optimized GeoTIFF when it is whole.
"""

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.gdal_errors import writing
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.writing import check_whole

__all__ = ["LEGEND_SUFFIX", "Layers", "RowFile", "copy_as_cog"]

LEGEND_SUFFIX = ".aux.xml"
"""Of the file beside a map that holds the names of its classes."""
_TYPES = {"uint8": 1, "float32": 4}
"""ENVI's numbers of NumPy's types."""
_PREDICTORS = {"uint8": "NO", "float32": "FLOATING_POINT"}
_READ_BYTES = 64 * 2**20
_OPAQUE = 255
_HEX = 16
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Layers:
    """What the layers of a map hold, and how programs are to show them.

    Args:
        names: one a layer.
        dtype: NumPy's name of the type of the numbers.
        nodata: number that means nothing is known.
        overviews: how smaller versions are made; `nearest` and `mode` invent no class.
        categories: what the numbers 0, 1, ... of a single layer are called.
        colours: one a category, such as "#1b7837".
        tags: text by key.
    """

    names: tuple[str, ...]
    dtype: Literal["uint8", "float32"]
    nodata: float
    overviews: Literal["mode", "nearest", "average"]
    categories: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


def copy_as_cog(
    source: rasterio.DatasetReader | Path,
    path: Path,
    overviews: str,
    predictor: str = "YES",
    **options: Any,
) -> None:
    """Copy a raster as Cloud-Optimized GeoTIFF, inside `quiet_gdal`.

    Args:
        source: an open raster, or a file.
        path: where to.
        overviews: how smaller versions are made, such as `average`.
        predictor: of the compression; GDAL chooses one that suits by `YES`.
        **options: further creation options of GDAL's driver.

    Raises:
        RasterioError: it cannot be written; or one of the other `GDAL_ERRORS`.
        OSError: the disk holds less of it than was written.
    """
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
        check_whole(path)
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
                    _check_room(path, size)
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

        Names of categories stand in a file `.aux.xml` beside it, where GDAL keeps them.

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
                copy_as_cog(
                    source,
                    path,
                    self.layers.overviews,
                    _PREDICTORS[self.layers.dtype],
                    blocksize=block_px,
                )
            if self.layers.categories:
                _write_legend(path, self.layers.categories)

    def close(self) -> None:
        """Close the file; may be called twice."""
        # A full disk was reported when the rows were flushed.
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        if self.layers.colours:
            table = dict(enumerate(map(_rgba, self.layers.colours)))
            dataset.write_colormap(1, table)
        return dataset

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


def _write_legend(path: Path, categories: Sequence[str]) -> None:
    """Write the names of a map's numbers where GDAL and QGIS look for them."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for category in categories:
        ElementTree.SubElement(names, "Category").text = category
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    path.with_name(path.name + LEGEND_SUFFIX).write_text(f"{text}\n", encoding="utf-8")


def _check_room(path: Path, size: int) -> None:
    """Refuse a file that the disk has no room for, before a part of it is reserved."""
    if size > shutil.disk_usage(path.parent).free + path.stat().st_size:
        raise OSError(f"it takes {size / _GIGABYTE:.3g} GB")


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
