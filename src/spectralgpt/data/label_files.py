"""Labels that lie in folders of classes or in a CSV.

Both readers return all images with their labels and the split that the files state;
`labelled` splits the rest.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.chips import (
    MULTI_LABEL,
    SINGLE_LABEL,
    SPLITS,
    Chip,
    LabelledSet,
)
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.rasters import RASTER_SUFFIXES

__all__ = ["list_images", "match_classes", "read_csv", "read_folder"]

_SHOWN = 5


def read_folder(
    root: Path,
    *,
    image_format: ImageFormat | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelledSet:
    """Read a folder of classes, with or without folders train, val and test above them.

    Raises:
        DataError: no images, or a class folder that is not among `class_names`.
    """
    image_format = image_format or ImageFormat()
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()}
    found = [
        (split, folder.name, path)
        for split, parent in (splits or {"": root}).items()
        for folder in sorted(parent.iterdir())
        if folder.is_dir()
        for path in list_images(folder)
    ]
    if not found:
        raise DataError(
            f"{root} holds no images in folders of classes (expected "
            f"{root.name}/<class>/<image>{'|'.join(RASTER_SUFFIXES)})."
        )
    names = match_classes({label for _, label, _ in found}, class_names, str(root))
    index = {name: i for i, name in enumerate(names)}
    chips = tuple(
        Chip(
            image_format.describe(path),
            (index[label],),
            split,
        )
        for split, label, path in found
    )
    return LabelledSet(chips, names, SINGLE_LABEL, str(root))


def list_images(folder: Path) -> list[Path]:
    """List the rasters of a folder, sorted; a folder of band files is one raster."""
    found = []
    for path in sorted(folder.iterdir()):
        is_file = path.is_file() and path.suffix.lower() in RASTER_SUFFIXES
        is_stack = path.is_dir() and any(
            inner.suffix.lower() in RASTER_SUFFIXES for inner in path.iterdir()
        )
        if is_file or is_stack:
            found.append(path)
    return found


def match_classes(
    found: set[str], wanted: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """Return the class names in order: the wanted ones, or those found, sorted.

    Raises:
        DataError: a class was found that is not wanted.
    """
    if wanted is None:
        return tuple(sorted(found))
    unknown = sorted(found - set(wanted))
    if unknown:
        raise DataError(
            f"{source} has {len(unknown)} unknown classes ({_first(unknown)}); known: "
            f"{', '.join(wanted)}. Correct the labels or data.class_names."
        )
    return tuple(wanted)


@dataclass(frozen=True)
class _Row:
    path: Path
    labels: tuple[str, ...]
    split: str


def read_csv(
    table: Path,
    *,
    image_format: ImageFormat | None = None,
    class_names: Sequence[str] | None = None,
    allow_unlisted: bool = False,
) -> LabelledSet:
    """Read a CSV of labels; image paths are relative to it and stay beneath it.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: columns, paths, labels or images are wrong; all mistakes of a kind
            are counted and the first few named.
    """
    image_format = image_format or ImageFormat()
    rows, task = _read_rows(table)
    _check_rows(rows, table, allow_unlisted)
    source = str(table)
    names = match_classes(
        {label for row in rows for label in row.labels}, class_names, source
    )
    index = {name: i for i, name in enumerate(names)}
    chips = tuple(
        Chip(
            image_format.describe(row.path),
            tuple(sorted({index[label] for label in row.labels})),
            row.split,
        )
        for row in rows
    )
    return LabelledSet(chips, names, task, source)


def _read_rows(table: Path) -> tuple[list[_Row], str]:
    if not table.is_file():
        raise DatasetNotFoundError(f"There is no table of labels at {table}.")
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if "image" not in columns or ("label" in columns) == ("labels" in columns):
            raise DataError(
                f"{table} needs the columns image and either label or labels (found: "
                f"{', '.join(columns) or 'none'})."
            )
        task = SINGLE_LABEL if "label" in columns else MULTI_LABEL
        rows = [_parse_row(row, task, table) for row in reader]
    if not rows:
        raise DataError(f"{table} has no rows.")
    return rows, task


def _parse_row(row: dict[str, str | None], task: str, table: Path) -> _Row:
    image = (row.get("image") or "").strip()
    if task == SINGLE_LABEL:
        names = [(row.get("label") or "").strip()]
    else:
        names = [name.strip() for name in (row.get("labels") or "").split(";")]
        names = [name for name in names if name]
    split = (row.get("split") or "").strip()
    if not image or not all(names):
        raise DataError(f"{table} has a row without image or label: {row}.")
    if split and split not in SPLITS:
        raise DataError(
            f"{table}: {image} has split '{split}' (known: {', '.join(SPLITS)})."
        )
    return _Row(table.parent / image, tuple(names), split)


def _check_rows(rows: Sequence[_Row], table: Path, allow_unlisted: bool) -> None:
    """Raise one error that names every kind of mismatch between rows and images."""
    folder = table.parent.resolve()
    paths = [row.path.resolve() for row in rows]
    outside = [str(path) for path in paths if folder not in path.parents]
    if outside:
        raise DataError(
            f"{table}: {len(outside)} images lie outside {folder} ({_first(outside)}). "
            "Paths are relative to the table."
        )
    shown = [path.relative_to(folder).as_posix() for path in paths]
    missing = [name for name, p in zip(shown, paths, strict=True) if not p.exists()]
    twice = [name for name, count in Counter(shown).items() if count > 1]
    unlisted = [] if allow_unlisted else _unlisted(folder, set(paths))
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("images are missing", missing),
            ("images are listed more than once", twice),
            ("images have no row", unlisted),
        )
        if names
    ]
    if problems:
        hint = " Add rows or set data.allow_unlisted true." if unlisted else ""
        raise DataError(
            f"{table} does not fit its images: {'; '.join(problems)}.{hint}"
        )


def _unlisted(folder: Path, listed: set[Path]) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in RASTER_SUFFIXES
        and path.is_file()
        and path not in listed
        and not listed.intersection(path.parents)
    ]


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
