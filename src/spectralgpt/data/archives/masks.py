"""The inventory of images with masks, as `spectralgpt.data.dense` lists them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectralgpt.config import build_config
from spectralgpt.data.archives.inventory import Entry, Fault, FaultKind, Inventory
from spectralgpt.data.classes import ClassTable, name_classes
from spectralgpt.data.dense import DenseDataConfig
from spectralgpt.data.dense.archives import list_oscd, list_segmunich, segmunich_classes
from spectralgpt.data.dense.files import Entry as DenseEntry
from spectralgpt.data.dense.files import list_folders, list_table
from spectralgpt.data.dense.reading import FitError, describe_entries
from spectralgpt.data.listings import Candidate
from spectralgpt.errors import DataError, DatasetNotFoundError

__all__ = ["has_masks", "list_masks", "mask_config"]

_LAYOUTS = ("folders", "segmunich", "oscd")


def has_masks(table: Mapping[str, Any]) -> bool:
    """Whether settings of labelled data are of images with masks."""
    return "task" in table or table.get("layout") in _LAYOUTS


def mask_config(table: Mapping[str, Any], root: str, where: str) -> DenseDataConfig:
    """Make the settings of images with masks.

    Args:
        table: keys and values as in YAML.
        root: folder of the images, in place of that in the table.
        where: file or archive, for messages.

    Raises:
        ConfigError: a key or value is wrong.
    """
    return build_config(dict(table) | {"root": root}, DenseDataConfig, where)


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
        listed, classes = _list(root, config)
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


def _list(
    root: Path, config: DenseDataConfig
) -> tuple[list[DenseEntry], ClassTable | None]:
    if config.layout == "segmunich":
        return list_segmunich(root), segmunich_classes()
    if config.layout == "oscd":
        return list_oscd(root)
    is_table = config.layout == "csv"
    listed = list_table(root, config) if is_table else list_folders(root, config)
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
