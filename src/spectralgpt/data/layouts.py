"""Images whose sizes an archive's layout states, so that listing opens no file.

Opening the header of every band file takes an hour for an archive of 350,000 patches
with twelve files each. Where band files are named after their bands and all images have
the same size, the names of the files say the rest; headers are read, and held against
the stated size, when pixels are.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectralgpt.errors import BandError, ConfigError, RasterError
from spectralgpt.rasters import (
    IN_SENSOR_ORDER,
    NO_BAND,
    RASTER_SUFFIXES,
    BandFile,
    Grid,
    RasterItem,
    Stated,
    band_in_file_name,
    describe_file,
    is_litter,
    offset_from_texts,
    read_size,
)
from spectralgpt.rasters.locations import Location
from spectralgpt.sensors import Sensor

__all__ = ["FILE_SIZES", "Sizes", "StatedLayout", "describe_stated"]

FILE_SIZES = "file"
"""Stands for sizes that each file's first bytes tell."""
Sizes = int | Mapping[float, int] | str
"""Side of the images in px: of all bands, by the bands' GSD in m, or `FILE_SIZES`."""


@dataclass(frozen=True)
class StatedLayout:
    """What all images of an archive have in common.

    Args:
        sensor: whose bands the images have.
        sizes: side of an image in px: one number for all bands, or one for each ground
            sampling distance in m, or `file` for that in each file's own first bytes.
        stated: the rest; its sensor does not count, and of a folder of band files its
            bands are those to take.

    Raises:
        ConfigError: the sensor's scale is unknown, or a size is no positive number.
    """

    sensor: Sensor
    sizes: Sizes
    stated: Stated = field(default_factory=Stated)

    def __post_init__(self) -> None:
        if self.stated.unit == "reflectance":
            raise ConfigError(
                "sizes are for archives of digital numbers, the unit of these images "
                "is reflectance. Leave the sizes out."
            )
        if self.quantification is None:
            raise ConfigError(
                f"{self.sensor.name} has no fixed scale: state the quantification."
            )
        sides = self.sizes.values() if isinstance(self.sizes, Mapping) else [self.sizes]
        if any(side != FILE_SIZES and not _is_side(side) for side in sides):
            raise ConfigError(f"sizes must be positive whole numbers: {self.sizes}.")

    @property
    def quantification(self) -> float | None:
        """Digital numbers per unit of reflectance, stated or the sensor's."""
        stated = self.stated.quantification
        return self.sensor.quantification if stated == "auto" else stated

    def side_of(self, band: str) -> int | None:
        """Return the stated side of a band in px, None where each file says its own.

        Raises:
            ConfigError: sizes by GSD lack that of the band.
        """
        if isinstance(self.sizes, int):
            return self.sizes
        if isinstance(self.sizes, str):
            return None
        gsd_m = self.sensor.band(band).gsd_m
        if gsd_m not in self.sizes:
            raise ConfigError(
                f"sizes lack the side of bands of {gsd_m:g} m, such as {band} of "
                f"{self.sensor.name}."
            )
        return self.sizes[gsd_m]


