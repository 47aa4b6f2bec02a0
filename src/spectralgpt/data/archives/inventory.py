"""What an archive lists and what lies on disk, held against each other; opens no image.

Nothing here stops at the first mistake: each becomes a `Fault`. Images are read by
`spectralgpt.data.archives.findings`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from spectralgpt.data.classes import ClassTable, name_classes
from spectralgpt.data.dense import DenseDataConfig
from spectralgpt.data.dense.archives import list_oscd, list_segmunich, segmunich_classes
from spectralgpt.data.dense.entries import Entry as DenseEntry
from spectralgpt.data.dense.entries import list_folders as list_mask_folders
from spectralgpt.data.dense.entries import list_table
from spectralgpt.data.dense.sets import FitError, describe_entries
from spectralgpt.data.label_files import list_class_folders, list_unlisted
from spectralgpt.data.listings import Candidate, read_rows
from spectralgpt.data.sources import Source, find_root, place_of
from spectralgpt.data.sources import list_images as list_source
from spectralgpt.data.splits import split_named
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.rasters import path_below

_NO_CLASS = "in no folder of a class"


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
    """

    kind: FaultKind
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Entry:
    """An image of an archive, with what the archive says of it.

    Args:
        image: name and path.
        labels: names of its classes.
        split: train, val, test, or "" where the archive does not say.
        place: what it shows, as far as names tell; "" if they do not.
        mask: file with a class for each pixel.
        mask_codes: numbers that the mask may hold; None is any.
        mask_has_same_size: whether its pixels are those of the image's finest band;
            false where it is laid over the image by position.
    """

    image: Candidate
    labels: tuple[str, ...] = ()
    split: str = ""
    place: str = ""
    mask: Path | None = None
    mask_codes: frozenset[int] | None = None
    mask_has_same_size: bool = True


@dataclass(frozen=True)
class Inventory:
    """What is there.

    Args:
        entries: the images.
        faults: what is wrong with the listing.
        class_names: the classes in order; empty without labels.
        notes: what is worth knowing and no fault.
        code_names: class of each code in the masks, as far as it is known.
    """

    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    code_names: Mapping[int, str] = field(default_factory=dict)


def list_unlabelled(
    source: Source, root: Path, splits: dict[str, str] | None = None
) -> Inventory:
    """List the images of a description.

    Args:
        source: the description.
        root: data folder that its root is relative to.
        splits: split by the name of an image's folder, from the archive's lists.

    Raises:
        DatasetNotFoundError: the folder does not exist.
        DataError: there is no image, or an index is wrong.
    """
    splits = splits or {}
    folder = find_root(source, root)
    entries, faults, seen = [], [], set()
    for image in list_source(source, folder):
        name = image.path.parent.name
        seen.add(name)
        if not image.path.exists():
            faults.append(Fault(FaultKind.NOT_THERE, image.name))
            continue
        try:
            place = place_of(source, image.name)
        except ConfigError as error:
            faults.append(Fault(FaultKind.OUTSIDE, image.name, str(error)))
            continue
        place = "" if place == image.name else place
        entries.append(Entry(image, split=splits.get(name, ""), place=place))
    faults += [Fault(FaultKind.NOT_THERE, name) for name in splits if name not in seen]
    faults += count_doubles(entry.image.name for entry in entries)
    return Inventory(tuple(entries), tuple(faults))


def list_folders(
    root: Path, class_names: Sequence[str] = (), lists: dict[str, str] | None = None
) -> Inventory:
    """List images in folders of classes, below folders of splits or not.

    Args:
        root: the folder.
        class_names: the classes that may be there; none takes what is there.
        lists: split by the name of an image without its ending; images without one are
            told in a note.
    """
    try:
        listed = list_class_folders(root)
    except DataError as error:
        return Inventory((), (Fault(FaultKind.NO_MATCH, str(root), str(error)),))
    faults = [
        Fault(FaultKind.NO_LABEL, path.relative_to(root).as_posix(), _NO_CLASS)
        for path in listed.loose
    ]
    unknown = [
        folder
        for folder in listed.folders
        if class_names and folder.name not in class_names
    ]
    faults += [
        Fault(FaultKind.UNKNOWN_CLASS, folder.relative_to(root).as_posix())
        for folder in unknown
    ]
    entries = [
        Entry(
            Candidate(path.relative_to(root).as_posix(), path),
            (label,),
            split or (lists or {}).get(path.stem, ""),
        )
        for split, label, path in listed.images
        if path.parent not in unknown
    ]
    notes = []
    if lists:
        there = {entry.image.path.stem for entry in entries}
        absent = [name for name in lists if name not in there]
        faults += [
            Fault(FaultKind.NO_IMAGE, name, "in a split list") for name in absent
        ]
        without = sum(entry.split == "" for entry in entries)
        notes = [f"{without} images are in no split list"] if without else []
    found = sorted({label for entry in entries for label in entry.labels})
    names = tuple(class_names) or tuple(found)
    return Inventory(tuple(entries), tuple(faults), names, tuple(notes))


