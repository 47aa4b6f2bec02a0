"""Making packs: read every image once, write shards, go on after an interruption.

Each shard is written whole or not at all, and a note beside it says which images it
holds. `pack.json` comes last: a folder without it is an unfinished pack, which the same
call goes on with.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.data.packing.folders import Note, PackFolder
from spectralgpt.data.packing.manifest import (
    DTYPES,
    BandStack,
    Layout,
    Manifest,
    is_pack,
)
from spectralgpt.data.packing.reading import tensor_name
from spectralgpt.data.packing.tables import NO_SERIES, ImageRow, write_rows
from spectralgpt.data.places import find_series
from spectralgpt.data.sources import (
    Source,
    find_items,
    find_root,
    read_source,
    refuse_if_bad,
)
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.rasters import (
    BandFile,
    Grid,
    RasterItem,
    Stated,
    Window,
    read_numbers,
)
from spectralgpt.rasters.files import read_known
from spectralgpt.rasters.locations import Location

__all__ = ["PackOptions", "find_source", "pack_images"]

_MEBIBYTE = 2**20
_AHEAD = 8
"""Images that each thread reads before they are written."""
_Numbers = npt.NDArray[np.generic]
_Kind = tuple[Grid, str, float | None]


@dataclass(frozen=True)
class PackOptions:
    """How a pack is made.

    Args:
        shard_mb: numbers in a shard, MiB; the memory that packing takes is about
            twice that. A larger image makes a shard by itself.
        workers: threads that read.
        max_bad_share: largest share of images that may be left out as bad, 0..1.
    """

    shard_mb: float = 256.0
    workers: int = 2
    max_bad_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.shard_mb > 0 or self.workers < 1:
            raise ConfigError(
                f"shard_mb must be above 0 and workers at least 1, found "
                f"{self.shard_mb:g} and {self.workers}."
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"max_bad_share must be 0 to 1: {self.max_bad_share}.")


@dataclass(frozen=True)
class _Planned:
    """An image to be packed, and which date of which series it is."""

    item: RasterItem
    series: int = NO_SERIES
    day: float = math.nan


def find_source(source: str, root: Path, stated: Stated) -> tuple[Source, Path]:
    """Find what is to be packed.

    Args:
        source: what `spectralgpt.data.sources.read_source` takes, or a folder of
            images.
        root: the data folder.
        stated: of a folder of images.

    Returns:
        The description, and the folder that its root is relative to.

    Raises:
        ConfigError: it is no description, or says what is stated, too.
    """
    folder = Path(source)
    if folder.is_dir() and not is_pack(folder):
        # As pretraining names the images of a folder.
        return Source(name="images", **stated.facts), folder
    if stated.facts:
        given = ", ".join(f"--{name}" for name in stated.facts)
        raise ConfigError(f"{given} is for folders: a description states its own.")
    return read_source(source), root


def pack_images(
    source: Source,
    data_root: Path | str,
    output: Path,
    options: PackOptions | None = None,
    *,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Pack the images of a data set; goes on where it was interrupted.

    Args:
        source: description of the data set.
        data_root: the folder that its root is relative to.
        output: the pack's folder.
        options: how.
        overwrite: replace a pack in the folder, finished or not.
        report: called with the images done and all of them.

    Returns:
        What the pack says of itself.

    Raises:
        ConfigError: the folder holds a pack, another one's beginning, or other files.
        DatasetNotFoundError: the images are not where they were said to be.
        DataError: there are no images, too many are bad, or the disk is full.
    """
    options = options or PackOptions()
    folder = PackFolder(output)
    packed = find_root(source, data_root) if source.pack is None else Path(source.pack)
    folder.check(overwrite, [packed])
    planned = _plan(source, data_root, options)
    folder.begin(_digest(source, planned, options), overwrite)
    done = _Writer(folder)
    for read in _read_all(planned[done.position :], options.workers):
        done.add(read, options.shard_mb * _MEBIBYTE)
        if report is not None:
            report(done.position, len(planned))
    done.flush()
    refuse_if_bad(source.name, done.left_out, len(planned), options.max_bad_share)
    if not done.rows:
        raise DataError(f"{source.name}: no image could be read.")
    rule = source.series
    manifest = Manifest(
        name=source.name,
        images=len(done.rows),
        sensors={one.item.sensor.name: one.item.sensor for one in planned},
        layouts=tuple(done.layouts),
        index=folder.write_index(write_rows(done.rows)),
        shards=tuple(note.file for note in folder.notes()),
        # Each date is an image now, with its day in the table.
        series=rule and replace(rule, date=None, stack=()),
        left_out=tuple(done.left_out),
    )
    folder.finish(manifest)
    return manifest


