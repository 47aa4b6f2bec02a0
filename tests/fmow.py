"""A small fMoW-Sentinel in the layout of its archive: CSV tables and GeoTIFF files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.raster_files import write_tiff

COLUMNS = ("", "category", "location_id", "image_id", "timestamp", "polygon")
FILE_BANDS = 13
Row = tuple[str, str, int, int]


def rows_of(split: str, categories: Sequence[str], locations: int = 2) -> list[Row]:
    """Two dates of each place; places are numbered apart in each split."""
    first = {"train": 0, "val": 100, "test_gt": 200}[split]
    return [
        (split, category, first + location, image)
        for category in categories
        for location in range(locations)
        for image in (3, 101)
    ]


def name_of(row: Row) -> str:
    split, category, location, image = row
    place = f"{category}_{location}"
    return f"{split}/{category}/{place}/{place}_{image}.tif"


def write_image(root: Path, row: Row, number: int, bands: int = FILE_BANDS) -> Path:
    """Write an image whose size, place and pixels follow from its number."""
    rng = np.random.default_rng(number)
    shape = (bands, 40 + number % 5, 44 + number % 3)
    pixels = rng.integers(300, 3000, shape).astype(np.uint16)
    pixels[0] = 1000 + number
    # Dates of one place lie at one corner.
    corner = (500_000.0 + 5_000 * row[2], 4_000_000.0 - 9_000 * len(row[1]))
    return write_tiff(root / "fmow-sentinel" / name_of(row), pixels, corner=corner)


def write_tables(root: Path, rows: Sequence[Row]) -> None:
    for split in dict.fromkeys(row[0] for row in rows):
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for number, row in enumerate(r for r in rows if r[0] == split):
                stamp, shape = "2017-04-01T00:00:00Z", "POLYGON ((0 0, 1 0, 1 1, 0 0))"
                writer.writerow([number, *row[1:], stamp, shape])


def write_fmow(
    root: Path,
    categories: Sequence[str] = ("airport", "multi-unit_residential", "zoo"),
) -> list[Row]:
    """Write a sound archive; returns what is in it."""
    rows = [
        r for split in ("train", "val", "test_gt") for r in rows_of(split, categories)
    ]
    for number, row in enumerate(rows):
        write_image(root, row, number)
    write_tables(root, rows)
    return rows
