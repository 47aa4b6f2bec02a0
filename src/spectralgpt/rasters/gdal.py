"""GDAL, tamed: its errors in our words, its messages once a kind, its memory bounded.

rasterio has errors of its own, and lets GDAL's through where it has none that fits:
they share no base. Who calls either does it inside of `reading` or `writing`. GDAL also
writes a line for every oddity of every file: inside of `quiet_gdal` the lines are
collected, and each kind is reported once in a process.
"""

import contextlib
import logging
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio

# Nowhere else does rasterio name them.
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from spectralgpt.errors import OutputError, RasterError, SpectralGPTError
from spectralgpt.files import explain_failure, name_openly
from spectralgpt.rasters.locations import (
    Location,
    VirtualFile,
    http_settings,
    no_answer,
)

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


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """Raise what is raised of a file that is read as our error.

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
    """Raise what is raised of a file that is written as our error.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        yield
    except SpectralGPTError:
        raise
    except (*GDAL_ERRORS, OSError) as error:
        raise output_error(path, error) from None


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


def output_error(path: Path, error: Exception) -> OutputError:
    """Say in one line that a file cannot be written, why, and what to do."""
    text = f"{path} cannot be written: {explain_failure(path, error)}"
    return OutputError(name_openly(text))


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
            **http_settings(),
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
    free = free_memory() if needed > _SMALL else None
    if free is not None and needed > free:
        raise RasterError(
            f"{path} takes {needed / _GIGABYTE:.3g} GB of memory, of which "
            f"{free / _GIGABYTE:.3g} GB are free: read a part of it (--bounds), or see "
            "whether its header is right."
        )


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be taken without swapping.

    Args:
        root: of the file system that says so.

    Returns:
        The least of what the machine and the groups of this process, such as a
        container, have left; None if nothing says.
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
