"""Reading images, whole or in windows, as reflectance with a validity mask."""

import contextlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from rasterio import Affine

from spectralgpt.errors import RasterError, ShapeError, UnitError
from spectralgpt.rasters.files import (
    OpenFiles,
    check_memory,
    quiet_gdal,
)
from spectralgpt.rasters.gdal_errors import GDAL_ERRORS, as_raster_error
from spectralgpt.rasters.geometry import Grid, Raster, Window, compose
from spectralgpt.rasters.items import BandFile, RasterItem, StoredLayers
from spectralgpt.rasters.joining import Layer, bring_to, lay_over
from spectralgpt.rasters.locations import Location
from spectralgpt.rasters.mosaics import Mosaic
from spectralgpt.rasters.resampling import Axis, resample
from spectralgpt.sensors import Band

__all__ = [
    "check_reflectance",
    "find_darkness",
    "find_valid",
    "is_measured",
    "read_raster",
    "to_reflectance",
]

_BLOCK = 2**25
"""Numbers held at once while shrinking a large raster."""
_BYTES_PER_VALUE = 5
"""Of float32 and a flag, which one number becomes."""
_SAMPLES = 2**13
"""Pixels a band that the check of units looks at."""
BRIGHTEST = 2.0
"""No surface or cloud has a median reflectance above this (clouds reach about 1.6)."""
DARKEST = -0.04
"""Water after atmospheric correction stays above this; an offset too many does not."""
DIMMEST = 0.03
"""Images that are darker in all bands are hardly ever land; 8-bit numbers and percent
that are taken for ten-thousandths are."""
_GREATEST_8_BIT = 255
_BRIGHT_PERCENT = 99.0
_LEAST_DISTINCT = 32
_DARK_BANDS = 2
"""Bands with such a median before the unit is refused: one alone may be noise."""


