"""The folder of a pack while it is made: whole files, and notes of what is done."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.atomic_files import (
    check_replaceable,
    make_folder,
    remove_leftovers,
    replace_file,
)
from spectralgpt.data.packing.manifest import INDEX, MANIFEST, Manifest, PackFile
from spectralgpt.data.packing.storage import digest_of
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.json_files import read_json

__all__ = ["Note", "PackFolder"]

_PLAN = "unfinished.json"
_PARTIAL = ".*.partial"
_SHARD = "shard-{:05}.safetensors"
_OURS = ("shard-?????.safetensors", "shard-?????.json", INDEX, _PLAN, _PARTIAL)


@dataclass(frozen=True)
class Note:
    """What is known of a shard that is done.

    Args:
        file: the shard.
        stop: how many images of the plan are done with it.
        rows: of the table, for its images.
        layouts: all layouts so far.
        left_out: what was wrong with images that came before its last.
    """

    file: PackFile
    stop: int
    rows: list[dict[str, Any]]
    layouts: list[dict[str, Any]]
    left_out: list[str]


class PackFolder:
    """The folder that a pack is made in.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, overwrite: bool, inputs: Sequence[Path]) -> None:
        """Refuse what may not be touched; nothing is changed.

        Args:
            overwrite: replace a pack, finished or not.
            inputs: what is packed.

        Raises:
            ConfigError: the folder holds a finished pack, files of another kind, or
                what is to be packed.
        """
        is_finished = (self.path / MANIFEST).is_file()
        if is_finished and not overwrite:
            raise ConfigError(
                f"{self.path} holds a pack already. Name another --output, or replace "
                "it with --overwrite."
            )
        strange = []
        if self.path.is_dir() and not (is_finished or (self.path / _PLAN).is_file()):
            hidden = (".partial", ".making")
            strange = [p.name for p in self.path.iterdir() if p.suffix not in hidden]
        check_replaceable(self.path, "pack", strange, inputs)

    def begin(self, digest: str, overwrite: bool) -> None:
        """Note what is to be packed, or go on with the same.

        Args:
            digest: of the plan.
            overwrite: remove a pack that is there.

        Raises:
            ConfigError: the folder holds the beginning of another pack.
            DataError: it cannot be written.
        """
        make_folder(self.path)
        remove_leftovers(self.path)
        if overwrite:
            # The manifest first: what is left is no pack if this is interrupted.
            (self.path / MANIFEST).unlink(missing_ok=True)
            self._remove(*_OURS)
        plan = self.path / _PLAN
        if plan.is_file():
            if _read_json(plan).get("plan") != digest:
                raise ConfigError(
                    f"{self.path} holds the beginning of a pack of other images or "
                    "settings. Repeat the command that began it, or replace it with "
                    "--overwrite."
                )
            return
        self._write(_PLAN, lambda path: path.write_text(json.dumps({"plan": digest})))

    def notes(self) -> list[Note]:
        """Return the notes of the shards that are done, in order."""
        notes: list[Note] = []
        while (path := self._note_path(len(notes))).is_file():
            table = _read_json(path)
            note = Note(**table | {"file": PackFile(**table["file"])})
            shard = self.path / note.file.file
            if not shard.is_file() or shard.stat().st_size != note.file.bytes:
                break
            notes.append(note)
        return notes

    def write_shard(
        self,
        number: int,
        tensors: Mapping[str, npt.NDArray[np.generic]],
        num_images: int,
        note: Callable[[PackFile], Note],
    ) -> None:
        """Write a shard, and then the note that it is done.

        Raises:
            DataError: it cannot be written.
        """
        from safetensors.numpy import save_file

        name = _SHARD.format(number)
        path = self._write(name, lambda path: save_file(dict(tensors), str(path)))
        file = _as_pack_file(path, num_images)
        text = json.dumps(asdict(note(file)))
        self._write(self._note_path(number).name, lambda path: path.write_text(text))

    def write_index(self, content: bytes) -> PackFile:
        """Write the table of the images."""
        path = self._write(INDEX, lambda path: path.write_bytes(content))
        return _as_pack_file(path, 0)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the folder a pack, and tidy up."""
        text = manifest.to_json()
        self._write(MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
        self._remove("shard-?????.json", _PLAN, _PARTIAL)

    def _note_path(self, number: int) -> Path:
        return self.path / Path(_SHARD.format(number)).with_suffix(".json")

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def _write(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Write a file so that it is there whole or not at all."""
        path = self.path / name
        try:
            replace_file(path, write)
        except OSError as error:
            raise DataError(
                f"cannot write {path}: {error}. Make room, then repeat the command: it "
                "goes on with what is done."
            ) from error
        return path


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
