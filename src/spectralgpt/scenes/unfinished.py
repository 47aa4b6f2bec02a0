"""Maps that are being made: a hidden folder beside the map, from which to go on.

The folder holds the rows that are finished and a journal of them. Whatever kills the
process, even the machine, the next run with the same model, image and settings goes on
after the last row of the journal. Entries and rows have checksums: what no longer
matches is made again, with all that comes after it.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.building import plain_parts
from spectralgpt.errors import ConfigError, OutputError, SpectralGPTError
from spectralgpt.files import (
    checked_line,
    claiming,
    missing_folders,
    parse_checked,
    remove_if_empty,
)
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Grid, Layers, Mosaic, RasterFile
from spectralgpt.rasters.gdal import writing
from spectralgpt.rasters.write import RowFile, move_map
from spectralgpt.resampling import ResampledFile

_JOURNAL = "journal.jsonl"
_FINISHED = ".finished.jsonl"


@dataclass
class _UnfinishedMaps:
    """Maps of one scene that are written together, in a folder until they are whole."""

    folder: Path
    next_row: int
    _files: dict[Path, RowFile]
    _journal: "_Journal"

    def write(self, row: int, numbers: Sequence[NDArray[Any]]) -> None:
        """Write the next rows (layers, rows, W) of each map, and note that they are."""
        digests = {}
        for (path, file), part in zip(self._files.items(), numbers, strict=True):
            digests[path.name] = file.write(row, part)
            file.flush()
        self.next_row = row + numbers[0].shape[1]
        entry = {"row": row, "next_row": self.next_row, "rows": digests}
        self._journal.append(entry)

    def export(self) -> list[Path]:
        """Make the maps of what was written, still in the folder; in their order."""
        made = []
        for path, file in self._files.items():
            made.append(self.folder / path.name)
            file.export(made[-1])
        return made

    def place(self, path: Path) -> None:
        """Move another file of the folder to where it is wanted, before the maps."""
        move_map(self.folder / path.name, path)

    def publish(self) -> None:
        """Move the maps to where they are wanted, the first one last."""
        for path in reversed(self._files):
            move_map(self.folder / path.name, path)


@contextmanager
def making_maps(
    maps: Mapping[Path, Layers],
    grid: Grid,
    fingerprint: Mapping[str, str] | None,
    restart: bool = False,
) -> Iterator[_UnfinishedMaps]:
    """Begin maps, or go on with them where an earlier run was stopped.

    The folder is removed when the maps are published, and after errors of the image or
    the model. It stays when the process is stopped, or when the disk is full and any
    row is finished.

    Args:
        maps: where to, and what they hold; the folder is named after the first.
        grid: where the pixels lie.
        fingerprint: what they depend on, by the words that a user knows it by; None
            begins anew in any case.
        restart: remove what a run with another fingerprint has left, not refuse it.

    Raises:
        ConfigError: another run has left something else, or is at work.
        OutputError: nothing can be written there.
    """
    first = next(iter(maps))
    folder = first.with_name(f".{first.name}.unfinished")
    stated = {
        **(fingerprint or {}),
        "maps": digest_facts(*[(path.name, layers) for path, layers in maps.items()]),
    }
    new = missing_folders(folder.parent)
    with contextlib.ExitStack() as stack:
        stack.enter_context(claiming(first))
        with writing(first):
            folder.mkdir(parents=True, exist_ok=True)
            journal = stack.enter_context(_Journal(folder / _JOURNAL))
        may_begin_anew = restart or fingerprint is None
        entries = journal.read_entries(first, stated, may_begin_anew)
        if not entries or fingerprint is None:
            entries = journal.begin(stated)
        next_row = entries[-1].get("next_row", 0)
        made: _UnfinishedMaps | None = None
        try:
            files = {
                path: stack.enter_context(
                    RowFile(folder / f"{path.name}.rows", grid, layers)
                )
                for path, layers in maps.items()
            }
            next_row = journal.keep_whole(entries, files)
            made = _UnfinishedMaps(folder, next_row, files, journal)
            yield made
        except SpectralGPTError as error:
            if isinstance(error, OutputError) and (made.next_row if made else next_row):
                raise OutputError(
                    f"{error} What is finished stays in {folder}: make room and run "
                    "the same command to go on, or delete it."
                ) from None
            shutil.rmtree(folder, ignore_errors=True)
            remove_if_empty(new)
            raise
    shutil.rmtree(folder, ignore_errors=True)


class _Journal:
    """The file that lists the finished rows of maps; a context manager.

    The first entry says what the maps depend on, each further one which rows were
    written next, and the checksum of them in each map. It is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b")

    def __enter__(self) -> "_Journal":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def read_entries(
        self, path: Path, stated: Mapping[str, str], may_begin_anew: bool
    ) -> list[dict[str, Any]]:
        """Return the entries up to the first that is not as it was written.

        There are none if another run's journal may be begun anew.
        """
        self._file.seek(0)
        read = map(parse_checked, self._file)
        entries = [entry for entry in takewhile(bool, read) if entry]
        found = entries[0].get("fingerprint") if entries else None
        if found == stated or not isinstance(found, dict) or may_begin_anew:
            return entries if found == stated else []
        keys = {**stated, **found}
        differing = [key for key in keys if stated.get(key) != found.get(key)]
        raise ConfigError(
            f"{path} was begun by a run that was stopped, with another "
            f"{' and '.join(differing)}: pass --overwrite to begin anew, or name "
            "another --output."
        )

    def begin(self, stated: Mapping[str, str]) -> list[dict[str, Any]]:
        """Empty the journal and its folder; returns the one entry that it then has."""
        with writing(self._path):
            for old in self._path.parent.iterdir():
                if old != self._path:
                    old.unlink()
        self.keep(0)
        entry = {"fingerprint": dict(stated)}
        self.append(entry)
        return [entry]

    def keep(self, count: int) -> None:
        """Drop all but the first entries."""
        self._file.seek(0)
        size = sum(map(len, islice(self._file, count)))
        with writing(self._path):
            self._file.truncate(size)

    def keep_whole(
        self, entries: Sequence[dict[str, Any]], files: Mapping[Path, RowFile]
    ) -> int:
        """Drop entries from the first with other rows than written; returns its row."""
        kept = [entries[0]]
        for entry in entries[1:]:
            row, next_row = entry["row"], entry["next_row"]
            found = {
                path.name: file.digest(row, next_row) for path, file in files.items()
            }
            if row != kept[-1].get("next_row", 0) or entry["rows"] != found:
                break
            kept.append(entry)
        self.keep(len(kept))
        return int(kept[-1].get("next_row", 0))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, and make sure that it is on the disk."""
        with writing(self._path):
            self._file.write(checked_line(entry).encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def digest_facts(*facts: Any) -> str:
    """Tell plain values from all others, in 64 hexadecimal digits."""
    return _digest([repr(fact) for fact in facts])


def digest_model(model: torch.nn.Module, *settings: object) -> str:
    """Tell weights and settings from all others, in 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in plain_parts(value):
            plain = part.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scene_facts(
    items: Sequence[RasterFile], preprocessing: Preprocessing
) -> dict[str, str]:
    """Say what a map depends on of images and contract; files by size and time."""
    contract = json.dumps(preprocessing.to_dict(), sort_keys=True, default=str)
    return {
        "image": _digest([_item_facts(item) for item in items]),
        "contract": _digest([contract]),
        "version": __version__,
    }


def _item_facts(item: RasterFile) -> list[Any]:
    meaning = (item.quantification, item.offset, item.nodata, item.other_invalid)
    facts: list[Any] = [item.sensor.name, *map(str, meaning)]
    if isinstance(item, ResampledFile):
        return [*facts, item.resampling.summary, *_item_facts(item.source)]
    if isinstance(item, Mosaic):
        return [*facts, repr(item.area), *map(_item_facts, item.parts)]
    for band, file in sorted(item.files.items()):
        facts.append([band, file.index, *_file_facts(Path(str(file.path)))])
        facts += [] if file.nodata is None else [str(file.nodata)]
    return facts


def _file_facts(path: Path) -> list[Any]:
    """Return name, size and time of a file, or of the archive that it is in."""
    on_disk = next((p for p in (path, *path.parents) if p.is_file()), None)
    if on_disk is None:
        return [str(path)]
    found = on_disk.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns]


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
