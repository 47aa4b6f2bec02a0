"""Reading packs: images that look to the rest of the package like files on disk.

The files of a pack lie on disk, or in object storage through fsspec. There shards are
fetched whole, once, into a folder on disk, under the names of their checksums: images
are drawn in any order, and a request for each would cost more than its bytes.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.data.packing.manifest import (
    MANIFEST,
    ImageKind,
    ImageTable,
    Manifest,
    PackFile,
    is_remote,
)
from spectralgpt.errors import DataError, DatasetNotFoundError, RasterError
from spectralgpt.files import replace_file
from spectralgpt.rasters import BandFile, Grid, RasterFile, Window, locations

_FETCH_AGAIN = "Copy or fetch it again, or pack the images again."


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
        self._cache = cache or _default_cache()

    @property
    def is_remote(self) -> bool:
        """Whether it is an address."""
        return is_remote(self.location)

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
            raise self._corrupt(file)

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
                raise self._corrupt(file)

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
                import aiohttp

                # Its own limit is the time of a whole file, however large.
                wait_s = locations.NO_ANSWER_S
                limits = {"sock_connect": wait_s, "sock_read": wait_s}
                timeout = aiohttp.ClientTimeout(total=None, **limits)
                options[scheme] = {"client_kwargs": {"timeout": timeout}}
        system, path = fsspec.core.url_to_fs(self.location, **options)
        return system, path

    def _corrupt(self, file: PackFile) -> DataError:
        return DataError(
            f"{self.where(file.file)} is corrupt: its checksum is not the one that was "
            f"written. {_FETCH_AGAIN}"
        )

    def _failed(self, file: str, error: Exception) -> DataError:
        if self.is_remote and isinstance(error, TimeoutError):
            silent = locations.no_answer(self.location)
            return DataError(f"{self.where(file)} cannot be read: {silent}")
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self.where(file)} cannot be read: {reason}")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spectralgpt" / "packs"


class Pack:
    """The images of a pack.

    Shards are mapped into memory when they are first read, so that all processes that
    load from them share one copy.

    Args:
        storage: where its files are.
        manifest: what it says of itself.
        table: its images.
    """

    def __init__(self, storage: Storage, manifest: Manifest, table: ImageTable) -> None:
        self.manifest = manifest
        self._shards = _Shards(storage, manifest)
        self._table = table

    def __len__(self) -> int:
        """Count the images."""
        return len(self._table)

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
        numbers = zip(self._table.series, self._table.days, strict=True)
        for number, (one, day) in enumerate(numbers):
            items, days = found.setdefault(int(one), ([], []))
            items.append(self._item(number))
            days.append(float(day))
        return list(found.values())

    def _item(self, number: int) -> RasterFile:
        kind = self.manifest.kinds[self._table.kinds[number]]
        return replace(
            kind.item,
            name=self._table.names[number],
            place=self._table.places[number],
            files=_PackedBands(self._table, kind, self._shards, number),
        )


def open_pack(location: str | Path, cache: Path | None = None) -> Pack:
    """Open a pack; of the shards no more than their sizes is looked at.

    Args:
        location: its folder, or an address that fsspec understands.
        cache: see `Storage`.

    Raises:
        DatasetNotFoundError: there is no pack.
        DataError: the manifest or table is broken, or a shard is missing or truncated.
    """
    storage = Storage(location, cache)
    manifest = storage.manifest()
    for file in (manifest.index, *manifest.shards):
        storage.check(file)
    table = ImageTable.from_parquet(
        storage.read(manifest.index.file),
        manifest,
        storage.where(manifest.index.file),
    )
    return Pack(storage, manifest, table)


def verify_pack(
    location: str | Path,
    report: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> tuple[Manifest, list[str]]:
    """Compare every file of a pack with its checksum.

    Args:
        location: see `open_pack`.
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
        open_pack(location, cache)
    return manifest, faults


def tensor_name(kind: int, stack: int) -> str:
    """Name of the array in a shard that holds a stack of bands of a kind."""
    return f"{kind}.{stack}"


