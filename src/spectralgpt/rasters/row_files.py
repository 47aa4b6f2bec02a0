"""Rows of a map on disk while it is made, and the Cloud-Optimized GeoTIFF in the end.

A compressed file that is cut off in the middle is lost. While a map is made its numbers
therefore lie plain in a file, each at a place that its row tells, so that whatever was
written stays usable; GDAL turns it into a Cloud-Optimized GeoTIFF when it is whole.
"""

import contextlib
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from spectralgpt.errors import OutputError
from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.geometry import Grid

__all__ = ["Layers", "RowFile", "copy_as_cog", "output_error"]

_TYPES = {"uint8": "Byte", "int8": "Int8", "float32": "Float32"}
"""GDAL's names of NumPy's types."""
_PREDICTORS = {"uint8": "NO", "int8": "STANDARD", "float32": "FLOATING_POINT"}
_OPAQUE = 255
_HEX = 16


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
    dtype: Literal["uint8", "int8", "float32"]
    nodata: float
    overviews: Literal["mode", "nearest", "average"]
    categories: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


def output_error(path: Path, error: Exception) -> OutputError:
    """Say in one line that a file cannot be written, and why."""
    return OutputError(f"{path} cannot be written: {' '.join(str(error).split())}")


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
        RasterioError: it cannot be written.
    """
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


class RowFile:
    """The numbers of a map, layer after layer; a context manager.

    Args:
        path: the file; one of the right size is written further.
        grid: where the pixels lie.
        layers: what they hold.

    Raises:
        OutputError: the file cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path, grid: Grid, layers: Layers) -> None:
        self.path, self.grid, self.layers = path, grid, layers
        self._itemsize = np.dtype(layers.dtype).itemsize
        self._layer_bytes = grid.height * grid.width * self._itemsize
        size = self._layer_bytes * len(layers.names)
        try:
            path.touch()
            self._file = path.open("r+b")
        except OSError as error:
            raise output_error(path, error) from None
        try:
            if path.stat().st_size != size:
                _reserve(self._file.fileno(), size)
        except OSError as error:
            self.close()
            raise output_error(path, error) from None

    def write(self, row: int, numbers: NDArray[Any]) -> None:
        """Write rows (layers, rows, W), the first of them `row`.

        Raises:
            OutputError: they cannot be written, such as on a full disk.
        """
        try:
            for index, layer in enumerate(numbers.astype(self.layers.dtype)):
                start = index * self._layer_bytes
                self._file.seek(start + row * self.grid.width * self._itemsize)
                self._file.write(np.ascontiguousarray(layer).data)
        except OSError as error:
            raise output_error(self.path, error) from None

    def flush(self) -> None:
        """Make sure that what was written is on the disk.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(self.path, error) from None

    def export(self, path: Path) -> None:
        """Write a Cloud-Optimized GeoTIFF, the same bytes for the same numbers.

        Names of categories stand in a file `.aux.xml` beside it, where GDAL keeps them.

        Raises:
            OutputError: it cannot be written.
        """
        self.flush()
        try:
            with quiet_gdal(), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(self._describe(), driver="VRT") as source:
                    copy_as_cog(
                        source,
                        path,
                        self.layers.overviews,
                        _PREDICTORS[self.layers.dtype],
                    )
        except (RasterioError, OSError) as error:
            raise output_error(path, error) from None

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

    def _describe(self) -> str:
        """Describe the file as GDAL's virtual raster."""
        place = ""
        if self.grid.transform is not None:
            t = self.grid.transform
            numbers = ", ".join(repr(float(v)) for v in (t.c, t.a, t.b, t.f, t.d, t.e))
            place = f"<GeoTransform>{numbers}</GeoTransform>"
        if self.grid.crs is not None:
            wkt = CRS.from_user_input(self.grid.crs).to_wkt()
            # GDAL's order of axes in georeferenced files, longitude first.
            place += f'<SRS dataAxisToSRSAxisMapping="1,2">{escape(wkt)}</SRS>'
        tags = "".join(
            f"<MDI key={quoteattr(key)}>{escape(text)}</MDI>"
            for key, text in sorted(self.layers.tags.items())
        )
        bands = "".join(map(self._describe_layer, range(len(self.layers.names))))
        size = f'rasterXSize="{self.grid.width}" rasterYSize="{self.grid.height}"'
        return (
            f"<VRTDataset {size}>{place}<Metadata>{tags}</Metadata>{bands}</VRTDataset>"
        )

    def _describe_layer(self, index: int) -> str:
        layers, shown = self.layers, ""
        if layers.categories:
            names = "".join(
                f"<Category>{escape(n)}</Category>" for n in layers.categories
            )
            shown = f"<CategoryNames>{names}</CategoryNames>"
        if layers.colours:
            table = "".join(map(_entry, layers.colours))
            shown += (
                f"<ColorInterp>Palette</ColorInterp><ColorTable>{table}</ColorTable>"
            )
        source = escape(str(self.path.absolute()))
        return (
            f'<VRTRasterBand dataType="{_TYPES[layers.dtype]}" band="{index + 1}" '
            'subClass="VRTRawRasterBand">'
            f"<Description>{escape(layers.names[index])}</Description>"
            f"<NoDataValue>{layers.nodata}</NoDataValue>{shown}"
            f'<SourceFilename relativeToVRT="0">{source}</SourceFilename>'
            f"<ImageOffset>{index * self._layer_bytes}</ImageOffset>"
            f"<PixelOffset>{self._itemsize}</PixelOffset>"
            f"<LineOffset>{self.grid.width * self._itemsize}</LineOffset>"
            "<ByteOrder>LSB</ByteOrder></VRTRasterBand>"
        )


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size, and the room for it where the system can."""
    os.ftruncate(descriptor, 0)
    if hasattr(os, "posix_fallocate"):
        # A disk that is too small is found out before hours of work.
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _entry(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], _HEX) for i in (1, 3, 5))
    return f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="{_OPAQUE}"/>'
