"""Images described unopened, by the sizes that are stated of all of their kind.

Opening the header of every band file takes an hour for an archive of 350,000 patches
with twelve files each. Where band files are named after their bands and all images have
the same size, the names of the files say the rest: with stated sizes images are
described without opening them; headers are read, and held against the stated size, when
pixels are.
"""

import functools
import os
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectralgpt.errors import BandError, ConfigError, RasterError
from spectralgpt.rasters.bands import (
    IN_SENSOR_ORDER,
    NO_BAND,
    RASTER_SUFFIXES,
    find_band_files,
)
from spectralgpt.rasters.files import open_raster
from spectralgpt.rasters.gdal import quiet_gdal
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.locations import is_litter
from spectralgpt.rasters.products.safe import offset_from_texts
from spectralgpt.rasters.read import BandFile, RasterFile
from spectralgpt.rasters.stated import Stated
from spectralgpt.sensors import Band, Sensor

FILE_SIZES = "file"
"""Stands for sizes that each file's first bytes tell."""
Sizes = int | Mapping[float, int] | str
"""Side of the images in px: of all bands, by the bands' GSD in m, or `FILE_SIZES`."""
_TIFF_START = 8
_WIDTH_TAG, _HEIGHT_TAG, _LAYERS_TAG = 256, 257, 277
"""ImageWidth, ImageLength and SamplesPerPixel.

Source: Adobe 1992, TIFF revision 6.0, section 8.
"""
_SIZE_TAGS = 3
_Table = Mapping[str, tuple[str, int, Grid]]
"""(file name, layer from 1, grid) by band; see `_Layers`."""
_FOLDER = "\0"
"""Stands for the folder's own name in names of its files: images share one table."""
_TABLES = 1024


def describe_unopened(
    path: Path,
    sensor: Sensor,
    stated: Stated,
    sizes: Sizes,
    members: Sequence[Path] | None,
    name: str,
) -> RasterFile | None:
    """Describe an image of digital numbers by what is stated and by names of files.

    Args:
        path: a file, or a folder with one file a band.
        sensor: whose bands these are.
        stated: what is so whatever the files say; the bands of a file in their order.
        sizes: see `Sizes`.
        members: files of a folder that belong to it; all if None.
        name: for messages.

    Returns:
        None if only the pixels can tell the offset.

    Raises:
        ConfigError: sizes or scale make no sense for the sensor.
        BandError: a band is missing, or there twice.
        RasterError: there is no such file, or it cannot be read.
        UnitError: the offset is in doubt.
    """
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
        return None
    usual = () if sensor.nodata is None else (sensor.nodata,)
    invalid = [*(usual if stated.nodata == "auto" else stated.nodata)]
    if sensor.saturated is not None:
        invalid.append(sensor.saturated)
    return RasterFile(
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


def read_size(path: Path) -> tuple[int, int, int]:
    """Read (height, width, layers) of a raster from its first bytes.

    Much faster than `read_header` for a TIFF; other files are opened.

    Raises:
        RasterError: the file is missing, or not a raster.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # Broken tags are left to the reader of the pixels.
            warnings.simplefilter("ignore")
            directory = ImageFileDirectory_v2(file.read(_TIFF_START))
            file.seek(directory.next)
            directory.load(file)
        tags = [directory.get(tag) for tag in (_HEIGHT_TAG, _WIDTH_TAG, _LAYERS_TAG)]
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        tags = []
    sizes = [tag for tag in tags if isinstance(tag, int)]
    if len(sizes) == _SIZE_TAGS:
        return sizes[0], sizes[1], sizes[2]
    with quiet_gdal(), open_raster(path) as dataset:
        return dataset.height, dataset.width, dataset.count
