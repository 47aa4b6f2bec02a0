from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.overlaps import count_overlaps, footprint_of
from spectralgpt.rasters import describe_raster
from tests.raster_files import LEFT, TOP, write_tiff


def square(tmp_path: Path, column: int, row: int = 0) -> tuple[float, ...] | None:
    """The footprint of a 16 px image, columns and rows of 10 m from one corner."""
    path = tmp_path / f"{column}_{row}.tif"
    corner = (LEFT + 10 * column, TOP - 10 * row)
    pixels = np.ones((1, 16, 16), np.uint16)
    write_tiff(path, pixels, corner=corner, descriptions=["B04"])
    return footprint_of(describe_raster(path, "sentinel-2-l2a", offset=0))


def test_shared_pixels_count_and_neighbours_do_not(tmp_path: Path) -> None:
    images = [
        ("train", "", square(tmp_path, 0)),
        ("test", "", square(tmp_path, 16)),  # shares an edge
        ("test", "", square(tmp_path, 8, 8)),  # shares a quarter
        ("test", "", square(tmp_path, 500)),
        ("val", "", square(tmp_path, 501)),
    ]
    assert count_overlaps(images) == {
        "train / val": 0,
        "train / test": 1,
        "val / test": 1,
    }


def test_names_of_places_count_too() -> None:
    images = [("train", "a", None), ("test", "a", None), ("test", "b", None)]
    assert count_overlaps(images) == {"train / test": 1}


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_nothing_is_said_where_nothing_is_known(splits: tuple[str, str]) -> None:
    assert count_overlaps([(split, "", None) for split in splits]) == {}
