"""Where files lie, and GDAL, tamed: its errors in our words, its memory bounded.

Notebooks, unpackers and file managers leave copies and thumbnails beside the data; one
rule, used by every lister, leaves these out. Links that users make in their own folders
are followed; a path that a file names must not lead out of that file's folder. Only
this module names members of zips and addresses, after checking where they lead; GDAL's
own way to say such things (/vsizip/, /vsicurl/) is never taken from a user or a file.

rasterio has errors of its own, and lets GDAL's through where it has none that fits:
they share no base. Calls of either belong inside `reading` or `writing`. GDAL also
writes a line for every oddity of every file: inside `quiet_gdal` the lines are
collected, and each kind is reported once in a process.
"""

import contextlib
import glob
import logging
import lzma
import os
import re
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from spectralgpt.errors import DataError, OutputError, RasterError, SpectralGPTError
from spectralgpt.files import decode_text, explain_failure, name_openly

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
_LOG = logging.getLogger(__name__)
_GDAL_LOGGERS = (
    "rasterio._base",
    "rasterio._env",
    "rasterio._err",
    "rasterio._io",
    "rasterio.env",
)
GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError, SystemError)
"""rasterio raises SystemError where GDAL failed without a word."""
_NO_ANSWER = re.compile(
    r"operation too slow|(operation|connection|resolving) timed out|timeout was",
    re.IGNORECASE,
)
"""How curl says that a server is silent."""
_MEBIBYTE = 2**20
_GIGABYTE = 1e9
_KIBIBYTE = 1024
_SMALL = 64 * _MEBIBYTE
_GROUPS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    (
        "memory",
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
    ),
)
"""Controller, folder, and files of the limit and of what is used, of either version.

Source: Linux kernel documentation, cgroup-v1/memory.rst and cgroup-v2.rst.
"""
_CACHES = ("total_inactive_file", "total_active_file", "inactive_file", "active_file")
"""Of what is used: copies of files, which make room where it is wanted."""
_CACHE_MB = 512
"""Memory for decoded tiles of all open files, MiB: two rows of JPEG 2000 tiles across a
Sentinel-2 product of 12 bands. GDAL itself would take a share of the machine's memory.
"""
_VARIABLE = re.compile(r"^(CPLE_\w+ in )?(.*?\.\w+(, band \d+)?: )?|\d+")
"""What differs between messages of one kind: file names, band numbers, counts."""


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
    """Whether a file or folder of this name is not part of the data."""
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


def no_answer(address: str) -> str:
    """Say in one line that the server at an address said nothing for too long."""
    parts = urlsplit(address)
    # Without what signs in.
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return (
        f"the server at {server} did not answer within {NO_ANSWER_S} s. Try again "
        "later, or fetch the files to this machine."
    )


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """Turn what goes wrong while a file is read into our error.

    Raises:
        RasterError: the file cannot be read.
    """
    try:
        yield
    except SpectralGPTError:
        raise
    except (*GDAL_ERRORS, OSError, ValueError, IndexError) as error:
        raise _as_raster_error(path, error) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into our error.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        yield
    except SpectralGPTError:
        raise
    except (*GDAL_ERRORS, OSError) as error:
        text = f"{path} cannot be written: {explain_failure(path, error)}"
        raise OutputError(name_openly(text)) from None


