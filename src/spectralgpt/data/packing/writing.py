"""Making packs: read every image once, write shards, go on after an interruption.

Each shard is written whole or not at all, and a note beside it says which images it
holds. `pack.json` comes last: a folder without it is an unfinished pack, which the same
call goes on with.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.config import check_range
from spectralgpt.data.packing.manifest import (
    DTYPES,
    INDEX,
    MANIFEST,
    NO_SERIES,
    TENSOR,
    Manifest,
    PackFile,
    index_schema,
    layout_of,
    manifest_text,
)
from spectralgpt.data.sources import (
    Source,
    find_items,
    find_root,
    find_series,
    refuse_if_bad,
)
from spectralgpt.errors import (
    ConfigError,
    DataError,
    OutputError,
    RasterError,
    SpectralGPTError,
    require,
)
from spectralgpt.files import (
    check_replaceable,
    digest_of,
    explain_failure,
    make_folder,
    read_json,
    remove_leftovers,
    replace_file,
)
from spectralgpt.rasters import BandFile, Grid, RasterFile, Window, read_numbers
from spectralgpt.rasters.files import read_known
from spectralgpt.rasters.gdal import Location
from spectralgpt.sensors import Sensor

_MEBIBYTE = 2**20
_AHEAD = 8
"""Images that each thread reads before they are written."""
_PLAN = "unfinished.json"
_PARTIAL = ".*.partial"
_SHARD = "shard-{:05}.safetensors"
_NOTES = "shard-?????.json"
_OURS = ("shard-?????.safetensors", _NOTES, INDEX, _PLAN, _PARTIAL)
_Numbers = npt.NDArray[np.generic]
_Row = dict[str, Any]
"""What the table says of an image, see `index_schema`."""
_Planned = tuple[RasterFile, int, float]
"""An image to be packed, and which date of which series it is."""
_Read = tuple[dict[str, Any], _Row, tuple[_Numbers, ...]]
"""An image in memory: its layout, its row of the table so far, its bands' numbers."""


