"""Rasters on disk as reflectance: the only package that reads them through rasterio.

`describe_raster` finds out where the bands of an image lie and what its numbers mean;
`read_raster` reads it, whole or in windows. Whole data sets are described by
`spectralgpt.data.sources`.
"""

from spectralgpt.rasters.bands import (
    NO_BAND,
    RASTER_SUFFIXES,
    band_in_file_name,
)
from spectralgpt.rasters.describe import describe_raster, is_product
from spectralgpt.rasters.files import OpenFiles, read_numbers
from spectralgpt.rasters.gdal import quiet_gdal
from spectralgpt.rasters.grid import Grid, Raster, Window
from spectralgpt.rasters.locations import (
    Location,
    glob_folder,
    list_folder,
    path_below,
    walk,
)
from spectralgpt.rasters.lookup import Align, Overlay, overlay, read_codes
from spectralgpt.rasters.maps import (
    MODEL_TAG,
    NO_CLASS,
    class_layers,
    measure_layers,
    read_class_rows,
    write_polygons,
)
from spectralgpt.rasters.mosaics import (
    Bounds,
    Mosaic,
    cut_to_common,
    make_mosaic,
    read_area,
)
from spectralgpt.rasters.products.stac import (
    STAC_SUFFIXES,
    is_stac_member,
    list_stac_items,
)
from spectralgpt.rasters.products.zip import ZIP_SUFFIX
from spectralgpt.rasters.read import (
    BandFile,
    RasterFile,
    StoredLayers,
    check_reflectance,
    read_raster,
)
from spectralgpt.rasters.scene import Scene, open_scene, summarise
from spectralgpt.rasters.stated import SENSOR_TAG, Stated, day_in
from spectralgpt.rasters.thumbnail import as_option, find_fill
from spectralgpt.rasters.unopened import FILE_SIZES, Sizes
from spectralgpt.rasters.write import (
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
    "SENSOR_TAG",
    "STAC_SUFFIXES",
    "ZIP_SUFFIX",
    "Align",
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
    "band_in_file_name",
    "check_reflectance",
    "class_layers",
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
    "measure_layers",
    "move_map",
    "open_scene",
    "overlay",
    "path_below",
    "quiet_gdal",
    "read_area",
    "read_class_rows",
    "read_codes",
    "read_numbers",
    "read_raster",
    "summarise",
    "walk",
    "write_geotiff",
    "write_polygons",
    "writing_map",
]
