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

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.arrays import ARRAY_START, describe_array
from spectralgpt.rasters.geometry import Grid, Window
from spectralgpt.rasters.locations import Location, VirtualFile
from spectralgpt.rasters.virtual_rasters import (
    VIRTUAL_START,
    describe_virtual,
    sources_of,
)

__all__ = [
    "CACHE_MB",
    "Header",
    "OpenFiles",
    "as_raster_error",
    "open_grid",
    "open_raster",
    "quiet_gdal",
    "read_header",
    "read_numbers",
]

_LOG = logging.getLogger(__name__)
_GDAL_LOGGERS = ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio.env")
_ARRAY, _VIRTUAL = "array", "VRT"
_DRIVER_BY_START = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",
    ARRAY_START: _ARRAY,
}
"""By the first bytes, whatever the name says; the bytes of BigTIFF come with a plus."""
_START_LENGTH = max(map(len, (*_DRIVER_BY_START, VIRTUAL_START)))
_PICTURE_DRIVER_BY_START = {b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
"""Masks are often pictures."""
_MEBIBYTE = 2**20
CACHE_MB = 512
"""Memory for decoded tiles of all open files, MiB: two rows of JPEG 2000 tiles across a
Sentinel-2 product of 12 bands. GDAL itself would take a share of the machine's memory.
"""
_HTTP_TIMEOUT_S = 30
_SMALL_FILE = 2 * _MEBIBYTE


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
        with rasterio.Env(
            GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
            CPL_DEBUG="OFF",
            # rasterio takes bytes, where GDAL itself takes MiB.
            GDAL_CACHEMAX=CACHE_MB * _MEBIBYTE,
            GDAL_HTTP_TIMEOUT=_HTTP_TIMEOUT_S,
            GDAL_HTTP_CONNECTTIMEOUT=_HTTP_TIMEOUT_S,
            GDAL_HTTP_MAX_RETRY=3,
            CPL_VSIL_CURL_USE_HEAD="NO",
        ):
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


def as_raster_error(path: Location, error: Exception) -> RasterError:
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

    path: Location
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


def open_raster(path: Location) -> rasterio.DatasetReader:
    """Open a raster file, inside `quiet_gdal`.

    Raises:
        RasterError: the file is missing, not a raster, or has no layer.
    """
    if isinstance(path, Path) and not path.is_file():
        raise RasterError(f"{path} does not exist. Check the path.")
    try:
        if isinstance(path, VirtualFile):
            dataset = rasterio.open(path.address, driver=path.driver)
        else:
            dataset = _open_local(path)
    except (RasterioError, OSError, ValueError) as error:
        raise as_raster_error(path, error) from None
    if dataset.count == 0:
        dataset.close()
        raise RasterError(f"{path} has no bands. Fetch it again, or leave it out.")
    return dataset


def _open_local(path: Path) -> rasterio.DatasetReader:
    driver = _find_driver(path)
    if driver == _ARRAY:
        return rasterio.open(describe_array(path), driver="VRT")
    if driver == _VIRTUAL:
        for source in sources_of(path):
            if _find_driver(source) in (_VIRTUAL, _ARRAY):
                raise RasterError(
                    f"{path} names {source}, which is no raster of its own."
                )
        return rasterio.open(describe_virtual(path), driver="VRT")
    return rasterio.open(path, driver=driver)


def _find_driver(path: Path) -> str:
    """Return the one driver to use: formats like VRT can make GDAL open any address.

    Of arrays and virtual rasters GDAL only gets descriptions that we write ourselves.
    """
    with path.open("rb") as file:
        start = file.read(_START_LENGTH)
    for beginning, driver in _DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    # What names other files may not come under the name of something else.
    if start.startswith(VIRTUAL_START) and path.suffix.lower() == ".vrt":
        return _VIRTUAL
    headers = (path.with_suffix(s) for s in (".hdr", ".HDR"))
    appended = (path.with_name(path.name + s) for s in (".hdr", ".HDR"))
    if any(header.is_file() for header in (*headers, *appended)):
        return "ENVI"
    # After ENVI, whose pixels may begin with any bytes.
    for beginning, driver in _PICTURE_DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    raise RasterError(
        "not a GeoTIFF, JPEG 2000, VRT, ENVI, PNG or BMP file, nor a NumPy array"
    )


def read_header(path: Location) -> Header:
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
        return Header(
            path=path,
            grid=_grid_of(dataset),
            dtype=kinds.pop(),
            descriptions=tuple(text or "" for text in dataset.descriptions),
            nodata=dataset.nodata,
            scale=scales.pop(),
            tags=dict(dataset.tags()),
        )


def read_numbers(path: Location) -> npt.NDArray[np.generic]:
    """Read all numbers of a file as they are, (layers, H, W).

    Raises:
        RasterError: the file cannot be read to its end.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        try:
            return np.asarray(dataset.read())
        except (RasterioError, ValueError) as error:
            raise as_raster_error(path, error) from None


def open_grid(path: Location, files: "OpenFiles | None" = None) -> Grid:
    """Return where the pixels of a file lie, inside `quiet_gdal`.

    Args:
        path: a raster file.
        files: files kept open between calls.

    Raises:
        RasterError: the file is missing, or not a raster.
    """
    if files is not None:
        return files.grid(path)
    with open_raster(path) as dataset:
        return _grid_of(dataset)


def _grid_of(dataset: rasterio.DatasetReader) -> Grid:
    has_place = dataset.crs is not None or dataset.transform != Affine.identity()
    return Grid(
        height=dataset.height,
        width=dataset.width,
        transform=dataset.transform if has_place else None,
        crs=dataset.crs.to_string() if dataset.crs else None,
    )


class OpenFiles:
    """The files read last, kept open, and small ones kept whole; for one thread.

    Args:
        most: how many stay open.
        memory_mb: memory in MiB for the numbers of files of up to 2 MiB each, which are
            decoded once and not again for every window.
    """

    def __init__(self, most: int = 64, memory_mb: float = 0.0) -> None:
        self._most = most
        self._free = int(memory_mb * _MEBIBYTE)
        self._open: OrderedDict[Location, rasterio.DatasetReader] = OrderedDict()
        self._whole: dict[Location, npt.NDArray[np.generic]] = {}
        self._grids: dict[Location, Grid] = {}

    def grid(self, path: Location) -> Grid:
        """Return where a file's pixels lie, inside `quiet_gdal`."""
        # A file that is kept whole is closed, and need not be opened for this again.
        return self._grids.get(path) or _grid_of(self.get(path))

    def get(self, path: Location) -> rasterio.DatasetReader:
        """Return the open file, inside `quiet_gdal`."""
        dataset = self._open.pop(path, None) or open_raster(path)
        self._open[path] = dataset
        while len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()
        return dataset

    def read(
        self, path: Location, indices: list[int], window: Window
    ) -> npt.NDArray[np.generic]:
        """Read layers (1-based) of a window, inside `quiet_gdal`."""
        if path not in self._whole:
            dataset = self.get(path)
            if not self._keep(path, dataset):
                place = RasterioWindow(
                    window.column, window.row, window.width, window.height
                )
                return np.asarray(dataset.read(indices, window=place))
        rows = slice(window.row, window.row + window.height)
        columns = slice(window.column, window.column + window.width)
        return self._whole[path][np.subtract(indices, 1), rows, columns]

    def close(self) -> None:
        """Close all files, forget all numbers."""
        self._whole.clear()
        self._grids.clear()
        while self._open:
            self._open.popitem()[1].close()

    def _keep(self, path: Location, dataset: rasterio.DatasetReader) -> bool:
        """Keep the numbers of a small file, if there is room."""
        pixels = dataset.count * dataset.height * dataset.width
        size = pixels * np.dtype(dataset.dtypes[0]).itemsize
        if size > min(self._free, _SMALL_FILE):
            return False
        self._whole[path] = dataset.read()
        self._grids[path] = _grid_of(dataset)
        self._free -= size
        self._open.pop(path).close()
        return True
