"""Opening raster files: which kinds, quietly, and without opening each one twice.

GDAL writes a line for every oddity of every file. Here the lines are collected, and
each kind is reported once in a process.
"""

import contextlib
import logging
import re
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from spectralgpt.errors import RasterError
from spectralgpt.rasters.geometry import Grid

__all__ = ["Header", "OpenFiles", "as_raster_error", "quiet_gdal", "read_header"]

_LOG = logging.getLogger(__name__)
_GDAL_LOGGERS = ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio.env")
_DRIVER_BY_START = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",
}
"""By the first bytes, whatever the name says; the bytes of BigTIFF come with a plus."""


_VARIABLE = re.compile(r"^(CPLE_\w+ in )?(.*?\.\w+(, band \d+)?: )?|\d+")
"""What differs between messages of one kind: file names, band numbers, counts."""


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


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """Collect what GDAL has to say and report each kind once, with its count.

    May be nested and used from several threads: the outermost one reports.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _start_collecting()
        _Quiet.depth += 1
    try:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE", CPL_DEBUG="OFF"):
            yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _report_collected()


def _start_collecting() -> None:
    _Quiet.restore = contextlib.ExitStack()
    _Quiet.restore.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    for name in _GDAL_LOGGERS:
        logger = logging.getLogger(name)
        logger.addFilter(_Quiet.collector)
        _Quiet.restore.callback(logger.removeFilter, _Quiet.collector)


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


def as_raster_error(path: Path, error: Exception) -> RasterError:
    """Say in one line that a file cannot be read, and why."""
    reason = " ".join(str(error).split()) or type(error).__name__
    cause = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ else ""
    return RasterError(
        f"{path} cannot be read as a raster: {reason}{cause}. The file is corrupt, "
        "truncated or of another kind: fetch it again, or leave it out."
    )


@dataclass(frozen=True)
class Header:
    """What a raster file says about itself.

    Args:
        path: the file.
        grid: where its pixels lie.
        dtype: numpy type name of its layers.
        descriptions: one text a layer, "" where there is none.
        nodata: number that means no measurement.
        scale: (scale, offset) of GDAL's own metadata, (1, 0) if not set.
        tags: text by key.
    """

    path: Path
    grid: Grid
    dtype: str
    descriptions: tuple[str, ...]
    nodata: float | None
    scale: tuple[float, float]
    tags: dict[str, str]

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.descriptions)


def open_raster(path: Path) -> rasterio.DatasetReader:
    """Open a raster file that lies on this machine, inside `quiet_gdal`.

    Raises:
        RasterError: the file is missing, not a raster, or has no layer.
    """
    if not path.is_file():
        raise RasterError(f"{path} does not exist. Check the path.")
    try:
        dataset = rasterio.open(path, driver=_find_driver(path))
    except (RasterioError, OSError, ValueError) as error:
        raise as_raster_error(path, error) from None
    if dataset.count == 0:
        dataset.close()
        raise RasterError(f"{path} has no bands. Fetch it again, or leave it out.")
    return dataset


def _find_driver(path: Path) -> str:
    """Return the one driver to use: formats like VRT can make GDAL open any address."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _DRIVER_BY_START)))
    for beginning, driver in _DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    headers = (path.with_suffix(s) for s in (".hdr", ".HDR"))
    appended = (path.with_name(path.name + s) for s in (".hdr", ".HDR"))
    if any(header.is_file() for header in (*headers, *appended)):
        return "ENVI"
    raise RasterError("not a GeoTIFF, JPEG 2000 or ENVI file")


def read_header(path: Path) -> Header:
    """Read what a raster file says about itself, none of its pixels.

    Raises:
        RasterError: the file is missing, corrupt, or its layers differ in kind.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        scales = set(zip(dataset.scales, dataset.offsets, strict=True))
        kinds = {str(dtype) for dtype in dataset.dtypes}
        if len(scales) > 1 or len(kinds) > 1 or "complex" in next(iter(kinds)):
            raise RasterError(
                f"{path}: layers differ in type or scale, or hold complex numbers "
                f"({', '.join(sorted(kinds))}). Split the file."
            )
        has_place = dataset.crs is not None or dataset.transform != Affine.identity()
        grid = Grid(
            height=dataset.height,
            width=dataset.width,
            transform=dataset.transform if has_place else None,
            crs=dataset.crs.to_string() if dataset.crs else None,
        )
        return Header(
            path=path,
            grid=grid,
            dtype=kinds.pop(),
            descriptions=tuple(text or "" for text in dataset.descriptions),
            nodata=dataset.nodata,
            scale=scales.pop(),
            tags=dict(dataset.tags()),
        )


class OpenFiles:
    """The files read last, kept open; for one thread of one process.

    Args:
        most: how many stay open.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._open: OrderedDict[Path, rasterio.DatasetReader] = OrderedDict()

    def get(self, path: Path) -> rasterio.DatasetReader:
        """Return the open file, inside `quiet_gdal`."""
        dataset = self._open.pop(path, None) or open_raster(path)
        self._open[path] = dataset
        while len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()
        return dataset

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()
