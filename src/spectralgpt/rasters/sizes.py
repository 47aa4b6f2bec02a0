"""The size of a raster from its first bytes, for archives of a million files."""

import struct
import warnings
from pathlib import Path

from spectralgpt.rasters.files import open_raster, quiet_gdal

__all__ = ["read_size"]

_TIFF_START = 8
_WIDTH_TAG, _HEIGHT_TAG, _LAYERS_TAG = 256, 257, 277
"""ImageWidth, ImageLength and SamplesPerPixel.

Source: Adobe 1992, TIFF revision 6.0, section 8.
"""
_SIZE_TAGS = 3


def read_size(path: Path) -> tuple[int, int, int]:
    """Read (height, width, layers) of a raster from its first bytes.

    Much faster than `read_header` for a TIFF; other files are opened.

    Raises:
        RasterError: the file is missing, or not a raster.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # Broken tags are left to the reader of the pixels.
            warnings.simplefilter("ignore")
            directory = ImageFileDirectory_v2(file.read(_TIFF_START))
            file.seek(directory.next)
            directory.load(file)
        tags = [directory.get(tag) for tag in (_HEIGHT_TAG, _WIDTH_TAG, _LAYERS_TAG)]
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        tags = []
    sizes = [tag for tag in tags if isinstance(tag, int)]
    if len(sizes) == _SIZE_TAGS:
        return sizes[0], sizes[1], sizes[2]
    with quiet_gdal(), open_raster(path) as dataset:
        return dataset.height, dataset.width, dataset.count
