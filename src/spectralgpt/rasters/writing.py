"""Writing reflectance as GeoTIFF, tagged so that no offset is ever applied again."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from spectralgpt.errors import RasterError
from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.geometry import Raster
from spectralgpt.rasters.products import SENSOR_TAG, UNIT_TAG

__all__ = ["write_geotiff"]


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
    # Not by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}.tif")
    try:
        with (
            quiet_gdal(),
            rasterio.open(
                temporary,
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
        temporary.replace(path)
    except (RasterioError, OSError) as error:
        raise RasterError(f"{path} cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
