"""Where files lie, what counts as data, and the one reader of texts beside rasters.

Notebooks, unpackers and file managers leave copies and thumbnails beside the data; one
rule says for every lister that these are no data. Links that users make in their own
folders are followed; what a file writes must not lead out of its folder by itself.

Members of zips and addresses are made here alone, after it was checked where they lead;
GDAL's own way to say such things (/vsizip/, /vsicurl/) is never taken from a user or a
file.
"""

import glob
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from xml.etree import ElementTree

from spectralgpt.errors import DataError, RasterError
from spectralgpt.files import decode_text

NO_ANSWER_S = 30
"""Seconds after which a server that sends nothing is given up."""
_RETRIES = 2
_LEAST_BYTES_A_SECOND = 100
_LITTER = frozenset(
    {
        "__MACOSX",
        "__pycache__",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)
"""Folders of programs, beside all hidden ones such as .ipynb_checkpoints."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes that systems allow."""
_LARGEST_TEXT = 64 * 2**20
"""Bytes of metadata that are read; Sentinel-2 has 0.1 MB, EnMAP 1 MB."""
BROKEN_ZIP = (
    *(OSError, RuntimeError, ValueError, EOFError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
"""What zipfile raises of broken archives, by what of them is broken."""
_XML_ENCODING = re.compile(rb"\s*<\?xml[^>]*?encoding=[\"']([\w-]+)[\"']")
_ENCODINGS = (b"iso-8859-1", b"windows-1252")
"""That XML may state, besides those that `decode_text` knows."""


@dataclass(frozen=True)
class VirtualFile:
    """A raster inside of an archive, or at an address.

    Args:
        address: how GDAL calls it.
        shown: how people call it, for messages.
        member: the archive, and the file's name in it; None at an address.
    """

    address: str
    shown: str
    member: tuple[Path, str] | None = None

    @classmethod
    def in_zip(cls, archive: Path, name: str) -> "VirtualFile":
        """Return a member of a zip archive; it is read without unpacking it."""
        address = f"/vsizip/{{{archive.absolute()}}}/{name}"
        return cls(address, f"{archive}/{name}", (archive, name))

    @classmethod
    def at(cls, address: str) -> "VirtualFile":
        """Return a file at an http or https address; only parts of it are fetched."""
        # What signs a request must not get into messages and logs.
        return cls(f"/vsicurl/{address}", address.partition("?")[0])

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.shown.partition("?")[0]).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's ending with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def is_remote(self) -> bool:
        """Whether reading it needs the network."""
        return self.address.startswith("/vsicurl/")

    @property
    def driver(self) -> str:
        """The one GDAL driver that may open it."""
        is_jpeg = self.suffix.lower() in (".jp2", ".j2k")
        return "JP2OpenJPEG" if is_jpeg else "GTiff"


Location = Path | VirtualFile
"""Where a raster file is."""


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is none of the data."""
    return name.startswith(".") or name in _LITTER


def list_folder(folder: Path) -> list[Path]:
    """List the data in a folder, sorted.

    Raises:
        RasterError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        raise RasterError(f"{folder} cannot be read: {error.strerror}.") from None


def walk(root: Path) -> list[Path]:
    """List the data below a folder, sorted; links are followed, each folder once.

    Raises:
        RasterError: a folder cannot be read.
    """
    seen: set[str] = set()
    found: list[Path] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        inside = list_folder(folder)
        found += inside
        waiting += [path for path in inside if path.is_dir()]
    return sorted(found)


def glob_folder(root: Path, pattern: str) -> list[Path]:
    """List the data that a glob finds under a folder, sorted; links are followed.

    Args:
        root: the folder.
        pattern: relative to it; `**` is any number of folders. What is hidden is only
            found by a pattern that names it.
    """
    found = glob.glob(pattern, root_dir=root, recursive=True)
    stated = set(Path(pattern).parts)
    return sorted(
        root / name
        for name in found
        if not any(is_litter(part) for part in set(Path(name).parts) - stated)
    )


def is_path(text: str) -> bool:
    """Whether a file can be called so; the system fails on what is no name or long."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    names = raw.split(b"/")
    is_short = len(raw) < _LONGEST_PATH and max(map(len, names)) <= _LONGEST_NAME
    return is_short and b"\0" not in raw


def path_below(folder: Path, text: str) -> Path | None:
    """Return the path that a file names relative to its folder, None if it leads out.

    It leads out by `..`, as an absolute path to elsewhere, or by what is no path; where
    links lead is the user's own choice.

    Args:
        folder: of the file.
        text: as it stands there.
    """
    if not text or not is_path(text) or "\\" in text or "://" in text:
        return None
    for base in (os.path.abspath(folder), os.path.realpath(folder)):
        path = Path(os.path.normpath(Path(base) / text))
        if Path(base) in path.parents:
            return folder / path.relative_to(base)
    return None


def read_metadata(file: Location) -> str:
    """Read a text that lies beside rasters, or with them in an archive.

    Raises:
        RasterError: it cannot be read, is too large, in an encoding that it does not
            state, or XML that declares entities, which can make a small file expand
            without end.
    """
    try:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                content = stream.read(_LARGEST_TEXT + 1)
        else:
            assert file.member is not None, "metadata at an address are not read"
            archive, name = file.member
            with zipfile.ZipFile(archive) as opened, opened.open(name) as stream:
                content = stream.read(_LARGEST_TEXT + 1)
    except BROKEN_ZIP as error:
        why = getattr(error, "strerror", None) or error
        raise RasterError(
            f"{file} cannot be read: {why}. Check it, or fetch it again."
        ) from None
    return _check_text(str(file), content)


def _check_text(shown: str, content: bytes) -> str:
    if len(content) > _LARGEST_TEXT:
        raise RasterError(f"{shown} is too large for metadata. State what it says.")
    is_xml = shown.lower().endswith((".xml", ".vrt"))
    stated = _XML_ENCODING.match(content) if is_xml else None
    try:
        if stated is not None and stated[1].lower() in _ENCODINGS:
            text = content.decode("latin-1" if b"8859" in stated[1] else "cp1252")
        else:
            text = decode_text(content, shown)
    except (DataError, UnicodeDecodeError) as error:
        raise RasterError(str(error)) from None
    if is_xml and re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise RasterError(f"{shown} declares entities and is not read. Remove them.")
    return text


@dataclass(frozen=True)
class ProductFiles:
    """The files of one product.

    Args:
        path: the folder or archive that a user named.
        name: the product's name: that of the folder, in an archive of the one inside.
        files: where each is, by its path below the product's folder.
    """

    path: Path
    name: str
    files: Mapping[str, Location]

    @classmethod
    def of_folder(cls, folder: Path) -> "ProductFiles":
        """List the usual places of a folder.

        Raises:
            RasterError: it cannot be read.
        """
        found = [entry for entry in list_folder(folder) if entry.is_file()]
        for granule in folder.glob("GRANULE/*"):
            found += [file for file in granule.glob("*.xml") if file.is_file()]
            found += [file for file in granule.glob("IMG_DATA/**/*") if file.is_file()]
        kept = sorted(file for file in found if not is_litter(file.name))
        files = {file.relative_to(folder).as_posix(): file for file in kept}
        return cls(folder, folder.absolute().name, files)

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


def http_settings() -> dict[str, str | int | float]:
    """Return GDAL's settings for addresses.

    A busy server is asked again soon. One that takes the call and then says nothing is
    not: it would take the wait each time. Who cannot be connected to is tried again
    within the same wait.
    """
    return {
        "GDAL_HTTP_LOW_SPEED_TIME": NO_ANSWER_S,
        "GDAL_HTTP_LOW_SPEED_LIMIT": _LEAST_BYTES_A_SECOND,
        # Newer versions try it all twice.
        "GDAL_HTTP_CONNECTTIMEOUT": NO_ANSWER_S / (_RETRIES + 1) / 2,
        "GDAL_HTTP_MAX_RETRY": _RETRIES,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "CPL_VSIL_CURL_USE_HEAD": "NO",
    }


def no_answer(address: str) -> str:
    """Say in one line that the server at an address said nothing for too long."""
    parts = urlsplit(address)
    # Without what signs in.
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return (
        f"the server at {server} did not answer within {NO_ANSWER_S} s. Try again "
        "later, or fetch the files to this machine."
    )
