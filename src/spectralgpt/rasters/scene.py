"""A scene held open: any window of it as reflectance; and what it is, in words.

`read_raster` opens files for each call; a scene keeps them open between windows, so
that compressed tiles which neighbouring windows share are decoded once. What is held is
the window, and GDAL's cache of tiles (see `spectralgpt.rasters.gdal`).
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from rasterio import Affine

from spectralgpt.errors import RasterError
from spectralgpt.rasters.describe import describe_raster
from spectralgpt.rasters.files import OpenFiles, open_raster, read_masks
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.rasters.gdal import quiet_gdal, reading
from spectralgpt.rasters.grid import Grid, Raster, Window, apply
from spectralgpt.rasters.mosaics import Bounds, Mosaic, make_mosaic
from spectralgpt.rasters.read import RasterFile, find_valid, read_raster
from spectralgpt.sensors import Band, Sensor

_SAMPLE_SIDE = 512
"""Pixels a side of the thinned-out band whose nodata are counted."""


class Scene:
    """Bands of one image on disk, or of a mosaic, read window by window.

    A context manager; for one thread at a time, as files stay open between windows.

    Args:
        item: where the bands lie and what their numbers mean.
        bands: which, in the order of what is read; all by wavelength if None.

    Raises:
        BandError: a band is missing.
        RasterError: the bands lie on grids that cannot be brought together.
    """

    def __init__(self, item: RasterFile, bands: Sequence[Band] | None = None) -> None:
        self.item = item
        self.bands = item.require(bands)
        self.grid: Grid = item.grid(self.bands)
        self._files: OpenFiles | None = OpenFiles()

    @property
    def name(self) -> str:
        """What the scene is called in messages."""
        return self.item.name

    @property
    def sensor(self) -> Sensor:
        """Whose bands these are."""
        return self.item.sensor

    @property
    def date(self) -> datetime.date | None:
        """The day it was taken, None if nothing says."""
        return self.item.date

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels of the finest band that is read."""
        return self.grid.height, self.grid.width

    @property
    def crs(self) -> str | None:
        """Coordinate reference system as text, None without georeference."""
        return self.grid.crs

    @property
    def transform(self) -> Affine | None:
        """From (column, row) to coordinates, None without georeference."""
        return self.grid.transform

    def read(
        self,
        window: Window | None = None,
        out_size: tuple[int, int] | int | None = None,
    ) -> Raster:
        """Read a window; see `spectralgpt.rasters.read_raster`.

        Args:
            window: pixels of `grid`; everything if None.
            out_size: (H, W) or one number for both; the window's own size if None.

        Raises:
            RasterError: the scene is closed or smaller than the window, or a file
                cannot be read.
            UnitError: values cannot be reflectance.
        """
        if self._files is None:
            raise RasterError(f"{self.name} is closed. Open the scene again.")
        return read_raster(self.item, self.bands, window, out_size, self._files)

    def close(self) -> None:
        """Close all files; may be called twice."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_scene(
    scene: RasterFile | Path | str | Sequence[RasterFile | Path | str],
    bands: Sequence[Band | str] | None = None,
    sensor: Sensor | str | None = None,
    area: Bounds | None = None,
) -> Scene:
    """Open a scene, or several as one mosaic, for reading in windows.

    Args:
        scene: a path that `describe_raster` takes, or what it returned; several lie
            over each other, the first on top.
        bands: which to read, in this order; all by wavelength if None.
        sensor: see `describe_raster`; None where the files tell.
        area: rectangle that is read; None for everything.

    Raises:
        RasterError: a file is missing or cannot be read.
        BandError: bands are in doubt or missing.
        UnitError: the unit or offset is in doubt.
        ConfigError: the sensor is in doubt.
    """
    scenes = [scene] if isinstance(scene, RasterFile | Path | str) else list(scene)
    item = make_mosaic(
        [
            one if isinstance(one, RasterFile) else describe_raster(one, sensor=sensor)
            for one in scenes
        ],
        area,
    )
    if bands is None:
        return Scene(item)
    named = [
        item.sensor.band(band) if isinstance(band, str) else band for band in bands
    ]
    return Scene(item, named)


def summarise(item: RasterFile) -> dict[str, str]:
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
        facts["nodata"] = f"{_nodata_share(item):.1%} of the pixels"
    missing = [name for name in item.sensor.band_names if name not in item.files]
    if missing:
        shown = ", ".join(missing[:12]) + (", ..." if missing[12:] else "")
        facts["bands not there"] = shown
    return facts


def _nodata_share(item: RasterFile) -> float:
    """Return the share of pixels without a measurement, 0 to 1, of its smallest band.

    Pixels are picked evenly without reading the others, where the format allows it.
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


def _formula(item: RasterFile) -> str:
    if item.unit == "reflectance":
        return f"as it is ({item.offset_source})"
    return f"(DN + {item.offset:g}) / {item.quantification:g} ({item.offset_source})"
