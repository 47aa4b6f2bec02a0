"""Writing whole numbers as GeoTIFF: digital numbers of a sensor, classes of a mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import RasterioError

from spectralgpt.errors import RasterError
from spectralgpt.rasters.files import quiet_gdal

__all__ = ["NorthUpPlace", "write_numbers"]


@dataclass(frozen=True)
class NorthUpPlace:
    """Where a raster lies whose rows run from north to south.

    Args:
        epsg: code of a coordinate system in metres.
        west_m: western edge.
        north_m: northern edge.
        gsd_m: side of a pixel.
    """

    epsg: int
    west_m: float
    north_m: float
    gsd_m: float


def write_numbers(
    path: Path,
    numbers: NDArray[np.generic],
    place: NorthUpPlace,
    descriptions: Sequence[str],
    *,
    nodata: float | None,
    scale: tuple[float, float] = (1.0, 0.0),
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Write whole numbers with what they mean; makes the folder, replaces the file.

    Args:
        path: where to.
        numbers: (C, H, W) integers.
        place: where they lie.
        descriptions: C names of the layers.
        nodata: number that means no measurement.
        scale: (factor, addend) that the file states: value = number * factor + addend.
        tags: of the file.

    Raises:
        RasterError: the file cannot be written.
    """
    count, height, width = numbers.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    gsd_m = place.gsd_m
    transform = Affine(gsd_m, 0.0, place.west_m, 0.0, -gsd_m, place.north_m)
    try:
        with (
            quiet_gdal(),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=count,
                dtype=numbers.dtype,
                crs=f"EPSG:{place.epsg}",
                transform=transform,
                nodata=nodata,
                compress="deflate",
                predictor=2,
                zlevel=1,
                interleave="band",
            ) as dataset,
        ):
            dataset.write(numbers)
            dataset.descriptions = tuple(descriptions)
            dataset.scales = (scale[0],) * count
            dataset.offsets = (scale[1],) * count
            dataset.update_tags(**dict(tags or {}))
    except (RasterioError, OSError) as error:
        raise RasterError(f"{path} cannot be written: {error}") from None
    return path