def _plan(
    source: Source, data_root: Path | str, options: PackOptions
) -> list[_Planned]:
    """List the images in the order in which training lists them.

    Raises:
        ConfigError: two sensors of one name differ.
    """
    if source.series is None:
        items = find_items([source], data_root, options.max_bad_share)
        planned = [_Planned(item) for item in items]
    else:
        series = find_series([source], data_root, options.max_bad_share)
        planned = [
            _Planned(item, number, day)
            for number, one in enumerate(series)
            for item, day in zip(one.items, one.days, strict=True)
        ]
    sensors = {one.item.sensor.name: one.item.sensor for one in planned}
    for one in planned:
        if sensors[one.item.sensor.name] != one.item.sensor:
            raise ConfigError(
                f"{source.name} has two different sensors called "
                f"{one.item.sensor.name}. Rename one."
            )
    return planned


def _digest(source: Source, planned: Sequence[_Planned], options: PackOptions) -> str:
    """Tell one plan from another: a pack is only gone on with if they are the same."""
    digest = hashlib.sha256(f"{source.name}\n{options.shard_mb!r}\n".encode())
    for one in planned:
        layout = Layout.of(one.item, ())
        bands = [band.name for band in one.item.bands]
        about = (one.item.name, one.item.place, one.series, repr(one.day), bands)
        digest.update(json.dumps([*about, layout.to_dict()]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Read:
    """An image in memory: the stacks of its bands and their numbers."""

    planned: _Planned
    stacks: tuple[BandStack, ...]
    grids: tuple[Grid, ...]
    numbers: tuple[_Numbers, ...]

    @property
    def bytes(self) -> int:
        """Room it takes in a shard."""
        return sum(numbers.nbytes for numbers in self.numbers)


class _Writer:
    """What is done so far, and the shard that is being filled.

    Args:
        folder: that the shards go to; what is done there is taken over.
    """

    def __init__(self, folder: PackFolder) -> None:
        self.folder = folder
        self.rows: list[ImageRow] = []
        self.layouts: list[Layout] = []
        self.left_out: list[str] = []
        self.position = 0
        notes = folder.notes()
        for note in notes:
            self.rows += [_row_of(row) for row in note.rows]
            self.layouts = [Layout.from_dict(layout) for layout in note.layouts]
            self.left_out += note.left_out
            self.position = note.stop
        self._shard = len(notes)
        self._noted = len(self.left_out)
        self._kept: list[_Read] = []

    @property
    def size(self) -> int:
        """Bytes that wait to be written."""
        return sum(read.bytes for read in self._kept)

    def add(self, read: "_Read | str", most: float) -> None:
        """Take the next image of the plan, or what is wrong with it.

        Args:
            read: the image.
            most: bytes in a shard.
        """
        if isinstance(read, str):
            self.left_out.append(read)
        else:
            if self._kept and self.size + read.bytes > most:
                self.flush()
            self._kept.append(read)
        self.position += 1

    def flush(self) -> None:
        """Write what waits as a shard."""
        if not self._kept:
            return
        stacked: dict[str, list[_Numbers]] = {}
        rows = []
        for read in self._kept:
            layout = self._number_of(Layout.of(read.planned.item, read.stacks))
            names = [tensor_name(layout, at) for at in range(len(read.stacks))]
            row = len(stacked.get(names[0], ()))
            for name, numbers in zip(names, read.numbers, strict=True):
                stacked.setdefault(name, []).append(numbers)
            rows.append(_make_row(read, layout, self._shard, row))
        tensors = {name: np.stack(numbers) for name, numbers in stacked.items()}
        self.folder.write_shard(
            self._shard,
            tensors,
            len(rows),
            lambda file: Note(
                file,
                self.position,
                [asdict(row) for row in rows],
                [layout.to_dict() for layout in self.layouts],
                self.left_out[self._noted :],
            ),
        )
        self.rows += rows
        self._shard, self._noted, self._kept = self._shard + 1, len(self.left_out), []

    def _number_of(self, layout: Layout) -> int:
        # Compared as JSON, for NaN does not equal itself.
        key = layout.to_dict()
        for number, known in enumerate(self.layouts):
            if known.to_dict() == key:
                return number
        self.layouts.append(layout)
        return len(self.layouts) - 1


def _row_of(values: dict[str, Any]) -> ImageRow:
    """Read a row from a note; JSON knows no tuples."""
    numbers = values["transforms"]
    return ImageRow(
        **values | {"transforms": None if numbers is None else tuple(numbers)}
    )


def _make_row(read: "_Read", layout: int, shard: int, row: int) -> ImageRow:
    places = [grid.numbers for grid in read.grids]
    is_placed = all(place is not None for place in places)
    return ImageRow(
        name=read.planned.item.name,
        place=read.planned.item.place,
        layout=layout,
        shard=shard,
        row=row,
        crs=read.grids[0].crs,
        transforms=tuple(n for place in places for n in place or ())
        if is_placed
        else None,
        series=read.planned.series,
        day=read.planned.day,
    )


def _read_all(planned: Sequence[_Planned], workers: int) -> Iterator["_Read | str"]:
    """Read images in order, in threads, no more ahead than memory holds."""
    step = workers * _AHEAD
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(planned), step):
            yield from pool.map(_read_or_say, planned[start : start + step])


def _read_or_say(planned: _Planned) -> "_Read | str":
    try:
        return _read(planned)
    except SpectralGPTError as error:
        return " ".join(str(error).split())


def _read(planned: _Planned) -> "_Read":
    """Read all bands of an image as they are in its files.

    Raises:
        RasterError: a file cannot be read to its end, or has another size or type
            than was said.
    """
    item = planned.item.located()
    # The bands in the order of the files, so that the pack lists them alike.
    layers: dict[_Kind, tuple[list[str], list[_Numbers]]] = {}
    whole: dict[Location, _Numbers] = {}
    for band, file in item.files.items():
        nodata = item.nodata if file.nodata is None else file.nodata
        layer = _without_masked(_read_layer(file, whole), file, nodata)
        if layer.shape != (file.grid.height, file.grid.width):
            raise RasterError(f"{file.path} changed its size while it was packed.")
        if layer.dtype.name not in DTYPES:
            raise RasterError(f"{file.path} holds {layer.dtype}: it cannot be packed.")
        kind = file.grid, layer.dtype.name, file.nodata
        names, numbers = layers.setdefault(kind, ([], []))
        names.append(band)
        numbers.append(layer)
    crs = {grid.crs for grid, *_ in layers}
    has_place = {grid.transform is None for grid, *_ in layers}
    if len(crs) > 1 or len(has_place) > 1:
        raise RasterError(f"{item.name}: bands differ in reference system.")
    return _Read(
        planned,
        tuple(
            BandStack(tuple(names), grid.height, grid.width, dtype, nodata)
            for (grid, dtype, nodata), (names, _) in layers.items()
        ),
        tuple(grid for grid, *_ in layers),
        tuple(np.stack(numbers) for _, numbers in layers.values()),
    )


def _read_layer(file: BandFile, whole: dict[Location, _Numbers]) -> _Numbers:
    if file.store is not None:
        window = Window(0, 0, file.grid.height, file.grid.width)
        return file.store.read([file.index], window)[0]
    if file.path not in whole:
        whole[file.path] = read_numbers(file.path)
    layer: _Numbers = whole[file.path][file.index - 1]
    return layer


def _without_masked(layer: _Numbers, file: BandFile, nodata: float | None) -> _Numbers:
    """Put nodata where the file's mask says so: a pack has no masks beside its numbers.

    Raises:
        RasterError: the image has no number that could stand for it.
    """
    known = read_known(file.path, [file.index], file.masks)
    if known is None or known.all():
        return layer
    if nodata is None and layer.dtype.kind != "f":
        raise RasterError(
            f"{file.path} has a mask and no nodata, which a pack needs: state the "
            "number that means no measurement (nodata)."
        )
    marked = layer.copy()
    marked[~known[0]] = np.nan if nodata is None else nodata
    return marked
