"""Rasters on disk as reflectance: the only package that reads them through rasterio.

`describe_raster` finds out where the bands of an image lie and what its numbers mean;
`read_raster` reads it, whole or in windows. Whole data sets are described by
`spectralgpt.data.sources`.
"""

from spectralgpt.rasters.bands import NO_BAND, RASTER_SUFFIXES
from spectralgpt.rasters.describe import (
    FILE_SIZES,
    Scene,
    Sizes,
    describe_raster,
    open_scene,
    summarise,
)
from spectralgpt.rasters.files import (
    MODEL_TAG,
    SENSOR_TAG,
    Assumed,
    Stated,
    read_numbers,
)
from spectralgpt.rasters.gdal import (
    glob_folder,
    list_folder,
    path_below,
    quiet_gdal,
    walk,
)
from spectralgpt.rasters.grid import Grid, Raster, Window
from spectralgpt.rasters.lookup import Align, overlay, read_codes
from spectralgpt.rasters.maps import read_map_rows, write_polygons
from spectralgpt.rasters.mosaics import Bounds, Mosaic, cut_to_common, make_mosaic
from spectralgpt.rasters.products import is_product
from spectralgpt.rasters.read import BandFile, OpenFiles, RasterFile, read_raster
from spectralgpt.rasters.stac import list_stac_items
from spectralgpt.rasters.write import NO_CLASS, Layers, write_geotiff, writing_map

__all__ = [
    "FILE_SIZES",
    "MODEL_TAG",
    "NO_BAND",
    "NO_CLASS",
    "RASTER_SUFFIXES",
    "SENSOR_TAG",
    "Align",
    "Assumed",
    "BandFile",
    "Bounds",
    "Grid",
    "Layers",
    "Mosaic",
    "OpenFiles",
    "Raster",
    "RasterFile",
    "Scene",
    "Sizes",
    "Stated",
    "Window",
    "cut_to_common",
    "describe_raster",
    "glob_folder",
    "is_product",
    "list_folder",
    "list_stac_items",
    "make_mosaic",
    "open_scene",
    "overlay",
    "path_below",
    "quiet_gdal",
    "read_codes",
    "read_map_rows",
    "read_numbers",
    "read_raster",
    "summarise",
    "walk",
    "write_geotiff",
    "write_polygons",
    "writing_map",
]
