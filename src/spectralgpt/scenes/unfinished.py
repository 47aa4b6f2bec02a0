"""Maps that are being made: a hidden folder beside the map, from which to go on.

The folder holds the rows that are finished and a journal of them. Whatever kills the
process, even the machine, the next run with the same model, image and settings goes on
behind the last row of the journal.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from spectralgpt.atomic_files import missing_folders, remove_if_empty
from spectralgpt.errors import ConfigError, OutputError, SpectralGPTError
from spectralgpt.json_files import parse_json
from spectralgpt.rasters import Grid, Layers, RowFile, move_map
from spectralgpt.rasters.gdal_errors import output_error
from spectralgpt.scenes.fingerprints import Fingerprint, digest_facts

__all__ = [
    "UnfinishedMaps",
    "forget_finished",
    "making_maps",
    "note_finished",
    "read_finished",
]

_JOURNAL = "journal.jsonl"
_FINISHED = ".finished.jsonl"


@dataclass
class UnfinishedMaps:
    """Maps of one scene that are written together.

    Attributes:
        folder: where they lie until they are whole.
        next_row: the first row that is not finished.
    """

    folder: Path
    next_row: int
    _files: dict[Path, RowFile]
    _journal: IO[str]

    def write(self, row: int, numbers: Sequence[NDArray[Any]]) -> None:
        """Write the next rows (layers, rows, W) of each map, and note that they are.

        Raises:
            OutputError: they cannot be written.
        """
        for file, part in zip(self._files.values(), numbers, strict=True):
            file.write(row, part)
            file.flush()
        self.next_row = row + numbers[0].shape[1]
        _append(self._journal, {"next_row": self.next_row})

    def export(self) -> list[Path]:
        """Make the maps of what was written, still in the folder; in their order.

        Raises:
            OutputError: one cannot be written.
        """
        made = []
        for path, file in self._files.items():
            made.append(self.folder / path.name)
            file.export(made[-1])
        return made

    def place(self, path: Path) -> None:
        """Move another file of the folder to where it is wanted, before the maps.

        Raises:
            OutputError: it cannot be moved.
        """
        move_map(self.folder / path.name, path)

    def publish(self) -> None:
        """Move the maps to where they are wanted, the first one last.

        Raises:
            OutputError: one cannot be moved.
        """
        for path in reversed(self._files):
            move_map(self.folder / path.name, path)


@contextmanager
def making_maps(
    maps: Mapping[Path, Layers],
    grid: Grid,
    fingerprint: Fingerprint | None,
    restart: bool = False,
) -> Iterator[UnfinishedMaps]:
    """Begin maps, or go on with them where an earlier run was stopped.

    The folder is removed when the maps are published, and after errors of the image or
    the model. It stays when the process is stopped, or when the disk is full and any
    row is finished.

    Args:
        maps: where to, and what they hold; the folder is named after the first.
        grid: where the pixels lie.
        fingerprint: what they depend on; None begins anew in any case.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = (folder / _JOURNAL).open("a+", encoding="utf-8")
    except OSError as error:
        raise output_error(first, error) from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(journal))
        _lock(journal, first)
        next_row = _find_start(
            journal,
            first,
            stated,
            may_go_on=fingerprint is not None,
            restart=restart or fingerprint is None,
        )
        made: UnfinishedMaps | None = None
        try:
            files = {
                path: stack.enter_context(
                    RowFile(folder / f"{path.name}.rows", grid, layers)
                )
                for path, layers in maps.items()
            }
            made = UnfinishedMaps(folder, next_row, files, journal)
            yield made
        except OutputError as error:
            if not (made.next_row if made else next_row):
                shutil.rmtree(folder, ignore_errors=True)
                remove_if_empty(new)
                raise
            raise OutputError(
                f"{error} What is finished stays in {folder}: make room and run the "
                "same command to go on, or delete it."
            ) from None
        except SpectralGPTError:
            shutil.rmtree(folder, ignore_errors=True)
            remove_if_empty(new)
            raise
    shutil.rmtree(folder, ignore_errors=True)


def read_finished(folder: Path) -> dict[str, str]:
    """Return what a run over many images, if it was stopped, has finished in a folder.

    Returns:
        The digest of what each map depends on, by the map's name.
    """
    path = folder / _FINISHED
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        entries = list(_read_entries(file))
    return {str(entry.get("map")): str(entry.get("digest")) for entry in entries}


def note_finished(folder: Path, name: str, digest: str) -> None:
    """Note that a map is whole, for `read_finished`.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with (folder / _FINISHED).open("a", encoding="utf-8") as file:
            _append(file, {"map": name, "digest": digest})
    except OSError as error:
        raise output_error(folder / _FINISHED, error) from None


def forget_finished(folder: Path) -> None:
    """Remove the notes of `note_finished`: the run is at its end."""
    (folder / _FINISHED).unlink(missing_ok=True)


def _find_start(
    journal: IO[str],
    path: Path,
    stated: Fingerprint,
    *,
    may_go_on: bool,
    restart: bool,
) -> int:
    """Return the first row to do; a journal of something else is refused or emptied."""
    journal.seek(0)
    entries = list(_read_entries(journal))
    found = entries[0].get("fingerprint") if entries else None
    if isinstance(found, dict) and found != stated and not restart:
        keys = {**stated, **found}
        differing = [key for key in keys if stated.get(key) != found.get(key)]
        raise ConfigError(
            f"{path} was begun by a run that was stopped, with another "
            f"{' and '.join(differing)}: pass --overwrite to begin anew, or name "
            "another --output."
        )
    if found == stated and may_go_on:
        rows = [entry.get("next_row") for entry in entries[1:]]
        return max([row for row in rows if isinstance(row, int)], default=0)
    journal.truncate(0)
    for old in Path(journal.name).parent.iterdir():
        if old.name != _JOURNAL:
            old.unlink()
    _append(journal, {"fingerprint": dict(stated)})
    return 0


def _read_entries(journal: IO[str]) -> Iterator[dict[str, Any]]:
    for line in journal:
        try:
            entry = parse_json(line, "an entry")
        except ValueError:
            # Blank, or the run was stopped while it wrote this line.
            continue
        if isinstance(entry, dict):
            yield entry


def _append(journal: IO[str], entry: dict[str, Any]) -> None:
    try:
        # Begins a line of its own even where the last one was cut off.
        journal.write("\n" + json.dumps(entry))
        journal.flush()
        os.fsync(journal.fileno())
    except OSError as error:
        raise output_error(Path(journal.name), error) from None


def _lock(journal: IO[str], path: Path) -> None:
    """Refuse to write what another process is writing; its end frees the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"{path} is being made by another process: wait.") from None
