"""What the numbers of an image mean: unit, scale, offset, and what is no measurement.

What headers do not say, a thinned-out sample of the numbers tells: it decides what the
numbers are, and shows undeclared fill: one number in all bands, or at a scene's edge
and unlike all others.
"""

import contextlib
import datetime
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.rasters.files import (
    RESAMPLING_TAG,
    UNIT_TAG,
    Header,
    ProductMetadata,
    Scale,
    Stated,
    day_in,
    open_raster,
    read_masks,
)
from spectralgpt.rasters.gdal import Location, is_first, quiet_gdal, reading, warn_once
from spectralgpt.rasters.grid import Flags, Numbers
from spectralgpt.rasters.products import offset_from_texts
from spectralgpt.rasters.read import BandFile, RasterFile, is_measured
from spectralgpt.sensors import Sensor

_REFLECTANCE_BELOW = 2.0
_NUMBERS_ABOVE = 20.0
"""Between the two, a 99th percentile of float values could be either unit."""
_BRIGHT_PERCENT = 99.0
_DIMMEST = 0.03
"""Images that are darker in all bands are hardly ever land; 8-bit numbers and percent
that are taken for ten-thousandths are."""
_GREATEST_8_BIT = 255
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
class ImageNumbers:
    """What is known of an image whose bands are found, and what follows from it.

    Args:
        path: the image.
        sensor: that took it.
        files: where its bands lie.
        headers: of its files.
        stated: see `describe_raster`.
        assumed: see `describe_raster`.
        product: what the metadata say where it is one.
    """

    path: Path
    sensor: Sensor
    files: Mapping[str, BandFile]
    headers: Mapping[Location, Header]
    stated: Stated
    assumed: Stated
    product: ProductMetadata | None

    def describe(self, name: str) -> RasterFile:
        """Describe it; see `describe_raster`."""
        product, unit = self.product, self._unit()
        scale = self._scale(unit)
        invalid, own = self._nodata(unit)
        tags = (header.tags.get(RESAMPLING_TAG) for header in self.headers.values())
        resampled = next(filter(None, tags), "")
        if resampled:
            warn_once(
                f"resampled {resampled}",
                f"{self.path} was made of another sensor's bands, which are not all "
                f"measurements: {resampled}.",
            )
        item = RasterFile(
            name=name,
            sensor=self.sensor,
            files={n: replace(f, nodata=own.get(n)) for n, f in self.files.items()}
            if own
            else self.files,
            quantification=scale.quantification,
            offset=scale.offset,
            nodata=invalid[0] if invalid else None,
            unit=unit,
            offset_source=scale.source,
            other_invalid=tuple(invalid[1:]),
            place=name,
            date=product.date if product is not None else _date_in_names(self.path),
            cloud_percent=None if product is None else product.cloud_percent,
            resampled=resampled,
        )
        if product is None and not self._is_tagged:
            # What cannot be read to its end is told by whoever reads it.
            with contextlib.suppress(RasterError):
                self._look_at_numbers(item)
        return item

    def _look_at_numbers(self, item: RasterFile) -> None:
        """Hold the scale against some numbers of a plain file, and look for fill."""
        known = (self.stated.quantification, self.assumed.quantification)
        is_all_stated = "auto" not in (self.stated.quantification, self.stated.nodata)
        # What is stated is right or wrong for all alike: one look is enough.
        if is_all_stated and not is_first(f"stated in {self.path.parent}"):
            return
        is_usual = item.unit != "reflectance" and self._own_scale() is None
        dark, is_wrong = _find_darkness(item, self._numbers)
        if is_wrong and is_usual and known == ("auto", "auto"):
            raise UnitError(
                f"{dark} look like 8-bit ones or percent. State the quantification "
                "(such as 255 or 100) and offset."
            )
        if dark:
            warn_once(
                f"dark in {self.path.parent}",
                f"{dark}. Unless it shows deep water or night, state another scale: "
                "8-bit numbers are divided by 255, percent by 100.",
            )
        fill = self._fill(item.unit)
        if fill and self.stated.nodata == self.assumed.nodata == "auto":
            numbers = as_option(fill)
            warn_once(
                f"fill {numbers} in {self.path.parent}",
                f"{self.path} holds {numbers} at its edge or in all bands at once, "
                "which looks like fill that nobody declared and counts as reflectance: "
                f"state nodata (--nodata {numbers}) if nothing was measured there.",
            )

    def _unit(self) -> str:
        """Return what the files hold: stated, tagged, or seen from type and values."""
        stated = self.stated.unit
        if self._is_tagged:
            if stated == "digital-numbers":
                raise UnitError(
                    f"{self.path} is tagged as reflectance: read as digital numbers it "
                    "would get a twice-applied offset. Leave the unit out."
                )
            return "reflectance"
        if stated != "auto":
            return stated
        is_whole = all(
            self.headers[file.path].dtypes[file.index - 1].startswith(("int", "uint"))
            for file in self.files.values()
        )
        if is_whole or self._own_scale() is not None:
            return "digital-numbers"
        if self.assumed.unit != "auto":
            return self.assumed.unit
        values = np.concatenate(self._numbers).astype(np.float64)
        bright = float(np.percentile(values, _BRIGHT_PERCENT)) if values.size else 0.0
        if bright <= _REFLECTANCE_BELOW:
            return "reflectance"
        per_unit = (self.stated.quantification, self.assumed.quantification)
        if bright >= _NUMBERS_ABOVE or per_unit != ("auto", "auto"):
            return "digital-numbers"
        raise UnitError(
            f"{self.path} holds float values whose {_BRIGHT_PERCENT:g}th percentile is "
            f"{bright:.4g}: neither clearly reflectance nor digital numbers. State the "
            "unit."
        )

    def _scale(self, unit: str) -> Scale:
        """Return how numbers become reflectance.

        What is stated counts, then what the files and the product's metadata say, then
        what is assumed, then the sensor's rule.
        """
        stated, own = self.stated, self._own_scale()
        is_stated = not Scale(1.0, 0.0, "").agrees(stated.quantification, stated.offset)
        said = f"quantification ({stated.quantification}) or offset ({stated.offset})"
        if unit == "reflectance":
            if is_stated or own is not None:
                other = f"a stated {said}" if is_stated else f"its own scale {own}"
                raise UnitError(
                    f"{self.path} already holds reflectance: {other} would be a "
                    "twice-applied offset. Leave out one of the two, or state the unit "
                    "digital-numbers if that is what they are."
                )
            return Scale(1.0, 0.0, "the file holds reflectance")
        if own is not None:
            found = Scale(1 / own[0], own[1] / own[0], "the file's own scale")
            if is_stated and not found.agrees(stated.quantification, stated.offset):
                raise UnitError(
                    f"{self.path} states its own scale and offset {own}: a stated "
                    f"{said} would be a twice-applied offset. Leave both out."
                )
            return found
        known = None if self.product is None else self.product.scale
        if known is not None and stated.quantification == stated.offset == "auto":
            return known
        return self._stated_scale(known)

    def _stated_scale(self, known: Scale | None) -> Scale:
        told = (
            self.stated.quantification,
            "auto" if known is None else known.quantification,
            self.assumed.quantification,
            self.sensor.quantification,
        )
        per_unit = next(each for each in told if each != "auto")
        if per_unit is None:
            raise UnitError(
                f"{self.path}: {self.sensor.name} has no fixed scale. State the "
                "quantification: digital numbers per unit of reflectance."
            )
        if self.stated.offset != "auto":
            offset, source = float(self.stated.offset), "stated"
        elif known is not None:
            offset, source = known.offset, known.source
        else:
            offset, source = self._find_offset()
        return Scale(float(per_unit), offset, source)

    def _find_offset(self) -> tuple[float, str]:
        rule, assumed = self.sensor.baseline, self.assumed.offset
        kept = None
        if assumed != "auto":
            kept = float(assumed), "stated for the images that the model learned from"
        if rule is None:
            return kept or (self.sensor.offset, f"{self.sensor.name} always")
        inside = next(iter(self.files.values())).path
        found = offset_from_texts(self.path, inside, rule)
        if found is not None:
            return found
        if not any(numbers.size for numbers in self._numbers):
            raise UnitError(
                f"{self.path}: no pixel that was looked at is valid, and no processing "
                "baseline in its name or metadata tells the offset. Leave the file "
                "out, or state the offset."
            )
        # Dark pixels only exist where none was added: one in a hundred of the valid
        # ones of some band is enough. Bright pixels prove nothing.
        limit = -rule.offset - _DARK_MARGIN
        for values in self._numbers:
            # Counting costs a tenth of sorting, and this runs for each image of a list.
            num_dark = np.count_nonzero(np.less(values, limit))
            if 100 * num_dark > _DARK_SHARE_PERCENT * values.size:
                return rule.offset_before, "pixels darker than the offset allows"
        if kept is not None:
            return kept
        fill = self._fill("digital-numbers")
        but = f" (but for {as_option(fill)}, which looks like fill)" if fill else ""
        raise UnitError(
            f"{self.path}: the offset is in doubt: no processing baseline in its name "
            f"or metadata, and no pixel dark enough to tell{but}. State the offset: "
            f"{rule.offset:g} from baseline 04.00 (January 2022) on, "
            f"{rule.offset_before:g} before."
        )

    def _nodata(self, unit: str) -> tuple[list[float], dict[str, float | None]]:
        """Return which numbers are no measurement: in all bands, and by band."""
        is_scaled = unit != "reflectance" and self.sensor.saturated is not None
        more = [float(self.sensor.saturated or 0)] if is_scaled else []
        if self.stated.nodata != "auto":
            return [*map(float, self.stated.nodata), *more], {}
        assumed = self.assumed.nodata
        kept = [] if assumed == "auto" else [*map(float, assumed)]
        usual = self.sensor.nodata if unit != "reflectance" and not kept else None
        own = {
            name: usual if value is None or np.isnan(value) else value
            for name, value in self._own_nodata().items()
        }
        if len(set(own.values())) == 1:
            common = [value for value in list(own.values())[:1] if value is not None]
            return list(dict.fromkeys([*common, *kept, *more])), {}
        return [*kept, *more], own

    def _fill(self, unit: str) -> tuple[float, ...]:
        """Return numbers that look like fill that nobody declared."""
        return self._thumbnail.fill(tuple(self._nodata(unit)[0]))

    @functools.cached_property
    def _thumbnail(self) -> "_Thumbnail":
        """Some numbers of each band, read at most once."""
        is_stated = self.stated.nodata != "auto"
        declared: dict[Location, Sequence[float | None]] = {
            path: [None] * header.count if is_stated else header.nodata
            for path, header in self.headers.items()
        }
        return _Thumbnail(self.files, declared)

    @functools.cached_property
    def _numbers(self) -> list[Numbers]:
        """Those that are measured, by band: not even fill that nobody declared."""
        invalid, _ = self._nodata("digital-numbers")
        return self._thumbnail.valid([*invalid, *self._fill("digital-numbers")])

    @property
    def _is_tagged(self) -> bool:
        tags = {header.tags.get(UNIT_TAG, "") for header in self.headers.values()}
        return tags == {"reflectance"}

    def _own_nodata(self) -> dict[str, float | None]:
        stated = {} if self.product is None else self.product.nodata
        return {
            name: stated.get(name, self.headers[file.path].nodata[file.index - 1])
            for name, file in self.files.items()
        }

    def _own_scale(self) -> tuple[float, float] | None:
        """Return the scale of the layers that are bands; others may have their own."""
        scales = {
            self.headers[file.path].scales[file.index - 1]
            for file in self.files.values()
        }
        for scale, offset in scales:
            if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
                raise UnitError(
                    f"{self.path} states a scale of {scale:g} and an offset of "
                    f"{offset:g}: a scale must be above 0, and both finite. Correct "
                    "its header."
                )
        if len(scales) > 1:
            raise UnitError(
                f"{self.path}: bands state different scales {sorted(scales)}."
            )
        own = scales.pop()
        return None if own == (1.0, 0.0) else own


