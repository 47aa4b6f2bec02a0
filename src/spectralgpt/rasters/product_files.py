"""The files of a product, by their paths below its folder.

Zip archives are read in place, nothing is unpacked. An archive with names that lead out
of it, as in `../x`, is refused.
"""

import re
import zipfile
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from spectralgpt.errors import RasterError
from spectralgpt.rasters.gdal import (
    BROKEN_ZIP,
    Location,
    VirtualFile,
    is_litter,
    list_folder,
    read_metadata,
)

ZIP_SUFFIX = ".zip"
STAC_SUFFIXES = (".json", ".geojson")
SAFE_SUFFIX = ".SAFE"
_MTL = re.compile(r"_MTL\.(json|txt)$", re.IGNORECASE)
_MOST_MEMBERS = 20_000
_MASK_SUFFIX = (".tif.msk", ".tiff.msk", ".jp2.msk")


class ProductFiles:
    """The files of one product.

    Args:
        path: its folder, its zip archive, or its image with the metadata beside it.

    Attributes:
        name: the product's name: that of the folder, in an archive of the one inside.
        files: where each is, by its path below the product's folder.

    Raises:
        RasterError: see `_list_archive`, or the folder cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.absolute().name
        self.files: dict[str, Location]
        if path.is_dir():
            self.files = _list_usual(path)
        elif path.suffix.lower() == ZIP_SUFFIX:
            self.name, self.files = _list_archive(path)
        else:
            self.name, self.files = path.stem, _list_beside(path)

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that a regular expression matches as a whole, sorted."""
        return sorted(
            name for name in self.files if re.fullmatch(pattern, name, re.IGNORECASE)
        )

    def read_text(self, name: str) -> str:
        """Read a text file of the product; see `read_metadata`."""
        return read_metadata(self.files[name])

    def read_xml(self, name: str) -> ElementTree.Element:
        """Read an XML file of the product; its tags lose their namespaces.

        Raises:
            RasterError: it is no XML; see `read_metadata`.
        """
        try:
            root = ElementTree.fromstring(self.read_text(name))
        except ElementTree.ParseError as error:
            raise RasterError(
                f"{self.files[name]} is no valid XML ({error}): fetch the product "
                "again."
            ) from None
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]
        return root


def _list_usual(folder: Path) -> dict[str, Location]:
    """List the usual places of a folder."""
    found = [entry for entry in list_folder(folder) if entry.is_file()]
    for granule in folder.glob("GRANULE/*"):
        found += [file for file in granule.glob("*.xml") if file.is_file()]
        found += [file for file in granule.glob("IMG_DATA/**/*") if file.is_file()]
    kept = sorted(file for file in found if not is_litter(file.name))
    return {file.relative_to(folder).as_posix(): file for file in kept}


def _list_archive(path: Path) -> tuple[str, dict[str, Location]]:
    """Return the name of the product in a zip archive, and its files."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except BROKEN_ZIP as error:
        raise RasterError(
            f"{path} cannot be read as a zip archive: {error}. It is corrupt or "
            "truncated: fetch it again."
        ) from None
    if len(infos) > _MOST_MEMBERS:
        raise RasterError(
            f"{path} has {len(infos)} members, more than the {_MOST_MEMBERS} of "
            "any product. Unpack what is needed of it."
        )
    for info in infos:
        _check_member(path, info)
    names = [
        info.filename
        for info in infos
        if not info.is_dir()
        if not any(map(is_litter, PurePosixPath(info.filename).parts))
    ]
    products = sorted(set(filter(None, map(_product_folder, names))))
    if len(products) > 1:
        raise RasterError(
            f"{path} holds {len(products)} products, {products[0]} and "
            f"{products[1]} among them: unpack it, or zip each of them alone."
        )
    root = _common_folder(names)
    name = PurePosixPath(root).name if root else path.stem
    files: dict[str, Location] = {
        name.removeprefix(root): VirtualFile.in_zip(path, name)
        for name in sorted(names)
        if name.startswith(root)
    }
    return name, files


def _list_beside(image: Path) -> dict[str, Location]:
    """List an EnMAP image named by itself, and the METADATA.XML beside it."""
    start = re.split("-SPECTRAL_IMAGE", image.name, flags=re.IGNORECASE)[0]
    beside = (image.with_name(f"{start}-METADATA.{end}") for end in ("XML", "xml"))
    return {file.name: file for file in (image, *beside) if file.is_file()}


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in name:
        raise RasterError(
            f"{path} is refused: its member {name!r} leads out of the archive. Fetch "
            "the product from where it was published."
        )
    if name.lower().endswith(_MASK_SUFFIX):
        raise RasterError(
            f"{path} holds a mask, {name}, which is not read inside of archives. "
            "Unpack it first."
        )
    if info.flag_bits & 1:
        raise RasterError(f"{path} is encrypted. Unpack it first.")


def _product_folder(name: str) -> str | None:
    """Return the folder that makes a member part of a product, by its names."""
    parts = PurePosixPath(name).parts
    for depth, part in enumerate(parts, start=1):
        if part.upper().endswith(SAFE_SUFFIX) and depth < len(parts):
            return "/".join(parts[:depth])
    return "/".join(parts[:-1]) or None if _MTL.search(name) else None


def _common_folder(names: list[str]) -> str:
    """Return the folder of the product with a slash, or ""."""
    root = ""
    while True:
        inside = [name.removeprefix(root) for name in names]
        tops = {name.partition("/")[0] for name in inside}
        is_product = root.upper().endswith(f"{SAFE_SUFFIX}/")
        if is_product or len(tops) != 1 or any("/" not in name for name in inside):
            return root
        root += f"{tops.pop()}/"
