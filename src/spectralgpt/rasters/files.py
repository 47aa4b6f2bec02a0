"""Opening raster files: which kinds, quietly, and without opening each one twice.

GDAL writes a line for every oddity of every file. Here the lines are collected, and
each kind is reported once in a process.
"""

import contextlib
import logging
import math
import re
import sys
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import RasterError
from spectralgpt.rasters.gdal_errors import reading
from spectralgpt.rasters.geometry import Grid, Window
from spectralgpt.rasters.locations import Location, VirtualFile, http_settings
from spectralgpt.rasters.virtual import (
    ARRAY_START,
    describe_virtual,
    is_virtual,
    open_array,
    sources_of,
)

__all__ = [
    "CACHE_MB",
    "FILE_MASK",
    "Header",
    "OpenFiles",
    "check_memory",
    "find_masks",
    "free_memory",
    "is_first",
    "open_place",
    "open_raster",
    "quiet_gdal",
    "read_header",
    "read_known",
    "read_masks",
    "read_numbers",
    "warn_once",
]

_LOG = logging.getLogger(__name__)
_GDAL_LOGGERS = (
    "rasterio._base",
    "rasterio._env",
    "rasterio._err",
    "rasterio._io",
    "rasterio.env",
)
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
_START_LENGTH = 1024
"""Bytes that tell the kind of a file; comments may come before a virtual raster."""
_PICTURE_DRIVER_BY_START = {b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
"""Masks are often pictures."""
_MEBIBYTE = 2**20
_GIGABYTE = 1e9
_KIBIBYTE = 1024
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
CACHE_MB = 512
"""Memory for decoded tiles of all open files, MiB: two rows of JPEG 2000 tiles across a
Sentinel-2 product of 12 bands. GDAL itself would take a share of the machine's memory.
"""
FILE_MASK = 0
"""Stands for the mask that a file has beside its layers, which count from 1."""
_NO_MASK = ([MaskFlags.all_valid], [MaskFlags.nodata])
_ALPHA_MASK = [MaskFlags.per_dataset, MaskFlags.alpha]
_LEAST_POINTS = 3
_POINTS_PX = 0.1
"""Ground control points that lie this near to a transform, px, are explained by it."""
_MASK_SUFFIX = ".msk"
_SIDECARS = (_MASK_SUFFIX, ".ovr")
_SMALL_FILE = 2 * _MEBIBYTE
_SMALL = 64 * _MEBIBYTE
_SHOWN = 60
_LONGEST_NAME = 1000
"""Characters of a layer's description that are read."""

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


@contextlib.contextmanager
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


@dataclass(frozen=True)
class Header:
    """What a raster file says about itself.

    Args:
        path: the file.
        grid: where its pixels lie.
        dtypes: numpy type name of each layer.
        descriptions: one text a layer, "" where there is none.
        nodata: number that means no measurement, one a layer; None if not set.
        scales: (scale, offset) that the file states of each layer, (1, 0) if it does
            not.
        tags: text by key.
        alpha: layers, from 1, that say how opaque a pixel is.
        masks: what says which pixels of each layer are measurements, see `read_masks`.
    """

    path: Location
    grid: Grid
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[tuple[float, float], ...]
    tags: dict[str, str]
    alpha: tuple[int, ...] = ()
    masks: tuple[tuple[int, ...], ...] = ()

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.descriptions)

    @property
    def measured(self) -> tuple[int, ...]:
        """The layers, from 1, that hold something else than opacity."""
        layers = range(1, self.count + 1)
        return tuple(layer for layer in layers if layer not in self.alpha)


def open_raster(path: Location) -> rasterio.DatasetReader:
    """Open a raster file, inside `quiet_gdal`.

    Raises:
        RasterError: the file is missing, not a raster, or has no layer.
    """
    if isinstance(path, Path) and not path.is_file():
        raise RasterError(f"{path} does not exist. Check the path.")
    with reading(path):
        if isinstance(path, VirtualFile):
            # What lies beside it could be anything, and is not asked for.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
                dataset = rasterio.open(path.address, driver=path.driver)
        else:
            dataset = _open_local(path)
    if dataset.count == 0:
        dataset.close()
        raise RasterError(f"{path} has no bands. Fetch it again, or leave it out.")
    _check_texts(path, dataset)
    return dataset