def _as_raster_error(path: Location, error: Exception) -> RasterError:
    """Say in one line that a file cannot be read, and why."""
    reason = _one_line(error)
    cause = f" ({_one_line(error.__cause__)})" if error.__cause__ else ""
    if isinstance(path, VirtualFile) and path.is_remote:
        if _NO_ANSWER.search(" ".join(map(str, _causes(error)))):
            return RasterError(f"{path} cannot be read: {no_answer(str(path))}")
        return RasterError(
            f"{path} cannot be read as a raster: {reason}{cause}. Its server broke "
            "off or has no raster there: check address and network, or fetch the file."
        )
    return RasterError(
        f"{path} cannot be read as a raster: {reason}{cause}. The file is corrupt, "
        "truncated or of another kind: fetch it again, or leave it out."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Collector(logging.Filter):
    """Keep GDAL's messages from the terminal and count them by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Count warnings and worse, let nothing through."""
        if record.levelno >= logging.WARNING:
            text = " ".join(record.getMessage().split())
            kind = _VARIABLE.sub("", text)
            self.counts[kind] += 1
            self.examples.setdefault(kind, text)
        return False


class _Quiet:
    """The state that all threads inside `quiet_gdal` share."""

    lock = threading.Lock()
    depth = 0
    collector = _Collector()
    restore = contextlib.ExitStack()
    reported: set[str] = set()  # noqa: RUF012 - one set for the process is the point


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """Collect what GDAL has to say and report each kind once, with its count.

    May be nested and used from several threads: the outermost one reports.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _start_collecting()
        _Quiet.depth += 1
    try:
        with rasterio.Env(
            GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
            CPL_DEBUG="OFF",
            # rasterio takes bytes, where GDAL itself takes MiB.
            GDAL_CACHEMAX=_CACHE_MB * _MEBIBYTE,
            # Several threads decode tiles of JPEG 2000 that are not whole as whatever
            # lay in memory, without an error.
            GDAL_NUM_THREADS="1",
            # A busy server is asked again soon. One that accepts a connection and then
            # stays silent is not: each try would cost the whole wait. Where no
            # connection comes about, all tries share one wait.
            GDAL_HTTP_LOW_SPEED_TIME=NO_ANSWER_S,
            GDAL_HTTP_LOW_SPEED_LIMIT=_LEAST_BYTES_A_SECOND,
            # Newer versions try it all twice.
            GDAL_HTTP_CONNECTTIMEOUT=NO_ANSWER_S / (_RETRIES + 1) / 2,
            GDAL_HTTP_MAX_RETRY=_RETRIES,
            GDAL_HTTP_RETRY_DELAY=1,
            CPL_VSIL_CURL_USE_HEAD="NO",
        ):
            yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _report_collected()


def warn_once(kind: str, message: str) -> None:
    """Warn of the first file of a kind in a process: archives have thousands alike."""
    if is_first(kind):
        _LOG.warning("%s Further files of this kind are not named.", message)


def is_first(kind: str) -> bool:
    """Whether nothing of a kind came before in this process."""
    with _Quiet.lock:
        if kind in _Quiet.reported:
            return False
        _Quiet.reported.add(kind)
        return True


def _start_collecting() -> None:
    _Quiet.restore = contextlib.ExitStack()
    _Quiet.restore.enter_context(warnings.catch_warnings())
    _Quiet.restore.enter_context(_dropping_undecoded())
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    for name in _GDAL_LOGGERS:
        logger = logging.getLogger(name)
        logger.addFilter(_Quiet.collector)
        _Quiet.restore.callback(logger.removeFilter, _Quiet.collector)


@contextmanager
def _dropping_undecoded() -> Iterator[None]:
    """Drop what rasterio prints where GDAL's own message quotes bytes of no text.

    It cannot raise there. What GDAL says is raised all the same.
    """
    before = sys.excepthook, sys.unraisablehook

    def show(kind: type[BaseException], *more: Any) -> None:
        if not issubclass(kind, UnicodeDecodeError):
            before[0](kind, *more)

    def show_unraisable(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, UnicodeDecodeError):
            before[1](unraisable)

    sys.excepthook, sys.unraisablehook = show, show_unraisable
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = before


def _report_collected() -> None:
    _Quiet.restore.close()
    for kind, count in _Quiet.collector.counts.items():
        if kind not in _Quiet.reported:
            _Quiet.reported.add(kind)
            _LOG.warning(
                "GDAL warned %d time(s), further warnings of this kind are dropped: %s",
                count,
                _Quiet.collector.examples[kind],
            )
    _Quiet.collector.counts.clear()


def check_memory(path: Location | str, needed: int) -> None:
    """Refuse to read more than there is memory for: a header may claim anything.

    Args:
        path: what is read, for messages.
        needed: bytes.

    Raises:
        RasterError: that many are not free; says how many are.
    """
    # What is small is there; this runs for every crop of a training.
    free = _free_memory() if needed > _SMALL else None
    if free is not None and needed > free:
        raise RasterError(
            f"{path} takes {needed / _GIGABYTE:.3g} GB of memory, of which "
            f"{free / _GIGABYTE:.3g} GB are free: read a part of it (--bounds), or see "
            "whether its header is right."
        )


def _free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be taken without swapping; None if nothing says.

    The least of what the machine and the groups of this process, such as a container,
    have left, by the file system at `root`.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        available = _numbered_lines(root / "proc/meminfo")["MemAvailable:"]
        found.append(available * _KIBIBYTE)
    with contextlib.suppress(OSError, ValueError):
        found += _left_to_groups(root)
    return max(0, min(found)) if found else None


def _left_to_groups(root: Path) -> Iterator[int]:
    lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        for controller, folder, limit, used in _GROUPS:
            if controller not in controllers.split(","):
                continue
            group = Path(name)
            # In a container its own group lies at the top, whatever it is called.
            for place in (group, *group.parents):
                own = root / folder / place.relative_to("/")
                with contextlib.suppress(OSError, ValueError):
                    # Where nothing is limited it says "max", or more than there is.
                    most = int((own / limit).read_text(encoding="ascii"))
                    taken = int((own / used).read_text(encoding="ascii"))
                    kept = _numbered_lines(own / "memory.stat")
                    # The first version counts what is below apart.
                    names = [each for each in _CACHES if each in kept][:2]
                    yield most - taken + sum(kept[each] for each in names)


def _numbered_lines(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {words[0]: int(words[1]) for words in map(str.split, lines)}