def _is_side(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side > 0


_Table = Mapping[str, tuple[str, int, Grid]]
"""(file name, layer from 1, grid) by band; see `_Layers`."""
_FOLDER = "\0"
"""Stands for the folder's own name in names of its files: images share one table."""
_TABLES = 1024


class _Layers(Mapping[str, BandFile]):
    """Band files made when they are asked for: millions of them would fill the memory.

    Args:
        path: a folder of band files, or one file.
        table: what is where; a file name "" is the path itself.
    """

    __slots__ = ("_path", "_table")

    def __init__(self, path: str, table: _Table) -> None:
        self._path = path
        self._table = table

    def __getitem__(self, band: str) -> BandFile:
        name, index, grid = self._table[band]
        path = Path(self._path)
        if name:
            path = path / name.replace(_FOLDER, path.name)
        return BandFile(path, index, grid, is_stated=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


@functools.lru_cache(_TABLES)
def _share(rows: tuple[tuple[str, tuple[str, int, Grid]], ...]) -> _Table:
    """One table for all images whose files are named alike."""
    return dict(rows)


def describe_stated(
    path: Path, layout: StatedLayout, members: Sequence[Path] | None, name: str
) -> RasterItem:
    """Describe an image by its layout, without opening it.

    Args:
        path: a file, or a folder with one file a band.
        layout: what its archive states.
        members: files of the folder that belong to it; all if None.
        name: for messages.

    Raises:
        BandError: a band is missing, or there twice.
        RasterError: there is no such file.
        UnitError: metadata beside the image contradict each other.
    """
    if path.is_dir():
        files = _find_in_folder(path, layout, members)
    elif path.is_file():
        files = _layers_of_file(path, layout)
    else:
        raise RasterError(f"{path} does not exist. Check the path.")
    offset = _find_offset(path, next(iter(files.values())).path, layout)
    if offset is None:
        return _describe_by_pixels(path, layout, members, name)
    invalid = _invalid_numbers(layout)
    return RasterItem(
        name=name,
        sensor=layout.sensor,
        files=files,
        quantification=float(layout.quantification or 0),
        offset=offset[0],
        nodata=invalid[0] if invalid else None,
        offset_source=offset[1],
        other_invalid=tuple(invalid[1:]),
        place=name,
    )


def _find_in_folder(
    folder: Path, layout: StatedLayout, members: Sequence[Path] | None
) -> _Layers:
    names = os.listdir(folder) if members is None else [file.name for file in members]
    found: dict[str, str] = {}
    for name in sorted(names):
        is_raster = os.path.splitext(name)[1].lower() in RASTER_SUFFIXES
        if is_raster and not is_litter(name):
            band = _band_of(name, layout)
            if band is not None and band in found:
                raise BandError(
                    f"{folder} has two files for band {band}: {found[band]}, {name}. "
                    "Remove one."
                )
            if band is not None:
                found[band] = name
    wanted = [layout.sensor.band(band).name for band in layout.stated.bands or found]
    missing = [band for band in wanted if band not in found]
    if missing or not found:
        raise BandError(
            f"{folder} has no file named after band {', '.join(missing) or 'names'} of "
            f"{layout.sensor.name} (found: {', '.join(found) or 'none'}). Name the "
            "files after their bands, or give a pattern."
        )
    rows = []
    for band in wanted:
        grid = _grid(folder / found[band], layout, band)
        # Of names like PATCH_B02.tif only the end differs from band to band.
        rows.append((band, (found[band].replace(folder.name, _FOLDER), 1, grid)))
    return _Layers(str(folder), _share(tuple(rows)))


def _band_of(file_name: str, layout: StatedLayout) -> str | None:
    if layout.stated.band_pattern is None:
        band = band_in_file_name(os.path.splitext(file_name)[0], layout.sensor)
    else:
        match = re.search(layout.stated.band_pattern, file_name)
        band = layout.sensor.find(match.group("band")) if match else None
    return None if band is None else band.name


def _layers_of_file(path: Path, layout: StatedLayout) -> _Layers:
    names = layout.stated.bands or (IN_SENSOR_ORDER,)
    if names == (IN_SENSOR_ORDER,):
        names = layout.sensor.band_names
    if layout.sizes == FILE_SIZES:
        height, width, count = read_size(path)
        if count != len(names):
            raise BandError(
                f"{path} has {count} layers, {len(names)} bands were stated. Fetch it "
                "again, or leave it out."
            )
        grids = dict.fromkeys(names, Grid(height, width))
    else:
        grids = {band: _grid(path, layout, band) for band in names if band != NO_BAND}
    rows = [
        (layout.sensor.band(band).name, ("", index, grids[band]))
        for index, band in enumerate(names, start=1)
        if band != NO_BAND
    ]
    return _Layers(str(path), _share(tuple(rows)))


def _grid(path: Path, layout: StatedLayout, band: str) -> Grid:
    side = layout.side_of(band)
    height, width = read_size(path)[:2] if side is None else (side, side)
    return Grid(height, width)


def _find_offset(
    path: Path, inside: Location, layout: StatedLayout
) -> tuple[float, str] | None:
    rule = layout.sensor.baseline
    if layout.stated.offset != "auto":
        return float(layout.stated.offset), "stated"
    if rule is None:
        return layout.sensor.offset, f"{layout.sensor.name} always"
    return offset_from_texts(path, inside, rule)


def _describe_by_pixels(
    path: Path, layout: StatedLayout, members: Sequence[Path] | None, name: str
) -> RasterItem:
    """Describe an image whose offset neither its name nor its metadata tell."""
    stated = replace(layout.stated, unit="digital-numbers")
    return describe_file(path, stated, layout.sensor, members=members, name=name)


def _invalid_numbers(layout: StatedLayout) -> list[float]:
    nodata, sensor = layout.stated.nodata, layout.sensor
    usual = () if sensor.nodata is None else (sensor.nodata,)
    invalid = [*(usual if nodata == "auto" else nodata)]
    return invalid if sensor.saturated is None else [*invalid, sensor.saturated]
