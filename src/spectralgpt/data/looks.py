"""Looking at one image of an archive: it is opened, read to its end and measured."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from spectralgpt.data.archives.inventory import Entry, Fault, FaultKind
from spectralgpt.data.overlaps import Footprint, footprint_of
from spectralgpt.data.sources import Source, describe_image
from spectralgpt.errors import BandError, RasterError, SpectralGPTError
from spectralgpt.rasters import RasterFile, as_option, find_fill, read_numbers
from spectralgpt.rasters.files import read_header, read_known
from spectralgpt.rasters.read import find_valid

__all__ = ["Look", "describe_entry", "kind_of", "look_at", "shorten"]

_SHOWN = 3


@dataclass(frozen=True)
class Look:
    """What one image showed; small, for there may be a million.

    Args:
        entry: what the archive says of it.
        sensor: name of its sensor, "" if it could not be described.
        bands: names of its bands, by wavelength.
        size: "height x width" of its finest band.
        faults: what is wrong with it.
        digest: of its numbers; images with the same one are the same.
        footprint: where it lies; None without a georeference.
        mask_pixels: pixels of its mask by code.
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
    def is_sound(self) -> bool:
        """Whether the image could be read and nothing is wrong with it."""
        return bool(self.sensor) and not self.faults


def describe_entry(entry: Entry, source: Source) -> RasterFile:
    """Describe an image by its own headers, whatever its layout states.

    Raises:
        SpectralGPTError: it cannot be read, or says too little of itself.
    """
    return describe_image(replace(source, sizes=None, place=None), entry.image)


def look_at(entry: Entry, source: Source) -> Look:
    """Open an image, read it to its end, and note what is wrong.

    Args:
        entry: what the archive says of it.
        source: says how it is read; its sizes are held against the file's.
    """
    name = entry.image.name
    try:
        item = describe_entry(entry, source)
    except SpectralGPTError as error:
        return Look(entry, faults=(Fault(kind_of(error), name, shorten(error)),))
    faults = _compare_sizes(item, source, name)
    digest = hashlib.blake2b(digest_size=16)
    num_valid, seen = 0, []
    for path in dict.fromkeys(file.path for file in item.files.values()):
        layers = [file for file in item.files.values() if file.path == path]
        try:
            numbers = read_numbers(path)
            masks = [read_known(path, [file.index], file.masks) for file in layers]
        except RasterError as error:
            faults.append(Fault(FaultKind.UNREADABLE, name, shorten(error)))
            continue
        digest.update(np.ascontiguousarray(numbers).tobytes())
        numbers = numbers[[file.index - 1 for file in layers]]
        known = find_valid(numbers, item, layers)
        for valid, mask in zip(known, masks, strict=True):
            if mask is not None:
                valid &= mask[0]
        num_valid += int(np.count_nonzero(known))
        seen.append((numbers, known))
    faults += _find_fill(seen, name)
    if num_valid == 0 and not faults:
        faults.append(Fault(FaultKind.EMPTY, name))
    mask_pixels: dict[int, int] = {}
    if entry.mask is not None:
        mask_pixels, more = _look_at_mask(entry, item)
        faults += more
    try:
        size = "{} x {}".format(*item.shape())
        place = footprint_of(item)
    except RasterError as error:
        size, place = "bands do not lie on each other", None
        faults.append(Fault(FaultKind.MISALIGNED, name, shorten(error)))
    bands = tuple(band.name for band in item.bands)
    return Look(
        entry,
        item.sensor.name,
        bands,
        size,
        tuple(faults),
        digest.digest(),
        place,
        mask_pixels,
    )


def kind_of(error: SpectralGPTError) -> FaultKind:
    """Return which kind of fault an error is."""
    if isinstance(error, BandError):
        return FaultKind.MISSING_BAND
    if isinstance(error, RasterError):
        return FaultKind.UNREADABLE
    return FaultKind.IN_DOUBT


def shorten(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


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


def _find_fill(
    seen: Sequence[tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]], name: str
) -> list[Fault]:
    """Return the fault of fill that nobody declared, of files (C, H, W) each."""
    fill = find_fill(seen)
    if not fill:
        return []
    numbers = as_option(fill)
    detail = f"{numbers}, which looks like it: if it is, state --nodata {numbers}"
    return [Fault(FaultKind.UNDECLARED, name, detail)]


def _look_at_mask(entry: Entry, item: RasterFile) -> tuple[dict[int, int], list[Fault]]:
    """Return pixels by code, and what is wrong with a mask."""
    assert entry.mask is not None
    name = entry.image.name
    try:
        header = read_header(entry.mask)
        codes = read_numbers(entry.mask)[:1]
        known = read_known(entry.mask, [1], header.masks[0])
        wanted = item.shape()
    except RasterError as error:
        return {}, [Fault(FaultKind.UNREADABLE, name, shorten(error))]
    faults = []
    found = codes.shape[1:]
    if entry.mask_has_same_size and found != wanted:
        detail = f"mask has {found[0]} x {found[1]} px, not {wanted[0]} x {wanted[1]}"
        faults.append(Fault(FaultKind.WRONG_SIZE, name, detail))
    labelled = codes if known is None else codes[known]
    values, counts = np.unique(labelled, return_counts=True)
    pixels = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    unknown = sorted(
        set(pixels) - (entry.mask_codes or set(pixels)) - {header.nodata[0]}
    )
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN]))
        faults.append(
            Fault(FaultKind.UNKNOWN_CLASS, name, f"codes {shown} in its mask")
        )
    return pixels, faults
