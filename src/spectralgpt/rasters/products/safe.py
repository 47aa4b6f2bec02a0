"""Sentinel-2 products in the SAFE format, whole or in parts, and the offset they carry.

Digital numbers carry an offset from processing baseline 04.00 on. Of a whole product
its metadata say which. Of parts of one, such as a folder of its bands, it is found so:

1. The baseline in the product's name (`S2A_MSIL2A_..._N0400_...`), looked for in the
   file's name and in the folders above it.
2. The baseline or the offset itself in `metadata.json` or `MTD_*.xml` beside the file,
   or in the folders above it that belong to the same product.
3. Where there is neither, or the name says N9999 (reprocessed, so the number tells
   nothing), the pixels may tell (see `spectralgpt.rasters.thumbnail`), or the user.

Source: ESA, Sentinel-2 Products Specification Document, issue 14.9 and later: names of
products and images, QUANTIFICATION_VALUE, RADIO_ADD_OFFSET and BOA_ADD_OFFSET.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.files import parse_json
from spectralgpt.rasters.locations import (
    Location,
    ProductFiles,
    VirtualFile,
    read_metadata,
)
from spectralgpt.rasters.products.zip import SAFE_SUFFIX
from spectralgpt.rasters.stated import ProductMetadata, Scale, day_in, percent_in
from spectralgpt.sensors import BaselineRule, Sensor, load_sensor

_IMAGE = re.compile(
    r"(?:.*/)?IMG_DATA/(?:.*/)?[^/]*_(B\d[\dA])(?:_(\d\d)m)?\.jp2", re.IGNORECASE
)
_QUANTIFICATION = ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")
_OFFSETS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
_BASELINE = "PROCESSING_BASELINE"
_ANY_RESOLUTION = "00"
_BASELINE_IN_NAME = re.compile(r"_MSIL\d[AC]_\d{8}T\d{6}_N(\d{4})_")
_LEVELS_UP = 5
"""Folders above a band file that may carry its name: x.SAFE/GRANULE/y/IMG_DATA/R10m."""
_METADATA_LEVELS_UP = 4
_Texts = Mapping[str, Sequence[str]]
"""Those of an XML file, by tag."""


def read_safe(product: ProductFiles, metadata: Sequence[str]) -> ProductMetadata | None:
    """Read what the metadata of a SAFE product say.

    Of level 2A the finest copy of each band is taken.

    Args:
        product: its files.
        metadata: MTD_MSIL1C.xml or MTD_MSIL2A.xml among them.

    Returns:
        None of a copy of the metadata beside other files.

    Raises:
        RasterError: its metadata are broken, it has no image, or several granules.
        UnitError: offsets differ between bands.
    """
    level = metadata[0][len("MTD_MSI") : -len(".xml")].lower()
    sensor = load_sensor(f"sentinel-2-{level}")
    files = _find_images(product, sensor)
    is_whole = product.name.endswith(SAFE_SUFFIX) or product.path.is_file()
    if not files and not is_whole:
        # The offset is looked for there.
        return None
    if not files:
        raise RasterError(
            f"{product.path} has no image in GRANULE/*/IMG_DATA: it is an incomplete "
            "product. Fetch it again."
        )
    texts = _texts(product.read_xml(metadata[0]))
    start = texts.get("PRODUCT_START_TIME", texts.get("DATATAKE_SENSING_START", [""]))
    return ProductMetadata(
        sensor=sensor.name,
        files=files,
        scale=_find_scale(str(product.files[metadata[0]]), texts, sensor),
        date=day_in(start[0]) or day_in(product.name),
        cloud_percent=percent_in(texts.get("Cloud_Coverage_Assessment", [""])[0]),
    )


def _find_images(
    product: ProductFiles, sensor: Sensor
) -> dict[str, tuple[Location, int]]:
    found: dict[str, dict[str, Location]] = {}
    granules = set()
    for name, file in product.files.items():
        match = _IMAGE.fullmatch(name)
        band = sensor.find(match.group(1)) if match else None
        if match and band is not None:
            granules.add(name.partition("IMG_DATA")[0])
            found.setdefault(band.name, {})[match.group(2) or _ANY_RESOLUTION] = file
    if len(granules) > 1:
        raise RasterError(
            f"{product.path} holds {len(granules)} granules, such as "
            f"{sorted(granules)[0]}: products from before December 2016 do. Name one "
            "granule's IMG_DATA folder with --sensor and --offset."
        )
    return {band: (copies[min(copies)], 1) for band, copies in found.items()}


def _texts(root: ElementTree.Element) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for node in root.iter():
        texts.setdefault(node.tag.rpartition("}")[2], []).append(node.text or "")
    return texts


def _find_scale(shown: str, texts: _Texts, sensor: Sensor) -> Scale | None:
    try:
        offset = _listed_offset(shown, texts, sensor.baseline)
        stated = [float(t) for tag in _QUANTIFICATION for t in texts.get(tag, ())]
    except ValueError as error:
        raise RasterError(f"{shown} is broken: {error}. Fetch it again.") from None
    if offset is None:
        return None
    per_unit = stated[0] if stated else float(sensor.quantification or 0)
    if not per_unit > 0:
        raise UnitError(f"{shown} states a quantification of {per_unit:g}.")
    baseline = _first(texts, _BASELINE)
    source = f"{shown.rpartition('/')[2]}, baseline {baseline or 'not stated'}"
    return Scale(per_unit, offset, source)


def _listed_offset(
    shown: str, texts: _Texts, rule: BaselineRule | None
) -> float | None:
    """Return the offset that metadata list, or that of the baseline which they state.

    Products from before the offset was introduced do not list it.

    Raises:
        ValueError: what they list is no number.
        UnitError: they list several.
    """
    listed = {float(text) for tag in _OFFSETS for text in texts.get(tag, ())}
    if len(listed) > 1:
        raise UnitError(
            f"{shown} states different offsets a band ({sorted(listed)}). State one."
        )
    if listed:
        return listed.pop()
    return None if rule is None else rule.offset_said(_first(texts, _BASELINE))


def _first(texts: _Texts, tag: str) -> str:
    return texts.get(tag, [""])[0].strip()


def offset_from_texts(
    path: Path, inside: Location, rule: BaselineRule
) -> tuple[float, str] | None:
    """Take the offset of a part of a product from names and metadata.

    Args:
        path: an image's file or folder.
        inside: one of its band files; what is said nearer to the pixels counts first.
        rule: what follows from a baseline.

    Returns:
        The offset and where it was found, None if nothing says. No pixel is read.

    Raises:
        UnitError: metadata differ between bands, or cannot be trusted.
    """
    if isinstance(inside, VirtualFile):
        # What an archive says is in its metadata, read before; its name is left.
        return _offset_in_name(path, rule)
    return (
        _offset_in_name(inside, rule)
        or _offset_in_name(path, rule)
        or _offset_in_metadata(inside, rule)
        or _offset_in_metadata(path, rule)
    )


def _offset_in_name(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    """Look at a path's own name first, then at those of the folders above."""
    for part in [path, *list(path.parents)[:_LEVELS_UP]]:
        for match in _BASELINE_IN_NAME.finditer(f"_{part.name}_"):
            offset = rule.offset_for(int(match.group(1)))
            if offset is not None:
                return offset, f"baseline {match.group(1)} in the name '{part.name}'"
    return None


