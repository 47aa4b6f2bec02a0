"""What data sets list: images by glob, table, or looking; labels; and what is wrong.

Tables are CSV and Parquet files, read strictly and as text. What one lists is not
trusted: its paths must stay under the data set's root. The readers of labelled data
yield an `Entry` for what is there and a `Fault` for what is wrong: training refuses
faults, `spectralgpt data check` prints them.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from spectralgpt.config import suggest
from spectralgpt.data.samples import SampleSet
from spectralgpt.errors import ConfigError, DataError, require
from spectralgpt.files import read_table, read_text
from spectralgpt.rasters import RASTER_SUFFIXES, glob_folder, path_below, walk
from spectralgpt.sensors import Sensor

_BAND_FILES = 2
"""A folder with at least this many files named after bands is one image."""
_COLUMN = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Entry:
    """The files of one sample, and what the data set says of it.

    Args:
        name: path under the root, with forward slashes, or what its files were matched
            by.
        images: one image, or before and after.
        labels: names of its classes.
        split: train, val, test, or "" where the data set does not say.
        place: what it shows; "" if no name tells.
        masks: the mask, or one mask of each class in their order.
        members: files of an image's folder that belong to it; all if None.
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[str, ...] = ()
    split: str = ""
    place: str = ""
    masks: tuple[Path, ...] = ()
    members: tuple[Path, ...] | None = None

    @property
    def path(self) -> Path:
        """The image, or that of the first date: a file or a folder."""
        return self.images[0]


@dataclass(frozen=True)
class Index:
    """A CSV or Parquet file that lists images.

    Args:
        file: path under the data set's root.
        column: column that holds paths under the root.
        paths: instead of such a column: how a path is made of the row's values, such as
            `{category}/{image_id}.tif`; of several ways the first counts whose first
            folder exists.
        allow_absolute: whether the index may also name files anywhere on the machine.
    """

    file: str
    column: str = "path"
    paths: tuple[str, ...] = ()
    allow_absolute: bool = False

    def read(self, root: Path) -> list[str]:
        """Return what the index lists, as it stands there.

        Raises:
            DataError: the file, or a column that is needed, is missing.
        """
        if not self.paths:
            return _read_column(root / self.file, self.column)
        fitting = [p for p in self.paths if (root / p.split("/")[0]).is_dir()]
        template = (fitting or self.paths)[0]
        columns = _COLUMN.findall(template)
        return [_fill(template, row) for row in read_rows(root / self.file, columns)]


def _fill(template: str, row: Mapping[str, str]) -> str:
    return _COLUMN.sub(lambda match: row[match.group(1)], template)


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

    def read_ids(self, root: Path) -> set[str]:
        """Return the ids to keep.

        Raises:
            DataError: there is none.
        """
        if self.files is not None:
            lines = [path.name for path in glob_folder(root, self.files)]
        elif self.column is not None:
            lines = _read_column(root / str(self.list), self.column)
        else:
            text = read_text(root / str(self.list))
            lines = [line.strip() for line in text.splitlines() if line.strip()]
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
    sensor: Sensor | None = None,
    items: str = "auto",
    index: Index | None = None,
    exclude: Sequence[str] = (),
    keep: Selection | None = None,
    pattern: str | None = None,
) -> list[Entry]:
    """List what should be images, sorted by name; opens none.

    Args:
        root: the folder.
        sensor: whose band names tell folders of band files; None takes files alone.
        items: see `spectralgpt.data.sources.Source`, as for the rest.
        index: lists the images, instead of `items`.
        exclude: globs of items to leave out.
        keep: only items whose id is listed.
        pattern: `band_pattern`.

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


def _from_index(root: Path, index: Index) -> list[Entry]:
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
        candidates.append(Entry(path.as_posix(), (root / path,)))
    return sorted(candidates, key=lambda candidate: candidate.name)


def _by_glob(root: Path, items: str) -> list[Entry]:
    if Path(items).is_absolute() or ".." in Path(items).parts:
        raise ConfigError(f"items '{items}' must be a glob under {root}.")
    paths = [root] if items == "." else glob_folder(root, items)
    return [Entry(path.relative_to(root).as_posix(), (path,)) for path in paths]


def _by_looking(root: Path, sensor: Sensor | None) -> list[Entry]:
    """Take products, folders with one file per band, and all other raster files."""
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
                sensor.find_in_name(path.stem)
                for path in files
                if path.parent == folder
            }
            if len(named - {None}) >= _BAND_FILES:
                folders.add(folder)
    paths = sorted(folders | {path for path in files if path.parent not in folders})
    return [Entry(path.relative_to(root).as_posix(), (path,)) for path in paths]


def _group(candidates: Sequence[Entry], pattern: str) -> list[Entry]:
    groups: dict[tuple[str, Path], list[Path]] = {}
    for candidate in candidates:
        match = re.search(pattern, candidate.path.name)
        if match is not None:
            folder = PurePosixPath(candidate.name).parent
            key = (folder / match.group("item")).as_posix(), candidate.path.parent
            groups.setdefault(key, []).append(candidate.path)
    return [
        Entry(name, (folder,), members=tuple(members))
        for (name, folder), members in groups.items()
    ]


def _read_column(path: Path, column: str) -> list[str]:
    """Read a column of a CSV or Parquet file as text, without empty rows."""
    values = [row[column] for row in read_rows(path, [column])]
    return [value for value in values if value]


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read columns of a CSV or Parquet file as text; an empty cell is "".

    Raises:
        DataError: the file or a column is missing, or the file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Check the path or the description.")
    names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    is_parquet = path.suffix == ".parquet"
    names, rows = read_parquet(path) if is_parquet else read_table(path)
    for column in columns:
        if column not in names:
            raise DataError(
                f"{path} has no column '{column}'{suggest(column, names)} "
                f"(found: {', '.join(names)})."
            )
    return [
        {name: "" if row.get(name) is None else str(row[name]) for name in columns}
        for row in rows
    ]


def read_parquet(
    path: Path, columns: Sequence[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Read a Parquet file; returns the columns' names, and a table for each row.

    Args:
        path: the file.
        columns: those that are read; None reads all.

    Raises:
        DataError: it is missing, damaged, or lacks a column.
    """
    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=columns and list(columns))
        missing = [name for name in columns or () if name not in table.column_names]
        if missing:
            raise DataError(f"no column {', '.join(missing)}.")
        return list(table.column_names), table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from error


