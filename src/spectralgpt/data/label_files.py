"""Labels that lie in folders of classes or in a CSV.

Both readers return all images with their labels and the split that the files state;
`labelled` splits the rest.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.samples import (
    MULTI_LABEL,
    SINGLE_LABEL,
    SPLITS,
    Sample,
    SampleSet,
)
from spectralgpt.data.splits import split_folders, split_named
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.files import read_table
from spectralgpt.rasters import (
    RASTER_SUFFIXES,
    Stated,
    list_folder,
    path_below,
    walk,
)

logger = logging.getLogger(__name__)

_SHOWN = 5


def read_folder(
    root: Path,
    *,
    image_format: ImageFormat | None = None,
    class_names: Sequence[str] | None = None,
) -> SampleSet:
    """Read a folder of classes, with or without folders of splits above them.

    Raises:
        DataError: no images, a class folder that is not among `class_names`, or folders
            of images beside those of splits.
    """
    image_format = image_format or ImageFormat()
    listed = list_class_folders(root)
    if listed.loose:
        logger.warning(
            "%s: %d images lie in no folder of a class and are left out (%s).",
            root,
            len(listed.loose),
            first_names(path.relative_to(root).as_posix() for path in listed.loose),
        )
    if not listed.images:
        raise DataError(
            f"{root} holds no images in folders of classes (expected "
            f"{root.name}/<class>/<image>{'|'.join(RASTER_SUFFIXES)})."
        )
    found = {label for _, label, _ in listed.images}
    names = match_classes(found, class_names, str(root))
    index = {name: i for i, name in enumerate(names)}
    samples = tuple(
        Sample((image_format.describe(path),), (index[label],), split=split)
        for split, label, path in listed.images
    )
    stated = Stated.of(image_format.facts)
    return SampleSet(samples, names, SINGLE_LABEL, str(root), stated=stated)


@dataclass(frozen=True)
class _ClassFolders:
    """What lies in folders of classes.

    Args:
        folders: the folders of classes, with images or not.
        images: (split or "", class, path) of each image.
        loose: images that lie in no folder of a class.
    """

    folders: tuple[Path, ...]
    images: tuple[tuple[str, str, Path], ...]
    loose: tuple[Path, ...]


def list_class_folders(root: Path) -> _ClassFolders:
    """List the images of a folder of classes, below folders of splits or not.

    Folders such as `validation` are the split that they name.

    Raises:
        DataError: two folders mean one split, or folders of images lie beside those of
            splits, so that it is in doubt what they are.
    """
    splits = split_folders(root)
    if splits:
        beside = [
            path.name
            for path in list_folder(root)
            if path.is_dir() and path not in splits.values() and _holds_images(path)
        ]
        if beside:
            raise DataError(
                f"{root} has folders of splits ({', '.join(splits)}) and beside them "
                f"{first_names(beside)}: call such a folder train, val or test, or "
                "move it away."
            )
    folders: list[Path] = []
    images: list[tuple[str, str, Path]] = []
    loose = [path for path in list_images(root) if path.is_file()]
    for split, parent in (splits or {"": root}).items():
        if split:
            loose += [path for path in list_images(parent) if path.is_file()]
        for folder in filter(Path.is_dir, list_folder(parent)):
            folders.append(folder)
            images += [(split, folder.name, path) for path in list_images(folder)]
    return _ClassFolders(tuple(folders), tuple(images), tuple(loose))


def list_images(folder: Path) -> list[Path]:
    """List the rasters of a folder, sorted; a folder of band files is one raster."""
    found = []
    for path in list_folder(folder):
        is_stack = path.is_dir() and any(map(_is_raster, list_folder(path)))
        if is_stack or _is_raster(path):
            found.append(path)
    return found


def _is_raster(path: Path) -> bool:
    return path.suffix.lower() in RASTER_SUFFIXES and path.is_file()


def _holds_images(folder: Path) -> bool:
    return any(map(_is_raster, walk(folder)))


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
            f"{source} has {len(unknown)} unknown classes ({first_names(unknown)}); "
            f"known: {', '.join(wanted)}. Correct the labels or data.class_names."
        )
    return tuple(wanted)


def read_csv(
    table: Path,
    *,
    image_format: ImageFormat | None = None,
    class_names: Sequence[str] | None = None,
    allow_unlisted: bool = False,
) -> SampleSet:
    """Read a CSV of labels; image paths are relative to it and stay beneath it.

    Columns are image, label or labels (parted by ";"), and optionally split and place.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: columns, paths, labels or images are wrong; all mistakes of a kind
            are counted and the first few named.
    """
    image_format = image_format or ImageFormat()
    columns, rows = read_rows(table, "data.labels")
    if "image" not in columns or ("label" in columns) == ("labels" in columns):
        raise DataError(
            f"{table} needs the columns image and either label or labels (found: "
            f"{', '.join(columns) or 'none'})."
        )
    found, problems = find_files(table, rows, ("image",))
    task = SINGLE_LABEL if "label" in columns else MULTI_LABEL
    held = [
        [row["label"]] if task == SINGLE_LABEL else _parts(row["labels"])
        for row in rows
    ]
    problems["rows have no label"] = [
        row["image"] for row, own in zip(rows, held, strict=True) if not all(own)
    ]
    paths = [files["image"] for files in found if files]
    shown = Counter(path.relative_to(table.parent).as_posix() for path in paths)
    problems["images are listed more than once"] = [
        name for name, count in shown.items() if count > 1
    ]
    if not allow_unlisted:
        no_row = "images have no row: add rows or set data.allow_unlisted true"
        problems[no_row] = list_unlisted(table.parent, paths)
    refuse_problems(table, problems)
    source = str(table)
    names = match_classes({label for own in held for label in own}, class_names, source)
    index = {name: i for i, name in enumerate(names)}
    samples = tuple(
        Sample(
            (image_format.describe(path),),
            tuple(sorted({index[label] for label in own})),
            split=split_named(row.get("split", "")) or "",
            place=row.get("place", ""),
        )
        for row, path, own in zip(rows, paths, held, strict=True)
    )
    stated = Stated.of(image_format.facts)
    return SampleSet(samples, names, task, source, stated=stated)


def read_rows(table: Path, option: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read columns and rows of a table, without blanks around values.

    Args:
        table: a CSV.
        option: that names it, for messages.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it cannot be read.
    """
    if not table.is_file():
        raise DatasetNotFoundError(f"There is no table at {table} (option {option}).")
    columns, rows = read_table(table)
    return columns, [{name: row[name].strip() for name in columns} for row in rows]