class _Shards:
    """Shards, mapped when they are first read; another process maps its own."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage = storage
        self.manifest = manifest
        self._opened: dict[int, Any] = {}
        self._tensors: dict[tuple[int, int, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is mapped behind."""
        return self.__dict__ | {"_opened": {}, "_tensors": {}}

    def path(self, shard: int) -> Path:
        """Return the path of a shard, for messages and as a name of its images."""
        return Path(self.storage.where(self.manifest.shards[shard].file))

    def tensor(self, shard: int, kind: int, stack: int) -> Any:
        """Return an array (images, C, H, W) of a shard, to be sliced.

        Raises:
            DataError: the shard cannot be read, or holds no such array.
        """
        key = (shard, kind, stack)
        if key not in self._tensors:
            self._tensors[key] = self._open_tensor(*key)
        return self._tensors[key]

    def _open_tensor(self, shard: int, kind: int, stack: int) -> Any:
        from safetensors import SafetensorError, safe_open

        file = self.manifest.shards[shard]
        where = self.storage.where(file.file)
        try:
            if shard not in self._opened:
                path = self.storage.fetch(file)
                self._opened[shard] = safe_open(str(path), framework="numpy")
            tensor = self._opened[shard].get_slice(tensor_name(kind, stack))
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{where} is corrupt: {reason}. Copy or fetch it again, or pack the "
                "images again."
            ) from None
        wanted = self.manifest.kinds[kind].stacks[stack]
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


@dataclass(frozen=True, eq=False)
class _StoredStack:
    """The numbers of bands of an image on one grid: a `StoredLayers`."""

    shards: _Shards
    shard: int
    kind: int
    stack: int
    row: int

    def read(self, indices: Sequence[int], window: Window) -> npt.NDArray[np.generic]:
        """Read layers (1-based) of a window, (C, h, w), in the type of the files.

        Raises:
            RasterError: the shard is corrupt.
        """
        from safetensors import SafetensorError

        rows = slice(window.row, window.row + window.height)
        columns = slice(window.column, window.column + window.width)
        try:
            tensor = self.shards.tensor(self.shard, self.kind, self.stack)
            numbers = np.asarray(tensor[self.row, :, rows, columns])
        except (DataError, SafetensorError, IndexError) as error:
            where = self.shards.path(self.shard)
            reason = str(error) if isinstance(error, DataError) else f"{where}: {error}"
            raise RasterError(reason) from None
        if list(indices) == list(range(1, len(numbers) + 1)):
            return numbers
        return numbers[np.subtract(indices, 1)]


class _PackedBands(Mapping[str, BandFile]):
    """Band files made when they are asked for: millions of them would fill the memory.

    Args:
        table: of the images.
        kind: of this image.
        shards: hold the numbers.
        number: of the image.
    """

    __slots__ = ("_kind", "_number", "_shards", "_table")

    def __init__(
        self, table: ImageTable, kind: ImageKind, shards: _Shards, number: int
    ) -> None:
        self._table = table
        self._kind = kind
        self._shards = shards
        self._number = number

    def __getitem__(self, band: str) -> BandFile:
        return _files_of(self._table, self._shards, self._number)[band]

    def __iter__(self) -> Iterator[str]:
        return (band for stack in self._kind.stacks for band in stack.bands)

    def __len__(self) -> int:
        return sum(len(stack.bands) for stack in self._kind.stacks)


_KEPT = 64
"""Images whose band files are kept: a read asks for each several times."""


@functools.lru_cache(_KEPT)
def _files_of(table: ImageTable, shards: _Shards, number: int) -> dict[str, BandFile]:
    kind, shard = int(table.kinds[number]), int(table.shards[number])
    stacks = shards.manifest.kinds[kind].stacks
    path, crs = shards.path(shard), table.crs[number]
    found: dict[str, BandFile] = {}
    for at, (stack, place) in enumerate(
        zip(stacks, table.transforms_of(number, len(stacks)), strict=True)
    ):
        grid = Grid.at(stack.height, stack.width, place, crs)
        store = _StoredStack(shards, shard, kind, at, int(table.rows[number]))
        for index, band in enumerate(stack.bands, start=1):
            found[band] = BandFile(path, index, grid, store=store, nodata=stack.nodata)
    return found