def list_csv(table: Path, class_names: Sequence[str] = ()) -> Inventory:
    """List the rows of a table of labels, and the images beside it that have none.

    Args:
        table: the CSV file; its paths are relative to its folder.
        class_names: the classes that may be there; none takes what is there.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it lacks columns, or cannot be read.
    """
    folder = table.parent
    entries: list[Entry] = []
    faults: list[Fault] = []
    listed: set[Path] = set()
    for image, labels, stated in _read_labels(table):
        path = path_below(folder, image)
        if path is None:
            faults.append(Fault(FaultKind.OUTSIDE, image))
            continue
        listed.add(path)
        fault = _fault_of_row(path, image, labels, class_names)
        if fault is not None:
            faults.append(fault)
            continue
        split = split_named(stated) if stated else ""
        if split is None:
            faults.append(Fault(FaultKind.UNKNOWN_SPLIT, image, stated))
        name = path.relative_to(folder).as_posix()
        entries.append(Entry(Candidate(name, path), labels, split or stated))
    faults += [
        Fault(FaultKind.NO_LABEL, name) for name in list_unlisted(folder, listed)
    ]
    faults += count_doubles(entry.image.name for entry in entries)
    found = sorted({label for entry in entries for label in entry.labels})
    return Inventory(tuple(entries), tuple(faults), tuple(class_names) or tuple(found))


def _read_labels(table: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Read (image, labels, split) of each row."""
    if not table.is_file():
        raise DatasetNotFoundError(f"There is no table of labels at {table}.")
    rows = read_rows(table, ("image",), optional=("label", "labels", "split"))
    read = []
    for row in rows:
        if row["label"] is None and row["labels"] is None:
            raise DataError(f"{table} has neither a column label nor labels. Add one.")
        texts = (
            [row["label"] or ""] if row["label"] else (row["labels"] or "").split(";")
        )
        labels = tuple(text.strip() for text in texts if text.strip())
        read.append(
            ((row["image"] or "").strip(), labels, (row["split"] or "").strip())
        )
    return read


def _fault_of_row(
    path: Path,
    image: str,
    labels: Sequence[str],
    class_names: Sequence[str],
) -> Fault | None:
    if not path.exists():
        return Fault(FaultKind.NO_IMAGE, image)
    if not labels:
        return Fault(FaultKind.NO_LABEL, image)
    unknown = sorted(set(labels) - set(class_names)) if class_names else []
    if unknown:
        return Fault(FaultKind.UNKNOWN_CLASS, image, ", ".join(unknown))
    return None


def list_masks(config: DenseDataConfig) -> Inventory:
    """List images with their masks.

    Raises:
        DatasetNotFoundError: nothing is there.
        ConfigError: the settings make no sense.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise DatasetNotFoundError(f"There is no folder {root}.")
    try:
        listed, classes = _list_with_masks(root, config)
    except DatasetNotFoundError:
        raise
    except DataError as error:
        # What does not match cannot be looked at together; the message counts it.
        text = " ".join(str(error).split())
        return Inventory((), (Fault(FaultKind.NO_MATCH, config.layout, text),))
    is_archive = config.layout in ("segmunich", "oscd")
    codes = frozenset((*classes.codes, *config.ignored)) if classes else None
    entries = [
        entry for chip in listed for entry in _entries_of(root, chip, codes, is_archive)
    ]
    faults = [] if is_archive else list(_misfits(listed, config))
    names = classes.names if classes else ()
    by_code = {c: names[i] for c, i in classes.codes.items()} if classes else {}
    return Inventory(tuple(entries), tuple(faults), tuple(names), (), by_code)


def _misfits(listed: Sequence[DenseEntry], config: DenseDataConfig) -> Iterator[Fault]:
    """Yield each place whose dates or masks training could not lay on each other."""
    for entry, found in zip(
        listed, describe_entries(listed, config, config.image_format()), strict=True
    ):
        # Images that cannot be described are told when each is looked at.
        if isinstance(found, FitError):
            yield Fault(FaultKind.APART, entry.name, " ".join(str(found).split()))


def _list_with_masks(
    root: Path, config: DenseDataConfig
) -> tuple[list[DenseEntry], ClassTable | None]:
    if config.layout == "segmunich":
        return list_segmunich(root), segmunich_classes()
    if config.layout == "oscd":
        return list_oscd(root)
    is_table = config.layout == "csv"
    listed = list_table(root, config) if is_table else list_mask_folders(root, config)
    if config.classes is None or config.class_masks is not None:
        return listed, None
    return listed, name_classes(config.classes, config.ignored)


def _entries_of(
    root: Path, chip: DenseEntry, codes: frozenset[int] | None, is_archive: bool
) -> list[Entry]:
    """One entry an image; the mask goes with the last date, which it describes."""
    entries = []
    for number, path in enumerate(chip.images):
        image = Candidate(path.relative_to(root).as_posix(), path)
        entry = Entry(image, split=chip.split, place=chip.place)
        if number == len(chip.images) - 1 and len(chip.masks) == 1:
            entry = replace(
                entry,
                mask=chip.masks[0],
                mask_codes=codes,
                mask_has_same_size=is_archive,
            )
        entries.append(entry)
    return entries


def count_doubles(names: Iterable[str]) -> list[Fault]:
    """Return a fault for each name that is listed more than once."""
    return [
        Fault(FaultKind.DUPLICATE, name, f"listed {count} times")
        for name, count in Counter(names).items()
        if count > 1
    ]
