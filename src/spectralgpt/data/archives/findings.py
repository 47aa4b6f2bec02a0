"""Reading every image of an archive, and what was found: `spectralgpt data check`.

The listing says what should be there; here files are opened, read to their end and
compared. What is wrong is counted by kind and never stops the rest.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.listings import (
    Entry,
    Fault,
    FaultKind,
    Listing,
    Reader,
    first_names,
)
from spectralgpt.data.masks import read_target
from spectralgpt.data.overlaps import (
    Footprint,
    count_overlaps,
    count_within,
    footprint_of,
)
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.sources import Source, describe_image
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import BandError, RasterError, SpectralGPTError, UnitError
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import (
    Raster,
    RasterFile,
    Window,
    quiet_gdal,
    read_numbers,
    read_raster,
)
from spectralgpt.rasters.files import read_header, read_known
from spectralgpt.rasters.numbers import as_option, find_fill
from spectralgpt.sensors import find_sensor

logger = logging.getLogger(__name__)

_AT_ONCE = 256
"""Images handed to the readers at a time, so that millions need no memory."""
_MEASURED = 256
_EXAMPLES = 24
_EXAMPLE_PX, _MASKED_PX, _DRAWN_PX = 96, 128, 1024
_SHOWN = 3
"""Names or codes that are shown of many."""


Example = tuple[str, str, tuple[Raster, ...], NDArray[Any]]
"""Name, what is written above, the image or two dates, and the mask.

The mask is as `read_target` gives it, on the image's pixels; empty if there is none.
"""


@dataclass(frozen=True)
class ArchiveCheck:
    """What was found.

    Args:
        name: of the archive or description.
        root: its folder.
        num_listed: images that are listed and there.
        num_checked: images that were opened.
        class_counts: images by split and class; "" stands for no split.
        pixel_counts: pixels of masks by split and class, or code where it has no name.
        split_counts: images by split.
        sizes: images by "height x width" of their finest band.
        bands: images by the names of their bands.
        overlaps: images of a split that lie on places of another, by "train / test".
        num_overlapping: labelled images in no split that show ground of another place.
        statistics: reflectance by band over a sample; None if no image is sound.
        faults: all of them, sorted by kind.
        notes: what is worth knowing and no fault.
        examples: for the contact sheet.
        masked: what the masks of the examples mean.
    """

    name: str
    root: Path
    num_listed: int
    num_checked: int
    class_counts: Mapping[str, Mapping[str, int]]
    pixel_counts: Mapping[str, Mapping[str, int]]
    split_counts: Mapping[str, int]
    sizes: Mapping[str, int]
    bands: Mapping[str, int]
    overlaps: Mapping[str, int]
    num_overlapping: int
    statistics: BandStatistics | None
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = field(default=(), compare=False)
    masked: SampleSet | None = field(default=None, compare=False)

    def as_table(self) -> dict[str, Any]:
        """Return all as plain values, for JSON; of the examples the names."""
        statistics = self.statistics
        return {
            "name": self.name,
            "root": str(self.root),
            "images_listed": self.num_listed,
            "images_checked": self.num_checked,
            "images_by_split": self.split_counts,
            "images_by_split_and_class": self.class_counts,
            "mask_pixels_by_split_and_class": self.pixel_counts,
            "images_by_size": self.sizes,
            "images_by_bands": self.bands,
            "images_on_places_of_another_split": self.overlaps,
            "images_on_ground_of_another_without_split": self.num_overlapping,
            "reflectance": None
            if statistics is None
            else {
                "mean": dict(statistics.mean),
                "std": dict(statistics.std),
                "percentile_1": dict(statistics.low),
                "percentile_99": dict(statistics.high),
            },
            "faults": {
                kind.value: [{"name": f.name, "detail": f.detail} for f in faults]
                for kind, faults in self._by_kind().items()
            },
            "notes": list(self.notes),
            "drawn": [name for name, *_ in self.examples],
        }

    def fault_lines(self) -> list[str]:
        """Return one line for each kind of fault: how many, and the first names."""
        lines = []
        for kind, found in self._by_kind().items():
            shown = (f"{f.name} ({f.detail})" if f.detail else f.name for f in found)
            lines.append(f"{kind}: {len(found)}: {first_names(shown, _SHOWN)}")
        return lines

    def _by_kind(self) -> dict[FaultKind, list[Fault]]:
        kinds: dict[FaultKind, list[Fault]] = {}
        for fault in self.faults:
            kinds.setdefault(fault.kind, []).append(fault)
        return kinds


@dataclass(frozen=True)
class _ReadImage:
    """What one image showed; small, for there may be a million.

    The sensor is "" if it could not be described. Bands go by wavelength; the size is
    "height x width" of the finest one; mask_pixels are by code.
    """

    entry: Entry
    sensor: str = ""
    bands: tuple[str, ...] = ()
    size: str = ""
    faults: tuple[Fault, ...] = ()
    digest: bytes = b""
    footprint: Footprint | None = None
    mask_pixels: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the archive lists it."""
        return self.entry.name

    @property
    def is_sound(self) -> bool:
        """Whether the image could be read and nothing is wrong with it."""
        return bool(self.sensor) and not self.faults


