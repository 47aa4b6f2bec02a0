"""Files that GDAL gets through our own descriptions: virtual rasters and NumPy arrays.

A virtual raster (VRT) can make GDAL open any file or address, and even run code. Here
it may have sources that are rasters in its own folder or below, and nothing else; GDAL
gets a description in which each of them is named by its whole path.

Axes of an array file (.npy) are rows, columns and bands, with dates before them, as
eo-learn stores them: (H, W), (H, W, C) or (T, H, W, C). Layer t * C + c + 1 is band c
of date t. Such a file says neither what its bands are nor where it lies. GDAL's ENVI
driver, which reads the rows of a map in the making, knows neither 8-bit numbers with a
sign nor several bands at several dates; its raw virtual rasters do.

Source: GDAL documentation, "VRT -- GDAL Virtual Format".
"""

import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.lib import format as npy

from spectralgpt.errors import RasterError

_START = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*)*<VRTDataset", re.DOTALL
)
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
ARRAY_START = npy.MAGIC_PREFIX
"""The first bytes of the files."""
_TYPES = {
    "u1": "Byte",
    "i1": "Int8",
    "u2": "UInt16",
    "i2": "Int16",
    "u4": "UInt32",
    "i4": "Int32",
    "f4": "Float32",
    "f8": "Float64",
}
"""GDAL's names of NumPy's types."""
_MOST_AXES = 4
_MOST_LAYERS = 65_536
"""As many as GDAL takes; each is some 300 bytes of its description."""
_LONGEST_SIDE = 2**31 - 1
_VERSIONS = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
"""Bytes that state the header's length.

Source: NumPy documentation, numpy.lib.format, "Format Version 1.0" and later.
"""
_LONGEST_HEADER = 65_535
_MOST_DIGITS = 15
_KEYS = {"descr", "fortran_order", "shape"}
_PAIR = r"""['"](\w+)['"]:(\([\dL,]*\)|\[[^\]]*\]|'[^']*'|"[^"]*"|True|False),?"""
_ENTRY = re.compile(_PAIR)
_HEADER = re.compile(r"\{(?:" + _PAIR + r"){3}\}")
"""What NumPy writes, without its blanks."""
_SHOWN = 60
_LINK, _DESCRIPTION = "numbers", "array.vrt"


def is_virtual(start: bytes) -> bool:
    """Whether a file is a virtual raster, by its first bytes."""
    return _START.match(start) is not None


def open_virtual(
    path: Path, text: str, is_masked: Callable[[Path], bool]
) -> rasterio.DatasetReader:
    """Open a virtual raster by a description with whole paths of its sources.

    Args:
        path: the virtual raster.
        text: what it holds.
        is_masked: tells of a source whether it has masks of its own, which count where
            the virtual raster has none: `gdalbuildvrt -separate` leaves them out.

    Raises:
        RasterError: it is broken, does more than put files together, or names a file
            that is not in its folder or below, or is missing.
    """
    root = _parse(path, text)
    sources = {node: _resolve(path, node) for node in root.iter("SourceFilename")}
    masked = {str(file) for file in dict.fromkeys(sources.values()) if is_masked(file)}
    for node, file in sources.items():
        node.text = str(file)
        node.set("relativeToVRT", "0")
    if root.find("MaskBand") is None:
        for band in root.findall("VRTRasterBand"):
            names = {node.text for node in band.iter("SourceFilename")}
            if names & masked and band.find("MaskBand") is None:
                _add_mask(band)
    return rasterio.open(ElementTree.tostring(root, encoding="unicode"), driver="VRT")


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


def _parse(path: Path, text: str) -> ElementTree.Element:
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


def open_array(path: Path) -> rasterio.DatasetReader:
    """Open an array file, inside `quiet_gdal`.

    Args:
        path: the file; nothing of it but the header is read before pixels are.

    Raises:
        RasterError: the header is broken, the file too short, or the array of a kind
            that is no raster.
        OSError: it cannot be linked to from the folder for temporary files.
    """
    # GDAL 3.12 wants the numbers beside their description, under a relative name. It
    # holds both open, so that the folder may go.
    with tempfile.TemporaryDirectory(prefix="spectralgpt-") as folder:
        (Path(folder) / _LINK).symlink_to(path.absolute())
        description = Path(folder) / _DESCRIPTION
        description.write_text(_describe(path), encoding="utf-8")
        return rasterio.open(description, driver="VRT")


