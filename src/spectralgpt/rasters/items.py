"""Where the bands of an image lie on disk, and how numbers become reflectance."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters.files import OpenFiles, open_place, quiet_gdal
from spectralgpt.rasters.geometry import Grid, Window
from spectralgpt.rasters.locations import Location
from spectralgpt.sensors import Band, Sensor

__all__ = ["BandFile", "RasterItem", "StoredLayers"]


class StoredLayers(Protocol):
    """Layers that lie elsewhere than in a raster file, such as in a pack."""

    def read(self, indices: Sequence[int], window: Window) -> npt.NDArray[np.generic]:
        """Read layers (1-based) of a window, (C, h, w), as they were in the file.

        Raises:
            RasterError: they cannot be read.
        """
        ...


@dataclass(frozen=True)
class BandFile:
    """One band on disk.

    Args:
        path: the file.
        index: which layer of the file, from 1.
        grid: where its pixels lie, as read from the file's header.
        is_stated: the grid is no more than the size that the archive's layout states;
            the header is read, and held against it, when the place or pixels are.
        masks: what says which pixels are measurements, see `files.read_masks`.
        store: holds the layer instead of a raster file; `path` then names it to people.
        nodata: number that means no measurement in this layer alone, where that differs
            from band to band.
    """

    path: Location
    index: int
    grid: Grid
    is_stated: bool = False
    masks: tuple[int, ...] = ()
    store: StoredLayers | None = None
    nodata: float | None = None

    def located(self, files: OpenFiles | None = None) -> "BandFile":
        """Return it with the grid and masks that the file's header states.

        Args:
            files: files kept open between calls.

        Raises:
            RasterError: the file cannot be opened, or has another size than stated.
        """
        if not self.is_stated:
            return self
        with quiet_gdal():
            grid, masks = open_place(self.path, files)
        return self.placed(grid, masks)

    def placed(self, grid: Grid, masks: Sequence[tuple[int, ...]]) -> "BandFile":
        """Return it with what its file's header states.

        Args:
            grid: of the file.
            masks: of each of its layers, see `files.find_masks`.

        Raises:
            RasterError: the file has another size than stated, or no such layer.
        """
        found, stated = (grid.height, grid.width), (self.grid.height, self.grid.width)
        if found != stated:
            raise RasterError(
                f"{self.path} has {found[0]} x {found[1]} px where its archive has "
                f"{stated[0]} x {stated[1]}. Fetch it again, or leave the sizes out "
                "of the description."
            )
        if self.index > len(masks):
            raise RasterError(
                f"{self.path} has {len(masks)} layers, number {self.index} was stated."
            )
        # Where a layout takes opacity for a band, it means the numbers themselves.
        own = masks[self.index - 1]
        own = () if self.index in own else own
        return replace(self, grid=grid, is_stated=False, masks=own)


@dataclass(frozen=True)
class RasterItem:
    """One image on disk: reflectance = (number in the file + offset) / quantification.

    Args:
        name: for messages and splits.
        sensor: whose bands these are.
        files: where each band lies, by canonical band name.
        quantification: numbers per unit of reflectance.
        offset: added before dividing, in the unit of the file's numbers.
        nodata: number that means no measurement in all bands, None if there is none.
        unit: what the file holds, `digital-numbers` or `reflectance`.
        offset_source: what the offset was taken from, for reports.
        other_invalid: further numbers that mean no measurement, such as saturation.
        place: what the image shows; images of one place stay in one split.
        holdout: which part may be held out: `auto`, `place`, `block` or `never`.
        weight: how often it is drawn, relative to its size.
        date: day it was taken, None if nothing says.
        cloud_percent: share that its metadata call cloud, None if they do not say.
    """

    name: str
    sensor: Sensor
    files: Mapping[str, BandFile]
    quantification: float
    offset: float
    nodata: float | None = None
    unit: str = "digital-numbers"
    offset_source: str = "stated"
    other_invalid: tuple[float, ...] = ()
    place: str = ""
    holdout: str = "auto"
    weight: float = 1.0
    date: datetime.date | None = None
    cloud_percent: float | None = None

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are there, sorted by wavelength."""
        return self.sensor.select(list(self.files))

    def require(self, bands: Sequence[Band] | None) -> tuple[Band, ...]:
        """Return the bands asked for, all that are there if None.

        Raises:
            BandError: a band asked for is missing; names those found.
        """
        if bands is None:
            return self.bands
        missing = [band.name for band in bands if band.name not in self.files]
        if missing or not bands:
            raise BandError(
                f"{self.name} has no band {', '.join(repr(m) for m in missing)} "
                f"(found: {', '.join(b.name for b in self.bands)}). Leave out what is "
                "missing, or name the file's layers with 'bands'."
            )
        return tuple(bands)

    def grid(self, bands: Sequence[Band] | None = None) -> Grid:
        """The finest grid among the bands, which all of them are brought to.

        Raises:
            BandError: a band is missing.
            RasterError: the bands lie on grids that cannot be brought together, or a
                stated size is wrong.
        """
        used = [self.files[band.name] for band in self.require(bands)]
        if any(file.is_stated for file in used):
            # One header tells the place; all of them are read with the pixels.
            return min(used, key=lambda file: file.grid.pixel_area).located().grid
        return self._finest(file.grid for file in used)

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`; opens no file where the sizes are stated."""
        grid = self._finest(self.files[band.name].grid for band in self.require(bands))
        return grid.height, grid.width

    def located(
        self, bands: Sequence[Band] | None = None, files: OpenFiles | None = None
    ) -> "RasterItem":
        """Return it with these bands alone, their grids read from the headers.

        Args:
            bands: which; all if None.
            files: files kept open between calls.

        Raises:
            BandError: a band is missing.
            RasterError: a file cannot be opened, or has another size than stated.
        """
        used = {band.name: self.files[band.name] for band in self.require(bands)}
        if not any(file.is_stated for file in used.values()):
            return self
        # A file of many layers is opened once.
        known: dict[Location, tuple[Grid, tuple[tuple[int, ...], ...]]] = {}
        with quiet_gdal():
            for name, file in used.items():
                if file.is_stated:
                    if file.path not in known:
                        known[file.path] = open_place(file.path, files)
                    used[name] = file.placed(*known[file.path])
        return replace(self, files=used)

    def _finest(self, grids: Iterable[Grid]) -> Grid:
        different = dict.fromkeys(grids)
        finest = min(different, key=lambda grid: grid.pixel_area)
        for grid in different:
            try:
                places = finest.map_to(grid)
            except RasterError as error:
                raise RasterError(f"{self.name}: {error}") from None
            sizes = (finest.height, grid.height), (finest.width, grid.width)
            if not all(starmap(_is_upon, zip(places, sizes, strict=True))):
                raise RasterError(
                    f"{self.name}: bands lie apart from each other. Leave out the band "
                    "whose file is of another place, or fetch the product again."
                )
        return finest


def _is_upon(place: tuple[float, float], sizes: tuple[int, int]) -> bool:
    """Whether pixels of one grid lie on those of another, along one axis.

    Args:
        place: (scale, shift) from positions in the one to those in the other.
        sizes: pixels of both.
    """
    (scale, shift), (own, other) = place, sizes
    ends = sorted((shift, scale * own + shift))
    # A pixel larger than the other image is of another place, too.
    return ends[0] < other and ends[1] > 0 and abs(scale) <= 2 * other
