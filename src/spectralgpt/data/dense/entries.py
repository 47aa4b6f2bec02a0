"""From the files of a data set to a `DenseSet`: describe, lay over each other, name.

The readers of layouts (`folders`, `tables`, `segmunich`, `oscd`) list entries; here
their headers are read and everything that can be wrong about them is said at once.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from spectralgpt.data.colours import class_colours
from spectralgpt.data.dense.chips import DenseChip, DenseSet
from spectralgpt.data.dense.classes import ClassTable, find_classes, name_classes
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.masks import check_mask, describe_mask
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.rasters import (
    Align,
    Mosaic,
    RasterItem,
    Stated,
    cut_to_common,
    quiet_gdal,
)
from spectralgpt.rasters.files import Header
from spectralgpt.rasters.grid import describe_difference
from spectralgpt.rasters.lookup import overlay
from spectralgpt.rasters.maps import read_palette

__all__ = ["Entry", "FitError", "build_set", "describe_entries", "first_names"]

logger = logging.getLogger(__name__)

_SHOWN = 5
_READERS = 4
"""Headers read at once; more gains little and loads shared file systems."""
_SAME_SCALE = 1e-3
"""Largest relative difference in pixel size between two dates of a place."""


class FitError(RasterError):
    """Dates or masks of a place do not lie on each other."""


@dataclass(frozen=True)
class Entry:
    """The files of one chip.

    Args:
        name: what its files were matched by.
        images: one image, or before and after.
        masks: the mask, or one mask of each class in their order.
        split: "train", "val", "test" or "".
        place: images of one place share it; "" takes it from the name.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    split: str = ""
    place: str = ""


def build_set(
    entries: Sequence[Entry],
    config: DenseDataConfig,
    image_format: ImageFormat,
    class_names: Sequence[str] | None,
    known: ClassTable | None = None,
) -> DenseSet:
    """Read the headers of all files and put the set together.

    Args:
        entries: what belongs together.
        config: classes, alignment, places.
        image_format: how images are described.
        class_names: classes of a fine-tuned model in its order, None for the set's own.
        known: the classes of a known archive, unless the config states others.

    Raises:
        DataError: files are bad, or masks do not fit their images; all are counted and
            the first is described.
        ConfigError: the description of images or classes is wrong.
    """
    source = config.root
    if not entries:
        raise DataError(f"{source} holds no images with masks. Check the layout.")
    chips, headers = _describe_all(entries, config, image_format)
    stated = Stated.of(image_format.facts)
    table = _table_of(chips, headers[0].tags, config, known)
    if class_names is not None:
        table = table.renumbered(class_names, source)
    return DenseSet(
        tuple(chips),
        table.names,
        config.task,
        table.codes,
        config.ignored,
        source,
        _colours(config, table, chips[0].mask.path),
        config.positive,
        # What differs from image to image is of none of them in particular.
        replace(stated, offset="auto") if config.offsets else stated,
    )


def first_names(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _table_of(
    chips: Sequence[DenseChip],
    tags: Mapping[str, str],
    config: DenseDataConfig,
    known: ClassTable | None,
) -> ClassTable:
    """Take the classes that are stated, else those of the archive or the masks."""
    if config.class_masks is not None:
        return name_classes({name: i for i, name in enumerate(config.class_masks)})
    if config.classes is not None:
        return name_classes(config.classes, config.ignored)
    return known or find_classes([chip.mask for chip in chips], tags, config.ignored)


def describe_entries(
    entries: Sequence[Entry], config: DenseDataConfig, image_format: ImageFormat
) -> list[tuple[DenseChip, Header] | SpectralGPTError]:
    """Read the headers of all files; what is wrong with an entry stands in its place.

    Raises:
        SpectralGPTError: a setting makes no sense, whatever the files are.
    """

    def describe(entry: Entry) -> tuple[DenseChip, Header] | SpectralGPTError:
        try:
            return _describe(entry, config, image_format)
        except SpectralGPTError as error:
            return error

    with quiet_gdal(), ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(describe, entries))


def _describe_all(
    entries: Sequence[Entry], config: DenseDataConfig, image_format: ImageFormat
) -> tuple[list[DenseChip], list[Header]]:
    results = describe_entries(entries, config, image_format)
    bad = {
        entry.name: result
        for entry, result in zip(entries, results, strict=True)
        if isinstance(result, SpectralGPTError)
    }
    errors = list(bad.values())
    if errors and len(errors) in (1, len(results)):
        # All alike is a wrong description, which its own error says best.
        raise errors[0]
    if errors:
        raise DataError(
            f"{config.root}: {len(errors)} of {len(results)} places are bad "
            f"({', '.join(bad)}), the first: {errors[0]}"
        )
    good = [result for result in results if not isinstance(result, SpectralGPTError)]
    chips = [chip for chip, _ in good]
    _report_dates(chips, config)
    return chips, [header for _, header in good]