def find_files(
    table: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]
) -> tuple[list[dict[str, Path]], dict[str, list[str]]]:
    """Find the files of a table's rows; paths are relative to it and stay beneath it.

    Args:
        table: the CSV.
        rows: its rows.
        columns: those that name files.

    Returns:
        The files of each row by column, and what is wrong: names by kind of mistake.

    Raises:
        DataError: there is no row.
    """
    if not rows:
        raise DataError(f"{table} has no rows.")
    folder = table.parent
    empty, outside, missing = [], [], []
    found: list[dict[str, Path]] = []
    for number, row in enumerate(rows, start=2):
        found.append({})
        for column in columns:
            text = row[column]
            path = path_below(folder, text)
            if not text or "\0" in text:
                empty.append(f"row {number}, {column}")
            elif path is None:
                outside.append(text)
            elif not path.exists():
                missing.append(text)
            else:
                found[-1][column] = path
    stated = {row.get("split", "") for row in rows} - {""}
    return found, {
        "paths are empty": empty,
        f"paths lie outside {folder}": outside,
        "files are missing": missing,
        f"splits are unknown (known: {', '.join(SPLITS)})": sorted(
            split for split in stated if split_named(split) is None
        ),
    }


def refuse_problems(table: Path, problems: Mapping[str, Sequence[str]]) -> None:
    """Refuse a table with all that is wrong in it: names by kind of mistake.

    Raises:
        DataError: counts each kind, and names the first few.
    """
    told = [
        f"{len(names)} {what} ({first_names(names)})"
        for what, names in problems.items()
        if names
    ]
    if told:
        raise DataError(f"{table}: {'; '.join(told)}.")


def _parts(text: str) -> list[str]:
    return [name.strip() for name in text.split(";") if name.strip()]


def list_unlisted(folder: Path, listed: Collection[Path]) -> list[str]:
    """List the images below a folder that are not listed, nor in a listed folder."""
    known = set(listed)
    return [
        path.relative_to(folder).as_posix()
        for path in walk(folder)
        if _is_raster(path)
        and path not in known
        and not known.intersection(path.parents)
    ]


def first_names(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