def pack_images(
    source: Source,
    data_root: Path | str,
    output: Path,
    shard_mb: float = 256.0,
    workers: int = 2,
    max_bad_share: float = 0.1,
    *,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Pack the images of a data set; goes on where it was interrupted.

    Args:
        source: description of the data set.
        data_root: the folder that its root is relative to.
        output: the pack's folder.
        shard_mb: numbers in a shard, MiB; the memory that packing takes is about
            twice that. A larger image makes a shard by itself.
        workers: threads that read.
        max_bad_share: largest share of images that may be left out as bad, 0..1.
        overwrite: replace a pack in the folder, finished or not.
        report: called with the images done and all of them.

    Returns:
        What the pack says of itself.

    Raises:
        ConfigError: the folder holds a pack, the start of another, or other files;
            or a number makes no sense.
        DatasetNotFoundError: the images are not where they were said to be.
        DataError: there are no images, or too many are bad.
        OutputError: it cannot be written (disk full, no permission).
    """
    check_range("above 0", {"shard_mb": shard_mb})
    check_range("at least 1", {"workers": workers})
    check_range("at least 0 and at most 1", {"max_bad_share": max_bad_share})
    packed = find_root(source, data_root) if source.pack is None else Path(source.pack)
    _check_folder(output, overwrite, packed)
    planned = _plan(source, data_root, max_bad_share)
    _begin(output, _digest(source, planned, shard_mb), overwrite)
    pack = _PackInMaking(output)
    for read in _read_all(planned[pack.position :], workers):
        pack.add(read, shard_mb * _MEBIBYTE)
        if report is not None:
            report(pack.position, len(planned))
    pack.flush()
    refuse_if_bad(source.name, pack.left_out, len(planned), max_bad_share)
    if not pack.rows:
        raise DataError(f"{source.name}: no image could be read.")
    return pack.finish(source, {item.sensor.name: item.sensor for item, *_ in planned})


def _plan(
    source: Source, data_root: Path | str, max_bad_share: float
) -> list[_Planned]:
    """List the images in the order in which training lists them."""
    if source.series is None:
        items = find_items([source], data_root, max_bad_share)
        planned = [(item, NO_SERIES, math.nan) for item in items]
    else:
        series = find_series([source], data_root, max_bad_share)
        planned = [
            (item, number, day)
            for number, one in enumerate(series)
            for item, day in zip(one.items, one.days, strict=True)
        ]
    sensors: dict[str, Sensor] = {}
    for item, *_ in planned:
        if sensors.setdefault(item.sensor.name, item.sensor) != item.sensor:
            raise ConfigError(
                f"{source.name} has two different sensors called {item.sensor.name}. "
                "Rename one."
            )
    return planned


def _digest(source: Source, planned: Sequence[_Planned], shard_mb: float) -> str:
    """Tell one plan from another: a pack is only gone on with if they are the same."""
    digest = hashlib.sha256(f"{source.name}\n{shard_mb!r}\n".encode())
    for item, series, day in planned:
        bands = [band.name for band in item.bands]
        about = (item.name, item.place, series, repr(day), bands)
        digest.update(json.dumps([*about, layout_of(item, ())]).encode())
    return digest.hexdigest()


def _check_folder(path: Path, overwrite: bool, packed: Path) -> None:
    """Refuse a folder that may not be touched; nothing is changed."""
    is_finished = (path / MANIFEST).is_file()
    if is_finished and not overwrite:
        raise ConfigError(
            f"{path} holds a pack already. Name another --output, or replace it with "
            "--overwrite."
        )
    strange = []
    if path.is_dir() and not (is_finished or (path / _PLAN).is_file()):
        hidden = (".partial", ".making")
        strange = [p.name for p in path.iterdir() if p.suffix not in hidden]
    check_replaceable(path, "pack", strange, [packed])


def _begin(path: Path, digest: str, overwrite: bool) -> None:
    """Note in a folder what will be packed, or go on if that is what it says."""
    make_folder(path)
    remove_leftovers(path)
    if overwrite:
        # The manifest first: what is left is no pack if this is interrupted.
        (path / MANIFEST).unlink(missing_ok=True)
        _remove(path, *_OURS)
    plan = path / _PLAN
    if not plan.is_file():
        _write(plan, lambda file: file.write_text(json.dumps({"plan": digest})))
    elif _read_json(plan).get("plan") != digest:
        raise ConfigError(
            f"{path} holds the beginning of a pack of other images or settings. Repeat "
            "the command that began it, or replace it with --overwrite."
        )


class _PackInMaking:
    """The folder of a pack, what is done so far, and the shard that is being filled.

    A note beside each shard keeps what is known of its images: their rows of the table,
    all layouts so far, what was wrong with images before its last one, and how many
    images of the plan are done with it. What is done in the folder is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards: list[PackFile] = []
        self.rows: list[_Row] = []
        self.layouts: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.position = 0
        while self._note.is_file() and self._take(_read_json(self._note)):
            pass
        self._noted = len(self.left_out)
        self._kept: list[_Read] = []

    @property
    def _note(self) -> Path:
        """The note of the shard that is being filled."""
        name = _SHARD.format(len(self.shards))
        return (self.path / name).with_suffix(".json")

    def _take(self, note: Mapping[str, Any]) -> bool:
        """Take over a shard that is done, if it is all there."""
        file = PackFile(**note["file"])
        shard = self.path / file.file
        if not shard.is_file() or shard.stat().st_size != file.bytes:
            return False
        self.shards.append(file)
        self.rows += note["rows"]
        self.layouts = note["layouts"]
        self.left_out += note["left_out"]
        self.position = note["stop"]
        return True

    def add(self, read: _Read | str, most: float) -> None:
        """Take the next image, or its fault; `most` is of the bytes in a shard."""
        if isinstance(read, str):
            self.left_out.append(read)
        else:
            taken = sum(one.nbytes for *_, kept in self._kept for one in kept)
            if self._kept and taken + sum(one.nbytes for one in read[2]) > most:
                self.flush()
            self._kept.append(read)
        self.position += 1

    def flush(self) -> None:
        """Write what waits as a shard, and then the note that it is done."""
        if not self._kept:
            return
        from safetensors.numpy import save_file

        stacked: dict[str, list[_Numbers]] = {}
        rows = []
        for layout, row, stacks in self._kept:
            if layout not in self.layouts:
                self.layouts.append(layout)
            kind = self.layouts.index(layout)
            place = {"layout": kind, "shard": len(self.shards)}
            before = stacked.get(TENSOR.format(kind, 0), ())
            rows.append(row | place | {"row": len(before)})
            for at, numbers in enumerate(stacks):
                stacked.setdefault(TENSOR.format(kind, at), []).append(numbers)
        tensors = {name: np.stack(numbers) for name, numbers in stacked.items()}
        shard = self.path / _SHARD.format(len(self.shards))
        _write(shard, lambda path: save_file(tensors, str(path)))
        file = _as_pack_file(shard, len(rows))
        note = {
            "file": asdict(file),
            "stop": self.position,
            "rows": rows,
            "layouts": self.layouts,
            "left_out": self.left_out[self._noted :],
        }
        _write(self._note, lambda path: path.write_text(json.dumps(note)))
        self.shards.append(file)
        self.rows += rows
        self._noted, self._kept = len(self.left_out), []

    def finish(self, source: Source, sensors: Mapping[str, Sensor]) -> Manifest:
        """Write the table and the manifest, which makes the folder a pack; tidy up."""
        require("pyarrow")
        import pyarrow as pa
        from pyarrow import parquet

        index, path, rule = self.path / INDEX, self.path / MANIFEST, source.series
        table = pa.Table.from_pylist(self.rows, schema=index_schema())
        # No compression codec but the usual one is needed.
        _write(index, lambda to: parquet.write_table(table, to, compression="zstd"))
        values = {
            "name": source.name,
            "images": len(self.rows),
            "sensors": sensors,
            "layouts": self.layouts,
            "index": asdict(_as_pack_file(index, 0)),
            "shards": list(map(asdict, self.shards)),
            # Each date is an image now, with its day in the table.
            "series": rule and {"dates": rule.dates, "at_least": rule.at_least},
            "left_out": self.left_out,
        }
        text = manifest_text(values)
        _write(path, lambda to: to.write_text(text, encoding="utf-8"))
        _remove(self.path, _NOTES, _PLAN, _PARTIAL)
        return Manifest.from_json(text.encode(), str(path))


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that it is there whole or not at all."""
    try:
        replace_file(path, write)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {explain_failure(path, error)} The same command "
            "goes on with what is done."
        ) from error


def _as_pack_file(path: Path, images: int) -> PackFile:
    return PackFile(path.name, path.stat().st_size, digest_of(path), images)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = read_json(path)
        if isinstance(table, dict):
            return table
    except (OSError, ValueError):
        pass
    raise ConfigError(f"{path} cannot be read. Begin anew with --overwrite.")


def _read_all(planned: Sequence[_Planned], workers: int) -> Iterator[_Read | str]:
    """Read images in order, in threads, no more ahead than memory holds."""

    def read_or_say(planned: _Planned) -> _Read | str:
        try:
            return _read(*planned)
        except SpectralGPTError as error:
            return " ".join(str(error).split())

    step = workers * _AHEAD
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(planned), step):
            yield from pool.map(read_or_say, planned[start : start + step])


def _read(item: RasterFile, series: int, day: float) -> _Read:
    """Read all bands of an image as they are in its files."""
    item = item.located()
    # The bands in the order of the files, so that the pack lists them alike.
    layers: dict[tuple[Grid, str, float | None], tuple[list[str], list[_Numbers]]] = {}
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
    stacks = [
        {"bands": names, "height": grid.height, "width": grid.width, "dtype": dtype}
        # As packs have always been.
        | ({} if nodata is None else {"nodata": nodata})
        for (grid, dtype, nodata), (names, _) in layers.items()
    ]
    places = [grid.numbers for grid, *_ in layers]
    row = {
        "name": item.name,
        "place": item.place,
        "crs": next(iter(crs)),
        "transforms": None
        if None in places
        else [number for place in places for number in place or ()],
        "series": series,
        "day": day,
    }
    stacked = tuple(np.stack(numbers) for _, numbers in layers.values())
    return layout_of(item, stacks), row, stacked


def _read_layer(file: BandFile, whole: dict[Location, _Numbers]) -> _Numbers:
    if file.store is not None:
        window = Window(0, 0, file.grid.height, file.grid.width)
        return file.store.read([file.index], window)[0]
    if file.path not in whole:
        whole[file.path] = read_numbers(file.path)
    layer: _Numbers = whole[file.path][file.index - 1]
    return layer


def _without_masked(layer: _Numbers, file: BandFile, nodata: float | None) -> _Numbers:
    """Put nodata where the file's mask says so: a pack holds no masks."""
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
