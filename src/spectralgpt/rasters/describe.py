"""Describing an image on disk, and holding it open: any window of it as reflectance.

Nothing is guessed: what neither the files nor the caller say is an error that asks.

Opening the header of every band file takes an hour for an archive of 350,000 patches
with twelve files each. Where band files are named after their bands and all images have
the same size, the names of the files say the rest: with stated sizes images are
described without opening them; headers are read, and compared with the stated size,
when pixels are.

`read_raster` opens files for each call; a `Scene` keeps them open between windows, so
that compressed tiles which neighbouring windows share are decoded once.
"""

import datetime
import functools
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio import Affine

from spectralgpt.errors import BandError, ConfigError, RasterError
from spectralgpt.rasters.bands import (
    IN_SENSOR_ORDER,
    NO_BAND,
    RASTER_SUFFIXES,
    find_band_files,
    find_bands,
    open_bands,
)
from spectralgpt.rasters.files import (
    SENSOR_TAG,
    Assumed,
    ProductMetadata,
    Stated,
    open_raster,
    read_masks,
)
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.rasters.gdal import (
    is_litter,
    is_path,
    list_folder,
    quiet_gdal,
    reading,
)
from spectralgpt.rasters.grid import Grid, Raster, Window, apply
from spectralgpt.rasters.mosaics import Bounds, Mosaic, make_mosaic
from spectralgpt.rasters.numbers import ImageNumbers
from spectralgpt.rasters.product_files import STAC_SUFFIXES
from spectralgpt.rasters.products import PRODUCT_FILES, offset_from_texts, read_product
from spectralgpt.rasters.read import BandFile, OpenFiles, RasterFile, read_raster
from spectralgpt.rasters.stac import (
    is_stac_member,
    read_stac_item,
    read_stac_object,
)
from spectralgpt.sensors import Band, Sensor, find_sensor, list_sensors, load_sensor

if TYPE_CHECKING:
    from pystac import Item

_LOG = logging.getLogger(__name__)
_SAMPLE_SIDE = 512
"""Pixels a side of the thinned-out band whose nodata are counted."""
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


def describe_raster(
    path: "Path | str | Item",
    sensor: Sensor | str | None = None,
    stated: Stated | None = None,
    *,
    sizes: Sizes | None = None,
    assumed: Stated | None = None,
    members: Sequence[Path] | None = None,
    name: str | None = None,
) -> RasterFile:
    """Find out where the bands of an image lie and what its numbers mean.

    What is stated counts; then what the files, product metadata and tags say (bands by
    their descriptions, wavelengths or file names); then what is assumed; then the
    sensor's rules, and the pixels where they leave no doubt. Saturation is invalid in
    any case.

    Args:
        path: a raster file (GeoTIFF, JP2, VRT, ENVI, .npy), a folder with one file a
            band, a product of a known kind as folder or zip archive, or a STAC item
            (see `spectralgpt.rasters.products`), which may be a `pystac.Item`, too.
        sensor: in place of the stated one: from the registry, or the path of a YAML
            file like those in `sensors/`; without either, the file's tag or the
            product's name tell.
        stated: what is so whatever the files say; what contradicts them is an error.
        sizes: side of the image in px: one number for all bands, or one for each ground
            sampling distance in m, or `FILE_SIZES` for that in each file's own first
            bytes. With the sensor, they say that these are digital numbers in files
            that need not be opened; what is assumed then does not count.
        assumed: what is so where the files do not say, such as what was stated of the
            images that a model was trained on.
        members: the files of a folder that belong to the image; all if None.
        name: for messages; the path if None.

    Raises:
        RasterError: a file is missing or cannot be read.
        BandError: bands are in doubt.
        UnitError: the unit or offset is in doubt or contradicts the file.
        ConfigError: the sensor is in doubt, or sizes make no sense for it.
    """
    stated, assumed = stated or Stated(), assumed or Stated()
    sensor = sensor or stated.sensor
    if sensor is not None and not isinstance(sensor, Sensor):
        sensor = find_sensor(sensor)
    path, in_memory = read_stac_object(path, sensor)
    name = name or str(path)
    if sizes is not None and sensor is not None and in_memory is None:
        item = _describe_unopened(path, sensor, stated, sizes, members, name)
        if item is not None:
            return item
        # Neither names nor metadata tell the offset, so the pixels must.
        stated, assumed = replace(stated, unit="digital-numbers"), Stated()
    is_there = is_path(str(path)) and (path.exists() or is_stac_member(path))
    if in_memory is None and not is_there:
        raise RasterError(f"{path} does not exist. Check the path.")
    is_described = stated.band_pattern is not None or members is not None
    product = in_memory or (None if is_described else _read_product(path, sensor))
    sensor = sensor or _find_sensor(path, assumed, product)
    if product is not None and product.sensor != sensor.name:
        # What the user states wins: then the metadata are those of something else.
        product = None
    if assumed.sensor not in (None, sensor.name):
        # It is of images of another sensor.
        assumed = Stated()
    is_layered = in_memory is None and path.is_file() and stated.layers is not None
    if product is not None and not is_layered:
        files, headers = open_bands(path, sensor, product.files, stated.layers)
    else:
        nothing = None, None
        try:
            files, headers = find_bands(path, sensor, stated, members)
        except BandError:
            is_stated = (stated.layers, stated.band_pattern) != nothing
            if is_stated or (assumed.layers, assumed.band_pattern) == nothing:
                raise
            # The files do not say them, so what is assumed counts.
            files, headers = find_bands(path, sensor, assumed, members)
    numbers = ImageNumbers(path, sensor, files, headers, stated, assumed, product)
    return numbers.describe(name)


