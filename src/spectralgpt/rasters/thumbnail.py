"""Some numbers of an image, thinned out, for what its headers do not say.

They decide what the numbers are, and show fill that nobody declared: one number in all
bands, or at a scene's edge and unlike all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window as RasterioWindow

from spectralgpt.rasters.files import open_raster, read_masks
from spectralgpt.rasters.gdal import quiet_gdal, reading
from spectralgpt.rasters.locations import Location
from spectralgpt.rasters.read import BandFile, is_measured
from spectralgpt.sensors import BaselineRule

_Numbers = npt.NDArray[np.generic]
_Known = npt.NDArray[np.bool_]
_SIDE = 128
"""Numbers a side of a thumbnail."""
_LARGE_PX = 2048
"""Side from which a file without overviews is looked at in patches."""
_PATCHES = 8
_PATCH_PX = _SIDE // _PATCHES
"""Patches a side: each is some of the tiles of a file, all of which are not decoded."""
_SAME_BANDS = 3
"""So many bands have one number at one pixel only where nothing was measured."""
_LEAST_SHARE = 0.002
_LEAST_COUNT = 4
"""Of the pixels: what is rarer may be chance."""
_USUAL = (-9999.0, -99999.0, -32768.0, 32767.0, 65535.0)
"""Numbers that people fill with."""
_LEAST_DISTINCT = 32
"""Other numbers of a band, from which their spread can be told."""
_GAP = 0.1
"""Least distance of fill from all other numbers, as a share of their spread."""
_SPREAD_PERCENT = (1.0, 99.0)
_DARK_SHARE_PERCENT = 1.0
_DARK_MARGIN = 300.0
"""Digital numbers below the added offset that noise and correction do not reach."""
_SIGNS = 2
"""Of fill, so many are seen: far from the others, in all bands at once, at the edge."""


@dataclass(frozen=True)
class Thumbnail:
    """Some numbers of each band.

    Args:
        layers: of each file (C, h, w), which of them its masks call measurements, and
            its C bands' own nodata.
    """

    layers: tuple[tuple[_Numbers, _Known, tuple[float | None, ...]], ...]

    @classmethod
    def read(
        cls,
        files: Mapping[str, BandFile],
        nodata: Mapping[Location, Sequence[float | None]],
    ) -> "Thumbnail":
        """Read some numbers of each band, thinned out without interpolation.

        Args:
            files: where the bands lie.
            nodata: what the layers of each file declare.

        Raises:
            RasterError: a file cannot be read.
        """
        layers = []
        for path, declared in nodata.items():
            own = [file for file in files.values() if file.path == path]
            if not own:
                continue
            with quiet_gdal(), open_raster(path) as dataset, reading(path):
                numbers, known = _read_some(dataset, own)
            layers.append((numbers, known, tuple(declared[f.index - 1] for f in own)))
        return cls(tuple(layers))

    def _known(self, invalid: Sequence[float]) -> list[_Known]:
        """Which numbers are measurements as far as anybody declared, by file."""
        found = []
        for numbers, seen, own in self.layers:
            valid = is_measured(numbers, invalid) & seen
            for known, layer, nodata in zip(valid, numbers, own, strict=True):
                known &= is_measured(layer, [nodata])
            found.append(valid)
        return found

    def fill(self, invalid: Sequence[float] = ()) -> tuple[float, ...]:
        """Return numbers that look like fill that nobody declared; see `find_fill`.

        Args:
            invalid: what is declared to be no measurement, in all bands.
        """
        numbers = [numbers for numbers, *_ in self.layers]
        return find_fill(list(zip(numbers, self._known(invalid), strict=True)))

    def valid(self, invalid: Sequence[float] = ()) -> list[_Numbers]:
        """Return the measured numbers of each band; see `fill`."""
        found: list[_Numbers] = []
        for (numbers, *_), known in zip(self.layers, self._known(invalid), strict=True):
            found += [band[there] for band, there in zip(numbers, known, strict=True)]
        return found


def offset_from_pixels(
    numbers: Sequence[npt.NDArray[np.generic]], rule: BaselineRule
) -> tuple[float, str] | None:
    """Take the offset from dark pixels, which only exist where none was added.

    One in a hundred of some band is enough. Bright pixels prove nothing.

    Args:
        numbers: valid digital numbers, one array a band.
        rule: says which offset may have been added.

    Returns:
        `rule.offset_before` if pixels rule the other one out, None if in doubt.
    """
    limit = -rule.offset - _DARK_MARGIN
    for values in numbers:
        # Counting costs a tenth of sorting, and this runs for each image of a list.
        num_dark = np.count_nonzero(np.less(values, limit))
        if 100 * num_dark > _DARK_SHARE_PERCENT * values.size:
            return rule.offset_before, "pixels darker than the offset allows"
    return None


def find_fill(files: Sequence[tuple[_Numbers, _Known]]) -> tuple[float, ...]:
    """Return numbers that look like fill that nobody declared.

    Fill is the least number of a band, or the greatest and far from all others, and
    shows two signs: it lies at the edge, is the same in several bands at once, or is
    far from all others. Where there are many bands it is in all of them, unless people
    usually fill with it. Files of one band each are laid over each other where they are
    of one shape.

    Args:
        files: (C, h, w) as they are in a file, and which of them are measurements as
            far as anybody declared.
    """
    stacks: dict[tuple[int, ...], tuple[list[_Numbers], list[_Known]]] = {}
    for numbers, known in files:
        stack = stacks.setdefault(numbers.shape[1:], ([], []))
        stack[0].append(numbers)
        stack[1].append(known)
    found = [
        _fill_of(np.concatenate(numbers), np.concatenate(known))
        for numbers, known in stacks.values()
    ]
    return tuple(sorted(set().union(*found)))


def as_option(numbers: Sequence[float]) -> str:
    """Return numbers as they can be stated, with all their digits."""
    return ",".join(repr(float(number)).removesuffix(".0") for number in numbers)


def _fill_of(numbers: _Numbers, known: _Known) -> set[float]:
    found: set[float] = set()
    for band, there in zip(numbers, known, strict=True):
        # Sorted once, all that follows is cheap: this runs for each image of a list.
        ordered = np.sort(band[there])
        if not ordered.size or ordered[0] == ordered[-1]:
            continue
        above = int(np.searchsorted(ordered, ordered[0], side="right"))
        below = int(np.searchsorted(ordered, ordered[-1], side="left"))
        ends = (ordered[0], ordered[above:]), (ordered[-1], ordered[:below])
        for is_least, (value, others) in zip((True, False), ends, strict=True):
            count = ordered.size - others.size
            if count < max(_LEAST_COUNT, _LEAST_SHARE * band.size):
                continue
            is_apart = _stands_apart(float(value), others)
            if not (is_apart or is_least):
                continue
            same = (band == value) & there
            is_in_all = _is_in_all(numbers, known, same, value)
            # Of one band among many it is a bright pixel of a coarse band, repeated.
            may_be_one = len(numbers) < _SAME_BANDS or float(value) in _USUAL
            signs = (is_apart, is_in_all, _is_at_edge(same, there))
            if sum(signs) >= _SIGNS and (is_in_all or may_be_one):
                found.add(float(value))
    return found


def _is_at_edge(same: _Known, known: _Known) -> bool:
    """Whether pixels touch the border, or what is declared to be nothing."""
    outside = ~known
    outside[[0, -1], :] = True
    outside[:, [0, -1]] = True
    near = outside.copy()
    near[1:] |= outside[:-1]
    near[:-1] |= outside[1:]
    return bool((same & near).any())


def _stands_apart(value: float, others: _Numbers) -> bool:
    """Whether a band's least or greatest number is far from the others, sorted."""
    num_distinct = 1 + np.count_nonzero(others[1:] != others[:-1])
    if value not in _USUAL and num_distinct < _LEAST_DISTINCT:
        return False
    places = (len(others) - 1) * np.array(_SPREAD_PERCENT) / 100
    low, high = others[places.round().astype(int)].astype(float).tolist()
    gap = min(abs(float(others[0]) - value), abs(float(others[-1]) - value))
    return gap > max(high - low, abs(low), abs(high)) * _GAP


