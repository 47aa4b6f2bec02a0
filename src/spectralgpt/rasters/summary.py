"""What can be said of a scene at a glance: facts by name, and its share of nodata."""

import numpy as np

from spectralgpt.rasters.files import (
    open_raster,
    quiet_gdal,
    read_masks,
)
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.rasters.gdal_errors import reading
from spectralgpt.rasters.geometry import apply
from spectralgpt.rasters.items import RasterItem
from spectralgpt.rasters.mosaics import Mosaic
from spectralgpt.rasters.reading import find_valid

__all__ = ["nodata_share", "summarise"]

_SAMPLE_SIDE = 512
"""Pixels a side of the thinned-out band that is counted."""


def summarise(item: RasterItem) -> dict[str, str]:
    """Say what was found of a scene, in words, by what it is.

    Raises:
        RasterError: its bands lie on grids that cannot be brought together, or the
            band that is counted cannot be read.
    """
    grid = item.grid()
    facts = {
        "sensor": f"{item.sensor.name}, {item.sensor.title}",
        "date": str(item.date or "nothing says"),
        "reflectance": _formula(item),
        "size": f"{grid.height} x {grid.width} px, {len(item.bands)} bands",
        "grid": "no georeference",
    }
    if grid.transform is not None:
        left, top = apply(grid.transform, 0, 0)
        size_m = pixel_size_m(grid)
        pixel = f", {size_m[1]:.4g} x {size_m[0]:.4g} m a pixel" if size_m else ""
        facts["grid"] = f"{grid.crs}{pixel}, corner at {left:.10g}, {top:.10g}"
    if isinstance(item, Mosaic):
        facts["products"] = ", ".join(part.name for part in item.parts)
    else:
        facts["nodata"] = f"{nodata_share(item):.1%} of the pixels"
    missing = [name for name in item.sensor.band_names if name not in item.files]
    if missing:
        shown = ", ".join(missing[:12]) + (", ..." if missing[12:] else "")
        facts["bands not there"] = shown
    return facts


def nodata_share(item: RasterItem) -> float:
    """Return the share of pixels without a measurement, 0 to 1, of its smallest band.

    Pixels are picked evenly without reading the others, where the format allows it.

    Raises:
        RasterError: the file cannot be read.
    """
    files = [item.files[band.name] for band in item.bands]
    file = min(files, key=lambda each: each.grid.height * each.grid.width)
    shape = (
        1,
        min(file.grid.height, _SAMPLE_SIDE),
        min(file.grid.width, _SAMPLE_SIDE),
    )
    with quiet_gdal(), open_raster(file.path) as dataset, reading(file.path):
        numbers = dataset.read([file.index], out_shape=shape)
        valid = find_valid(numbers, item, [file])
        if file.masks:
            valid &= read_masks(dataset, [file.index], file.masks, size=shape[1:])
    return float(1 - np.mean(valid))


def _formula(item: RasterItem) -> str:
    if item.unit == "reflectance":
        return f"as it is ({item.offset_source})"
    return f"(DN + {item.offset:g}) / {item.quantification:g} ({item.offset_source})"