def _read_product(path: Path, sensor: Sensor | None) -> ProductMetadata | None:
    """Read what a product says of itself; None if names show a plain image."""
    is_stac = path.suffix.lower() in STAC_SUFFIXES and not path.is_dir()
    if is_stac or not path.exists():
        return read_stac_item(path, sensor)
    names = [path.name]
    if path.is_dir():
        names += [file.name for file in list_folder(path)]
    may_be_one = any(map(PRODUCT_FILES.fullmatch, names))
    return read_product(path) if may_be_one else None


@functools.lru_cache
def _tell_taken_for(sensor: str | None) -> None:
    """Say once that images are taken for those of a model's sensor."""
    _LOG.warning(
        "images do not say which sensor took them, and are taken for %s, which the "
        "model learned from: state the sensor where it is another, or another level.",
        sensor,
    )


def _find_sensor(
    path: Path, assumed: Stated, product: ProductMetadata | None
) -> Sensor:
    if product is not None:
        return load_sensor(product.sensor)
    if path.is_file():
        with quiet_gdal(), open_raster(path) as dataset:
            tag = dataset.tags().get(SENSOR_TAG)
        if tag is not None:
            return load_sensor(tag)
    for known in map(load_sensor, list_sensors()):
        if known.product_name and re.search(known.product_name, str(path.absolute())):
            return known
    if assumed.sensor in list_sensors():
        if isinstance(assumed, Assumed):
            _tell_taken_for(assumed.sensor)
        return load_sensor(assumed.sensor)
    raise ConfigError(
        f"{path} does not say which sensor took it. State one of: "
        f"{', '.join(list_sensors())}, or the path of a YAML file that describes yours."
    )


def _describe_unopened(
    path: Path,
    sensor: Sensor,
    stated: Stated,
    sizes: Sizes,
    members: Sequence[Path] | None,
    name: str,
) -> RasterFile | None:
    """Describe an image of digital numbers by what is stated and by names of files.

    None if only the pixels can tell the offset. See `describe_raster`; the stated bands
    of a file are in their order.
    """
    quantification = _check(stated, sizes, sensor)
    if path.is_dir():
        files = _list_layers(path, stated, sizes, sensor, members)
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
    """Refuse sizes that make no sense; returns the quantification."""
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

    In the table, a file name "" is the path itself.
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


def _list_layers(
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
    found, _ = find_band_files(folder, rasters, sensor, stated)
    doubled = [band for band, files in found.items() if len(files) > 1]
    if doubled:
        raise BandError(
            f"{folder} has two files for band {doubled[0]}: "
            f"{', '.join(found[doubled[0]][:2])}. Remove one."
        )
    rows = []
    for band in map(sensor.band, stated.layers or found):
        (file,) = found[band.name]
        grid = _grid(folder / file, band, sizes, sensor)
        # Of names like PATCH_B02.tif only the end differs from band to band.
        rows.append((band.name, (file.replace(folder.name, _FOLDER), 1, grid)))
    return _Layers(str(folder), _share(tuple(rows)))


def _layers_of_file(
    path: Path, stated: Stated, sizes: Sizes, sensor: Sensor
) -> _Layers:
    names = stated.layers or (IN_SENSOR_ORDER,)
    if names == (IN_SENSOR_ORDER,):
        names = sensor.band_names
    own: Grid | None = None
    if sizes == FILE_SIZES:
        height, width, count = _read_size(path)
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
    """Return the stated grid of a band, or that which its file's first bytes tell."""
    if isinstance(sizes, str):
        return Grid(*_read_size(path)[:2])
    if isinstance(sizes, int):
        return Grid(sizes, sizes)
    if band.gsd_m not in sizes:
        raise ConfigError(
            f"sizes lack the side of bands of {band.gsd_m:g} m, such as {band.name} of "
            f"{sensor.name}."
        )
    return Grid(sizes[band.gsd_m], sizes[band.gsd_m])


def _read_size(path: Path) -> tuple[int, int, int]:
    """Read (height, width, layers) of a raster from its first bytes.

    Much faster than `read_header` for a TIFF; other files are opened.
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

    def __exit__(self, *error: object) -> None:
        self.close()


def open_scene(
    scene: "RasterFile | Path | str | Item | Sequence[RasterFile | Path | str | Item]",
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
    if isinstance(scene, str) or not isinstance(scene, Sequence):
        scene = [scene]
    item = make_mosaic(
        [
            one if isinstance(one, RasterFile) else describe_raster(one, sensor=sensor)
            for one in scene
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
    shape = (1, min(file.grid.height, _SAMPLE_SIDE), min(file.grid.width, _SAMPLE_SIDE))
    with quiet_gdal(), open_raster(file.path) as dataset, reading(file.path):
        numbers = dataset.read([file.index], out_shape=shape)
        valid = item.find_valid(numbers, [file])
        if file.masks:
            valid &= read_masks(dataset, [file.index], file.masks, size=shape[1:])
    return float(1 - np.mean(valid))


def _formula(item: RasterFile) -> str:
    if item.unit == "reflectance":
        return f"as it is ({item.offset_source})"
    return f"(DN + {item.offset:g}) / {item.quantification:g} ({item.offset_source})"
