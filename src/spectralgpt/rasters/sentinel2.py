"""Sentinel-2 products in the SAFE format, as folders or zip archives.

Source: ESA, Sentinel-2 Products Specification Document, issue 14.9 and later: names of
products and images, QUANTIFICATION_VALUE, RADIO_ADD_OFFSET and BOA_ADD_OFFSET.
"""

import re
from xml.etree import ElementTree

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.rasters.archives import ProductFiles
from spectralgpt.rasters.facts import Facts, Scale, day_in, parse_xml, percent_in
from spectralgpt.rasters.layers import warn_of_coarser
from spectralgpt.rasters.locations import Location
from spectralgpt.sensors import Sensor, load_sensor

__all__ = ["read_safe"]

_METADATA = r"MTD_MSI(L1C|L2A)\.xml"
_IMAGE = re.compile(
    r"(?:.*/)?IMG_DATA/(?:.*/)?[^/]*_(B\d[\dA])(?:_(\d\d)m)?\.jp2", re.IGNORECASE
)
_LISTED = re.compile(r"_(B\d[\dA])(?:_\d\dm)?$")
_QUANTIFICATION = ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")
_OFFSETS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
_ANY_RESOLUTION = "00"


def read_safe(product: ProductFiles) -> Facts | None:
    """Read what the metadata of a SAFE product say, None without any.

    Of level 2A the finest copy of each band is taken.

    Raises:
        RasterError: its metadata are broken, it has no image, or several granules.
        UnitError: offsets differ between bands.
    """
    metadata = product.matching(_METADATA)
    if not metadata:
        return None
    level = metadata[0][len("MTD_MSI") : -len(".xml")].upper()
    sensor = load_sensor(f"sentinel-2-{level.lower()}")
    files = _find_images(product, sensor)
    is_whole = product.name.endswith(".SAFE") or product.path.is_file()
    if not files and not is_whole:
        # A copy of the metadata beside other files; the offset is looked for there.
        return None
    if not files:
        raise RasterError(
            f"{product.path} has no image in GRANULE/*/IMG_DATA: it is an incomplete "
            "product. Fetch it again."
        )
    shown = str(product.files[metadata[0]])
    root = parse_xml(shown, product.read_text(metadata[0]))
    texts = _texts(root)
    start = texts.get("PRODUCT_START_TIME", texts.get("DATATAKE_SENSING_START", [""]))
    listed = [_LISTED.search(text.strip()) for text in texts.get("IMAGE_FILE", [])]
    names = {match.group(1).upper() for match in listed if match}
    return Facts(
        sensor=sensor.name,
        files=files,
        scale=_find_scale(shown, texts, sensor),
        date=day_in(start[0]) or day_in(product.name),
        expected=tuple(name for name in sensor.band_names if name in names),
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
    files: dict[str, tuple[Location, int]] = {
        band: (copies[min(copies)], 1) for band, copies in found.items()
    }
    warn_of_coarser(product.path, sensor, files)
    return files


def _texts(root: ElementTree.Element) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for node in root.iter():
        texts.setdefault(node.tag.rpartition("}")[2], []).append(node.text or "")
    return texts


def _find_scale(
    shown: str, texts: dict[str, list[str]], sensor: Sensor
) -> Scale | None:
    try:
        stated = [float(t) for tag in _QUANTIFICATION for t in texts.get(tag, ())]
        offsets = {float(text) for tag in _OFFSETS for text in texts.get(tag, ())}
    except ValueError as error:
        raise RasterError(f"{shown} is broken: {error}. Fetch it again.") from None
    baseline = texts.get("PROCESSING_BASELINE", [""])[0].strip()
    if len(offsets) > 1:
        raise UnitError(
            f"{shown} states different offsets a band ({sorted(offsets)}). State one."
        )
    if offsets:
        offset = offsets.pop()
    elif sensor.baseline is None or not re.fullmatch(r"\d\d\.\d\d", baseline):
        return None
    else:
        # Products from before the offset was introduced do not mention it.
        by_rule = sensor.baseline.offset_for(int(baseline.replace(".", "")))
        if by_rule is None:
            return None
        offset = by_rule
    per_unit = stated[0] if stated else float(sensor.quantification or 0)
    if not per_unit > 0:
        raise UnitError(f"{shown} states a quantification of {per_unit:g}.")
    source = f"{shown.rpartition('/')[2]}, baseline {baseline or 'not stated'}"
    return Scale(per_unit, offset, source)
