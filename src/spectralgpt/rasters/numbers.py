"""Writing whole numbers as GeoTIFF: digital numbers of a sensor, classes of a mask."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.windows import Window

from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.writing import making_tiff

__all__ = ["NorthUpPlace", "write_numbers", "write_strips"]

_Colours = Mapping[int, tuple[int, int, int]]


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

    def grid(self, height: int, width: int) -> Grid:
        """Return the grid of a raster of this size."""
        side = self.gsd_m
        transform = Affine(side, 0.0, self.west_m, 0.0, -side, self.north_m)
        return Grid(height, width, transform, f"EPSG:{self.epsg}")


def write_numbers(
    path: Path,
    numbers: NDArray[np.generic],
    place: NorthUpPlace | Grid,
    descriptions: Sequence[str],
    *,
    nodata: float | None,
    scale: tuple[float, float] = (1.0, 0.0),
    tags: Mapping[str, str] | None = None,
    colours: _Colours | None = None,
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
        colours: (red, green, blue) of each number, 0..255, for one layer of uint8.

    Raises:
        OutputError: the file cannot be written.
    """
    count, height, width = numbers.shape
    grid = place if isinstance(place, Grid) else place.grid(height, width)
    with (
        making_tiff(path) as made,
        quiet_gdal(),
        _create(
            made,
            grid,
            count,
            numbers.dtype,
            nodata=nodata,
            predictor=2,
            interleave="band",
        ) as dataset,
    ):
        if colours is not None:
            dataset.write_colormap(1, dict(colours))
        dataset.write(numbers)
        dataset.descriptions = tuple(descriptions)
        dataset.scales = (scale[0],) * count
        dataset.offsets = (scale[1],) * count
        dataset.update_tags(**dict(tags or {}))
    return path


def write_strips(path: Path, grid: Grid, strips: Iterable[NDArray[np.uint8]]) -> Path:
    """Write one layer of uint8 from strips of rows, from the top down.

    Args:
        path: where to.
        grid: where it lies.
        strips: (h, W) each; their heights sum to that of the grid.

    Raises:
        OutputError: the file cannot be written.
    """
    row = 0
    with (
        making_tiff(path) as made,
        quiet_gdal(),
        _create(made, grid, 1, "uint8") as dataset,
    ):
        for strip in strips:
            window = Window(0, row, grid.width, len(strip))
            dataset.write(strip, 1, window=window)
            row += len(strip)
    return path


def _create(path: Path, grid: Grid, count: int, dtype: Any, **options: Any) -> Any:
    """Open a compressed GeoTIFF on a grid to be written."""
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=count,
        dtype=dtype,
        crs=grid.crs,
        transform=grid.transform,
        compress="deflate",
        zlevel=1,
        **options,
    )
