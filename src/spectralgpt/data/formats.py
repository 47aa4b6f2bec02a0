"""How the images of a data set are read, where their files do not say.

Opening the header of every band file takes an hour for an archive of 350,000 patches
with twelve files each. Where band files are named after their bands and all images have
the same size, the names of the files say the rest: with stated sizes images are
described without opening them; headers are read, and held against the stated size, when
pixels are.
"""

import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectralgpt.errors import BandError, ConfigError, RasterError
from spectralgpt.rasters import (
    IN_SENSOR_ORDER,
    NO_BAND,
    RASTER_SUFFIXES,
    BandFile,
    Bounds,
    Grid,
    RasterItem,
    Stated,
    describe_raster,
    find_band_files,
    is_litter,
    make_mosaic,
    offset_from_texts,
    read_size,
)
from spectralgpt.sensors import Band, Sensor, find_sensor

__all__ = ["FILE_SIZES", "ImageFormat", "Sizes", "describe_stated"]

_LOG = logging.getLogger(__name__)

FILE_SIZES = "file"
"""Stands for sizes that each file's first bytes tell."""
Sizes = int | Mapping[float, int] | str
"""Side of the images in px: of all bands, by the bands' GSD in m, or `FILE_SIZES`."""


@dataclass(frozen=True, kw_only=True)
class ImageFormat(Stated):
    """What is stated about all images of a data set; None and auto ask the files.

    Args:
        assumed: what is so where neither the files nor what is stated say; commands
            that have a model put here what it was trained on.
        sizes: see `describe_stated`; needs the sensor. None opens the files.
        area: rectangle that is read of an image; None for all of it.
        below: further images, which fill what the one described does not show.
    """

    assumed: Stated = field(default_factory=Stated)
    sizes: Sizes | None = None
    area: Bounds | None = None
    below: tuple[Path, ...] = ()

    def assuming(self, assumed: Stated) -> "ImageFormat":
        """Return it with what is so otherwise; says aloud what contradicts that."""
        _tell_contradictions(Stated.of(self.facts), assumed)
        return replace(self, assumed=assumed)

    @property
    def of_files(self) -> Stated:
        """What is stated that belongs to files of this kind, whoever took them when.

        An archive's offset is that of its years, and no offset of other images.
        """
        facts = {name: v for name, v in self.facts.items() if name != "offset"}
        return Stated.of(facts)

    def describe(self, path: Path) -> RasterItem:
        """Describe an image, or the mosaic of it and those below.

        See `describe_stated` and `spectralgpt.rasters.make_mosaic`.
        """
        items = [
            describe_stated(each, self, self.sizes, assumed=self.assumed)
            for each in (path, *self.below)
        ]
        return make_mosaic(items, self.area)


@functools.lru_cache
def _tell_contradictions(stated: Stated, assumed: Stated) -> None:
    """Warn once of what is stated otherwise of the images that a model knows."""
    differing = stated.contradicts(assumed)
    if differing:
        _LOG.warning(
            "what is stated now counts: %s of the images the model was trained on.",
            ", ".join(differing),
        )


def describe_stated(
    path: Path,
    stated: Stated,
    sizes: Sizes | None = None,
    sensor: Sensor | None = None,
    *,
    assumed: Stated | None = None,
    members: Sequence[Path] | None = None,
    name: str | None = None,
) -> RasterItem:
    """Describe an image by what is stated of it and its like.

    Args:
        path: a file, or a folder with one file a band.
        stated: what is so whatever the files say.
        sizes: side of the image in px: one number for all bands, or one for each ground
            sampling distance in m, or `file` for that in each file's own first bytes.
            Then no file is opened; its bands are in the stated order, or in files named
            after them. None opens the files.
        sensor: in place of the one stated by name.
        assumed: see `spectralgpt.rasters.describe_raster`; does not count with sizes.
        members: files of a folder that belong to it; all if None.
        name: for messages; the path if None.

    Raises:
        ConfigError: sizes or scale make no sense for the sensor.
        BandError: a band is missing, or there twice.
        RasterError: there is no such file, or it cannot be read.
        UnitError: unit or offset are in doubt, or contradict the files.
    """
    name = name or str(path)
    if sensor is None and stated.sensor is not None and sizes is not None:
        sensor = find_sensor(stated.sensor)
    if sizes is None or sensor is None:
        return describe_raster(
            path, sensor, stated, assumed=assumed, members=members, name=name
        )
    quantification = _check(stated, sizes, sensor)
    if path.is_dir():
        files = _find_in_folder(path, stated, sizes, sensor, members)
    elif path.is_file():
        files = _layers_of_file(path, stated, sizes, sensor)
    else:
        raise RasterError(f"{path} does not exist. Check the path.")
    offset: tuple[float, str] | None
    if stated.offset != "auto":
        offset = float(stated.offset), "stated"
    elif sensor.baseline is None:
        offset = sensor.offset, f"{sensor.name} always"
    else:
        inside = next(iter(files.values())).path
        offset = offset_from_texts(path, inside, sensor.baseline)
    if offset is None:
        # Neither names nor metadata tell, so the pixels must.
        stated = replace(stated, unit="digital-numbers")
        return describe_raster(path, sensor, stated, members=members, name=name)
    usual = () if sensor.nodata is None else (sensor.nodata,)
    invalid = [*(usual if stated.nodata == "auto" else stated.nodata)]
    if sensor.saturated is not None:
        invalid.append(sensor.saturated)
    return RasterItem(
        name=name,
        sensor=sensor,
        files=files,
        quantification=quantification,
        offset=offset[0],
        nodata=invalid[0] if invalid else None,
        offset_source=offset[1],
        other_invalid=tuple(invalid[1:]),
        place=name,
    )


