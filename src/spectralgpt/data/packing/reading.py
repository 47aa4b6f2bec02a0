"""Reading packs: images that look to the rest of the package like files on disk.

The files of a pack lie on disk, or in object storage through fsspec. There shards are
fetched whole, once, into a folder on disk, under the names of their checksums: images
are drawn in any order, and a request for each would cost more than its bytes.
"""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.data.packing.manifest import (
    DAMAGE,
    MANIFEST,
    TENSOR,
    BandStack,
    Manifest,
    PackFile,
    index_schema,
)
from spectralgpt.errors import DataError, DatasetNotFoundError, RasterError, require
from spectralgpt.files import digest_of, replace_file
from spectralgpt.rasters import BandFile, Grid, RasterFile, Window, gdal

_FETCH_AGAIN = "Copy or fetch it again, or pack the images again."
_NUMBERS = 6
"""Numbers of a transform from (column, row) to coordinates."""
_MAY_LACK = ("crs", "transforms")


class Storage:
    """The folder of a pack.

    Args:
        location: a path, or an address that fsspec understands, such as
            `s3://bucket/pack` (its own package, such as s3fs, must be installed).
        cache: folder for shards fetched from an address; None takes
            `spectralgpt/packs` in the user's folder for caches.
    """

    def __init__(self, location: str | Path, cache: Path | None = None) -> None:
        self.location = str(location).rstrip("/")
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._cache = cache or Path(base) / "spectralgpt" / "packs"

    @property
    def is_remote(self) -> bool:
        """Whether it is an address."""
        return "://" in self.location

    def where(self, file: str) -> str:
        """Return the path or address of a file, for messages."""
        return f"{self.location}/{file}"

    def read(self, file: str) -> bytes:
        """Read a small file whole.

        Raises:
            DatasetNotFoundError: there is none.
            DataError: it cannot be read.
        """
        try:
            if not self.is_remote:
                return Path(self.location, file).read_bytes()
            system, path = self._system()
            return bytes(system.cat_file(f"{path}/{file}"))
        except FileNotFoundError:
            raise DatasetNotFoundError(
                f"{self.where(file)} does not exist. Give the folder of a pack."
            ) from None
        except Exception as error:
            raise self._failed(file, error) from None

    def manifest(self) -> Manifest:
        """Read what the pack says of itself.

        Raises:
            DatasetNotFoundError: there is no pack.
            DataError: the manifest is broken.
        """
        return Manifest.from_json(self.read(MANIFEST), self.where(MANIFEST))

    def check(self, file: PackFile) -> None:
        """Refuse a file on disk that is missing or has another size; reads nothing.

        Raises:
            DataError: it does.
        """
        if self.is_remote:
            return
        path = Path(self.location, file.file)
        if not path.is_file():
            raise DataError(f"{path} is missing. {_FETCH_AGAIN}")
        if path.stat().st_size != file.bytes:
            raise DataError(
                f"{path} is truncated or changed: {path.stat().st_size} bytes where "
                f"{file.bytes} were written. {_FETCH_AGAIN}"
            )

    def verify(self, file: PackFile) -> None:
        """Read a file to its end and compare its checksum.

        Raises:
            DataError: it differs.
        """
        self.check(file)
        path = Path(self.fetch(file))
        if not self.is_remote and digest_of(path) != file.sha256:
            raise self.corrupt(file)

    def fetch(self, file: PackFile) -> Path:
        """Return a file's path on disk; from an address it is fetched if need be.

        Raises:
            DataError: it cannot be fetched, or what came has another checksum.
        """
        if not self.is_remote:
            return Path(self.location, file.file)
        path = self._cache / f"{file.sha256}{Path(file.file).suffix}"
        if path.is_file() and path.stat().st_size == file.bytes:
            return path

        def write(temporary: Path) -> None:
            system, folder = self._system()
            system.get_file(f"{folder}/{file.file}", str(temporary))
            if digest_of(temporary) != file.sha256:
                raise self.corrupt(file)

        try:
            # Loader processes may fetch one at the same time: each in its own place.
            replace_file(path, write)
        except DataError:
            raise
        except Exception as error:
            # Each file system has errors of its own.
            raise self._failed(file.file, error) from None
        return path

    def _system(self) -> tuple[Any, str]:
        import fsspec

        options = {}
        for scheme in ("http", "https"):
            if f"{scheme}://" in self.location:
                require("aiohttp")
                import aiohttp

                # Its own limit is the time of a whole file, however large.
                wait_s = gdal.NO_ANSWER_S
                limits = {"sock_connect": wait_s, "sock_read": wait_s}
                timeout = aiohttp.ClientTimeout(total=None, **limits)
                options[scheme] = {"client_kwargs": {"timeout": timeout}}
        system, path = fsspec.core.url_to_fs(self.location, **options)
        return system, path

    def corrupt(self, file: PackFile) -> DataError:
        """Return what says that a file has another checksum than was written."""
        return DataError(
            f"{self.where(file.file)} is corrupt: its checksum is not the one that was "
            f"written. {_FETCH_AGAIN}"
        )

    def _failed(self, file: str, error: Exception) -> DataError:
        if self.is_remote and isinstance(error, TimeoutError):
            silent = gdal.no_answer(self.location)
            return DataError(f"{self.where(file)} cannot be read: {silent}")
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self.where(file)} cannot be read: {reason}")