def _is_in_all(
    numbers: _Numbers,
    known: _Known,
    same: _Known,
    value: np.generic,
) -> bool:
    """Whether most pixels that hold a number in one band hold it in all bands."""
    if len(numbers) < _SAME_BANDS:
        return False
    everywhere = ((numbers == value) | ~known).all(axis=0) & same
    return bool(2 * everywhere.sum() > same.sum())


def _read_some(
    dataset: rasterio.DatasetReader, layers: Sequence[BandFile]
) -> tuple[_Numbers, _Known]:
    """Read the thinned-out image, or patches of a large one, and its masks."""
    indices = [layer.index for layer in layers]
    masks = list(dict.fromkeys(mask for layer in layers for mask in layer.masks))
    height, width = dataset.height, dataset.width

    def read(
        window: RasterioWindow | None, size: tuple[int, int]
    ) -> tuple[_Numbers, _Known]:
        shape = (len(indices), *size)
        numbers = np.asarray(dataset.read(indices, window=window, out_shape=shape))
        if not masks:
            return numbers, np.ones(numbers.shape, np.bool_)
        return numbers, read_masks(dataset, indices, masks, window, size)

    if max(height, width) <= _LARGE_PX or dataset.overviews(indices[0]):
        return read(None, (min(height, _SIDE), min(width, _SIDE)))
    rows, columns = (
        np.linspace(0, length - min(length, _PATCH_PX), _PATCHES).astype(int).tolist()
        for length in (height, width)
    )
    size = min(height, _PATCH_PX), min(width, _PATCH_PX)
    found = [
        [
            read(RasterioWindow(column, row, size[1], size[0]), size)
            for column in columns
        ]
        for row in rows
    ]
    # Beside each other, as if they were a small image.
    numbers, known = (
        np.concatenate([np.concatenate([p[of] for p in row], 2) for row in found], 1)
        for of in (0, 1)
    )
    return numbers, known
