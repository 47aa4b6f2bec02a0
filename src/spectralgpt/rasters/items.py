"""Where the bands of an image lie on disk, and how numbers become reflectance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters.geometry import Grid
from spectralgpt.sensors import Band, Sensor

__all__ = ["BandFile", "RasterItem"]


@dataclass(frozen=True)
class BandFile:
    """One band on disk.

    Args:
        path: the file.
        index: which layer of the file, from 1.
        grid: where its pixels lie, as read from the file's header.
    """

    path: Path
    index: int
    grid: Grid


@dataclass(frozen=True)
class RasterItem:
    """One image on disk: reflectance = (number in the file + offset) / quantification.

    Args:
        name: for messages and splits.
        sensor: whose bands these are.
        files: where each band lies, by canonical band name.
        quantification: numbers per unit of reflectance.
        offset: added before dividing, in the unit of the file's numbers.
        nodata: number that means no measurement, None if there is none.
        unit: what the file holds, `digital-numbers` or `reflectance`.
        offset_source: what the offset was taken from, for reports.
        other_invalid: further numbers that mean no measurement, such as saturation.
        place: what the image shows; images of one place stay in one split.
        holdout: which part may be held out: `auto`, `place`, `block` or `never`.
        weight: how often it is drawn, relative to its size.
    """

    name: str
    sensor: Sensor
    files: dict[str, BandFile]
    quantification: float
    offset: float
    nodata: float | None = None
    unit: str = "digital-numbers"
    offset_source: str = "stated"
    other_invalid: tuple[float, ...] = ()
    place: str = ""
    holdout: str = "auto"
    weight: float = 1.0

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
            RasterError: the bands lie on grids that cannot be brought together.
        """
        grids = dict.fromkeys(self.files[b.name].grid for b in self.require(bands))
        finest = min(grids, key=lambda grid: grid.pixel_area)
        for grid in grids:
            try:
                finest.map_to(grid)
            except RasterError as error:
                raise RasterError(f"{self.name}: {error}") from None
        return finest

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`."""
        grid = self.grid(bands)
        return grid.height, grid.width
