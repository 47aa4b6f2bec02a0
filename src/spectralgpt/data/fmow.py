"""fMoW-Sentinel: Sentinel-2 images at the places of Functional Map of the World.

Three CSV files list the images; where an image lies follows from its category and two
numbers, and from nothing else that a CSV says.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path

from spectralgpt.data.archives.registry import load_archive
from spectralgpt.data.label_files import number_samples
from spectralgpt.data.listings import (
    Entry,
    Fault,
    FaultKind,
    Listing,
    read_rows,
    refuse_faults,
)
from spectralgpt.data.samples import SINGLE_LABEL, SampleSet
from spectralgpt.data.sources import format_of_archive, keep_good
from spectralgpt.errors import DatasetNotFoundError
from spectralgpt.rasters import walk

logger = logging.getLogger(__name__)

_FOLDER = "fmow-sentinel"
_SPLITS = {"train": "train", "val": "val", "test_gt": "test"}
_COLUMNS = ("category", "location_id", "image_id")
_NUMBER = re.compile(r"\d+")
_MAX_BAD_SHARE = 0.1
_REFUSAL = "rows name no known class or no numbers"


def _categories() -> tuple[str, ...]:
    """Return the 62 classes in the order of their names."""
    return load_archive("fmow-sentinel2").classes


def list_fmow(root: Path) -> Listing:
    """List what the tables name, and count the images that they do not.

    Raises:
        DatasetNotFoundError: there is no table.
        DataError: one lacks a column or cannot be read.
    """
    listing = Listing.of(_list_rows(root), _categories())
    listed = {entry.path for entry in listing.entries}
    folder = _folder_of(root)
    others = sum(
        path.suffix == ".tif" and path not in listed
        for name in _SPLITS
        if _find_table(root, name) and (folder / name).is_dir()
        for path in walk(folder / name)
    )
    # Images that failed to download are kept, and left out of the tables.
    notes = [f"{others} files are in no table, as the archive says"] if others else []
    return replace(listing, notes=tuple(notes))


def _list_rows(root: Path) -> list[Entry | Fault]:
    """List the rows of the tables that are there; an image is named by its path."""
    folder, known = _folder_of(root), set(_categories())
    found: list[Entry | Fault] = []
    for table, split in _SPLITS.items():
        path = _find_table(root, table)
        for row in read_rows(path, _COLUMNS) if path else []:
            category, location, image = (row[column] for column in _COLUMNS)
            place = f"{category}_{location}"
            name = f"{table}/{category}/{place}/{place}_{image}.tif"
            shown = f"{table}.csv: {category},{location},{image}"
            if category not in known:
                kind, detail = FaultKind.UNKNOWN_CLASS, category
                found.append(Fault(kind, shown, detail, _REFUSAL))
            elif not _NUMBER.fullmatch(location) or not _NUMBER.fullmatch(image):
                kind, detail = FaultKind.OUTSIDE, "ids must be numbers"
                found.append(Fault(kind, shown, detail, _REFUSAL))
            elif not (folder / name).is_file():
                found.append(Fault(FaultKind.NO_IMAGE, name))
            else:
                found.append(Entry(name, (folder / name,), (category,), split, place))
    if not found:
        raise DatasetNotFoundError(
            f"fMoW-Sentinel is not at {root}: there is no train.csv, val.csv or "
            "test_gt.csv with rows. Put them beside the folder fmow-sentinel."
        )
    return found


def _folder_of(root: Path) -> Path:
    """Return the folder that holds those of the splits."""
    return root / _FOLDER if (root / _FOLDER).is_dir() else root


def _find_table(root: Path, name: str) -> Path | None:
    tables = (folder / f"{name}.csv" for folder in (root, root / _FOLDER))
    return next(filter(Path.is_file, tables), None)


def read_fmow(root: Path) -> SampleSet:
    """Read fMoW-Sentinel with its own splits, and each image's size.

    Images that are not there or cannot be read are left out and counted.

    Args:
        root: folder of the CSV files, with `fmow-sentinel/SPLIT/...` or `SPLIT/...`.

    Raises:
        DatasetNotFoundError: there are no tables, or none of their images.
        DataError: a table is wrong, or more than a tenth of the images.

    Source: README of the archive, https://purl.stanford.edu/vg497cb6002.
    """
    found = _list_rows(root)
    faults = [each for each in found if isinstance(each, Fault)]
    refuse_faults(root, faults, " spectralgpt data check lists them.")
    entries = [each for each in found if isinstance(each, Entry)]
    if not entries:
        raise DatasetNotFoundError(
            f"None of the {len(found)} images listed at {root} is on disk, such as "
            f"{_folder_of(root) / faults[0].name}."
        )
    if faults:
        logger.warning("%d of %d images are not on disk.", len(faults), len(found))
    names, source = _categories(), f"fMoW-Sentinel at {root}"
    image_format = format_of_archive("fmow-sentinel2")
    described = keep_good(
        source,
        lambda entry: number_samples([entry], names, image_format),
        entries,
        _MAX_BAD_SHARE,
    )
    samples = tuple(sample for (sample,) in described)
    return SampleSet(samples, names, SINGLE_LABEL, source, stated=image_format.of_files)
