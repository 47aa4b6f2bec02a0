"""BigEarthNet, versions 1 and 2: patches of one file per band, several labels each.

TorchGeo downloads and names the classes; the rasters are read in their native
resolutions by our reader.
"""

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from spectralgpt.data.label_files import number_samples
from spectralgpt.data.listings import Entry, Fault, FaultKind, Listing, read_parquet
from spectralgpt.data.samples import MULTI_LABEL, SPLITS, SampleSet
from spectralgpt.data.sources import format_of_archive
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError, require
from spectralgpt.files import read_json, read_text
from spectralgpt.rasters import glob_folder

logger = logging.getLogger(__name__)

_FOLDER_V1 = "BigEarthNet-v1.0"
_FOLDER_V2 = "BigEarthNet-S2"
_METADATA_V1 = "_labels_metadata.json"
_PATCH_V1 = "S2"
_PATCH_ID = re.compile(r"S2[A-Z]_\w+\Z")
_METADATA_V2 = "metadata.parquet"
_MAPS = "Reference_Maps"
_SPLIT_V2 = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_REFUSED_V2 = (
    *("a row without a list of labels", "unknown labels: "),
    *("unknown splits: ", "unknown patch names: "),
)
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


def read_bigearthnet(
    root: Path, num_classes: Literal[19, 43] = 19, download: bool = False
) -> SampleSet:
    """Read the Sentinel-2 patches at a folder, whichever version they are.

    Version 2 is known by its `metadata.parquet`. Version 1 has a JSON in each patch
    folder and, in TorchGeo's layout, lists bigearthnet-train.csv and so on.

    Args:
        root: the archive's folder, or one that holds patch folders of version 1.
        num_classes: 19 (both versions) or 43 (version 1 only).
        download: fetch version 2 with TorchGeo if nothing is at root (it brings the
            Sentinel-1 patches and the maps along, over 100 GB).

    Raises:
        DatasetNotFoundError: there are no patches.
        DataError: a patch has no labels file, or an unknown label.
        ConfigError: 43 classes of version 2.
    """
    has_table = (root / _METADATA_V2).is_file()
    if download and not has_table and not _patches_v1(root):
        require("torchgeo")
        from torchgeo.datasets import BigEarthNetV2

        BigEarthNetV2(root=str(root), split="train", bands="s2", download=True)
    if (root / _METADATA_V2).is_file():
        return _read_v2(root, num_classes)
    return _read_v1(root, num_classes)


def list_bigearthnet(root: Path, is_first: bool) -> Listing:
    """List the patches of version 1 or 2, their labels, and the maps of version 2.

    Raises:
        DatasetNotFoundError: there are no patches of version 1.
        DataError: the table of version 2 cannot be read.
    """
    return _list_v1(root) if is_first else _list_v2(root)


def _class_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of the 19 or 43 classes in their published order."""
    require("torchgeo")
    from torchgeo.datasets import BigEarthNet

    return tuple(BigEarthNet.class_sets[num_classes])


def _to_19_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Map names of the 43 classes to those of the 19; eleven have no counterpart.

    Source: Sumbul et al. 2021, BigEarthNet-MM, the 19-class nomenclature.
    """
    require("torchgeo")
    from torchgeo.datasets import BigEarthNet

    fine, coarse = _class_names(43), _class_names(19)
    indices = {BigEarthNet.label_converter.get(fine.index(name)) for name in labels}
    return tuple(coarse[index] for index in sorted(i for i in indices if i is not None))


def _read_v1(root: Path, num_classes: int) -> SampleSet:
    patches = _patches_v1(root)
    if not patches:
        raise DatasetNotFoundError(
            f"There are no BigEarthNet patches at {root} (looked for {_METADATA_V2}, "
            f"{_FOLDER_V1}/ and folders with *{_METADATA_V1})."
        )
    splits = _splits_v1(root)
    if splits:
        patches = [patch for patch in patches if patch.name in splits]
    entries, without = [], 0
    for found in _list_patches_v1(patches, splits):
        if isinstance(found, Fault):
            raise DataError(found.refusal)
        kept = _to_19_classes(found.labels) if num_classes == 19 else found.labels
        without += not kept
        entries.append(replace(found, labels=kept))
    if without:
        logger.warning(
            "%d of %d patches have none of the %d classes.",
            without,
            len(patches),
            num_classes,
        )
    return _make_set(entries, num_classes, f"BigEarthNet v1 at {root}")


def _make_set(entries: Sequence[Entry], num_classes: int, source: str) -> SampleSet:
    names = _class_names(num_classes)
    # Both versions state the same; neither has an offset.
    image_format = format_of_archive("bigearthnet-v1")
    samples = number_samples(entries, names, image_format)
    return SampleSet(samples, names, MULTI_LABEL, source, stated=image_format.of_files)


def _list_v1(root: Path) -> Listing:
    """List all patches, and those of the split lists that are not there."""
    patches, splits = _patches_v1(root, with_labels=False), _splits_v1(root)
    if not patches:
        raise DatasetNotFoundError(f"There are no BigEarthNet patches at {root}.")
    there = {patch.name for patch in patches}
    absent = (Fault(FaultKind.NO_IMAGE, name) for name in splits if name not in there)
    return Listing.of([*_list_patches_v1(patches, splits), *absent], _class_names(43))


