"""fMoW-Sentinel: Sentinel-2 images at the places of Functional Map of the World.

Three CSV files list the images; where an image lies follows from its category and two
numbers, and from nothing else that a CSV says.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.archives.registry import load_archive
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.label_files import first_names
from spectralgpt.data.listings import read_rows
from spectralgpt.data.samples import SINGLE_LABEL, Sample, SampleSet
from spectralgpt.data.sources import refuse_if_bad
from spectralgpt.errors import DataError, DatasetNotFoundError, SpectralGPTError
from spectralgpt.rasters import FILE_SIZES

logger = logging.getLogger(__name__)

SENSOR = "sentinel-2-l1c"
# The archive's README calls them B8A and B8B, after B7, in order of wavelength.
FILE_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07"),
    *("B08", "B8A", "B09", "B10", "B11", "B12"),
)
_FORMAT = ImageFormat(
    sensor=SENSOR,
    bands=FILE_BANDS,
    unit="digital-numbers",
    offset=0.0,  # 2015 to 2019, before processing baseline 04.00.
    quantification=10_000.0,
    sizes=FILE_SIZES,
)
_FOLDER = "fmow-sentinel"
_SPLITS = {"train": "train", "val": "val", "test_gt": "test"}
_COLUMNS = ("category", "location_id", "image_id")
_NUMBER = re.compile(r"\d+")
_MAX_BAD_SHARE = 0.1


def categories() -> tuple[str, ...]:
    """Return the 62 classes in the order of their names."""
    return load_archive("fmow-sentinel2").classes


@dataclass(frozen=True)
class FmowRow:
    """A row of one of the tables.

    Args:
        category: class, as it stands there.
        location: number of the place within its category.
        image: number of the image at its place.
        split: train, val or test.
        folder: that holds the archive's folders of splits.
        table: name of the table's file without its ending.
    """

    category: str
    location: str
    image: str
    split: str
    folder: Path
    table: str

    @property
    def is_sound(self) -> bool:
        """Whether it names a known class and two numbers: only then there is a path."""
        numbers = (self.location, self.image)
        return self.category in categories() and all(map(_NUMBER.fullmatch, numbers))

    @property
    def place(self) -> str:
        """Name of the place, which all its dates share."""
        return f"{self.category}_{self.location}"

    @property
    def name(self) -> str:
        """Path under the folder of splits."""
        return (
            f"{self.table}/{self.category}/{self.place}/{self.place}_{self.image}.tif"
        )

    @property
    def path(self) -> Path:
        """The image's file."""
        assert self.is_sound, self
        return self.folder / self.name


def read_fmow_rows(root: Path) -> list[FmowRow]:
    """Read the tables that are there, train.csv, val.csv and test_gt.csv.

    Raises:
        DatasetNotFoundError: there is none.
        DataError: one lacks a column or cannot be read.
    """
    inner = root / _FOLDER
    folder = inner if inner.is_dir() else root
    rows = []
    for name, split in _SPLITS.items():
        tables = [f / f"{name}.csv" for f in (root, inner)]
        table = next((table for table in tables if table.is_file()), None)
        if table is not None:
            rows += [
                FmowRow(
                    row["category"] or "",
                    row["location_id"] or "",
                    row["image_id"] or "",
                    split,
                    folder,
                    name,
                )
                for row in read_rows(table, _COLUMNS)
            ]
    if not rows:
        raise DatasetNotFoundError(
            f"fMoW-Sentinel is not at {root}: there is no train.csv, val.csv or "
            "test_gt.csv with rows. Put them beside the folder fmow-sentinel."
        )
    return rows


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
    rows = read_fmow_rows(root)
    unsound = [row.name for row in rows if not row.is_sound]
    if unsound:
        raise DataError(
            f"{root}: {len(unsound)} rows name no known class or no numbers "
            f"({first_names(unsound)}). spectralgpt data check lists them."
        )
    there = [row for row in rows if row.path.is_file()]
    if not there:
        raise DatasetNotFoundError(
            f"None of the {len(rows)} images listed at {root} is on disk, such as "
            f"{rows[0].path}."
        )
    if len(there) < len(rows):
        logger.warning(
            "%d of %d images are not on disk.", len(rows) - len(there), len(rows)
        )
    names = categories()
    index = {name: i for i, name in enumerate(names)}
    samples, problems = [], []
    for row in there:
        try:
            item = _FORMAT.describe(row.path)
        except SpectralGPTError as error:
            problems.append(str(error))
        else:
            labels = (index[row.category],)
            samples.append(Sample((item,), labels, split=row.split, place=row.place))
    refuse_if_bad(f"fMoW-Sentinel at {root}", problems, len(there), _MAX_BAD_SHARE)
    source = f"fMoW-Sentinel at {root}"
    return SampleSet(
        tuple(samples), names, SINGLE_LABEL, source, stated=_FORMAT.of_files
    )
