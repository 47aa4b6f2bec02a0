"""Looking at every image of an archive: `spectralgpt data check`.

The inventory says what should be there; here files are opened, read to their end and
compared. What is wrong is counted by kind and never stops the rest.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from spectralgpt.data.archives.inventory import Entry, Fault, FaultKind, Inventory
from spectralgpt.data.findings import ArchiveCheck, Example
from spectralgpt.data.looks import Look, describe_entry, kind_of, look_at, shorten
from spectralgpt.data.overlaps import count_overlaps, count_within
from spectralgpt.data.sources import Source
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import SpectralGPTError, UnitError
from spectralgpt.rasters import quiet_gdal, read_raster
from spectralgpt.scaling import BandStatistics
from spectralgpt.sensors import find_sensor

__all__ = ["check_images"]

logger = logging.getLogger(__name__)

_AT_ONCE = 256
"""Images handed to the readers at a time, so that millions need no memory."""
_MEASURED = 256
_EXAMPLES = 24
_EXAMPLE_PX = 96


def check_images(
    inventory: Inventory,
    source: Source,
    name: str,
    root: Path,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> ArchiveCheck:
    """Open and read the images of an inventory.

    Args:
        inventory: what is listed and there.
        source: says how the images are read; its sizes are held against the files'.
        name: for the report.
        root: for the report.
        limit: open this many, drawn with the seed; None opens all.
        seed: of that draw, of the statistics and of the examples.
        workers: threads that read.
        report: called with the images done and all of them.
    """
    entries = _draw(inventory.entries, limit, seed)
    looks = []
    for look in _look_at_all(entries, source, workers):
        looks.append(look)
        if report is not None:
            report(len(looks), len(entries))
    faults = [*inventory.faults, *(fault for look in looks for fault in look.faults)]
    faults += _find_duplicates(looks)
    faults += _find_missing_bands(looks, source)
    marked = {fault.name for fault in faults}
    sound = [k for k in looks if k.is_sound and k.entry.image.name not in marked]
    statistics, more = _measure(sound, source, name, seed)
    described = [look for look in looks if look.sensor]
    return ArchiveCheck(
        name,
        root,
        len(inventory.entries),
        len(entries),
        _count_classes(inventory),
        _count_pixels(looks, inventory.code_names),
        dict(sorted(Counter(entry.split for entry in inventory.entries).items())),
        dict(Counter(look.size for look in described).most_common()),
        dict(Counter(", ".join(look.bands) for look in described).most_common()),
        _count_overlaps(looks),
        _count_unsplit(looks),
        statistics,
        tuple(sorted([*faults, *more], key=lambda fault: (fault.kind, fault.name))),
        inventory.notes,
        _take_examples(sound, source, seed),
    )


def _draw(entries: Sequence[Entry], limit: int | None, seed: int) -> list[Entry]:
    if limit is None or limit >= len(entries):
        return list(entries)
    chosen = np.random.default_rng(seed).choice(len(entries), limit, replace=False)
    return [entries[number] for number in sorted(chosen.tolist())]


def _look_at_all(
    entries: Sequence[Entry], source: Source, workers: int
) -> Iterator[Look]:
    waiting = iter(entries)
    with quiet_gdal(), ThreadPoolExecutor(workers) as pool:
        while part := list(islice(waiting, _AT_ONCE)):
            yield from pool.map(lambda entry: look_at(entry, source), part)


def _find_duplicates(looks: Sequence[Look]) -> list[Fault]:
    """Images whose numbers are all the same as those of another one."""
    first: dict[bytes, str] = {}
    faults = []
    for look in looks:
        if not look.is_sound:
            continue
        name = look.entry.image.name
        twin = first.setdefault(look.digest, name)
        if twin != name:
            faults.append(Fault(FaultKind.DUPLICATE, name, f"same pixels as {twin}"))
    return faults


def _find_missing_bands(looks: Sequence[Look], source: Source) -> list[Fault]:
    """Images that lack bands which all images of the archive should have."""
    described = [look for look in looks if look.sensor]
    if not described:
        return []
    if isinstance(source.sizes, Mapping) and source.sensor is not None:
        # The layout states a size for each band, so that all of them belong there.
        wanted = {band.name for band in find_sensor(source.sensor).bands}
    else:
        wanted = set(Counter(look.bands for look in described).most_common(1)[0][0])
    faults = []
    for look in described:
        missing = sorted(wanted - set(look.bands))
        if missing:
            name, detail = look.entry.image.name, f"no {', '.join(missing)}"
            faults.append(Fault(FaultKind.MISSING_BAND, name, detail))
    return faults


def _measure(
    sound: Sequence[Look], source: Source, name: str, seed: int
) -> tuple[BandStatistics | None, list[Fault]]:
    """Measure reflectance on a sample; an image that cannot have any is a fault."""
    if len({look.sensor for look in sound}) != 1:
        return None, []
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(sound))[:_MEASURED].tolist())
    faults: list[Fault] = []
    usable = []
    # Some bands of hyperspectral sensors hold nothing, where air lets nothing through.
    seen: set[str] = set()
    for look in (sound[number] for number in chosen):
        try:
            item = describe_entry(look.entry, source)
            raster = read_raster(item, out_size=_EXAMPLE_PX)
            usable.append(item)
            seen |= set(np.array(raster.band_names)[raster.valid.any(axis=(1, 2))])
        except SpectralGPTError as error:
            is_unit = isinstance(error, UnitError)
            kind = FaultKind.IMPLAUSIBLE if is_unit else kind_of(error)
            faults.append(Fault(kind, look.entry.image.name, shorten(error)))
    if not usable:
        return None, faults
    windows = min(_MEASURED, 4 * len(usable))
    bands = [band for band in usable[0].bands if band.name in seen]
    try:
        return band_statistics(usable, bands, name, windows, seed=seed), faults
    except SpectralGPTError as error:
        logger.warning("No statistics: %s", error)
        return None, faults


def _count_overlaps(looks: Sequence[Look]) -> dict[str, int]:
    return count_overlaps(
        [
            (look.entry.split, look.entry.place, look.footprint)
            for look in looks
            if look.entry.split
        ]
    )


def _count_unsplit(looks: Sequence[Look]) -> int:
    """Count labelled images without a split that show ground of another place's."""
    entries = [(look.entry, look.footprint) for look in looks]
    return count_within(
        [
            (entry.place, area)
            for entry, area in entries
            if not entry.split and (entry.labels or entry.mask is not None)
        ]
    )


