"""Labels that lie in folders of classes or in a CSV.

Both listings give all images with their labels and the split that the files state, and
what is wrong; `labelled` splits the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import Entry, Fault, FaultKind, Listing, first_names
from spectralgpt.data.samples import MULTI_LABEL, SINGLE_LABEL, SPLITS, Sample
from spectralgpt.data.splits import split_folders, split_named
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.files import read_table, read_text
from spectralgpt.rasters import RASTER_SUFFIXES, list_folder, path_below, walk


def list_class_folders(
    root: Path, class_names: Sequence[str] = (), lists: Mapping[str, str] | None = None
) -> Listing:
    """List the images of a folder of classes, below folders of splits or not.

    Folders such as `validation` are the split that they name.

    Args:
        root: the folder.
        class_names: the classes that may be there; none takes what is there.
        lists: split by the name of an image without its ending; a note counts
            the images without one.

    Raises:
        DataError: two folders mean one split, or folders of images lie beside those of
            splits, so that it is in doubt what they are.
    """
    splits = split_folders(root)
    _refuse_beside(root, splits)
    splits = splits or {"": root}
    found: list[Entry | Fault] = []
    for parent in dict.fromkeys((root, *splits.values())):
        found += [
            Fault(FaultKind.NO_LABEL, _below(root, path), "in no folder of a class")
            for path in list_images(parent)
            if path.is_file()
        ]
    lists = lists or {}
    for split, parent in splits.items():
        for folder in filter(Path.is_dir, list_folder(parent)):
            if class_names and folder.name not in class_names:
                found.append(Fault(FaultKind.UNKNOWN_CLASS, _below(root, folder)))
                continue
            found += [
                Entry(
                    _below(root, path),
                    (path,),
                    (folder.name,),
                    split or lists.get(path.stem, ""),
                )
                for path in list_images(folder)
            ]
    notes = []
    if lists:
        entries = [each for each in found if isinstance(each, Entry)]
        there = {entry.path.stem for entry in entries}
        found += [
            Fault(FaultKind.NO_IMAGE, name, "in a split list")
            for name in lists
            if name not in there
        ]
        without = sum(entry.split == "" for entry in entries)
        notes = [f"{without} images are in no split list"] if without else []
    return Listing.of(found, class_names, notes)


def _refuse_beside(root: Path, splits: Mapping[str, Path]) -> None:
    beside = [
        path.name
        for path in list_folder(root)
        if splits and path.is_dir() and path not in splits.values()
        if any(map(_is_raster, walk(path)))
    ]
    if beside:
        raise DataError(
            f"{root} has folders of splits ({', '.join(splits)}) and beside them "
            f"{first_names(beside)}: call such a folder train, val or test, or "
            "move it away."
        )


def read_split_lists(
    files: Iterable[tuple[str, Path]], name_of: Callable[[Path], str] = lambda p: p.stem
) -> dict[str, str]:
    """Read an archive's lists of images: the split by the name of each.

    Args:
        files: split and list, an image's path per line; lists may be missing.
        name_of: name of an image by that path.
    """
    return {
        name_of(Path(line)): split
        for split, path in files
        if path.is_file()
        for line in read_text(path).split()
    }


def list_images(folder: Path) -> list[Path]:
    """List the rasters of a folder, sorted; a folder of band files is one raster."""
    return [
        path
        for path in list_folder(folder)
        if _is_raster(path)
        or (path.is_dir() and any(map(_is_raster, list_folder(path))))
    ]


def _is_raster(path: Path) -> bool:
    return path.suffix.lower() in RASTER_SUFFIXES and path.is_file()


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def number_samples(
    entries: Sequence[Entry], names: Sequence[str], image_format: ImageFormat
) -> tuple[Sample, ...]:
    """Describe labelled images; labels are numbered in the order of the names.

    Args:
        entries: images with labels, all of them among the names.
        names: all classes, in the order of their numbers.
        image_format: what is stated about the images.

    Raises:
        SpectralGPTError: an image cannot be described.
    """
    index = {name: i for i, name in enumerate(names)}
    return tuple(
        Sample(
            (image_format.describe(entry.path),),
            tuple(sorted({index[label] for label in entry.labels})),
            split=entry.split,
            place=entry.place,
        )
        for entry in entries
    )


def list_csv(
    table: Path, class_names: Sequence[str] = (), allow_unlisted: bool = False
) -> tuple[Listing, str]:
    """List the rows of a table of labels, and the images beside it that have none.

    Args:
        table: the CSV; its paths are relative to it and stay beneath it.
        class_names: the classes that may be there; none takes what is there.
        allow_unlisted: say nothing of images that have no row.

    Returns:
        What is listed, and the task: single-label or multi-label.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it lacks columns or rows, or cannot be read.
    """
    columns, rows = read_rows(table, "data.labels")
    if "image" not in columns or ("label" in columns) == ("labels" in columns):
        raise DataError(
            f"{table} needs the columns image and either label or labels (found: "
            f"{', '.join(columns) or 'none'})."
        )
    task = SINGLE_LABEL if "label" in columns else MULTI_LABEL
    files, faults = find_files(table, rows, ("image",))
    found: list[Entry | Fault] = [*faults]
    for row, own in zip(rows, files, strict=True):
        texts = [row["label"]] if task == SINGLE_LABEL else row["labels"].split(";")
        labels = tuple(name for text in texts if (name := text.strip()))
        if not labels:
            refusal = "rows have no label" if task == SINGLE_LABEL else ""
            found.append(Fault(FaultKind.NO_LABEL, row["image"], refusal=refusal))
        unknown = sorted({*labels} - {*class_names}) if class_names else []
        if unknown:
            detail = ", ".join(unknown)
            found.append(Fault(FaultKind.UNKNOWN_CLASS, row["image"], detail))
        elif own and (labels or task == MULTI_LABEL):
            path, split = own["image"], row.get("split", "")
            split = split_named(split) or split
            name = _below(table.parent, path)
            found.append(Entry(name, (path,), labels, split, row.get("place", "")))
    listing = Listing.of(found, class_names)
    if not allow_unlisted:
        refusal = "images have no row: add rows or set data.allow_unlisted true"
        known = {path for own in files for path in own.values()}
        unlisted = (
            Fault(FaultKind.NO_LABEL, _below(table.parent, path), refusal=refusal)
            for path in walk(table.parent)
            if _is_raster(path) and not known.intersection((path, *path.parents))
        )
        listing = replace(listing, faults=(*listing.faults, *unlisted))
    return listing, task


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
) -> tuple[list[dict[str, Path]], list[Fault]]:
    """Find the files of a table's rows; paths are relative to it and stay beneath it.

    Args:
        table: the CSV.
        rows: its rows.
        columns: those that name files.

    Returns:
        The files of each row by column, and what is wrong with paths and splits.

    Raises:
        DataError: there is no row.
    """
    if not rows:
        raise DataError(f"{table} has no rows.")
    empty, outside, missing = [], [], []
    found: list[dict[str, Path]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        for column in columns:
            text = row[column]
            path = path_below(table.parent, text)
            if not text or "\0" in text:
                empty.append(f"row {number + 2}, {column}")
            elif path is None:
                outside.append(text)
            elif not path.exists():
                missing.append(text)
            else:
                found[number][column] = path
    splits = [(row[columns[0]], row["split"]) for row in rows if row.get("split")]
    known = f"splits are unknown (known: {', '.join(SPLITS)})"
    below = f"paths lie outside {table.parent}"
    return found, [
        *(Fault(FaultKind.NO_IMAGE, each, "", "paths are empty") for each in empty),
        *(Fault(FaultKind.OUTSIDE, each, "", below) for each in outside),
        *(Fault(FaultKind.NO_IMAGE, each, "", "files are missing") for each in missing),
        *(
            Fault(FaultKind.UNKNOWN_SPLIT, name, split, known)
            for name, split in splits
            if split_named(split) is None
        ),
    ]
