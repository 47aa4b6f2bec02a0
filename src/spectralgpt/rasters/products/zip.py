"""The files of a product, whether it is a folder or a zip archive of one.

Zip archives are read in place: nothing is unpacked, and names that lead out of the
archive, as in `../x`, make it refused.
"""

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from spectralgpt.errors import RasterError
from spectralgpt.rasters.locations import (
    Location,
    VirtualFile,
    is_litter,
    list_folder,
    read_metadata,
    read_stream,
)

__all__ = ["SAFE_SUFFIX", "ZIP_SUFFIX", "ProductFiles"]

ZIP_SUFFIX = ".zip"
SAFE_SUFFIX = ".SAFE"
_MTL = re.compile(r"_MTL\.(json|txt)$", re.IGNORECASE)
_MOST_MEMBERS = 20_000
_MASK_SUFFIX = (".tif.msk", ".tiff.msk", ".jp2.msk")
_BROKEN = (
    *(OSError, RuntimeError, ValueError, EOFError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
"""What zipfile raises of broken archives, by what of them is broken."""


@dataclass(frozen=True)
class ProductFiles:
    """The files of one product.

    Args:
        path: the folder or archive that a user named.
        name: the product's name: that of the folder, in an archive of the one inside.
        files: where each is, by its path below the product's folder.
        root: folder of the product inside an archive with a slash, "" otherwise.
    """

    path: Path
    name: str
    files: Mapping[str, Location]
    root: str = ""

    @classmethod
    def of(cls, path: Path) -> "ProductFiles":
        """List the files: all of an archive, the usual places of a folder.

        Raises:
            RasterError: the archive is broken or refused, or the folder not readable.
        """
        return _list_folder(path) if path.is_dir() else _list_archive(path)

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that a regular expression matches as a whole, sorted."""
        return sorted(
            name for name in self.files if re.fullmatch(pattern, name, re.IGNORECASE)
        )

    def read_text(self, name: str) -> str:
        """Read a text file of the product.

        Raises:
            RasterError: it is too large, or cannot be read.
        """
        file = self.files[name]
        try:
            if isinstance(file, Path):
                return read_metadata(file)
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self.root + name) as stream,
            ):
                return read_stream(stream, str(file))
        except RasterError:
            raise
        except _BROKEN as why:
            raise RasterError(
                f"{file} cannot be read: {why}. Fetch the product again."
            ) from None

    def read_xml(self, name: str) -> ElementTree.Element:
        """Read an XML file of the product.

        Raises:
            RasterError: it is no XML; see `read_text`.
        """
        try:
            return ElementTree.fromstring(self.read_text(name))
        except ElementTree.ParseError as error:
            raise RasterError(
                f"{self.files[name]} is no valid XML ({error}): fetch the product "
                "again."
            ) from None


def _list_folder(folder: Path) -> ProductFiles:
    found = [entry for entry in list_folder(folder) if entry.is_file()]
    for granule in folder.glob("GRANULE/*"):
        found += [file for file in granule.glob("*.xml") if file.is_file()]
        found += [file for file in granule.glob("IMG_DATA/**/*") if file.is_file()]
    kept = sorted(file for file in found if not is_litter(file.name))
    files = {file.relative_to(folder).as_posix(): file for file in kept}
    return ProductFiles(folder, folder.absolute().name, files)


def _list_archive(path: Path) -> ProductFiles:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _BROKEN as error:
        raise RasterError(
            f"{path} cannot be read as a zip archive: {error}. It is corrupt or "
            "truncated: fetch it again."
        ) from None
    if len(infos) > _MOST_MEMBERS:
        raise RasterError(
            f"{path} has {len(infos)} members, more than the {_MOST_MEMBERS} of any "
            "product. Unpack what is needed of it."
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
            f"{path} holds {len(products)} products, {products[0]} and {products[1]} "
            "among them: unpack it, or zip each of them alone."
        )
    root = _common_folder(names)
    name = PurePosixPath(root).name if root else path.stem
    files = {
        name.removeprefix(root): VirtualFile.in_zip(path, name)
        for name in sorted(names)
        if name.startswith(root)
    }
    return ProductFiles(path, name, files, root)


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
