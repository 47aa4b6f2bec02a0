"""Images on disk, and reading them, whole or in windows, as reflectance with validity.

A `RasterFile` says where the bands of an image lie and how its numbers become
reflectance; `read_raster` reads it.
"""

import contextlib
import datetime
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import rasterio

from spectralgpt.errors import BandError, RasterError, ShapeError
from spectralgpt.rasters.files import find_masks, grid_of, open_raster, read_masks
from spectralgpt.rasters.gdal import Location, check_memory, quiet_gdal, reading
from spectralgpt.rasters.grid import (
    Axis,
    Flags,
    Grid,
    Numbers,
    Pixels,
    Raster,
    Window,
    resample,
)
from spectralgpt.sensors import Band, Sensor

_BLOCK = 2**25
"""Numbers held at once while shrinking a large raster."""
_BYTES_PER_VALUE = 5
"""Of float32 and a flag, which one number becomes."""
_SMALL_FILE = 2 * 2**20
"""Bytes of a file whose numbers may be kept whole."""


class OpenFiles:
    """The files read last, kept open, and small ones kept whole; for one thread.

    Args:
        most: how many stay open.
        memory_mb: memory in MiB for the numbers of files of up to 2 MiB each, which are
            decoded once and not again for every window.
    """

    def __init__(self, most: int = 64, memory_mb: float = 0.0) -> None:
        self._most = most
        self._free = int(memory_mb * 2**20)
        self._open: OrderedDict[Location, rasterio.DatasetReader] = OrderedDict()
        self._whole: dict[Location, Numbers] = {}
        self._grids: dict[Location, tuple[Grid, tuple[tuple[int, ...], ...]]] = {}

    def place(self, path: Location) -> tuple[Grid, tuple[tuple[int, ...], ...]]:
        """Return where a file's pixels lie, and its masks, inside `quiet_gdal`.

        Raises:
            RasterError: the file is missing, or not a raster.
        """
        # A file that is kept whole is closed, and need not be opened for this again.
        if path in self._grids:
            return self._grids[path]
        dataset = self.get(path)
        with reading(path):
            return grid_of(dataset), find_masks(dataset)

    def get(self, path: Location) -> rasterio.DatasetReader:
        """Return the open file, inside `quiet_gdal`."""
        dataset = self._open.pop(path, None) or open_raster(path)
        self._open[path] = dataset
        while len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()
        return dataset

    def read(self, path: Location, indices: list[int], window: Window) -> Numbers:
        """Read layers of a window, inside `quiet_gdal`.

        Args:
            path: the file.
            indices: layers, from 1.
            window: pixels of the file.

        Returns:
            (layers, h, w), in the type of the file.
        """
        if path not in self._whole:
            dataset = self.get(path)
            if not self._keep(path, dataset):
                return np.asarray(dataset.read(indices, window=window.slices))
        return self._whole[path][np.subtract(indices, 1), *window.slices]

    def known(
        self, path: Location, indices: list[int], masks: Sequence[int], window: Window
    ) -> Flags:
        """Read the masks of layers (1-based), see `read_masks`; inside `quiet_gdal`."""
        return read_masks(self.get(path), indices, masks, window)

    def close(self) -> None:
        """Close all files, forget all numbers."""
        self._whole.clear()
        self._grids.clear()
        while self._open:
            self._open.popitem()[1].close()

    def _keep(self, path: Location, dataset: rasterio.DatasetReader) -> bool:
        """Keep the numbers of a small file, if there is room."""
        pixels = dataset.count * dataset.height * dataset.width
        size = pixels * np.dtype(dataset.dtypes[0]).itemsize
        # GDAL reads layers of one type at once, and masks are read from the file.
        is_plain = len(set(dataset.dtypes)) == 1 and not any(find_masks(dataset))
        if size > min(self._free, _SMALL_FILE) or not is_plain:
            return False
        self._whole[path] = dataset.read()
        self._grids[path] = grid_of(dataset), find_masks(dataset)
        self._free -= size
        self._open.pop(path).close()
        return True