def _check(stated: Stated, sizes: Sizes, sensor: Sensor) -> float:
    """Refuse sizes that make no sense; returns the quantification.

    Raises:
        ConfigError: the sensor's scale is unknown, or a size is no positive number.
    """
    if stated.unit == "reflectance":
        raise ConfigError(
            "sizes are for archives of digital numbers, the unit of these images is "
            "reflectance. Leave the sizes out."
        )
    sides = sizes.values() if isinstance(sizes, Mapping) else [sizes]
    if any(side != FILE_SIZES and not _is_side(side) for side in sides):
        raise ConfigError(f"sizes must be positive whole numbers: {sizes}.")
    per_unit = stated.quantification
    if per_unit != "auto":
        return float(per_unit)
    if sensor.quantification is None:
        raise ConfigError(
            f"{sensor.name} has no fixed scale: state the quantification."
        )
    return float(sensor.quantification)


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


def _find_in_folder(
    folder: Path,
    stated: Stated,
    sizes: Sizes,
    sensor: Sensor,
    members: Sequence[Path] | None,
) -> _Layers:
    names = os.listdir(folder) if members is None else [file.name for file in members]
    rasters = [
        name
        for name in sorted(names)
        if os.path.splitext(name)[1].lower() in RASTER_SUFFIXES and not is_litter(name)
    ]
    pattern = stated.band_pattern
    found, _ = find_band_files(folder, rasters, sensor, stated.bands, pattern)
    doubled = [band for band, files in found.items() if len(files) > 1]
    if doubled:
        raise BandError(
            f"{folder} has two files for band {doubled[0]}: "
            f"{', '.join(found[doubled[0]][:2])}. Remove one."
        )
    rows = []
    for band in map(sensor.band, stated.bands or found):
        (file,) = found[band.name]
        grid = _grid(folder / file, band, sizes, sensor)
        # Of names like PATCH_B02.tif only the end differs from band to band.
        rows.append((band.name, (file.replace(folder.name, _FOLDER), 1, grid)))
    return _Layers(str(folder), _share(tuple(rows)))


def _layers_of_file(
    path: Path, stated: Stated, sizes: Sizes, sensor: Sensor
) -> _Layers:
    names = stated.bands or (IN_SENSOR_ORDER,)
    if names == (IN_SENSOR_ORDER,):
        names = sensor.band_names
    own: Grid | None = None
    if sizes == FILE_SIZES:
        height, width, count = read_size(path)
        if count != len(names):
            raise BandError(
                f"{path} has {count} layers, {len(names)} bands were stated. Fetch it "
                "again, or leave it out."
            )
        own = Grid(height, width)
    rows = []
    for index, name in enumerate(names, start=1):
        if name != NO_BAND:
            band = sensor.band(name)
            grid = own or _grid(path, band, sizes, sensor)
            rows.append((band.name, ("", index, grid)))
    return _Layers(str(path), _share(tuple(rows)))


def _grid(path: Path, band: Band, sizes: Sizes, sensor: Sensor) -> Grid:
    """Return the stated grid of a band, or that which its file's first bytes tell.

    Raises:
        ConfigError: sizes by GSD lack that of the band.
    """
    if isinstance(sizes, str):
        return Grid(*read_size(path)[:2])
    if isinstance(sizes, int):
        return Grid(sizes, sizes)
    if band.gsd_m not in sizes:
        raise ConfigError(
            f"sizes lack the side of bands of {band.gsd_m:g} m, such as {band.name} of "
            f"{sensor.name}."
        )
    return Grid(sizes[band.gsd_m], sizes[band.gsd_m])
