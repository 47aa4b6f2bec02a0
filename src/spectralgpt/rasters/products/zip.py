"""Zip archives of products, read in place: nothing is unpacked.

Names that lead out of the archive, as in `../x`, make it refused.
"""

import re
import zipfile
from pathlib import Path, PurePosixPath

from spectralgpt.errors import RasterError
from spectralgpt.rasters.locations import (
    BROKEN_ZIP,
    ProductFiles,
    VirtualFile,
    is_litter,
)

ZIP_SUFFIX = ".zip"
SAFE_SUFFIX = ".SAFE"
_MTL = re.compile(r"_MTL\.(json|txt)$", re.IGNORECASE)
_MOST_MEMBERS = 20_000
_MASK_SUFFIX = (".tif.msk", ".tiff.msk", ".jp2.msk")


def list_archive(path: Path) -> ProductFiles:
    """List the files of a product in a zip archive.

    Raises:
        RasterError: it is broken, or refused: its names lead out of it, it holds masks
            or several products, or it is encrypted.
    """
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
    return ProductFiles(path, name, files)


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