def _offset_in_metadata(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    for file in _metadata_files(path):
        try:
            text = read_metadata(file)
        except RasterError as error:
            raise UnitError(f"{error} Or state the offset.") from None
        if file.suffix == ".json":
            found = _offset_in_json(text, rule)
        else:
            found = _offset_in_xml(file, text, rule)
        if found is not None:
            return found, f"metadata in {file.name}"
    return None


def _metadata_files(path: Path) -> Iterator[Path]:
    """Metadata of the product only: a file in a folder higher up belongs to others."""
    folders = [path] if path.is_dir() else [path.parent]
    if any(part.suffix == SAFE_SUFFIX for part in path.parents):
        folders += folders[0].parents[:_METADATA_LEVELS_UP]
    for folder in folders:
        yield from sorted(folder.glob("metadata.json"))
        yield from sorted(folder.glob("MTD*.xml"))
        if folder.suffix == SAFE_SUFFIX:
            return


def _offset_in_json(text: str, rule: BaselineRule) -> float | None:
    try:
        content = parse_json(text, "metadata")
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    properties = content.get("properties")
    tables = [content, properties] if isinstance(properties, dict) else [content]
    for table in tables:
        for key in (_BASELINE, "s2:processing_baseline"):
            offset = rule.offset_said(str(table.get(key, "")))
            if offset is not None:
                return offset
    return None


def _offset_in_xml(path: Path, text: str, rule: BaselineRule) -> float | None:
    try:
        return _listed_offset(str(path), _texts(ElementTree.fromstring(text)), rule)
    except ElementTree.ParseError:
        return None
    except ValueError as error:
        raise UnitError(f"{path} is broken: {error}. State the offset.") from None