class StoredLayers(Protocol):
    """Layers that lie elsewhere than in a raster file, such as in a pack."""

    def read(self, indices: Sequence[int], window: Window) -> Numbers:
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
class RasterFile:
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
        resampled: how its bands were made of another sensor's; empty if it does not say
            that they were.
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
    resampled: str = ""

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
        used = {band: self.files[band.name] for band in self.require(bands)}
        if any(file.is_stated for file in used.values()):
            # One header tells the place; all of them are read with the pixels.
            finest = min(used, key=lambda band: used[band].grid.pixel_area)
            return self.located([finest]).files[finest.name].grid
        return self._finest(file.grid for file in used.values())

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`; opens no file where the sizes are stated."""
        grid = self._finest(self.files[band.name].grid for band in self.require(bands))
        return grid.height, grid.width

    def located(
        self, bands: Sequence[Band] | None = None, files: OpenFiles | None = None
    ) -> "RasterFile":
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
        with quiet_gdal(), contextlib.ExitStack() as stack:
            opened = files or stack.enter_context(contextlib.closing(OpenFiles()))
            for name, file in used.items():
                if file.is_stated:
                    if file.path not in known:
                        known[file.path] = opened.place(file.path)
                    used[name] = file.placed(*known[file.path])
        return replace(self, files=used)

    def read(
        self,
        bands: Sequence[Band],
        grid: Grid,
        window: Window,
        size: tuple[int, int],
        files: OpenFiles | None,
    ) -> Raster:
        """Read a window that lies inside of the image, for `read_raster`.

        Args:
            bands: which, in the order of the result; they are there and located.
            grid: that of these bands.
            window: pixels of it.
            size: (H, W) wanted.
            files: files kept open between calls.
        """
        check_memory(self.name, len(bands) * size[0] * size[1] * _BYTES_PER_VALUE)
        pixels = np.empty((len(bands), *size), dtype=np.float32)
        valid = np.empty(pixels.shape, dtype=np.bool_)
        axes_of: dict[Grid, tuple[Axis, Axis]] = {}
        is_stored = all(self.files[band.name].store is not None for band in bands)
        with contextlib.nullcontext() if is_stored else quiet_gdal():
            for at in _group_by_file(self, bands):
                layers = [self.files[bands[i].name] for i in at]
                source = layers[0].grid
                if source not in axes_of:
                    axes_of[source] = _axes(grid, source, window, size)
                pixels[at], valid[at] = _read_file(self, layers, axes_of[source], files)
        shown = grid.part(window, size)
        raster = Raster(
            pixels, valid, tuple(bands), grid.crs, shown.transform, self.name
        )
        raster.check_reflectance()
        return raster

    def to_reflectance(
        self, numbers: Numbers, layers: Sequence[BandFile]
    ) -> tuple[Pixels, Flags]:
        """Turn numbers of its files into reflectance, and say which are valid.

        Args:
            numbers: (C, ...) of the file.
            layers: the C layers that they are of.
        """
        # Broken files hold signalling NaN and numbers beyond 32 bits.
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = numbers.astype(np.float32)
            scaled += np.float32(self.offset)
            scaled /= np.float32(self.quantification)
        valid = self.find_valid(numbers, layers)
        if numbers.dtype.kind == "f":
            valid &= np.isfinite(scaled)
        return scaled, valid

    def find_valid(self, numbers: Numbers, layers: Sequence[BandFile]) -> Flags:
        """Return which numbers are measurements, (C, ...); see `to_reflectance`."""
        valid = is_measured(numbers, (self.nodata, *self.other_invalid))
        for known, layer, file in zip(valid, numbers, layers, strict=True):
            if file.nodata is not None:
                known &= is_measured(layer, [file.nodata])
        return valid

    def _finest(self, grids: Iterable[Grid]) -> Grid:
        different = dict.fromkeys(grids)
        finest = min(different, key=lambda grid: grid.pixel_area)
        for grid in different:
            try:
                places = finest.map_to(grid)
            except RasterError as error:
                raise RasterError(f"{self.name}: {error}") from None
            sizes = (finest.height, grid.height), (finest.width, grid.width)
            for (scale, shift), (own, other) in zip(places, sizes, strict=True):
                first, last = sorted((shift, scale * own + shift))
                # A pixel larger than the other image is of another place, too.
                if not (first < other and last > 0 and abs(scale) <= 2 * other):
                    raise RasterError(
                        f"{self.name}: bands lie apart from each other. Leave out the "
                        "band whose file is of another place, or fetch the product "
                        "again."
                    )
        return finest


def read_raster(
    item: RasterFile,
    bands: Sequence[Band] | None = None,
    window: Window | None = None,
    out_size: tuple[int, int] | int | None = None,
    files: OpenFiles | None = None,
) -> Raster:
    """Read an image, or a window of it, as reflectance.

    Bands of coarser grids are brought to the finest grid of those read, by position on
    the ground, with cubic convolution; an edge value is repeated as far as one of its
    own pixels. Only the part of the files that is needed is read.

    Args:
        item: where the bands lie.
        bands: which, in the order of the result; all by wavelength if None.
        window: pixels of `item.grid(bands)`; everything if None.
        out_size: (H, W) or one number for both; the window's own size if None.
        files: files kept open between calls.

    Returns:
        The raster, its transform that of the window at the size returned.

    Raises:
        BandError: a band is missing.
        RasterError: a file cannot be read, the image is smaller than the window, or
            the whole image holds no valid pixel.
        UnitError: values cannot be reflectance.
    """
    bands = item.require(bands)
    item = item.located(bands, files)
    grid = item.grid(bands)
    place = window or Window(0, 0, grid.height, grid.width)
    if not grid.contains(place):
        raise RasterError(
            f"{item.name} is smaller than asked: {grid.height} x {grid.width} px, "
            f"window of {place.height} x {place.width} px at row {place.row}, column "
            f"{place.column}. Ask for a smaller window."
        )
    raster = item.read(bands, grid, place, _as_size(out_size, place), files)
    if window is None and not raster.valid.any():
        raise RasterError(
            f"{item.name} holds no valid pixel: all are nodata, saturated or not "
            "finite. Leave it out."
        )
    return raster


def _as_size(size: tuple[int, int] | int | None, place: Window) -> tuple[int, int]:
    if size is None:
        return place.height, place.width
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ShapeError(f"out_size must be at least 1 pixel, found {size}.")
    return height, width


def _group_by_file(item: RasterFile, bands: Sequence[Band]) -> list[list[int]]:
    """Return places in `bands` of the bands that are read at once."""
    groups: dict[tuple[Location, StoredLayers | None, tuple[int, ...]], list[int]] = {}
    for i, band in enumerate(bands):
        file = item.files[band.name]
        groups.setdefault((file.path, file.store, file.masks), []).append(i)
    return list(groups.values())


def _axes(
    grid: Grid, source: Grid, place: Window, size: tuple[int, int]
) -> tuple[Axis, Axis]:
    (row_scale, row_shift), (column_scale, column_shift) = grid.map_to(source)
    rows = Axis.between(
        place.row * row_scale + row_shift,
        (place.row + place.height) * row_scale + row_shift,
        size[0],
        source.height,
    )
    columns = Axis.between(
        place.column * column_scale + column_shift,
        (place.column + place.width) * column_scale + column_shift,
        size[1],
        source.width,
    )
    return rows, columns


def _read_file(
    item: RasterFile,
    layers: Sequence[BandFile],
    axes: tuple[Axis, Axis],
    files: OpenFiles | None,
) -> tuple[Pixels, Flags]:
    """Read layers of one file onto the output grid, in strips if it is large."""
    rows, columns = axes
    file, indices = layers[0], [layer.index for layer in layers]
    out = np.empty((len(indices), len(rows), len(columns)), np.float32)
    valid = np.empty(out.shape, dtype=np.bool_)
    (top, bottom), (left, right) = rows.span, columns.span
    needed = len(indices) * (bottom - top) * (right - left)
    strip = max(1, out.shape[1] * _BLOCK // max(needed, _BLOCK))
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(file.path))
        opened = files or stack.enter_context(contextlib.closing(OpenFiles()))
        for start in range(0, out.shape[1], strip):
            part = rows.part(start, start + strip)
            window = _span_window(part, columns)
            # Packs hold layers in another way.
            numbers = (
                file.store.read(indices, window)
                if file.store is not None
                else opened.read(file.path, indices, window)
            )
            scaled, known = item.to_reflectance(numbers, layers)
            if file.masks:
                known &= opened.known(file.path, indices, file.masks, window)
            if not known.all():
                scaled[~known] = 0
            if strip >= out.shape[1]:
                return resample(scaled, known, part, columns)
            stop = start + strip
            out[:, start:stop], valid[:, start:stop] = resample(
                scaled, known, part, columns
            )
    return out, valid


def _span_window(rows: Axis, columns: Axis) -> Window:
    (top, bottom), (left, right) = rows.span, columns.span
    return Window(top, left, bottom - top, right - left)


def is_measured(numbers: Numbers, invalid: Sequence[float | None]) -> Flags:
    """Return which numbers are finite and none of the invalid ones, in their shape."""
    is_whole = numbers.dtype.kind in "iu"
    valid = np.ones(numbers.shape, np.bool_) if is_whole else np.isfinite(numbers)
    for value in invalid:
        if value is not None and not np.isnan(value):
            # Whole numbers are compared as such, without a copy of all as floats.
            same = is_whole and float(value).is_integer()
            valid &= numbers != (int(value) if same else value)
    return np.asarray(valid, dtype=np.bool_)