def check_images(
    listing: Listing,
    source: Source,
    name: str,
    root: Path,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> ArchiveCheck:
    """Open and read the images of a listing.

    Args:
        listing: what is there.
        source: says how the images are read; its sizes are held against the files'.
        name: for the report.
        root: for the report.
        limit: open this many, drawn with the seed; None opens all.
        seed: of that draw, of the statistics and of the examples.
        workers: threads that read.
        report: called with the images done and all of them.
    """
    entries = _draw(listing.entries, limit, seed)
    images: list[_ReadImage] = []
    with quiet_gdal(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(entries), _AT_ONCE):
            part = entries[start : start + _AT_ONCE]
            for image in pool.map(lambda e: _read_image(e, listing, source), part):
                images.append(image)
                if report is not None:
                    report(len(images), len(entries))
    faults = [*listing.faults, *(fault for image in images for fault in image.faults)]
    faults += _find_duplicates(images)
    faults += _find_missing_bands(images, source)
    marked = {fault.name for fault in faults}
    sound = [k for k in images if k.is_sound and k.name not in marked]
    statistics, more = _measure(sound, source, name, seed)
    described = [image for image in images if image.sensor]
    in_split = [image for image in images if image.entry.split]
    unsplit = [image for image in images if not image.entry.split]
    labelled = [k for k in unsplit if k.entry.labels or k.entry.masks]
    in_turn = _put_in_turn(sound, seed)
    bad = {image.entry.path for image in images} - {entry.path for entry in in_turn}
    masked, examples, misread = (
        _take_masked(in_turn, bad, listing.read)
        if listing.read and in_turn
        else (None, _take_examples(in_turn, source), [])
    )
    return ArchiveCheck(
        name,
        root,
        len(listing.entries),
        len(entries),
        _count_classes(listing),
        _count_pixels(images, listing.code_names),
        dict(sorted(Counter(entry.split for entry in listing.entries).items())),
        dict(Counter(image.size for image in described).most_common()),
        dict(Counter(", ".join(image.bands) for image in described).most_common()),
        count_overlaps([(k.entry.split, k.entry.place, k.footprint) for k in in_split]),
        count_within([(image.entry.place, image.footprint) for image in labelled]),
        statistics,
        tuple(sorted([*faults, *more, *misread], key=lambda f: (f.kind, f.name))),
        listing.notes,
        examples,
        masked,
    )


def _draw(entries: Sequence[Entry], limit: int | None, seed: int) -> list[Entry]:
    if limit is None or limit >= len(entries):
        return list(entries)
    chosen = np.random.default_rng(seed).choice(len(entries), limit, replace=False)
    return [entries[number] for number in sorted(chosen.tolist())]


def _find_duplicates(images: Sequence[_ReadImage]) -> list[Fault]:
    """Images whose numbers are all the same as those of another one."""
    first: dict[bytes, str] = {}
    faults = []
    for image in images:
        if not image.is_sound:
            continue
        twin = first.setdefault(image.digest, image.name)
        if twin != image.name:
            detail = f"same pixels as {twin}"
            faults.append(Fault(FaultKind.DUPLICATE, image.name, detail))
    return faults


def _find_missing_bands(images: Sequence[_ReadImage], source: Source) -> list[Fault]:
    """Images that lack bands which all images of the archive should have."""
    described = [image for image in images if image.sensor]
    if not described:
        return []
    if isinstance(source.sizes, Mapping) and source.sensor is not None:
        # The layout states a size for each band, so that all of them belong there.
        wanted = {band.name for band in find_sensor(source.sensor).bands}
    else:
        wanted = set(Counter(image.bands for image in described).most_common(1)[0][0])
    faults = []
    for image in described:
        missing = sorted(wanted - set(image.bands))
        if missing:
            name, detail = image.name, f"no {', '.join(missing)}"
            faults.append(Fault(FaultKind.MISSING_BAND, name, detail))
    return faults


def _measure(
    sound: Sequence[_ReadImage], source: Source, name: str, seed: int
) -> tuple[BandStatistics | None, list[Fault]]:
    """Measure reflectance on a sample; an image that cannot have any is a fault."""
    if len({image.sensor for image in sound}) != 1:
        return None, []
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(sound))[:_MEASURED].tolist())
    faults: list[Fault] = []
    usable = []
    # Some bands of hyperspectral sensors hold nothing, where air lets nothing through.
    seen: set[str] = set()
    for image in (sound[number] for number in chosen):
        try:
            item = _describe(image.entry, source)
            raster = read_raster(item, out_size=_EXAMPLE_PX)
            usable.append(item)
            seen |= set(np.array(raster.band_names)[raster.valid.any(axis=(1, 2))])
        except SpectralGPTError as error:
            is_unit = isinstance(error, UnitError)
            kind = FaultKind.IMPLAUSIBLE if is_unit else _kind_of(error)
            faults.append(Fault.of(kind, image.name, error))
    if not usable:
        return None, faults
    windows = min(_MEASURED, 4 * len(usable))
    bands = [band for band in usable[0].bands if band.name in seen]
    try:
        return band_statistics(usable, bands, name, windows, seed=seed), faults
    except SpectralGPTError as error:
        logger.warning("No statistics: %s", error)
        return None, faults