def _patches_v1(root: Path, with_labels: bool = True) -> list[Path]:
    """List the patch folders, sorted; or only those that hold their file of labels."""
    folder = root / _FOLDER_V1 if (root / _FOLDER_V1).is_dir() else root
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name.startswith(_PATCH_V1)
        if not with_labels or (path / f"{path.name}{_METADATA_V1}").is_file()
    ]


def _splits_v1(root: Path) -> dict[str, str]:
    """Read the public lists: patch name (first column) -> split."""
    splits = {}
    for split in SPLITS:
        table = root / f"bigearthnet-{split}.csv"
        if table.is_file():
            rows = csv.reader(read_text(table).splitlines())
            splits.update({row[0]: split for row in rows if row})
    return splits


def _list_patches_v1(
    patches: Iterable[Path], splits: Mapping[str, str]
) -> Iterator[Entry | Fault]:
    known = set(_class_names(43))
    for patch in patches:
        path = patch / f"{patch.name}{_METADATA_V1}"
        try:
            labels = tuple(map(str, read_json(path)["labels"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            is_absent = isinstance(error, OSError)
            detail = f"no {path.name}" if is_absent else "labels unreadable"
            refusal = f"{path} holds no list of labels: {error}."
            yield Fault(FaultKind.NO_LABEL, patch.name, detail, refusal)
            continue
        unknown = ", ".join(sorted({*labels} - known))
        if unknown:
            refusal = f"{path} has unknown labels: {unknown}."
            yield Fault(FaultKind.UNKNOWN_CLASS, patch.name, unknown, refusal)
        else:
            yield Entry(patch.name, (patch,), labels, splits.get(patch.name, ""))


def _read_v2(root: Path, num_classes: int) -> SampleSet:
    if num_classes != 19:
        raise ConfigError(
            f"{root} is BigEarthNet version 2, which is labelled with 19 classes "
            f"(found: data.num_classes {num_classes})."
        )
    found = list(_list_rows_v2(root))
    faults = [each for each in found if isinstance(each, Fault)]
    for what in _REFUSED_V2:
        details = {f.detail for f in faults if f.refusal == what}
        unknown = sorted({name for text in details for name in text.split(", ")})
        if unknown:
            raise DataError(f"{root / _METADATA_V2} has {what}{', '.join(unknown)}.")
    if len(faults) == len(found):
        raise DatasetNotFoundError(f"None of the patches of {root} is on disk.")
    if faults:
        logger.warning("%d of %d patches are not on disk.", len(faults), len(found))
    entries = [each for each in found if isinstance(each, Entry)]
    return _make_set(entries, num_classes, f"BigEarthNet v2 at {root}")


def _list_v2(root: Path) -> Listing:
    """List the patches of the table with their maps, and what is in no table."""
    there = {
        path.name: path
        for path in glob_folder(root / _FOLDER_V2, "*/*")
        if path.is_dir()
    }
    maps = {
        path.name.removesuffix("_reference_map.tif"): path
        for path in glob_folder(root / _MAPS, "*/*/*_reference_map.tif")
    }
    found: list[Entry | Fault] = []
    if (root / _METADATA_V2).is_file():
        rows = list(_list_rows_v2(root))
        listed = {r.name if isinstance(r, Fault) else r.path.name for r in rows}
        found += (Fault(FaultKind.NO_LABEL, name) for name in there.keys() - listed)
    else:
        rows = [_entry_v2(root, name) for name in there]
        detail = "labels and splits are unknown"
        found.append(Fault(FaultKind.NO_TABLE, _METADATA_V2, detail))
    for row in rows:
        if isinstance(row, Entry) and maps:
            name = row.path.name
            if name in maps:
                row = replace(row, masks=(maps[name],))
            else:
                found.append(Fault(FaultKind.NO_LABEL, name, "no reference map"))
        found.append(row)
    found += (Fault(FaultKind.NO_IMAGE, m, "map") for m in maps if m not in there)
    listing = Listing.of(found, _class_names(19))
    return replace(listing, mask_codes=_CORINE_CODES)


def _entry_v2(
    root: Path, name: str, labels: Sequence[str] = (), split: str = ""
) -> Entry:
    """A patch lies below a folder named after the tile, which lacks row and column."""
    path = root / _FOLDER_V2 / name.rsplit("_", 2)[0] / name
    return Entry(path.relative_to(root).as_posix(), (path,), tuple(labels), split)


def _list_rows_v2(root: Path) -> Iterator[Entry | Fault]:
    _, rows = read_parquet(root / _METADATA_V2, ("patch_id", "labels", "split"))
    known = set(_class_names(19))
    no_labels, unknown_labels, unknown_splits, unknown_names = _REFUSED_V2
    for row in rows:
        name, split = str(row["patch_id"]), str(row["split"])
        if not isinstance(row["labels"], list):
            yield Fault(FaultKind.NO_LABEL, name, refusal=no_labels)
        elif unknown := ", ".join(sorted({*map(str, row["labels"])} - known)):
            yield Fault(FaultKind.UNKNOWN_CLASS, name, unknown, unknown_labels)
        elif split not in _SPLIT_V2:
            yield Fault(FaultKind.UNKNOWN_SPLIT, name, split, unknown_splits)
        elif not _PATCH_ID.match(name):
            # Names become paths, which may not leave the folder.
            yield Fault(FaultKind.OUTSIDE, name, name, unknown_names)
        else:
            entry = _entry_v2(root, name, row["labels"], _SPLIT_V2[split])
            is_there = entry.path.is_dir()
            yield entry if is_there else Fault(FaultKind.NO_IMAGE, name)