def _check_texts(path: Location, dataset: rasterio.DatasetReader) -> None:
    """Refuse texts that fail wherever they are read, or that GDAL would follow.

    Raises:
        RasterError: they are in another encoding, or lead to another file.
    """
    try:
        _ = dataset.descriptions, dataset.tags()
        overviews = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    except UnicodeDecodeError as error:
        dataset.close()
        raise RasterError(
            f"{path} has band descriptions or tags that are not UTF-8, such as "
            f"{error.object[:_SHOWN]!r}. Write them anew, or fetch the file again."
        ) from None
    if overviews is not None:
        dataset.close()
        raise RasterError(
            f"{path} says that its overviews are in '{overviews[:_SHOWN]}', which is "
            "not followed. Take that out of its metadata."
        )


def _open_local(path: Path) -> rasterio.DatasetReader:
    driver = _find_driver(path)
    _check_sidecars(path)
    if driver == _ARRAY:
        return open_array(path)
    if driver == _VIRTUAL:
        masked = [source for source in sources_of(path) if _is_masked(path, source)]
        return rasterio.open(describe_virtual(path, masked), driver="VRT")
    dataset = rasterio.open(path, driver=driver)
    try:
        _check_whole(path, dataset)
    except RasterError:
        dataset.close()
        raise
    return dataset


def _check_whole(path: Path, dataset: rasterio.DatasetReader) -> None:
    """Refuse what GDAL would pass over: masks that it cannot read, missing numbers."""
    mask = path.with_name(path.name + _MASK_SUFFIX)
    if mask.is_file() and any(f in _NO_MASK for f in dataset.mask_flag_enums):
        raise RasterError(
            f"{mask} is no mask of {path.name}, or is not whole. Fetch it again, or "
            "remove it if nothing is to be masked."
        )
    header = dataset.tags(ns="ENVI") if dataset.driver == "ENVI" else {}
    if dataset.driver == "ENVI" and header.get("file_compression", "0") == "0":
        itemsize = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        needed = dataset.height * dataset.width * itemsize
        needed += int(header.get("header_offset", 0))
        found = path.stat().st_size
        if found < needed:
            raise RasterError(
                f"{path} is truncated: {found} bytes of {needed}. Fetch it again, or "
                "correct its header."
            )


def _is_masked(path: Path, source: Path) -> bool:
    """Whether GDAL knows a mask of a file that a virtual raster names."""
    if _find_driver(source) in (_VIRTUAL, _ARRAY):
        raise RasterError(
            f"{path} names {source}, which is no raster of its own. Turn that into a "
            "GeoTIFF."
        )
    with _open_local(source) as dataset:
        _check_texts(source, dataset)
        return any(flags not in _NO_MASK for flags in dataset.mask_flag_enums)


def _check_sidecars(path: Path) -> None:
    """Refuse what GDAL would open beside a file, if it is no TIFF but may be a VRT."""
    for suffix in _SIDECARS:
        sidecar = path.with_name(path.name + suffix)
        if not sidecar.is_file():
            continue
        with sidecar.open("rb") as file:
            start = file.read(_START_LENGTH)
        if not start.startswith((b"II", b"MM")):
            raise RasterError(f"{sidecar} is no TIFF. Fetch it again, or remove it.")


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
    if path.suffix.lower() == ".vrt" and is_virtual(start):
        return _VIRTUAL
    headers = (path.with_suffix(s) for s in (".hdr", ".HDR"))
    appended = (path.with_name(path.name + s) for s in (".hdr", ".HDR"))
    if any(header.is_file() for header in (*headers, *appended)):
        return "ENVI"
    # After ENVI, whose pixels may begin with any bytes.
    for beginning, driver in _PICTURE_DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    raise ValueError(
        "not a GeoTIFF, JPEG 2000, VRT, ENVI, PNG or BMP file, nor a NumPy array"
    )


