"""Reading packs: images that look to the rest of the package like files on disk."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.data.packing.manifest import MANIFEST, Layout, Manifest
from spectralgpt.data.packing.storage import Storage
from spectralgpt.data.packing.tables import ImageTable
from spectralgpt.errors import DataError, RasterError
from spectralgpt.rasters import BandFile, Grid, RasterItem, Window

__all__ = ["Pack", "open_pack", "read_manifest", "tensor_name", "verify_pack"]


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

    def items(self) -> list[RasterItem]:
        """Return the images in the order in which they were packed."""
        return [self._item(number) for number in range(len(self))]

    def series(self) -> list[tuple[list[RasterItem], list[float]]]:
        """Return (images, days) of each series, in the order of packing.

        Raises:
            DataError: the pack holds single images.
        """
        if self.manifest.series is None:
            raise DataError(f"{self.manifest.name} is a pack of single images.")
        found: dict[int, tuple[list[RasterItem], list[float]]] = {}
        numbers = zip(self._table.series, self._table.days, strict=True)
        for number, (one, day) in enumerate(numbers):
            items, days = found.setdefault(int(one), ([], []))
            items.append(self._item(number))
            days.append(float(day))
        return list(found.values())

    def _item(self, number: int) -> RasterItem:
        layout = self.manifest.layouts[self._table.layouts[number]]
        return RasterItem(
            name=self._table.names[number],
            sensor=self.manifest.sensors[layout.sensor],
            files=_PackedBands(self._table, layout, self._shards, number),
            quantification=layout.quantification,
            offset=layout.offset,
            nodata=layout.nodata,
            unit=layout.unit,
            offset_source=layout.offset_source,
            other_invalid=layout.other_invalid,
            place=self._table.places[number],
            holdout=layout.holdout,
            weight=layout.weight,
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
    manifest = read_manifest(storage)
    for file in (manifest.index, *manifest.shards):
        storage.check(file)
    table = ImageTable.from_parquet(
        storage.read(manifest.index.file),
        manifest,
        storage.where(manifest.index.file),
    )
    return Pack(storage, manifest, table)


def read_manifest(storage: Storage) -> Manifest:
    """Read what a pack says of itself.

    Raises:
        DatasetNotFoundError: there is no pack.
        DataError: the manifest is broken.
    """
    return Manifest.from_json(storage.read(MANIFEST), storage.where(MANIFEST))


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
    manifest = read_manifest(storage)
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


def tensor_name(layout: int, stack: int) -> str:
    """Name of the array in a shard that holds a stack of bands of a layout."""
    return f"{layout}.{stack}"


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

    def tensor(self, shard: int, layout: int, stack: int) -> Any:
        """Return an array (images, C, H, W) of a shard, to be sliced.

        Raises:
            DataError: the shard cannot be read, or holds no such array.
        """
        key = (shard, layout, stack)
        if key not in self._tensors:
            self._tensors[key] = self._open_tensor(*key)
        return self._tensors[key]

    def _open_tensor(self, shard: int, layout: int, stack: int) -> Any:
        from safetensors import SafetensorError, safe_open

        file = self.manifest.shards[shard]
        where = self.storage.where(file.file)
        try:
            if shard not in self._opened:
                path = self.storage.fetch(file)
                self._opened[shard] = safe_open(str(path), framework="numpy")
            tensor = self._opened[shard].get_slice(tensor_name(layout, stack))
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{where} is corrupt: {reason}. Copy or fetch it again, or pack the "
                "images again."
            ) from None
        wanted = self.manifest.layouts[layout].stacks[stack]
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
    layout: int
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
            tensor = self.shards.tensor(self.shard, self.layout, self.stack)
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
        layout: of this image.
        shards: hold the numbers.
        number: of the image.
    """

    __slots__ = ("_layout", "_number", "_shards", "_table")

    def __init__(
        self, table: ImageTable, layout: Layout, shards: _Shards, number: int
    ) -> None:
        self._table = table
        self._layout = layout
        self._shards = shards
        self._number = number

    def __getitem__(self, band: str) -> BandFile:
        return _files_of(self._table, self._shards, self._number)[band]

    def __iter__(self) -> Iterator[str]:
        return (band for stack in self._layout.stacks for band in stack.bands)

    def __len__(self) -> int:
        return sum(len(stack.bands) for stack in self._layout.stacks)


_KEPT = 64
"""Images whose band files are kept: a read asks for each several times."""


@functools.lru_cache(_KEPT)
def _files_of(table: ImageTable, shards: _Shards, number: int) -> dict[str, BandFile]:
    layout, shard = int(table.layouts[number]), int(table.shards[number])
    stacks = shards.manifest.layouts[layout].stacks
    path, crs = shards.path(shard), table.crs[number]
    found: dict[str, BandFile] = {}
    for at, (stack, place) in enumerate(
        zip(stacks, table.transforms_of(number, len(stacks)), strict=True)
    ):
        grid = Grid.at(stack.height, stack.width, place, crs)
        store = _StoredStack(shards, shard, layout, at, int(table.rows[number]))
        for index, band in enumerate(stack.bands, start=1):
            found[band] = BandFile(path, index, grid, store=store, nodata=stack.nodata)
    return found
