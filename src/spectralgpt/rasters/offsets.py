"""Which offset the digital numbers of a product carry.

Sentinel-2 products carry one from processing baseline 04.00 on. In this order:

1. The baseline in the product's name (`S2A_MSIL2A_..._N0400_...`), looked for in the
   file's name and in the folders above it.
2. The baseline or the offset itself in `metadata.json` or `MTD_*.xml` beside the file,
   or in the folders above it that belong to the same product.
3. Where there is neither, or the name says N9999 (reprocessed, so the number tells
   nothing): the pixels. If at least one in a hundred pixels of some band is darker than
   the offset allows, no offset is there. Bright pixels prove nothing.
4. Otherwise the offset is in doubt, and the user is asked to state it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.files import parse_json
from spectralgpt.rasters.archives import read_metadata
from spectralgpt.rasters.locations import Location, VirtualFile
from spectralgpt.sensors import BaselineRule

__all__ = [
    "offset_from_metadata",
    "offset_from_name",
    "offset_from_pixels",
    "offset_from_texts",
]

_BASELINE = re.compile(r"_MSIL\d[AC]_\d{8}T\d{6}_N(\d{4})_")
_LEVELS_UP = 5
"""Folders above a band file that may carry its name: x.SAFE/GRANULE/y/IMG_DATA/R10m."""
_METADATA_LEVELS_UP = 4
_DARK_SHARE_PERCENT = 1.0
_DARK_MARGIN = 300.0
"""Digital numbers below the added offset that noise and correction do not reach."""


def offset_from_texts(
    path: Path, inside: Location, rule: BaselineRule
) -> tuple[float, str] | None:
    """Take the offset from names and metadata; reads no pixel.

    Args:
        path: an image's file or folder.
        inside: one of its band files; what is said nearer to the pixels counts first.
        rule: what follows from a baseline.

    Returns:
        The offset and where it was found, None if nothing says.

    Raises:
        UnitError: metadata differ between bands, or cannot be trusted.
    """
    if isinstance(inside, VirtualFile):
        # What an archive says is in its metadata, read before; its name is left.
        return offset_from_name(path, rule)
    return (
        offset_from_name(inside, rule)
        or offset_from_name(path, rule)
        or offset_from_metadata(inside, rule)
        or offset_from_metadata(path, rule)
    )


def offset_from_name(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    """Take the offset from the baseline in a product's name.

    Args:
        path: file or folder; its own name counts first, then those of folders above.
        rule: what follows from a baseline.

    Returns:
        The offset and where it was found, None if no name says.
    """
    for part in [path, *list(path.parents)[:_LEVELS_UP]]:
        for match in _BASELINE.finditer(f"_{part.name}_"):
            offset = rule.offset_for(int(match.group(1)))
            if offset is not None:
                return offset, f"baseline {match.group(1)} in the name '{part.name}'"
    return None


def offset_from_metadata(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    """Take the offset from metadata files beside a raster or in folders above it.

    Args:
        path: file or folder.
        rule: what follows from a baseline.

    Returns:
        The offset and where it was found, None if no metadata says.

    Raises:
        UnitError: offsets differ between bands, or the file cannot be trusted.
    """
    for metadata in _metadata_files(path):
        text = _read_text(metadata)
        found = (
            _from_json(text, rule)
            if metadata.suffix == ".json"
            else _from_xml(metadata, text, rule)
        )
        if found is not None:
            return found, f"metadata in {metadata.name}"
    return None


def offset_from_pixels(
    numbers: Sequence[npt.NDArray[np.generic]], rule: BaselineRule
) -> tuple[float, str] | None:
    """Take the offset from dark pixels, which only exist where none was added.

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


def _metadata_files(path: Path) -> Iterator[Path]:
    """Metadata of the product only: a file in a folder higher up belongs to others."""
    folders = [path] if path.is_dir() else [path.parent]
    if any(part.suffix == ".SAFE" for part in path.parents):
        folders += folders[0].parents[:_METADATA_LEVELS_UP]
    for folder in folders:
        yield from sorted(folder.glob("metadata.json"))
        yield from sorted(folder.glob("MTD*.xml"))
        if folder.suffix == ".SAFE":
            return


def _read_text(path: Path) -> str:
    try:
        return read_metadata(path)
    except RasterError as error:
        raise UnitError(f"{error} Or state the offset.") from None


def _from_json(text: str, rule: BaselineRule) -> float | None:
    try:
        content = parse_json(text, "metadata")
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    properties = content.get("properties")
    tables = [content, properties] if isinstance(properties, dict) else [content]
    for table in tables:
        for key in ("PROCESSING_BASELINE", "s2:processing_baseline"):
            offset = _from_baseline(str(table.get(key, "")), rule)
            if offset is not None:
                return offset
    return None


def _from_baseline(text: str, rule: BaselineRule) -> float | None:
    match = re.fullmatch(r"(\d{2})\.(\d{2})", text.strip())
    return rule.offset_for(int(match.group(1) + match.group(2))) if match else None


def _from_xml(path: Path, text: str, rule: BaselineRule) -> float | None:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    elements = [(node.tag.rpartition("}")[2], node.text or "") for node in root.iter()]
    try:
        stated = {
            float(text)
            for tag, text in elements
            if tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
        }
    except ValueError as error:
        raise UnitError(f"{path} is broken: {error}. State the offset.") from None
    if len(stated) > 1:
        raise UnitError(
            f"{path} states different offsets a band ({sorted(stated)}). State one."
        )
    if stated:
        return stated.pop()
    baselines = [text for tag, text in elements if tag == "PROCESSING_BASELINE"]
    return _from_baseline(baselines[0], rule) if baselines else None