def read_header(path: Location) -> Header:
    """Read what a raster file says about itself, none of its pixels.

    Raises:
        RasterError: the file is missing, corrupt, or holds complex numbers.
    """
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        if any("complex" in str(dtype) for dtype in dataset.dtypes):
            raise RasterError(f"{path} holds complex numbers. Write their magnitude.")
        _say_lost_place(path, dataset)
        return Header(
            path=path,
            grid=_grid_of(dataset),
            dtypes=tuple(map(str, dataset.dtypes)),
            descriptions=tuple(
                (text or "")[:_LONGEST_NAME] for text in dataset.descriptions
            ),
            nodata=tuple(dataset.nodatavals),
            scales=_scales_of(dataset),
            tags=dict(dataset.tags()),
            alpha=_alpha_of(dataset),
            masks=find_masks(dataset),
        )


def find_masks(dataset: rasterio.DatasetReader) -> tuple[tuple[int, ...], ...]:
    """Return what says which pixels of each layer are measurements.

    Returns:
        For each layer, what `read_masks` takes: the numbers of layers of opacity, and
        `FILE_MASK` where the file has a mask for it. Nodata are none of them: what
        they are can be stated.
    """
    alpha = _alpha_of(dataset)
    return tuple(
        (FILE_MASK, *alpha) if flags not in (*_NO_MASK, _ALPHA_MASK) else alpha
        for flags in dataset.mask_flag_enums
    )


def _alpha_of(dataset: rasterio.DatasetReader) -> tuple[int, ...]:
    # GDAL itself knows them in files of two and four layers only.
    kinds = enumerate(dataset.colorinterp, start=1)
    return tuple(layer for layer, kind in kinds if kind == ColorInterp.alpha)


def read_masks(
    dataset: rasterio.DatasetReader,
    indices: Sequence[int],
    masks: Sequence[int],
    window: RasterioWindow | None = None,
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.bool_]:
    """Return which pixels of layers a file's own masks call measurements.

    Args:
        dataset: the file.
        indices: layers, from 1.
        masks: of these layers, from `find_masks`.
        window: pixels to read; all if None.
        size: (H, W) to thin them out to; their own if None.

    Returns:
        (layers, H, W).
    """
    known: npt.NDArray[np.bool_] | None = None
    for number in masks:
        layers = list(indices) if number == FILE_MASK else [number]
        read = dataset.read_masks if number == FILE_MASK else dataset.read
        shape = None if size is None else (len(layers), *size)
        seen = np.asarray(read(layers, window=window, out_shape=shape)) != 0
        known = seen if known is None else known & seen
    assert known is not None, "asked for the masks of layers without any"
    return np.broadcast_to(known, (len(indices), *known.shape[1:]))


def read_known(
    path: Location, indices: Sequence[int], masks: Sequence[int]
) -> npt.NDArray[np.bool_] | None:
    """Read the masks of layers of a file; None if they have none.

    Raises:
        RasterError: the file cannot be read to its end.
    """
    if not masks:
        return None
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        return read_masks(dataset, indices, masks)


def _scales_of(dataset: rasterio.DatasetReader) -> tuple[tuple[float, float], ...]:
    """Return the scale and offset that each layer of a file states."""
    scales = tuple(zip(dataset.scales, dataset.offsets, strict=True))
    if dataset.driver != "ENVI":
        return scales
    factor = dataset.tags(ns="ENVI").get("reflectance_scale_factor")
    if factor is None:
        return scales
    try:
        return ((1 / float(factor), 0.0),) * len(scales)
    except (ValueError, ZeroDivisionError):
        # What is no scale is refused by whoever needs one.
        return ((math.nan, 0.0),) * len(scales)