def _count_classes(inventory: Inventory) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for entry in inventory.entries:
        if entry.labels:
            empty = dict.fromkeys(inventory.class_names, 0)
            row = table.setdefault(entry.split, empty)
            for label in entry.labels:
                row[label] = row.get(label, 0) + 1
    return dict(sorted(table.items()))


def _count_pixels(
    looks: Sequence[Look], names: Mapping[int, str]
) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {}
    for look in looks:
        for code, count in look.mask_pixels.items():
            row = table.setdefault(look.entry.split, Counter())
            row[names.get(code, f"code {code}")] += count
    return {split: dict(row.most_common()) for split, row in sorted(table.items())}


def _take_examples(
    sound: Sequence[Look], source: Source, seed: int
) -> tuple[Example, ...]:
    """Read images for the picture, every class in turn."""
    groups: dict[str, list[Look]] = {}
    for number in np.random.default_rng(seed).permutation(len(sound)).tolist():
        labels = sound[number].entry.labels or ("",)
        groups.setdefault(labels[0], []).append(sound[number])
    in_turn = zip_longest(*(groups[name][:_EXAMPLES] for name in sorted(groups)))
    looks = [look for turn in in_turn for look in turn if look is not None]
    examples = []
    for look in looks[:_EXAMPLES]:
        try:
            raster = read_raster(
                describe_entry(look.entry, source), out_size=_EXAMPLE_PX
            )
        except SpectralGPTError as error:
            logger.warning("%s", error)
        else:
            examples.append(Example(raster, _title(look.entry)))
    return tuple(examples)


def _title(entry: Entry) -> str:
    if not entry.labels:
        return entry.image.name.rsplit("/", 1)[-1]
    more = f" + {len(entry.labels) - 1}" if len(entry.labels) > 1 else ""
    return entry.labels[0] + more
