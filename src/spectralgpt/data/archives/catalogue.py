"""The inventory of each archive of the registry, by its layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectralgpt.data.archives.inventory import (
    Entry,
    Fault,
    FaultKind,
    Inventory,
    count_doubles,
    list_csv,
    list_folders,
    list_unlabelled,
)
from spectralgpt.data.archives.registry import Archive
from spectralgpt.data.bigearthnet import (
    class_names,
    folder_of_patch,
    patches_of_version_1,
    splits_of_version_1,
)
from spectralgpt.data.fmow import FmowRow, categories, read_fmow_rows
from spectralgpt.data.listings import Candidate, read_parquet
from spectralgpt.data.samples import SPLITS
from spectralgpt.data.sources import Source, find_root
from spectralgpt.errors import DatasetNotFoundError
from spectralgpt.files import read_json, read_text
from spectralgpt.rasters import glob_folder, walk

_METADATA_V1 = "_labels_metadata.json"
_METADATA_V2 = "metadata.parquet"
_MAPS = "Reference_Maps"
_CORINE_CODES = frozenset(
    (
        *(111, 112, 121, 122, 123, 124, 131, 132, 133, 141, 142),
        *(211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244),
        *(311, 312, 313, 321, 322, 323, 324, 331, 332, 333, 334, 335),
        *(411, 412, 421, 422, 423, 511, 512, 521, 522, 523),
        *(0, 999),
    )
)
"""Classes of CORINE land cover 2018, level 3, and unlabelled pixels."""
_SPLITS_V2 = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def take_inventory(
    archive: Archive, source: Source, root: Path, labels: Mapping[str, Any]
) -> Inventory:
    """List what an archive says it has, and what is there.

    Args:
        archive: of the registry.
        source: description of its images.
        root: its folder.
        labels: settings of its labels, such as the name of a table.

    Raises:
        DatasetNotFoundError: nothing of it is at root.
        DataError: a table cannot be read at all.
    """
    if not root.is_dir():
        raise DatasetNotFoundError(f"There is no folder {root}.")
    layout = labels.get("layout")
    names = tuple(labels.get("class_names") or archive.classes)
    if layout == "csv":
        return list_csv(root / labels.get("labels", "labels.csv"), names)
    if layout == "folder":
        return _refuse_empty(list_folders(root, names), archive, root)
    if layout == "eurosat":
        lists = _read_eurosat_lists(root)
        inventory = list_folders(find_root(source, root), names, lists)
        return _refuse_empty(inventory, archive, root)
    if layout == "fmow-sentinel2":
        return _list_fmow(root)
    if layout == "bigearthnet":
        is_first = archive.name == "bigearthnet-v1"
        return (
            _list_bigearthnet_1(root) if is_first else _list_bigearthnet_2(root, source)
        )
    return list_unlabelled(source, root, _read_hyspecnet_lists(root))


def _refuse_empty(inventory: Inventory, archive: Archive, root: Path) -> Inventory:
    if not inventory.entries and not inventory.faults:
        raise DatasetNotFoundError(
            f"{root} holds no images in the layout of {archive.name}:\n{archive.layout}"
        )
    return inventory


def _read_eurosat_lists(root: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in SPLITS:
        path = root / f"eurosat-{split}.txt"
        if path.is_file():
            lines = read_text(path).split()
            splits |= {Path(line).stem: split for line in lines}
    return splits


def _read_hyspecnet_lists(root: Path) -> dict[str, str]:
    """Read the lists that keep tiles together: TILE/PATCH/PATCH-DATA.npy a line."""
    splits: dict[str, str] = {}
    for folder in (root / "hyspecnet-11k" / "splits", root / "splits"):
        for split in SPLITS:
            path = folder / "hard" / f"{split}.csv"
            if path.is_file():
                lines = read_text(path).split()
                splits |= {Path(line).parent.name: split for line in lines}
    return splits


def _list_fmow(root: Path) -> Inventory:
    entries: list[Entry] = []
    faults: list[Fault] = []
    known = set(categories())
    for row in read_fmow_rows(root):
        if row.category not in known:
            fault = Fault(FaultKind.UNKNOWN_CLASS, _shown(row), row.category)
        elif not row.is_sound:
            fault = Fault(FaultKind.OUTSIDE, _shown(row), "ids must be numbers")
        elif not row.path.is_file():
            fault = Fault(FaultKind.NO_IMAGE, row.name)
        else:
            image = Candidate(row.name, row.path)
            entries.append(Entry(image, (row.category,), row.split, row.place))
            continue
        faults.append(fault)
    faults += count_doubles(entry.image.name for entry in entries)
    listed = {entry.image.path for entry in entries}
    folders = {row.folder / row.table for row in read_fmow_rows(root)}
    others = sum(
        path.suffix == ".tif" and path not in listed
        for folder in folders
        if folder.is_dir()
        for path in walk(folder)
    )
    # Images that failed to download are kept, and left out of the tables.
    notes = [f"{others} files are in no table, as the archive says"] if others else []
    return Inventory(tuple(entries), tuple(faults), categories(), tuple(notes))


def _shown(row: FmowRow) -> str:
    return f"{row.table}.csv: {row.category},{row.location},{row.image}"


def _list_bigearthnet_1(root: Path) -> Inventory:
    splits = splits_of_version_1(root)
    entries: list[Entry] = []
    faults: list[Fault] = []
    known = set(class_names(43))
    patches = patches_of_version_1(root, with_labels=False)
    if not patches:
        raise DatasetNotFoundError(f"There are no BigEarthNet patches at {root}.")
    for patch in patches:
        path = patch / f"{patch.name}{_METADATA_V1}"
        try:
            labels = tuple(read_json(path)["labels"])
        except OSError:
            faults.append(Fault(FaultKind.NO_LABEL, patch.name, f"no {path.name}"))
            continue
        except (ValueError, KeyError, TypeError):
            faults.append(Fault(FaultKind.NO_LABEL, patch.name, "labels unreadable"))
            continue
        unknown = sorted(set(map(str, labels)) - known)
        if unknown:
            faults.append(
                Fault(FaultKind.UNKNOWN_CLASS, patch.name, ", ".join(unknown))
            )
            continue
        split = splits.get(patch.name, "")
        entries.append(Entry(Candidate(patch.name, patch), labels, split))
    there = {patch.name for patch in patches}
    faults += [Fault(FaultKind.NO_IMAGE, name) for name in splits if name not in there]
    return Inventory(tuple(entries), tuple(faults), class_names(43))


def _list_bigearthnet_2(root: Path, source: Source) -> Inventory:
    folder = find_root(source, root)
    there = {path.name: path for path in glob_folder(folder, "*/*") if path.is_dir()}
    maps = {
        path.name.removesuffix("_reference_map.tif"): path
        for path in glob_folder(root / _MAPS, "*/*/*_reference_map.tif")
    }
    rows, faults = _rows_of_version_2(root, list(there))
    entries: list[Entry] = []
    known = set(class_names(19))
    for name, labels, split in rows:
        path = folder_of_patch(root, name)
        unknown = sorted(set(labels) - known)
        if unknown:
            faults.append(Fault(FaultKind.UNKNOWN_CLASS, name, ", ".join(unknown)))
        elif split and split not in _SPLITS_V2:
            faults.append(Fault(FaultKind.UNKNOWN_SPLIT, name, split))
        elif name not in there:
            faults.append(Fault(FaultKind.NO_IMAGE, name))
        else:
            if maps and name not in maps:
                faults.append(Fault(FaultKind.NO_LABEL, name, "no reference map"))
            image = Candidate(path.relative_to(root).as_posix(), path)
            mask = maps.get(name)
            split = _SPLITS_V2.get(split, "")
            entries.append(Entry(image, labels, split, "", mask, _CORINE_CODES))
    listed = {name for name, _, _ in rows}
    faults += [Fault(FaultKind.NO_LABEL, n) for n in there if n not in listed]
    faults += [Fault(FaultKind.NO_IMAGE, m, "map") for m in maps if m not in there]
    faults += count_doubles(name for name, _, _ in rows)
    return Inventory(tuple(entries), tuple(faults), class_names(19))


def _rows_of_version_2(
    root: Path, there: list[str]
) -> tuple[list[tuple[str, tuple[str, ...], str]], list[Fault]]:
    """Read (patch, labels, split); without the table, the patches without labels."""
    path = root / _METADATA_V2
    if not path.is_file():
        fault = Fault(FaultKind.NO_TABLE, _METADATA_V2, "labels and splits are unknown")
        return [(name, (), "") for name in there], [fault]
    _, table = read_parquet(path, ("patch_id", "labels", "split"))
    return [
        (str(row["patch_id"]), tuple(row["labels"] or ()), str(row["split"]))
        for row in table
    ], []