def _count_classes(listing: Listing) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {}
    for entry in listing.entries:
        if entry.labels:
            # Classes stand in their order, also those that no image shows.
            empty = Counter(dict.fromkeys(listing.class_names, 0))
            table.setdefault(entry.split, empty).update(entry.labels)
    return {split: dict(row) for split, row in sorted(table.items())}


def _count_pixels(
    images: Sequence[_ReadImage], names: Mapping[int, str]
) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {}
    for image in images:
        for code, count in image.mask_pixels.items():
            row = table.setdefault(image.entry.split, Counter())
            row[names.get(code, f"code {code}")] += count
    return {split: dict(row.most_common()) for split, row in sorted(table.items())}


def _put_in_turn(sound: Sequence[_ReadImage], seed: int) -> list[Entry]:
    """Shuffle images so that each class has its turn; of a mask, its rarest code."""
    often = Counter(code for image in sound for code in image.mask_pixels)
    turns: Counter[str] = Counter()
    order = []
    for number in np.random.default_rng(seed).permutation(len(sound)).tolist():
        image = sound[number]
        rarest = sorted(image.mask_pixels, key=lambda code: (often[code], code))[:1]
        kind = (*image.entry.labels, *map(str, rarest), "")[0]
        order.append((turns[kind], kind, number))
        turns[kind] += 1
    return [sound[number].entry for _, _, number in sorted(order)]


def _take_examples(entries: Sequence[Entry], source: Source) -> tuple[Example, ...]:
    """Read the first images for the picture."""
    examples = []
    for entry in entries[:_EXAMPLES]:
        try:
            raster = _read_thinned(_describe(entry, source), None, _EXAMPLE_PX)
        except SpectralGPTError as error:
            logger.warning("%s", error)
        else:
            none = np.empty((0, 0))
            examples.append((entry.name, _title(entry), (raster,), none))
    return tuple(examples)


