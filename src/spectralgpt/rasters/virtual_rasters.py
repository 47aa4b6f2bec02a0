"""GDAL's virtual rasters (VRT), as far as they only put files together.

A VRT can make GDAL open any file or address, and even run code. Here it may have
sources that are rasters in its own folder or below, and nothing else; GDAL gets a
description in which each of them is named by its whole path.

Source: GDAL documentation, "VRT -- GDAL Virtual Format".
"""

import re
from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree

from spectralgpt.errors import RasterError
from spectralgpt.rasters.archives import check_text

__all__ = ["describe_virtual", "is_virtual", "sources_of"]

_START = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*)*<VRTDataset", re.DOTALL
)
_LARGEST = 16 * 2**20
_REFUSED = {
    "KernelFilteredSource",
    "ArraySource",
    "GDALWarpOptions",
    "GroupSource",
    "OpenOptions",
    "PansharpeningOptions",
    "PixelFunctionCode",
    "PixelFunctionType",
    "ProcessingSteps",
    "SourceDataset",
}
"""What warps, computes or opens in other ways than by one file name."""


def is_virtual(start: bytes) -> bool:
    """Whether a file is a virtual raster, by its first bytes."""
    return _START.match(start) is not None


def describe_virtual(path: Path, masked: Collection[Path] = ()) -> str:
    """Return the description of a virtual raster with whole paths of its sources.

    Args:
        path: the virtual raster.
        masked: sources with masks of their own. Their masks count where the virtual
            raster has none: what `gdalbuildvrt -separate` makes leaves them out.

    Raises:
        RasterError: it is broken, does more than put files together, or names a file
            that is not in its folder or below, or is missing.
    """
    root = _parse(path)
    for node in root.iter("SourceFilename"):
        node.text = str(_resolve(path, node))
        node.set("relativeToVRT", "0")
    if masked and root.find("MaskBand") is None:
        shown = {str(source) for source in masked}
        for band in root.findall("VRTRasterBand"):
            names = {node.text for node in band.iter("SourceFilename")}
            if names & shown and band.find("MaskBand") is None:
                _add_mask(band)
    return ElementTree.tostring(root, encoding="unicode")


def sources_of(path: Path) -> list[Path]:
    """Return the files that a virtual raster puts together, each once.

    Raises:
        RasterError: see `describe_virtual`.
    """
    found = (_resolve(path, node) for node in _parse(path).iter("SourceFilename"))
    return list(dict.fromkeys(found))


def _add_mask(band: ElementTree.Element) -> None:
    """Give a layer of a virtual raster the masks of its sources."""
    mask = ElementTree.Element("VRTRasterBand", dataType="Byte")
    for source in band:
        if source.find("SourceFilename") is None:
            continue
        own = ElementTree.SubElement(mask, "SimpleSource")
        for tag in ("SourceFilename", "SourceBand", "SrcRect", "DstRect"):
            own.extend(source.findall(tag))
        number = own.find("SourceBand")
        text = "1" if number is None else str(number.text).strip()
        own[:] = [node for node in own if node.tag != "SourceBand"]
        ElementTree.SubElement(own, "SourceBand").text = f"mask,{text}"
    ElementTree.SubElement(band, "MaskBand").append(mask)


def _parse(path: Path) -> ElementTree.Element:
    with path.open("rb") as file:
        text = check_text(f"{path}.xml", file.read(_LARGEST))
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RasterError(
            f"{path} is no valid virtual raster: {error}. Write or fetch it again."
        ) from None
    tags = {node.tag for node in root.iter()}
    kinds = {kind for node in root.iter() if (kind := node.get("subClass"))}
    refused = sorted((tags & _REFUSED) | kinds)
    if root.tag != "VRTDataset" or refused:
        raise RasterError(
            f"{path} does more than put files together ({', '.join(refused)}): such "
            "virtual rasters are not read. Turn it into a GeoTIFF with gdal_translate."
        )
    return root


def _resolve(path: Path, node: ElementTree.Element) -> Path:
    folder = path.absolute().parent.resolve()
    named = (node.text or "").strip()
    # An absolute name replaces the folder; what counts is where it leads.
    file = (folder / named).resolve()
    if not named or "\0" in named or not file.is_relative_to(folder):
        raise RasterError(
            f"{path} names '{named}', which is not in its folder. Put the virtual "
            "raster beside or above its files."
        )
    if not file.is_file():
        raise RasterError(
            f"{path} names '{named}', which does not exist. Fetch it, too."
        )
    return file