def read_raster(
    item: RasterItem,
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
    if isinstance(item, Mosaic):
        return _read_mosaic(item, bands, window, out_size, files)
    item = item.located(bands, files)
    grid = item.grid(bands)
    place = _place(item, grid, window)
    size = _as_size(out_size, place)
    check_memory(item.name, len(bands) * size[0] * size[1] * _BYTES_PER_VALUE)
    pixels = np.empty((len(bands), *size), dtype=np.float32)
    valid = np.empty(pixels.shape, dtype=np.bool_)
    axes_of: dict[Grid, tuple[Axis, Axis]] = {}
    is_stored = all(item.files[band.name].store is not None for band in bands)
    with contextlib.nullcontext() if is_stored else quiet_gdal():
        for at in _group_by_file(item, bands):
            first = item.files[bands[at[0]].name]
            layers = [item.files[bands[i].name] for i in at]
            if first.grid not in axes_of:
                axes_of[first.grid] = _axes(grid, first.grid, place, size)
            axes = axes_of[first.grid]
            pixels[at], valid[at] = _read_file(item, layers, axes, files)
    raster = Raster(
        pixels, valid, bands, grid.crs, _transform(grid, place, size), item.name
    )
    _check_any(raster, window)
    check_reflectance(raster)
    return raster


def _place(item: RasterItem, grid: Grid, window: Window | None) -> Window:
    place = window or Window(0, 0, grid.height, grid.width)
    if not grid.contains(place):
        raise RasterError(
            f"{item.name} is smaller than asked: {grid.height} x {grid.width} px, "
            f"window of {place.height} x {place.width} px at row {place.row}, column "
            f"{place.column}. Ask for a smaller window."
        )
    return place


def _check_any(raster: Raster, window: Window | None) -> None:
    if window is None and not raster.valid.any():
        raise RasterError(
            f"{raster.name} holds no valid pixel: all are nodata, saturated or not "
            "finite. Leave it out."
        )


def _read_mosaic(
    mosaic: Mosaic,
    bands: Sequence[Band],
    window: Window | None,
    out_size: tuple[int, int] | int | None,
    files: OpenFiles | None,
) -> Raster:
    """Read of each product what lies under the window, until all pixels are there."""
    grid = mosaic.grid(bands)
    place = _place(mosaic, grid, window)
    size = _as_size(out_size, place)
    target = Grid(*size, _transform(grid, place, size), grid.crs)
    shape = (len(bands), *size)
    layer: Layer = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    for part in mosaic.parts:
        read = partial(_read_part, part, bands, files)
        layer = lay_over(layer, bring_to(target, part.grid(bands), len(bands), read))
        if layer[1].all():
            break
    raster = Raster(*layer, tuple(bands), grid.crs, target.transform, mosaic.name)
    _check_any(raster, window)
    return raster


def _read_part(
    part: RasterItem,
    bands: Sequence[Band],
    files: OpenFiles | None,
    window: Window,
    size: tuple[int, int],
) -> Raster:
    return read_raster(part, bands, window, size, files)


def check_reflectance(raster: Raster) -> None:
    """Refuse values that cannot be reflectance.

    Clouds and snow above 1 and dark water a little below 0 pass.

    Raises:
        UnitError: a band's median is too bright, which unscaled digital numbers are,
            or the medians of bands are clearly negative, as after an offset was
            applied twice.
    """
    step = max(1, int(np.ceil(np.sqrt(raster.pixels[0].size / _SAMPLES))))
    seen = np.s_[:, ::step, ::step]
    pixels, valid = raster.pixels[seen], raster.valid[seen]
    if _is_ordinary(pixels, valid):
        return
    medians = _medians(pixels, valid)
    for band, median in zip(raster.bands, medians.tolist(), strict=True):
        if median > BRIGHTEST:
            raise UnitError(
                f"{raster.name}, band {band.name}: median reflectance would be "
                f"{median:.4g}, these look like unscaled digital numbers. State the "
                "unit, quantification and offset."
            )
    dark = [
        f"{band.name} {median:.3f}"
        for band, median in zip(raster.bands, medians.tolist(), strict=True)
        if median < DARKEST
    ]
    if len(dark) >= min(_DARK_BANDS, len(raster.bands)):
        raise UnitError(
            f"{raster.name}: median reflectance is negative in {', '.join(dark[:4])}: "
            "this looks like a twice-applied offset, or another quantification. State "
            "the right offset (0 if it was already applied) and quantification."
        )


def find_darkness(
    item: RasterItem, numbers: Sequence[npt.NDArray[np.generic]]
) -> tuple[str, bool]:
    """Say whether an image would be far too dark in all of its bands.

    A window, or some of the bands, may well be dark: deep water is. So this is for a
    sample of a whole image.

    Args:
        item: the image.
        numbers: measured numbers of each of its bands.

    Returns:
        What is too dark, "" if it is not; and whether the scale is the only
        explanation, as of 8-bit numbers and percent that are taken for ten-thousandths.
    """
    limit = DIMMEST * item.quantification - item.offset
    for band in numbers:
        # As for the median: in range are all but a few images, and these cost little.
        num_bright = np.count_nonzero(np.greater(band, limit))
        if 100 * num_bright > (100 - _BRIGHT_PERCENT) * band.size:
            return "", False
    bright = [
        float(np.percentile(b.astype(float), _BRIGHT_PERCENT))
        for b in numbers
        if b.size
    ]
    if not bright:
        return "", False
    most = (max(bright) + item.offset) / item.quantification
    # A few numbers alone, as of a made image, are no evidence; 8 bits are.
    is_8_bit = all(band.dtype.itemsize == 1 for band in numbers)
    is_many = sum(len(np.unique(band)) for band in numbers) >= _LEAST_DISTINCT
    return (
        f"{item.name}: reflectance would be below {most:.4g} in all bands: numbers up "
        f"to {max(bright):.6g} with a quantification of {item.quantification:g} and an "
        f"offset of {item.offset:g}",
        max(bright) <= _GREATEST_8_BIT and (is_8_bit or is_many),
    )


def _is_ordinary(pixels: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> bool:
    """Whether over half of each band's pixels are in range, and so its median is.

    Counting costs a tenth of sorting, and this runs for every crop of a training.
    """
    in_range = (pixels >= DARKEST) & (pixels <= BRIGHTEST) & valid
    counts = np.count_nonzero(in_range, axis=(1, 2))
    return bool((2 * counts > np.count_nonzero(valid, axis=(1, 2))).all())


def _medians(
    pixels: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Median of each band's valid pixels, NaN for a band without any."""
    return np.array(
        [
            np.median(band[seen]) if seen.any() else np.nan
            for band, seen in zip(pixels, valid, strict=True)
        ]
    )


def _as_size(size: tuple[int, int] | int | None, place: Window) -> tuple[int, int]:
    if size is None:
        return place.height, place.width
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ShapeError(f"out_size must be at least 1 pixel, found {size}.")
    return height, width


def _group_by_file(item: RasterItem, bands: Sequence[Band]) -> list[list[int]]:
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
    item: RasterItem,
    layers: Sequence[BandFile],
    axes: tuple[Axis, Axis],
    files: OpenFiles | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Read layers of one file onto the output grid, in strips if it is large."""
    rows, columns = axes
    file, indices = layers[0], [layer.index for layer in layers]
    out = np.empty((len(indices), len(rows), len(columns)), np.float32)
    valid = np.empty(out.shape, dtype=np.bool_)
    (top, bottom), (left, right) = rows.span, columns.span
    needed = len(indices) * (bottom - top) * (right - left)
    strip = max(1, out.shape[1] * _BLOCK // max(needed, _BLOCK))
    # Without a store of files, this one is closed again when it has been read.
    store = files or OpenFiles()
    try:
        for start in range(0, out.shape[1], strip):
            part = rows.part(start, start + strip)
            window = _span_window(part, columns)
            if file.store is not None:
                numbers = file.store.read(indices, window)
            else:
                numbers = store.read(file.path, indices, window)
            scaled, known = to_reflectance(numbers, item, layers)
            if file.masks:
                known &= store.known(file.path, indices, file.masks, window)
            if not known.all():
                scaled[~known] = 0
            if strip >= out.shape[1]:
                return resample(scaled, known, part, columns)
            stop = start + strip
            out[:, start:stop], valid[:, start:stop] = resample(
                scaled, known, part, columns
            )
    except (*GDAL_ERRORS, IndexError) as error:
        raise as_raster_error(file.path, error) from None
    finally:
        if files is None:
            store.close()
    return out, valid


def _span_window(rows: Axis, columns: Axis) -> Window:
    (top, bottom), (left, right) = rows.span, columns.span
    return Window(top, left, bottom - top, right - left)


def to_reflectance(
    numbers: npt.NDArray[np.generic], item: RasterItem, layers: Sequence[BandFile]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Turn numbers of an image's file into reflectance, and say which are valid.

    Args:
        numbers: (C, ...) of the file.
        item: says what they mean.
        layers: the C layers that they are of.
    """
    # Broken files hold signalling NaN and numbers beyond 32 bits.
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = numbers.astype(np.float32)
        scaled += np.float32(item.offset)
        scaled /= np.float32(item.quantification)
    valid = find_valid(numbers, item, layers)
    if numbers.dtype.kind == "f":
        valid &= np.isfinite(scaled)
    return scaled, valid


def find_valid(
    numbers: npt.NDArray[np.generic], item: RasterItem, layers: Sequence[BandFile]
) -> npt.NDArray[np.bool_]:
    """Return which numbers are measurements, in their shape; see `to_reflectance`."""
    valid = is_measured(numbers, (item.nodata, *item.other_invalid))
    for known, layer, file in zip(valid, numbers, layers, strict=True):
        if file.nodata is not None:
            known &= is_measured(layer, [file.nodata])
    return valid


def is_measured(
    numbers: npt.NDArray[np.generic], invalid: Sequence[float | None]
) -> npt.NDArray[np.bool_]:
    """Return which numbers are finite and none of the invalid ones, in their shape."""
    is_whole = numbers.dtype.kind in "iu"
    valid = np.ones(numbers.shape, np.bool_) if is_whole else np.isfinite(numbers)
    for value in invalid:
        if value is not None and not np.isnan(value):
            # Whole numbers are compared as such, without a copy of all as floats.
            same = is_whole and float(value).is_integer()
            valid &= numbers != (int(value) if same else value)
    return np.asarray(valid, dtype=np.bool_)


def _transform(grid: Grid, place: Window, size: tuple[int, int]) -> Affine | None:
    if grid.transform is None:
        return None
    moved = compose(grid.transform, Affine.translation(place.column, place.row))
    stretch = Affine.scale(place.width / size[1], place.height / size[0])
    return compose(moved, stretch)
