"""EnMAP products: one GeoTIFF of all bands, and METADATA.XML that describes them.

Source: EnMAP HSI Level 1/Level 2 Product Specification: SPECTRAL_IMAGE, and
bandCharacterisation with wavelengthCenterOfBand, GainOfBand and OffsetOfBand.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.locations import Location, ProductFiles
from spectralgpt.rasters.stated import ProductMetadata, Scale, day_in
from spectralgpt.sensors import Band, load_sensor

_SENSOR = "enmap-l2a"


def files_beside(image: Path) -> ProductFiles:
    """Return an EnMAP image named by itself, with the METADATA.XML beside it."""
    start = re.split("-SPECTRAL_IMAGE", image.name, flags=re.IGNORECASE)[0]
    beside = (image.with_name(f"{start}-METADATA.{end}") for end in ("XML", "xml"))
    files = {file.name: file for file in (image, *beside) if file.is_file()}
    return ProductFiles(image, image.stem, files)


def read_enmap(product: ProductFiles, images: Sequence[str]) -> ProductMetadata | None:
    """Read what an EnMAP product says of itself.

    Without METADATA.XML all 224 layers of a product are known by their order.

    Args:
        product: its files.
        images: the spectral ones among them.

    Returns:
        None without metadata where layers are missing or described.

    Raises:
        RasterError: it has several images, or broken metadata.
        BandError: the metadata list no band.
    """
    if len(images) > 1:
        raise RasterError(f"{product.path} holds {len(images)} images: name one file.")
    image = product.files[images[0]]
    metadata = product.matching(r"ENMAP01-____L2A-.*-METADATA\.XML")
    if not metadata:
        return _by_numbers(image)
    root = product.read_xml(metadata[0])
    return _by_metadata(image, str(product.files[metadata[0]]), root)


def _by_numbers(image: Location) -> ProductMetadata | None:
    """Take all layers of a product in the order of their numbers."""
    sensor, header = load_sensor(_SENSOR), read_header(image)
    if header.count != len(sensor.bands) or any(header.descriptions):
        return None
    files = {name: (image, i) for i, name in enumerate(sensor.band_names, start=1)}
    return ProductMetadata(_SENSOR, files, date=day_in(image.name))


def _by_metadata(
    image: Location, shown: str, root: ElementTree.Element
) -> ProductMetadata:
    rows = [node for node in root.iter() if node.tag == "bandID"]
    sensor = load_sensor(_SENSOR)
    files: dict[str, tuple[Location, int]] = {}
    factors = {}
    try:
        for layer, row in enumerate(rows, start=1):
            values = {node.tag: node.text or "" for node in row}
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
    start = next((n.text for n in root.iter() if n.tag == "startTime"), None)
    return ProductMetadata(
        sensor=_SENSOR,
        files=files,
        scale=Scale.common(shown, factors, source),
        date=day_in(start or "") or day_in(source),
    )


def _is_near(band: Band, centre_nm: float) -> bool:
    return abs(band.wavelength_nm - centre_nm) <= band.width_nm
