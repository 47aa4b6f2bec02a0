"""NumPy array files (.npy) as rasters, windowed like any other.

Axes are rows, columns and bands, with dates before them, as eo-learn stores them:
(H, W), (H, W, C) or (T, H, W, C). Layer t * C + c + 1 is band c of date t. Such a file
says neither what its bands are nor where it lies.

GDAL's ENVI driver, which reads the rows of a map in the making, knows neither 8-bit
numbers with a sign nor several bands at several dates; its raw virtual rasters do.
"""

import math
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.lib import format as npy

from spectralgpt.errors import RasterError

__all__ = ["ARRAY_START", "open_array"]

ARRAY_START = npy.MAGIC_PREFIX
"""The first bytes of the files."""
_TYPES = {
    "u1": "Byte",
    "i1": "Int8",
    "u2": "UInt16",
    "i2": "Int16",
    "u4": "UInt32",
    "i4": "Int32",
    "f4": "Float32",
    "f8": "Float64",
}
"""GDAL's names of NumPy's types."""
_MOST_AXES = 4
_LINK, _DESCRIPTION = "numbers", "array.vrt"


def open_array(path: Path) -> rasterio.DatasetReader:
    """Open an array file, inside `quiet_gdal`.

    Args:
        path: the file; nothing of it but the header is read before pixels are.

    Raises:
        RasterError: the header is broken, the file too short, or the array of a kind
            that is no raster.
        OSError: it cannot be linked to from the folder for temporary files.
    """
    # GDAL 3.12 wants the numbers beside their description, under a relative name. It
    # holds both open, so that the folder may go.
    with tempfile.TemporaryDirectory(prefix="spectralgpt-") as folder:
        (Path(folder) / _LINK).symlink_to(path.absolute())
        description = Path(folder) / _DESCRIPTION
        description.write_text(_describe(path), encoding="utf-8")
        return rasterio.open(description, driver="VRT")


def _describe(path: Path) -> str:
    """Describe where each layer lies; nothing of the file but the header is read."""
    try:
        with path.open("rb") as file:
            shape, is_fortran, dtype = _read_header(file)
            start = file.tell()
    except (ValueError, OSError, SyntaxError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RasterError(f"{path} has a broken NumPy header: {reason}") from None
    kind = _TYPES.get(dtype.str[1:])
    if (
        kind is None
        or not 2 <= len(shape) <= _MOST_AXES
        or min(shape) < 1
        or is_fortran
    ):
        order = ", columns first" if is_fortran else ""
        raise RasterError(
            f"{path} holds an array of shape {shape} and type {dtype}{order}: a raster "
            "has 2 to 4 axes (dates, rows, columns, bands) of numbers, in C order."
        )
    # Not numpy's product, which wraps around.
    needed = start + math.prod(shape) * dtype.itemsize
    if path.stat().st_size < needed:
        raise RasterError(
            f"{path} is truncated: {path.stat().st_size} bytes of {needed}. Fetch it "
            "again."
        )
    return _virtual_raster(shape, dtype, kind, start)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)


def _virtual_raster(
    shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, start: int
) -> str:
    if len(shape) == 2:
        shape = (*shape, 1)
    dates, height, width, bands = (1, *shape)[-_MOST_AXES:]
    order = "MSB" if dtype.str[0] == ">" else "LSB"
    pixel = bands * dtype.itemsize
    layers = []
    for layer in range(dates * bands):
        date, band = divmod(layer, bands)
        offset = start + date * height * width * pixel + band * dtype.itemsize
        layers.append(
            f'<VRTRasterBand dataType="{kind}" band="{layer + 1}" '
            f'subClass="VRTRawRasterBand">'
            f'<SourceFilename relativeToVRT="1">{_LINK}</SourceFilename>'
            f"<ImageOffset>{offset}</ImageOffset><PixelOffset>{pixel}</PixelOffset>"
            f"<LineOffset>{width * pixel}</LineOffset><ByteOrder>{order}</ByteOrder>"
            "</VRTRasterBand>"
        )
    size = f'rasterXSize="{width}" rasterYSize="{height}"'
    return f"<VRTDataset {size}>{''.join(layers)}</VRTDataset>"