def _take_masked(
    entries: Sequence[Entry], bad: Collection[Path], read: Reader
) -> tuple[SampleSet | None, tuple[Example, ...], list[Fault]]:
    """Read the first places with masks for the picture, as training reads them.

    Returns what the masks mean, examples, and the masks that training could not read.
    """
    try:
        masked = read(entries, bad, _EXAMPLES // 2)
    except SpectralGPTError as error:
        # What all of them lack is told where training refuses it.
        logger.warning("nothing is drawn: %s", error)
        return None, (), []
    count = _EXAMPLES // (1 + len(masked.samples[0].items))
    # Of images that are cut into tiles some of each.
    step = max(1, len(masked.samples) // count)
    examples, faults = [], []
    for sample in masked.samples[::step][:count]:
        grid = sample.item.grid()
        place = _middle(sample.window or Window(0, 0, grid.height, grid.width))
        name = sample.name.removeprefix(f"{masked.source}/")
        title = name if sample.split in name else f"{name} · {sample.split}"
        try:
            dates = [_read_thinned(date, place, _MASKED_PX) for date in sample.items]
            mask = read_target(masked, sample, grid, place)
        except SpectralGPTError as error:
            faults.append(Fault.of(FaultKind.REFUSED, name, error))
        else:
            sizes = zip(dates[0].pixels.shape[1:], mask.shape, strict=True)
            at = [(2 * np.arange(n) + 1) * size // (2 * n) for n, size in sizes]
            examples.append((name, title, tuple(dates), mask[np.ix_(*at)]))
    return masked, tuple(examples), faults


def _middle(place: Window) -> Window:
    """Return what is drawn of a window: of a large one its middle."""
    height, width = min(place.height, _DRAWN_PX), min(place.width, _DRAWN_PX)
    row = place.row + (place.height - height) // 2
    return Window(row, place.column + (place.width - width) // 2, height, width)


def _read_thinned(item: RasterFile, window: Window | None, most_px: int) -> Raster:
    """Read an image, or a part of it, thinned out to so many pixels a side."""
    height, width = (window.height, window.width) if window else item.shape()
    scale = min(1.0, most_px / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return read_raster(item, window=window, out_size=size)


def _title(entry: Entry) -> str:
    if not entry.labels:
        return entry.name.rsplit("/", 1)[-1]
    more = f" + {len(entry.labels) - 1}" if len(entry.labels) > 1 else ""
    return entry.labels[0] + more


def _describe(entry: Entry, source: Source) -> RasterFile:
    """Describe an image by its own headers, whatever its layout states."""
    return describe_image(replace(source, sizes=None, place=None), entry)


def _read_image(entry: Entry, listing: Listing, source: Source) -> _ReadImage:
    """Open an image, read it to its end, and note what is wrong; see `_ReadImage`."""
    name = entry.name
    try:
        item = _describe(entry, source)
    except SpectralGPTError as error:
        return _ReadImage(entry, faults=(Fault.of(_kind_of(error), name, error),))
    faults = _compare_sizes(item, source, name)
    digest = hashlib.blake2b(digest_size=16)
    num_valid, seen = 0, []
    for path in dict.fromkeys(file.path for file in item.files.values()):
        layers = [file for file in item.files.values() if file.path == path]
        try:
            numbers = read_numbers(path)
            masks = [read_known(path, [file.index], file.masks) for file in layers]
        except RasterError as error:
            faults.append(Fault.of(FaultKind.UNREADABLE, name, error))
            continue
        digest.update(np.ascontiguousarray(numbers).tobytes())
        numbers = numbers[[file.index - 1 for file in layers]]
        known = item.find_valid(numbers, layers)
        for valid, mask in zip(known, masks, strict=True):
            if mask is not None:
                valid &= mask[0]
        num_valid += int(np.count_nonzero(known))
        seen.append((numbers, known))
    fill = as_option(find_fill(seen))
    if fill:
        detail = f"{fill}, which images like it: if it is, state --nodata {fill}"
        faults.append(Fault(FaultKind.UNDECLARED, name, detail))
    if num_valid == 0 and not faults:
        faults.append(Fault(FaultKind.EMPTY, name))
    mask_pixels: dict[int, int] = {}
    if entry.masks and listing.masks_hold_codes:
        mask_pixels, more = _read_mask(entry, listing, item)
        faults += more
    try:
        size = "{} x {}".format(*item.shape())
        place = footprint_of(item)
    except RasterError as error:
        size, place = "bands do not lie on each other", None
        faults.append(Fault.of(FaultKind.MISALIGNED, name, error))
    bands = tuple(band.name for band in item.bands)
    return _ReadImage(
        entry,
        item.sensor.name,
        bands,
        size,
        tuple(faults),
        digest.digest(),
        place,
        mask_pixels,
    )


def _kind_of(error: SpectralGPTError) -> FaultKind:
    """Return which kind of fault an error is."""
    if isinstance(error, BandError):
        return FaultKind.MISSING_BAND
    if isinstance(error, RasterError):
        return FaultKind.UNREADABLE
    return FaultKind.IN_DOUBT


def _compare_sizes(item: RasterFile, source: Source, name: str) -> list[Fault]:
    if source.sizes is None or isinstance(source.sizes, str):
        return []
    for band in item.bands:
        sizes = source.sizes
        side = sizes if isinstance(sizes, int) else sizes.get(band.gsd_m)
        grid = item.files[band.name].grid
        if side is not None and (grid.height, grid.width) != (side, side):
            detail = f"{band.name} has {grid.height} x {grid.width} px, not {side}"
            return [Fault(FaultKind.WRONG_SIZE, name, detail)]
    return []


def _read_mask(
    entry: Entry, listing: Listing, item: RasterFile
) -> tuple[dict[int, int], list[Fault]]:
    """Return pixels by code, and what is wrong with a mask."""
    name, (path,) = entry.name, entry.masks
    try:
        header = read_header(path)
        codes = read_numbers(path)[:1]
        known = read_known(path, [1], header.masks[0])
        wanted = item.shape()
    except RasterError as error:
        return {}, [Fault.of(FaultKind.UNREADABLE, name, error)]
    faults = []
    found = codes.shape[1:]
    if listing.masks_have_same_size and found != wanted:
        detail = f"mask has {found[0]} x {found[1]} px, not {wanted[0]} x {wanted[1]}"
        faults.append(Fault(FaultKind.WRONG_SIZE, name, detail))
    labelled = codes if known is None else codes[known]
    values, counts = np.unique(labelled, return_counts=True)
    pixels = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    unknown = sorted(
        set(pixels) - (listing.mask_codes or set(pixels)) - {header.nodata[0]}
    )
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN]))
        faults.append(
            Fault(FaultKind.UNKNOWN_CLASS, name, f"codes {shown} in its mask")
        )
    return pixels, faults