class Pack:
    """The images of a pack.

    Shards are mapped into memory when they are first read, so that all processes that
    load from them share one copy; another process maps its own.

    Args:
        location: its folder, or an address that fsspec understands.
        cache: see `Storage`.

    Raises:
        DatasetNotFoundError: there is no pack.
        DataError: the manifest or table is broken, or a shard is missing or truncated;
            of the shards no more than their sizes is looked at.
    """

    def __init__(self, location: str | Path, cache: Path | None = None) -> None:
        self._storage = Storage(location, cache)
        self.manifest = self._storage.manifest()
        for file in (self.manifest.index, *self.manifest.shards):
            self._storage.check(file)
        self._columns = _read_table(self._storage, self.manifest)
        self._opened: dict[int, Any] = {}
        self._tensors: dict[tuple[int, int, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is mapped behind."""
        return self.__dict__ | {"_opened": {}, "_tensors": {}}

    def __len__(self) -> int:
        """Count the images."""
        return len(self._columns["name"])

    def items(self) -> list[RasterFile]:
        """Return the images in the order in which they were packed."""
        return [self._item(number) for number in range(len(self))]

    def series(self) -> list[tuple[list[RasterFile], list[float]]]:
        """Return (images, days) of each series, in the order of packing.

        Raises:
            DataError: the pack holds single images.
        """
        if self.manifest.series is None:
            raise DataError(f"{self.manifest.name} is a pack of single images.")
        found: dict[int, tuple[list[RasterFile], list[float]]] = {}
        numbers = zip(self._columns["series"], self._columns["day"], strict=True)
        for number, (one, day) in enumerate(numbers):
            items, days = found.setdefault(int(one), ([], []))
            items.append(self._item(number))
            days.append(float(day))
        return list(found.values())

    def _item(self, number: int) -> RasterFile:
        item, _ = self.manifest.kinds[self._columns["layout"][number]]
        return replace(
            item,
            name=self._columns["name"][number],
            place=self._columns["place"][number],
            files=_PackedBands(self, number),
        )

    def stacks(self, number: int) -> tuple[BandStack, ...]:
        """Return the stacks of bands of an image."""
        _, stacks = self.manifest.kinds[self._columns["layout"][number]]
        return stacks

    def path(self, number: int) -> Path:
        """Return the shard of an image, for messages and as a name."""
        shard = self.manifest.shards[self._columns["shard"][number]]
        return Path(self._storage.where(shard.file))

    def grids(self, number: int) -> list[Grid]:
        """Return the grid of each stack of bands of an image."""
        stacks, crs = self.stacks(number), self._columns["crs"][number]
        start, stop = self._columns["starts"][number : number + 2]
        places = [None] * len(stacks)
        if start != stop:
            table = self._columns["transforms"][start:stop]
            places = table.reshape(len(stacks), _NUMBERS).tolist()
        return [
            Grid.at(stack.height, stack.width, place, crs)
            for stack, place in zip(stacks, places, strict=True)
        ]

    def read(self, number: int, stack: int, window: Window) -> npt.NDArray[np.generic]:
        """Read a window of a stack of bands of an image, (C, h, w), as in the files.

        Args:
            number: of the image, in the order of the table.
            stack: number of the stack, see `stacks`.
            window: pixels of that stack's grid.

        Raises:
            DataError: the shard cannot be read, or holds no such array.
            SafetensorError: it is corrupt.
            IndexError: it holds fewer images.
        """
        kind, shard, row = (
            int(self._columns[name][number]) for name in ("layout", "shard", "row")
        )
        key = (shard, kind, stack)
        if key not in self._tensors:
            self._tensors[key] = self._open_tensor(*key)
        rows = slice(window.row, window.row + window.height)
        columns = slice(window.column, window.column + window.width)
        return np.asarray(self._tensors[key][row, :, rows, columns])

    def _open_tensor(self, shard: int, kind: int, stack: int) -> Any:
        """Return an array (images, C, H, W) of a shard, to be sliced."""
        from safetensors import SafetensorError, safe_open

        file = self.manifest.shards[shard]
        where = self._storage.where(file.file)
        try:
            if shard not in self._opened:
                path = self._storage.fetch(file)
                self._opened[shard] = safe_open(str(path), framework="numpy")
            tensor = self._opened[shard].get_slice(TENSOR.format(kind, stack))
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{where} is corrupt: {reason}. {_FETCH_AGAIN}") from None
        wanted = self.manifest.kinds[kind][1][stack]
        shape = (len(wanted.bands), wanted.height, wanted.width)
        found = (tuple(tensor.get_shape()[1:]), tensor.get_dtype())
        if found != (shape, _NAMES[wanted.dtype]):
            raise DataError(f"{where} holds other arrays than its pack says: {found}.")
        return tensor


_NAMES = {
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{"float32": "F32", "float64": "F64"},
}
"""Names of types in safetensors."""


def _read_table(storage: Storage, manifest: Manifest) -> dict[str, Any]:
    """Read the columns of `index_schema` of a pack's N images.

    Texts are lists, numbers (N,) arrays; of `transforms` all numbers in a row, and
    `starts`, (N + 1,), where those of each image start and end.
    """
    require("pyarrow")
    import pyarrow as pa

    content = storage.read(manifest.index.file)
    if hashlib.sha256(content).hexdigest() != manifest.index.sha256:
        raise storage.corrupt(manifest.index)
    try:
        columns = _read_columns(content, manifest.images)
        _check_columns(columns, manifest)
    except (pa.ArrowException, OSError, MemoryError, *DAMAGE) as error:
        where = storage.where(manifest.index.file)
        reason = " ".join(str(error).split())
        raise DataError(f"{where} is no table of a pack: {reason}") from None
    return columns


def _read_columns(content: bytes, images: int) -> dict[str, Any]:
    require("pyarrow")
    from pyarrow import parquet

    found = parquet.read_metadata(io.BytesIO(content)).num_rows
    if found != images:
        # Before reading: a few bytes can stand for any number of equal rows.
        raise ValueError(f"{found} rows for {images} images.")
    table = parquet.read_table(io.BytesIO(content)).combine_chunks()
    wanted = index_schema()
    if table.schema.names != wanted.names:
        raise ValueError(f"columns {table.schema.names}.")
    for field in wanted:
        if table.schema.field(field.name).type != field.type:
            raise ValueError(f"type of column {field.name}.")
    columns = {name: table.column(name).combine_chunks() for name in wanted.names}
    if any(columns[name].null_count for name in columns if name not in _MAY_LACK):
        raise ValueError("a value is missing.")
    lengths = columns["transforms"].value_lengths().fill_null(0)
    starts = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))])
    columns["transforms"] = columns["transforms"].flatten()
    numbers = {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in columns.items()
        if name not in ("name", "place", "crs")
    }
    return numbers | {
        "name": columns["name"].to_pylist(),
        "place": _shared(columns["place"]),
        "crs": _shared(columns["crs"]),
        "starts": starts.astype(np.int64),
    }


def _shared(column: Any) -> list[Any]:
    """Return texts, most of them alike, with each different one in memory once."""
    encoded = column.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    return [values[-1 if i is None else i] for i in encoded.indices.to_pylist()]


def _check_columns(columns: Mapping[str, Any], manifest: Manifest) -> None:
    """Hold the table against the manifest."""
    if len(columns["name"]) != manifest.images:
        raise ValueError(f"{len(columns['name'])} rows for {manifest.images} images.")
    counts = np.array([len(stacks) for _, stacks in manifest.kinds])
    for name, most in (("layout", len(counts)), ("shard", len(manifest.shards))):
        numbers = columns[name]
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < most:
            raise ValueError("a row names a layout or shard that there is not.")
    if columns["row"].size and columns["row"].min() < 0:
        raise ValueError("a row has a negative place in its shard.")
    lengths = np.diff(columns["starts"])
    if np.any((lengths != 0) & (lengths != counts[columns["layout"]] * _NUMBERS)):
        raise ValueError("a row has a transform too many or too few.")


def verify_pack(
    location: str | Path,
    report: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> tuple[Manifest, list[str]]:
    """Compare every file of a pack with its checksum.

    Args:
        location: see `Pack`.
        report: called with the files looked at and all of them.
        cache: see `Storage`.

    Returns:
        The manifest, and one line for each file that is wrong.

    Raises:
        DatasetNotFoundError: there is no pack.
        DataError: the manifest is broken.
    """
    storage = Storage(location, cache)
    manifest = storage.manifest()
    files = (manifest.index, *manifest.shards)
    faults = []
    for done, file in enumerate(files, start=1):
        try:
            storage.verify(file)
        except DataError as error:
            faults.append(str(error))
        if report is not None:
            report(done, len(files))
    if not faults:
        Pack(location, cache)
    return manifest, faults


@dataclass(frozen=True, eq=False)
class _StoredStack:
    """The numbers of bands of an image on one grid: a `StoredLayers`."""

    pack: Pack
    number: int
    stack: int

    def read(self, indices: Sequence[int], window: Window) -> npt.NDArray[np.generic]:
        """Read layers (1-based) of a window, (C, h, w), in the type of the files."""
        from safetensors import SafetensorError

        try:
            numbers = self.pack.read(self.number, self.stack, window)
        except DataError as error:
            raise RasterError(str(error)) from None
        except (SafetensorError, IndexError) as error:
            raise RasterError(f"{self.pack.path(self.number)}: {error}") from None
        if list(indices) == list(range(1, len(numbers) + 1)):
            return numbers
        return numbers[np.subtract(indices, 1)]


class _PackedBands(Mapping[str, BandFile]):
    """Band files made when they are asked for: millions would fill the memory."""

    __slots__ = ("_number", "_pack")

    def __init__(self, pack: Pack, number: int) -> None:
        self._pack, self._number = pack, number

    def __getitem__(self, band: str) -> BandFile:
        return _files_of(self._pack, self._number)[band]

    def __iter__(self) -> Iterator[str]:
        stacks = self._pack.stacks(self._number)
        return (band for stack in stacks for band in stack.bands)

    def __len__(self) -> int:
        return sum(len(stack.bands) for stack in self._pack.stacks(self._number))


_KEPT = 64
"""Images whose band files are kept: a read asks for each several times."""


@functools.lru_cache(_KEPT)
def _files_of(pack: Pack, number: int) -> dict[str, BandFile]:
    path, stacks = pack.path(number), pack.stacks(number)
    found: dict[str, BandFile] = {}
    for at, (stack, grid) in enumerate(zip(stacks, pack.grids(number), strict=True)):
        store = _StoredStack(pack, number, at)
        for index, band in enumerate(stack.bands, start=1):
            found[band] = BandFile(path, index, grid, store=store, nodata=stack.nodata)
    return found