def _report_dates(chips: Sequence[DenseChip], config: DenseDataConfig) -> None:
    """Say aloud of which places the two dates did not lie on each other as they are."""
    cut = [chip.name for chip in chips if isinstance(chip.item, Mosaic)]
    if cut:
        logger.warning(
            "%s: the dates of %d places lie whole pixels apart; what both show is used "
            "(%s).",
            config.root,
            len(cut),
            first_names(cut),
        )
    near = [
        chip.name
        for chip in chips
        if len(chip.items) > 1 and config.align != "shape"
        if describe_difference(*(item.grid() for item in chip.items)) is not None
    ]
    if near:
        logger.warning(
            "%s: the dates of %d places lie parts of a pixel apart, or only one has a "
            "place; they are read pixel by pixel (%s).",
            config.root,
            len(near),
            first_names(near),
        )


def _describe(
    entry: Entry, config: DenseDataConfig, image_format: ImageFormat
) -> tuple[DenseChip, Header]:
    items = tuple(
        replace(image_format, offset=config.offset_of(path)).describe(path)
        if config.offsets
        else image_format.describe(path)
        for path in entry.images
    )
    try:
        return _fit(entry, items, config)
    except RasterError as error:
        raise FitError(str(error)) from None


def _fit(
    entry: Entry, items: tuple[RasterItem, ...], config: DenseDataConfig
) -> tuple[DenseChip, Header]:
    """Lay dates and masks over each other."""
    if len(items) > 1:
        items = _fit_dates(items[0], items[1], config.align)
    grid = items[0].grid()
    described = [
        describe_mask(path, config.mask_index, config.align) for path in entry.masks
    ]
    masks = [mask for mask, _ in described]
    mask = masks[0]
    if config.class_masks is not None:
        masks = [replace(mask, stands_for=i) for i, mask in enumerate(masks)]
        mask = replace(masks[0], others=tuple(masks[1:]))
    check_mask(mask, grid, items[0].name)
    place = entry.place or entry.name
    if config.place is not None:
        place = _place_of(place, config.place)
    chip = DenseChip(items, mask, entry.split, None, place)
    return chip, described[0][1]


def _fit_dates(
    first: RasterItem, second: RasterItem, align: Align
) -> tuple[RasterItem, RasterItem]:
    """Cut two dates that lie whole pixels apart to the ground that both show.

    Dates of one shape that lie on each other to half a pixel stay as they are.

    Raises:
        RasterError: their pixels do not lie on each other.
    """
    grids = first.grid(), second.grid()
    shapes = [(grid.height, grid.width) for grid in grids]
    try:
        placed = overlay(*grids, align)
        scales = (placed.rows[0], placed.columns[0])
        if shapes[0] == shapes[1] and all(abs(s - 1) <= _SAME_SCALE for s in scales):
            return first, second
    except RasterError as error:
        if align == "shape":
            reason = str(error).replace("the mask", "the second date")
            raise RasterError(
                f"{first.name} and {second.name} do not lie on each other: {reason}"
            ) from None
    return cut_to_common(first, second)


def _place_of(name: str, pattern: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"data.place is no regular expression: {error}.") from None
    if match is None or "place" not in match.groupdict():
        raise ConfigError(
            f"data.place '{pattern}' does not fit '{name}', or has no group "
            "(?P<place>...). Change it."
        )
    return match.group("place")


def _colours(config: DenseDataConfig, table: ClassTable, mask: Path) -> tuple[str, ...]:
    """Colours of the classes: stated, else those of the masks, else after the names."""
    stated = dict(config.colours or {})
    unknown = [name for name in stated if name not in table.names]
    if unknown:
        raise ConfigError(
            f"data.colours are given for {', '.join(unknown)}; the classes are "
            f"{', '.join(table.names)}."
        )
    if config.colours is None and config.class_masks is None:
        for code, colour in read_palette(mask).items():
            if code in table.codes:
                stated.setdefault(table.names[table.codes[code]], colour)
    colours = class_colours(table.names, stated)
    return tuple(colours[name] for name in table.names)