class _Thumbnail:
    """Some numbers of each band of `files`, thinned out without interpolation.

    `nodata` is what the layers of each file declare.
    """

    def __init__(
        self,
        files: Mapping[str, BandFile],
        nodata: Mapping[Location, Sequence[float | None]],
    ) -> None:
        # Of each file (C, h, w), what its masks call measurements, and its bands' own
        # nodata.
        self._layers: list[tuple[Numbers, Flags, list[float | None]]] = []
        self._fills: dict[tuple[float, ...], tuple[float, ...]] = {}
        for path, declared in nodata.items():
            own = [file for file in files.values() if file.path == path]
            if own:
                with quiet_gdal(), open_raster(path) as dataset, reading(path):
                    numbers, known = _read_some(dataset, own)
                stated = [declared[file.index - 1] for file in own]
                self._layers.append((numbers, known, stated))

    def _known(self, invalid: Sequence[float]) -> list[Flags]:
        """Which numbers are measurements as far as anybody declared, by file."""
        found = []
        for numbers, seen, own in self._layers:
            valid = is_measured(numbers, invalid) & seen
            for known, layer, nodata in zip(valid, numbers, own, strict=True):
                known &= is_measured(layer, [nodata])
            found.append(valid)
        return found

    def fill(self, invalid: tuple[float, ...]) -> tuple[float, ...]:
        """Return numbers that look like fill that nobody declared; see `find_fill`."""
        if invalid not in self._fills:
            numbers = [numbers for numbers, *_ in self._layers]
            known = self._known(invalid)
            self._fills[invalid] = find_fill(list(zip(numbers, known, strict=True)))
        return self._fills[invalid]

    def valid(self, invalid: Sequence[float]) -> list[Numbers]:
        """Return the measured numbers of each band; see `fill`."""
        found: list[Numbers] = []
        for (numbers, *_), known in zip(
            self._layers, self._known(invalid), strict=True
        ):
            found += [band[there] for band, there in zip(numbers, known, strict=True)]
        return found


