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
    RESAMPLE,
    SENSOR_TAG,
    Assumed,
    Stated,
    day_in,
    read_numbers,
)
from spectralgpt.rasters.gdal import (
    Location,
    glob_folder,
    list_folder,
    path_below,
    quiet_gdal,
    walk,
)
from spectralgpt.rasters.grid import Grid, Raster, Window
from spectralgpt.rasters.lookup import Align, Overlay, overlay, read_codes, read_values
from spectralgpt.rasters.maps import read_map_rows, write_polygons
from spectralgpt.rasters.mosaics import Bounds, Mosaic, cut_to_common, make_mosaic
from spectralgpt.rasters.numbers import as_option, find_fill
from spectralgpt.rasters.product_files import STAC_SUFFIXES, ZIP_SUFFIX
from spectralgpt.rasters.products import is_product
from spectralgpt.rasters.read import (
    BandFile,
    OpenFiles,
    RasterFile,
    StoredLayers,
    read_raster,
)
from spectralgpt.rasters.stac import is_stac_member, list_stac_items
from spectralgpt.rasters.write import (
    NO_CLASS,
    Layers,
    RowFile,
    RowWriter,
    move_map,
    write_geotiff,
    writing_map,
)

__all__ = [
    "FILE_SIZES",
    "MODEL_TAG",
    "NO_BAND",
    "NO_CLASS",
    "RASTER_SUFFIXES",
    "RESAMPLE",
    "SENSOR_TAG",
    "STAC_SUFFIXES",
    "ZIP_SUFFIX",
    "Align",
    "Assumed",
    "BandFile",
    "Bounds",
    "Grid",
    "Layers",
    "Location",
    "Mosaic",
    "OpenFiles",
    "Overlay",
    "Raster",
    "RasterFile",
    "RowFile",
    "RowWriter",
    "Scene",
    "Sizes",
    "Stated",
    "StoredLayers",
    "Window",
    "as_option",
    "cut_to_common",
    "day_in",
    "describe_raster",
    "find_fill",
    "glob_folder",
    "is_product",
    "is_stac_member",
    "list_folder",
    "list_stac_items",
    "make_mosaic",
    "move_map",
    "open_scene",
    "overlay",
    "path_below",
    "quiet_gdal",
    "read_codes",
    "read_map_rows",
    "read_numbers",
    "read_raster",
    "read_values",
    "summarise",
    "walk",
    "write_geotiff",
    "write_polygons",
    "writing_map",
]