def _describe(path: Path) -> str:
    """Describe where each layer lies; nothing of the file but the header is read."""
    try:
        with path.open("rb") as file:
            shape, is_fortran, dtype, start = _read_layout(file)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RasterError(
            f"{path} has a broken NumPy header: {reason}. Fetch it again."
        ) from None
    kind, itemsize = _TYPES.get(dtype[1:]), dtype[2:]
    if (
        kind is None
        or not 2 <= len(shape) <= _MOST_AXES
        or min(shape) < 1
        or is_fortran
    ):
        order = ", columns first" if is_fortran else ""
        raise RasterError(
            f"{path} holds an array of shape {shape} and type "
            f"{_type_name(dtype)}{order}: a raster has 2 to 4 axes (dates, "
            "rows, columns, bands) of numbers, in C order."
        )
    # Not numpy's product, which wraps around.
    needed = start + math.prod(shape) * int(itemsize)
    if path.stat().st_size < needed:
        raise RasterError(
            f"{path} is truncated: {path.stat().st_size} bytes of {needed}. Fetch it "
            "again."
        )
    dates, height, width, bands = _four_axes(shape)
    if dates * bands > _MOST_LAYERS or max(height, width) > _LONGEST_SIDE:
        raise RasterError(
            f"{path} holds {dates * bands} layers of {height} x {width} px: at most "
            f"{_MOST_LAYERS} layers are read. Is an axis out of its place?"
        )
    return _virtual_raster(shape, dtype, start, kind)


def _read_layout(file: BinaryIO) -> tuple[tuple[int, ...], bool, str, int]:
    """Read a header without evaluating it, as NumPy itself does.

    Gives the length of each axis, whether the first axis varies fastest, not the last,
    NumPy's short name of the type, such as "<u2", and the numbers' first byte.
    """
    version = npy.read_magic(file)
    if version not in _VERSIONS:
        raise ValueError(f"version {version} is not known")
    size = _VERSIONS[version]
    length = int.from_bytes(file.read(size), "little")
    content = file.read(min(length, _LONGEST_HEADER))
    if len(content) < length:
        raise ValueError(f"{length} bytes are stated, {len(content)} were found")
    text = "".join(content.decode("latin-1").split())
    found = dict(_ENTRY.findall(text))
    if not _HEADER.fullmatch(text) or set(found) != _KEYS:
        raise ValueError(f"it reads {text[:_SHOWN]!r}")
    lengths = [each.rstrip("L") for each in found["shape"][1:-1].split(",") if each]
    if not all(each.isdecimal() and len(each) <= _MOST_DIGITS for each in lengths):
        raise ValueError(f"its shape is {found['shape'][:_SHOWN]}")
    shape, is_fortran = tuple(map(int, lengths)), found["fortran_order"] == "True"
    return shape, is_fortran, found["descr"].strip("'\""), file.tell()


def _type_name(short: str) -> str:
    """Return a type's name for messages, as far as it is one of NumPy's own."""
    if not re.fullmatch(r"[<>|=][?bBhiufcOSUVmM]\d{0,3}", short):
        return short[:_SHOWN]
    try:
        return str(np.dtype(short))
    except TypeError:
        return short


def _four_axes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the numbers of dates, rows, columns and bands."""
    if len(shape) == 2:
        shape = (*shape, 1)
    dates, height, width, bands = (1, *shape)[-_MOST_AXES:]
    return dates, height, width, bands


def _virtual_raster(shape: tuple[int, ...], dtype: str, start: int, kind: str) -> str:
    dates, height, width, bands = _four_axes(shape)
    order = "MSB" if dtype[0] == ">" else "LSB"
    itemsize = int(dtype[2:])
    pixel = bands * itemsize
    layers = []
    for layer in range(dates * bands):
        date, band = divmod(layer, bands)
        offset = start + date * height * width * pixel + band * itemsize
        layers.append(
            f'<VRTRasterBand dataType="{kind}" band="{layer + 1}" '
            f'subClass="VRTRawRasterBand">'
            f'<SourceFilename relativeToVRT="1">{_LINK}</SourceFilename>'
            f"<ImageOffset>{offset}</ImageOffset><PixelOffset>{pixel}</PixelOffset>"
            f"<LineOffset>{width * pixel}</LineOffset><ByteOrder>{order}</ByteOrder>"
            "</VRTRasterBand>"
        )
    size = f'rasterXSize="{width}" rasterYSize="{height}"'
    return f"<VRTDataset {size}>{''.join(layers)}</VRTDataset>"