class FaultKind(StrEnum):
    """The kinds of faults, as they are printed."""

    MISSING_BAND = "missing band"
    UNREADABLE = "truncated or unreadable file"
    WRONG_SIZE = "wrong size"
    MISALIGNED = "bands that do not lie on each other"
    EMPTY = "no valid pixel"
    UNDECLARED = "fill that nobody declared"
    IMPLAUSIBLE = "values that are no reflectance"
    IN_DOUBT = "unit or offset in doubt"
    UNKNOWN_CLASS = "unknown class"
    UNKNOWN_SPLIT = "unknown split"
    NO_IMAGE = "label without image"
    NOT_THERE = "listed image that is not there"
    NO_LABEL = "image without label"
    NO_MATCH = "images and masks that do not match"
    APART = "dates or masks that do not lie on each other"
    REFUSED = "what training refuses"
    DUPLICATE = "duplicate"
    OUTSIDE = "path outside the folder"
    NO_TABLE = "missing table"


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file or row.

    Args:
        kind: which kind.
        name: path under the root, or the row.
        detail: what was found.
        refusal: how training says it; "" where training goes on without the image.
    """

    kind: FaultKind
    name: str
    detail: str = ""
    refusal: str = ""

    @classmethod
    def of(cls, kind: FaultKind, name: str, error: Exception) -> "Fault":
        """Make a fault of an error; its detail is the error's text on one line.

        Args:
            kind: see `Fault`.
            name: see `Fault`.
            error: what was raised.
        """
        return cls(kind, name, " ".join(str(error).split()))


Reader = Callable[[Sequence[Entry], Collection[Path], int], SampleSet]


@dataclass(frozen=True)
class Listing:
    """What a data set has.

    Args:
        entries: the samples that are there.
        faults: what is wrong with the listing.
        class_names: the classes in order; empty without labels.
        notes: what is worth knowing and no fault.
        code_names: class of each code in the masks, as far as it is known.
        mask_codes: numbers that masks may hold; None is any.
        masks_have_same_size: whether their pixels are those of the image's finest band;
            false where they are laid over the image by position.
        masks_hold_codes: whether they are of classes; false for numbers.
        read: reads, as training does, the places with masks that these images are of,
            but for those with bad files, and no more than so many; None without masks.
    """

    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    code_names: Mapping[int, str] = field(default_factory=dict)
    mask_codes: frozenset[int] | None = None
    masks_have_same_size: bool = True
    masks_hold_codes: bool = True
    read: Reader | None = None

    @classmethod
    def of(
        cls,
        found: Iterable[Entry | Fault],
        class_names: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> "Listing":
        """Part what readers yield; a name that is listed twice is a fault, too.

        Args:
            found: entries and faults, in order.
            class_names: none takes those that occur, sorted.
            notes: see the class.
        """
        found = list(found)
        entries = tuple(each for each in found if isinstance(each, Entry))
        doubles = (
            Fault(
                FaultKind.DUPLICATE,
                name,
                f"listed {count} times",
                "images are listed more than once",
            )
            for name, count in Counter(entry.name for entry in entries).items()
            if count > 1
        )
        faults = *(each for each in found if isinstance(each, Fault)), *doubles
        names = class_names or sorted({k for entry in entries for k in entry.labels})
        return cls(entries, faults, tuple(names), tuple(notes))


def refuse_faults(source: object, faults: Iterable[Fault], advice: str = "") -> None:
    """Refuse what training cannot take, all of it at once.

    Args:
        source: table or folder, for the message.
        faults: those without a `refusal` do not count.
        advice: sentence at the end.

    Raises:
        DataError: counts each kind of mistake, and names the first few.
    """
    found: dict[str, list[str]] = {}
    for fault in faults:
        if fault.refusal:
            names = found.setdefault(fault.refusal, [])
            if fault.kind == FaultKind.UNKNOWN_SPLIT:
                names[:] = sorted({*names, fault.detail})
            else:
                names.append(fault.name)
    told = [f"{len(names)} {what} ({first_names(names)})"
            for what, names in found.items()]  # fmt: skip
    if told:
        raise DataError(f"{source}: {'; '.join(told)}.{advice}")


def first_names(names: Iterable[str], shown: int = 5) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
