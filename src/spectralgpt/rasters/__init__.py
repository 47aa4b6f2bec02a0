"""Rasters on disk as reflectance: the only package that reads them through rasterio.

`describe_raster` finds out where the bands of an image lie and what its numbers mean;
`read_raster` reads it, whole or in windows. Whole data sets are described by
`spectralgpt.data.sources`.
"""

from spectralgpt.rasters.files import OpenFiles, quiet_gdal
from spectralgpt.rasters.geometry import Grid, Raster, Window
from spectralgpt.rasters.items import BandFile, RasterItem
from spectralgpt.rasters.layers import RASTER_SUFFIXES, band_in_file_name
from spectralgpt.rasters.products import describe_raster
from spectralgpt.rasters.reading import check_reflectance, read_raster
from spectralgpt.rasters.writing import write_geotiff

__all__ = [
    "RASTER_SUFFIXES",
    "BandFile",
    "Grid",
    "OpenFiles",
    "Raster",
    "RasterItem",
    "Window",
    "band_in_file_name",
    "check_reflectance",
    "describe_raster",
    "quiet_gdal",
    "read_raster",
    "write_geotiff",
]
