"""EnMAP products: one GeoTIFF of all bands, and METADATA.XML that describes them.

Source: EnMAP HSI Level 1/Level 2 Product Specification: SPECTRAL_IMAGE, and
bandCharacterisation with wavelengthCenterOfBand, GainOfBand and OffsetOfBand.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters.archives import ProductFiles, read_metadata
from spectralgpt.rasters.facts import Facts, common_scale, day_in, parse_xml
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.locations import Location
from spectralgpt.sensors import Band, load_sensor

__all__ = ["read_enmap", "read_enmap_image"]

_IMAGE = r"(?P<start>ENMAP01-____L2A-.*)-SPECTRAL_IMAGE(?P<rest>[^/]*)\.TIFF?"
_SENSOR = "enmap-l2a"


def read_enmap(product: ProductFiles) -> Facts | None:
    """Read what an EnMAP product says of itself, None if it is none.

    Raises:
        RasterError: it has several images, or broken metadata.
    """
    images = product.matching(_IMAGE)
    if not images:
        return None
    if len(images) > 1:
        raise RasterError(f"{product.path} holds {len(images)} images: name one file.")
    metadata = product.matching(r"ENMAP01-____L2A-.*-METADATA\.XML")
    if not metadata:
        return _by_numbers(product.files[images[0]])
    text = product.read_text(metadata[0])
    return _facts(product.files[images[0]], str(product.files[metadata[0]]), text)


def read_enmap_image(path: Path) -> Facts | None:
    """Read the METADATA.XML beside an EnMAP image, None if it is no such image.

    Without metadata all 224 layers of a product are known by their order.

    Raises:
        RasterError: the metadata are broken.
    """
    match = re.fullmatch(_IMAGE, path.name, re.IGNORECASE)
    if match is None:
        return None
    for ending in ("-METADATA.XML", "-METADATA.xml"):
        file = path.with_name(match["start"] + ending)
        if file.is_file():
            return _facts(path, str(file), read_metadata(file))
    return _by_numbers(path)


def _by_numbers(image: Location) -> Facts | None:
    """Layers without metadata: all of a product stand in the order of their numbers.

    None where some are missing, or where descriptions say which they are.
    """
    sensor, header = load_sensor(_SENSOR), read_header(image)
    if header.count != len(sensor.bands) or any(header.descriptions):
        return None
    files = {name: (image, i) for i, name in enumerate(sensor.band_names, start=1)}
    return Facts(_SENSOR, files, date=day_in(image.name))


def _facts(image: Location, shown: str, text: str) -> Facts:
    root = parse_xml(shown, text)
    rows = [node for node in root.iter() if _name(node) == "bandID"]
    sensor = load_sensor(_SENSOR)
    files: dict[str, tuple[Location, int]] = {}
    factors = {}
    try:
        for layer, row in enumerate(rows, start=1):
            values = {_name(node): node.text or "" for node in row}
            centre_nm = float(values["wavelengthCenterOfBand"])
            # The cameras overlap: the number tells which of two near bands it is.
            by_number = sensor.find(f"B{int(row.get('number', layer)):03d}")
            band = sensor.nearest(centre_nm)
            if by_number is not None and _is_near(by_number, centre_nm):
                band = by_number
            if band is not None and band.name not in files:
                files[band.name] = (image, layer)
            if "GainOfBand" in values:
                added = float(values.get("OffsetOfBand", 0))
                factors[str(layer)] = (float(values["GainOfBand"]), added)
    except (KeyError, ValueError) as error:
        raise RasterError(
            f"{shown} is broken: {error}. Fetch the product again."
        ) from None
    if not files:
        raise BandError(f"{shown} lists no band of {sensor.name}. Name the bands.")
    source = shown.rpartition("/")[2]
    start = next((n.text for n in root.iter() if _name(n) == "startTime"), None)
    return Facts(
        sensor=_SENSOR,
        files=files,
        scale=common_scale(shown, factors, source),
        date=day_in(start or "") or day_in(source),
    )


def _is_near(band: Band, centre_nm: float) -> bool:
    return abs(band.wavelength_nm - centre_nm) <= band.width_nm


def _name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