def find_fill(files: Sequence[tuple[Numbers, Flags]]) -> tuple[float, ...]:
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
    stacks: dict[tuple[int, ...], tuple[list[Numbers], list[Flags]]] = {}
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


def _fill_of(numbers: Numbers, known: Flags) -> set[float]:
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


def _is_at_edge(same: Flags, known: Flags) -> bool:
    """Whether pixels touch the border, or what is declared to be nothing."""
    outside = ~known
    outside[[0, -1], :] = True
    outside[:, [0, -1]] = True
    near = outside.copy()
    near[1:] |= outside[:-1]
    near[:-1] |= outside[1:]
    return bool((same & near).any())


def _stands_apart(value: float, others: Numbers) -> bool:
    """Whether a band's least or greatest number is far from the others, sorted."""
    num_distinct = 1 + np.count_nonzero(others[1:] != others[:-1])
    if value not in _USUAL and num_distinct < _LEAST_DISTINCT:
        return False
    places = (len(others) - 1) * np.array(_SPREAD_PERCENT) / 100
    low, high = others[places.round().astype(int)].astype(float).tolist()
    gap = min(abs(float(others[0]) - value), abs(float(others[-1]) - value))
    return gap > max(high - low, abs(low), abs(high)) * _GAP


def _is_in_all(numbers: Numbers, known: Flags, same: Flags, value: np.generic) -> bool:
    """Whether most pixels that hold a number in one band hold it in all bands."""
    if len(numbers) < _SAME_BANDS:
        return False
    everywhere = ((numbers == value) | ~known).all(axis=0) & same
    return bool(2 * everywhere.sum() > same.sum())


def _read_some(
    dataset: rasterio.DatasetReader, layers: Sequence[BandFile]
) -> tuple[Numbers, Flags]:
    """Read the thinned-out image, or patches of a large one, and its masks."""
    indices = [layer.index for layer in layers]
    masks = list(dict.fromkeys(mask for layer in layers for mask in layer.masks))
    height, width = dataset.height, dataset.width

    def read(
        window: RasterioWindow | None, size: tuple[int, int]
    ) -> tuple[Numbers, Flags]:
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


def _find_darkness(item: RasterFile, numbers: Sequence[Numbers]) -> tuple[str, bool]:
    """Say whether an image would be far too dark in all of its bands.

    A window, or some of the bands, may well be dark: deep water is. So this is for
    measured numbers of a whole image, by band. Returns what is too dark, "" if it is
    not; and whether the scale is the only explanation, as of 8-bit numbers and percent
    that are taken for ten-thousandths.
    """
    limit = _DIMMEST * item.quantification - item.offset
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


def _date_in_names(path: Path) -> datetime.date | None:
    """The date in a file's name, or that of its folder; names of products have one."""
    absolute = path.absolute()
    return day_in(absolute.name) or day_in(absolute.parent.name)
