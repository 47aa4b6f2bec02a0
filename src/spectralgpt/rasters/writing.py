"""Writing GeoTIFFs that are there whole or not at all; reflectance with its unit.

On a full disk GDAL does not always say that blocks are missing, so that what was
written is checked before it gets its name.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio
from rasterio.enums import Interleaving

from spectralgpt.errors import RasterError
from spectralgpt.files import sync_file
from spectralgpt.outputs import folder_beside
from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.gdal_errors import writing
from spectralgpt.rasters.geometry import Raster
from spectralgpt.rasters.stated import SENSOR_TAG, UNIT_TAG

__all__ = ["check_whole", "making_tiff", "write_geotiff"]


@contextmanager
def making_tiff(path: Path) -> Iterator[Path]:
    """Give a hidden place beside a GeoTIFF, which is moved there when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path), folder_beside(path) as folder:
        made = folder / path.name
        # GDAL does not say why it can make no file.
        made.touch()
        yield made
        check_whole(made)
        made.replace(path)


def check_whole(path: Path) -> None:
    """Check every block of a GeoTIFF, compressed by deflate, that was just written.

    Raises:
        OSError: the disk holds less of it than was written.
        RasterioError: likewise, by GDAL's words; or another of the `GDAL_ERRORS`.
    """
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

    Of a block that is not there it reads nodata, and of one that ends too early what
    happens to come of it.
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


def write_geotiff(
    path: Path | str,
    raster: Raster,
    sensor: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a raster as float32 reflectance, NaN where invalid.

    Bands are described by name, and the unit and sensor stand in tags, so that
    `describe_raster` needs nothing else. The file appears whole or not at all.

    Args:
        path: where to.
        raster: what.
        sensor: name in the registry, for the tag.
        overwrite: replace a file that is there.

    Raises:
        RasterError: the file is there already, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RasterError(f"{path} exists. Choose another name, or pass overwrite.")
    tags = {UNIT_TAG: raster.unit} | ({SENSOR_TAG: sensor} if sensor else {})
    bands, height, width = raster.pixels.shape
    with (
        making_tiff(path) as made,
        quiet_gdal(),
        rasterio.open(
            made,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=bands,
            dtype="float32",
            crs=raster.crs,
            transform=raster.transform,
            nodata=float("nan"),
            compress="deflate",
        ) as dataset,
    ):
        dataset.write(np.where(raster.valid, raster.pixels, np.float32("nan")))
        dataset.descriptions = raster.band_names
        dataset.update_tags(**tags)
    return path