def read_numbers(path: Location) -> npt.NDArray[np.generic]:
    """Read all numbers of a file as they are, (layers, H, W).

    Raises:
        RasterError: the file cannot be read to its end.
    """
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        itemsize = max(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        pixels = dataset.count * dataset.height * dataset.width
        check_memory(path, pixels * itemsize)
        return np.asarray(dataset.read())


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


def open_place(
    path: Location, files: "OpenFiles | None" = None
) -> tuple[Grid, tuple[tuple[int, ...], ...]]:
    """Return where the pixels of a file lie, and its masks, inside `quiet_gdal`.

    Args:
        path: a raster file.
        files: files kept open between calls.

    Raises:
        RasterError: the file is missing, or not a raster.
    """
    if files is not None:
        return files.place(path)
    with open_raster(path) as dataset, reading(path):
        return _grid_of(dataset), find_masks(dataset)


def _grid_of(dataset: rasterio.DatasetReader) -> Grid:
    transform, crs = dataset.transform, dataset.crs
    if not _is_place(transform):
        transform, crs = _from_points(dataset) or (None, None)
    return Grid(
        height=dataset.height,
        width=dataset.width,
        transform=transform,
        crs=crs.to_string() if crs else None,
    )


def _is_place(transform: Affine) -> bool:
    """Whether pixels lie somewhere by it."""
    if transform == Affine.identity():
        # What GDAL says where a file does not; pixels of one degree lie nowhere.
        return False
    return bool(np.isfinite(transform).all()) and not transform.is_degenerate


def _from_points(dataset: rasterio.DatasetReader) -> tuple[Affine, Any] | None:
    """Return the transform through a file's ground control points, if there is one.

    None without points, or where one lies further off than their rounding explains:
    then the image is not in the plane of their reference system.
    """
    points, crs = dataset.gcps
    if not crs or len(points) < _LEAST_POINTS:
        return None
    pixels = np.array([(point.col, point.row, 1.0) for point in points])
    places = np.array([(point.x, point.y) for point in points])
    middle = places.mean(axis=0)
    found, _, rank, _ = np.linalg.lstsq(pixels, places - middle, rcond=None)
    if rank < _LEAST_POINTS:
        return None
    (a, d), (b, e), (c, f) = found.tolist()
    transform = Affine(a, b, c + middle[0], d, e, f + middle[1])
    if transform.is_degenerate:
        return None
    off = (places - middle - pixels @ found) @ np.linalg.inv(found[:2])
    is_near = float(np.hypot(*off.T).max()) <= _POINTS_PX
    return (transform, crs) if is_near else None


def _say_lost_place(path: Location, dataset: rasterio.DatasetReader) -> None:
    """Warn of what a file says of its place that is not understood."""
    if _is_place(dataset.transform) or _from_points(dataset) is not None:
        return
    if dataset.gcps[0]:
        what = (
            f"has {len(dataset.gcps[0])} ground control points and no georeference, "
            f"and they do not lie on its pixels to {_POINTS_PX:g} px"
        )
    elif dataset.rpcs is not None:
        what = "has rational polynomials (RPCs) in place of a georeference"
    elif dataset.tags(ns="GEOLOCATION"):
        what = "has geolocation arrays in place of a georeference"
    elif dataset.transform != Affine.identity():
        what = "has a transform that gives its pixels no place"
    elif dataset.crs is not None:
        what = "names a reference system, but not where its pixels lie in it"
    else:
        return
    warn_once(
        what, f"{path} {what}: it is read without a place. Warp it, as with gdalwarp."
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
        self._grids: dict[Location, tuple[Grid, tuple[tuple[int, ...], ...]]] = {}

    def place(self, path: Location) -> tuple[Grid, tuple[tuple[int, ...], ...]]:
        """Return where a file's pixels lie, and its masks, inside `quiet_gdal`."""
        # A file that is kept whole is closed, and need not be opened for this again.
        if path in self._grids:
            return self._grids[path]
        dataset = self.get(path)
        return _grid_of(dataset), find_masks(dataset)

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

    def known(
        self, path: Location, indices: list[int], masks: Sequence[int], window: Window
    ) -> npt.NDArray[np.bool_]:
        """Read the masks of layers (1-based), see `read_masks`; inside `quiet_gdal`."""
        place = RasterioWindow(window.column, window.row, window.width, window.height)
        return read_masks(self.get(path), indices, masks, place)

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
        # GDAL reads layers of one type at once, and masks are read from the file.
        is_plain = len(set(dataset.dtypes)) == 1 and not any(find_masks(dataset))
        if size > min(self._free, _SMALL_FILE) or not is_plain:
            return False
        self._whole[path] = dataset.read()
        self._grids[path] = _grid_of(dataset), find_masks(dataset)
        self._free -= size
        self._open.pop(path).close()
        return True
