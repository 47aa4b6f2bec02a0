"""Which files and folders of a data set are images: by glob, index, or looking."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spectralgpt.data.tables import Index, check_table, read_column
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import (
    RASTER_SUFFIXES,
    band_in_file_name,
    glob_folder,
    path_below,
    walk,
)
from spectralgpt.sensors import Sensor
from spectralgpt.text_files import read_text
from spectralgpt.yaml_files import take_text

__all__ = [
    "Candidate",
    "Index",
    "Selection",
    "list_candidates",
]

_BAND_FILES = 2
"""A folder with at least this many files named after bands is one image."""


@dataclass(frozen=True)
class Candidate:
    """Something that should be an image.

    Args:
        name: path under the data set's root, with forward slashes.
        path: the file or folder.
        members: files of the folder that belong to it; all if None.
    """

    name: str
    path: Path
    members: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class Selection:
    """Ids of the items to keep, taken from a list or from the names of other files.

    Args:
        item: regular expression with a group `id` for an item's path.
        files: glob under the root of files whose names carry the ids.
        list: text file with an id a line, or a CSV or Parquet file with `column`.
        column: column of the list that holds ids.
        id: regular expression with a group `id` for the names or lines.
    """

    item: str
    files: str | None = None
    list: str | None = None
    column: str | None = None
    id: str = r"(?P<id>.+)"

    def __post_init__(self) -> None:
        if (self.files is None) == (self.list is None):
            raise ConfigError("keep: give either 'files' or 'list'.")
        for pattern in (self.item, self.id):
            if "id" not in re.compile(pattern).groupindex:
                raise ConfigError(f"keep: '{pattern}' needs a group (?P<id>...).")

    @classmethod
    def from_table(cls, table: Any, where: str) -> "Selection":
        """Read it from a description."""
        optional = ("files", "list", "column", "id")
        check_table(table, where, required=("item",), optional=optional)
        return cls(**{key: take_text(table, key, where) for key in table})

    def read_ids(self, root: Path) -> set[str]:
        """Return the ids to keep.

        Raises:
            DataError: there is none.
        """
        if self.files is not None:
            lines = [path.name for path in glob_folder(root, self.files)]
        elif self.column is not None:
            lines = read_column(root / str(self.list), self.column)
        else:
            lines = _read_lines(root / str(self.list))
        matches = [re.search(self.id, line) for line in lines]
        ids = {match.group("id") for match in matches if match}
        if not ids:
            raise DataError(f"no id to keep in {root / str(self.files or self.list)}.")
        return ids

    def keeps(self, name: str, ids: set[str]) -> bool:
        """Whether an item's id is among `ids`."""
        match = re.search(self.item, name)
        return match is not None and match.group("id") in ids


def list_candidates(
    root: Path,
    items: str,
    index: Index | None,
    exclude: Sequence[str],
    keep: Selection | None,
    pattern: str | None,
    sensor: Sensor | None,
) -> list[Candidate]:
    """List what should be images, sorted by name.

    The arguments are those of `spectralgpt.data.sources.Source`, with the root and the
    sensor resolved.

    Raises:
        DataError: an index or list is missing, or a path in it leaves the root.
    """
    if index is not None:
        candidates = _from_index(root, index)
    elif items == "auto":
        candidates = _by_looking(root, sensor)
    else:
        candidates = _by_glob(root, items)
    if pattern is not None and "item" in re.compile(pattern).groupindex:
        candidates = _group(candidates, pattern)
    ids = keep.read_ids(root) if keep is not None else set()
    return [
        candidate
        for candidate in candidates
        if not any(fnmatch.fnmatchcase(candidate.name, glob) for glob in exclude)
        and (keep is None or keep.keeps(candidate.name, ids))
    ]


def _read_lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _from_index(root: Path, index: Index) -> list[Candidate]:
    candidates = []
    for text in index.read(root):
        path = PurePosixPath(text)
        if path.is_absolute():
            if not index.allow_absolute or not Path(path).exists():
                raise DataError(
                    f"{index.file} names the absolute path '{text}'. Use paths under "
                    f"{root}, or set allow_absolute in the description."
                )
        elif path_below(root, text) is None:
            raise DataError(f"{index.file} names '{text}', which leaves {root}.")
        candidates.append(Candidate(path.as_posix(), root / path))
    return sorted(candidates, key=lambda candidate: candidate.name)


def _by_glob(root: Path, items: str) -> list[Candidate]:
    if Path(items).is_absolute() or ".." in Path(items).parts:
        raise ConfigError(f"items '{items}' must be a glob under {root}.")
    paths = [root] if items == "." else glob_folder(root, items)
    return [Candidate(path.relative_to(root).as_posix(), path) for path in paths]


def _by_looking(root: Path, sensor: Sensor | None) -> list[Candidate]:
    """Take products, folders with one file a band, and all other raster files."""
    everything = walk(root)
    products = [p for p in everything if p.suffix == ".SAFE" and p.is_dir()]
    files = [
        path
        for path in everything
        if path.suffix.lower() in RASTER_SUFFIXES and path.is_file()
        if not any(product in path.parents for product in products)
    ]
    folders = set(products)
    if sensor is not None:
        for folder in {path.parent for path in files}:
            named = {
                band_in_file_name(path.stem, sensor)
                for path in files
                if path.parent == folder
            }
            if len(named - {None}) >= _BAND_FILES:
                folders.add(folder)
    paths = sorted(folders | {path for path in files if path.parent not in folders})
    return [Candidate(path.relative_to(root).as_posix(), path) for path in paths]


def _group(candidates: Sequence[Candidate], pattern: str) -> list[Candidate]:
    groups: dict[tuple[str, Path], list[Path]] = {}
    for candidate in candidates:
        match = re.search(pattern, candidate.path.name)
        if match is not None:
            folder = PurePosixPath(candidate.name).parent
            key = (folder / match.group("item")).as_posix(), candidate.path.parent
            groups.setdefault(key, []).append(candidate.path)
    return [
        Candidate(name, folder, tuple(members))
        for (name, folder), members in groups.items()
    ]
