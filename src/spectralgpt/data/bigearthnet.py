"""BigEarthNet, versions 1 and 2: patches of one file a band, with several labels each.

TorchGeo downloads and names the classes; the rasters are read in their native
resolutions by our reader.
"""

import csv
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import read_parquet
from spectralgpt.data.samples import MULTI_LABEL, SPLITS, Sample, SampleSet
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.files import read_json, read_text

logger = logging.getLogger(__name__)

SENSOR = "sentinel-2-l2a"
# Tiles of 2017 and 2018. Version 2 was reprocessed (N9999 in its names), without an
# offset: its darkest pixels lie far below the 1000 that one would add.
_FORMAT = ImageFormat(
    sensor=SENSOR,
    unit="digital-numbers",
    offset=0.0,
    quantification=10_000.0,
    sizes={10.0: 120, 20.0: 60, 60.0: 20},
)
_FOLDER_V1 = "BigEarthNet-v1.0"
_FOLDER_V2 = "BigEarthNet-S2"
_METADATA_V1 = "_labels_metadata.json"
_PATCH_V1 = "S2"
_PATCH_ID = re.compile(r"S2[A-Z]_\w+\Z")
_METADATA_V2 = "metadata.parquet"
_SPLIT_V2 = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def read_bigearthnet(
    root: Path, num_classes: Literal[19, 43] = 19, download: bool = False
) -> SampleSet:
    """Read the Sentinel-2 patches at a folder, whichever version they are.

    Version 2 is told by its `metadata.parquet`. Version 1 has a JSON in each patch
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
    if (
        not (root / _METADATA_V2).is_file()
        and not patches_of_version_1(root)
        and download
    ):
        from torchgeo.datasets import BigEarthNetV2

        BigEarthNetV2(root=str(root), split="train", bands="s2", download=True)
    if (root / _METADATA_V2).is_file():
        return _read_v2(root, num_classes)
    return _read_v1(root, num_classes)


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of the 19 or 43 classes in their published order."""
    from torchgeo.datasets import BigEarthNet

    return tuple(BigEarthNet.class_sets[num_classes])


def to_19_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Map names of the 43 classes to those of the 19; eleven have no counterpart.

    Source: Sumbul et al. 2021, BigEarthNet-MM, the 19-class nomenclature.
    """
    from torchgeo.datasets import BigEarthNet

    fine, coarse = class_names(43), class_names(19)
    indices = {BigEarthNet.label_converter.get(fine.index(name)) for name in labels}
    return tuple(coarse[index] for index in sorted(i for i in indices if i is not None))


def _read_v1(root: Path, num_classes: int) -> SampleSet:
    patches = patches_of_version_1(root)
    if not patches:
        raise DatasetNotFoundError(
            f"There are no BigEarthNet patches at {root} (looked for {_METADATA_V2}, "
            f"{_FOLDER_V1}/ and folders with *{_METADATA_V1})."
        )
    splits = splits_of_version_1(root)
    if splits:
        patches = [patch for patch in patches if patch.name in splits]
    names = class_names(num_classes)
    known = set(class_names(43))
    samples, without = [], 0
    for patch in patches:
        labels = _labels_v1(patch, known)
        kept = to_19_classes(labels) if num_classes == 19 else labels
        without += not kept
        indices = tuple(sorted(names.index(name) for name in kept))
        item = _FORMAT.describe(patch)
        samples.append(Sample((item,), indices, split=splits.get(patch.name, "")))
    if without:
        logger.warning(
            "%d of %d patches have none of the %d classes.",
            without,
            len(patches),
            num_classes,
        )
    source = f"BigEarthNet v1 at {root}"
    return SampleSet(
        tuple(samples), names, MULTI_LABEL, source, stated=_FORMAT.of_files
    )


def patches_of_version_1(root: Path, with_labels: bool = True) -> list[Path]:
    """List the patch folders of version 1, sorted.

    Args:
        root: the archive's folder, or one that holds the patch folders.
        with_labels: only those that hold their file of labels.
    """
    folder = root / _FOLDER_V1 if (root / _FOLDER_V1).is_dir() else root
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name.startswith(_PATCH_V1)
        if not with_labels or (path / f"{path.name}{_METADATA_V1}").is_file()
    ]


def splits_of_version_1(root: Path) -> dict[str, str]:
    """Read the public lists: patch name (first column) -> split."""
    splits = {}
    for split in SPLITS:
        table = root / f"bigearthnet-{split}.csv"
        if table.is_file():
            rows = csv.reader(read_text(table).splitlines())
            splits.update({row[0]: split for row in rows if row})
    return splits


def _labels_v1(patch: Path, known: set[str]) -> tuple[str, ...]:
    path = patch / f"{patch.name}{_METADATA_V1}"
    try:
        labels = tuple(read_json(path)["labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no list of labels: {error}.") from error
    unknown = set(labels) - known
    if unknown:
        raise DataError(f"{path} has unknown labels: {', '.join(sorted(unknown))}.")
    return labels


def _read_v2(root: Path, num_classes: int) -> SampleSet:
    if num_classes != 19:
        raise ConfigError(
            f"{root} is BigEarthNet version 2, which is labelled with 19 classes "
            f"(found: data.num_classes {num_classes})."
        )
    rows = _rows_v2(root / _METADATA_V2)
    names = class_names(num_classes)
    folders = {row["patch_id"]: folder_of_patch(root, row["patch_id"]) for row in rows}
    absent = {name for name, folder in folders.items() if not folder.is_dir()}
    if len(absent) == len(folders):
        raise DatasetNotFoundError(f"None of the patches of {root} is on disk.")
    if absent:
        logger.warning("%d of %d patches are not on disk.", len(absent), len(folders))
    samples = tuple(
        Sample(
            (_FORMAT.describe(folders[row["patch_id"]]),),
            tuple(sorted(names.index(name) for name in row["labels"])),
            split=_SPLIT_V2[row["split"]],
        )
        for row in rows
        if row["patch_id"] not in absent
    )
    source = f"BigEarthNet v2 at {root}"
    return SampleSet(samples, names, MULTI_LABEL, source, stated=_FORMAT.of_files)


def _rows_v2(path: Path) -> list[dict[str, Any]]:
    _, rows = read_parquet(path, ("patch_id", "labels", "split"))
    if not all(isinstance(row["labels"], list) for row in rows):
        raise DataError(f"{path} has a row without a list of labels.")
    known = set(class_names(19))
    labels = {str(name) for row in rows for name in row["labels"]} - known
    splits = {str(row["split"]) for row in rows} - set(_SPLIT_V2)
    # Names become paths, which may not leave the folder.
    names = {str(row["patch_id"]) for row in rows}
    patches = {name for name in names if not _PATCH_ID.match(name)}
    for what, unknown in (
        ("labels", labels),
        ("splits", splits),
        ("patch names", patches),
    ):
        if unknown:
            listed = ", ".join(sorted(map(str, unknown)))
            raise DataError(f"{path} has unknown {what}: {listed}.")
    return rows


def folder_of_patch(root: Path, patch_id: str) -> Path:
    """Patch folder: below one named after the tile, which lacks row and column."""
    tile = patch_id.rsplit("_", 2)[0]
    return root / _FOLDER_V2 / tile / patch_id
