from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.overlaps import Footprint, count_overlaps, footprint_of
from spectralgpt.rasters import Stated, describe_raster
from tests.raster_files import LEFT, TOP, write_tiff


def square(tmp_path: Path, column: int, row: int = 0) -> Footprint | None:
    """The footprint of a 16 px image, columns and rows of 10 m from one corner."""
    path = tmp_path / f"{column}_{row}.tif"
    corner = (LEFT + 10 * column, TOP - 10 * row)
    pixels = np.ones((1, 16, 16), np.uint16)
    write_tiff(path, pixels, corner=corner, descriptions=["B04"])
    return footprint_of(describe_raster(path, "sentinel-2-l2a", Stated(offset=0)))


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


def write_row(root: Path, step_px: int) -> Path:
    """Twenty chips of 16 px of two classes, one every `step_px` along a line."""
    for number in range(20):
        pixels = np.full((1, 16, 16), 900 + number, np.uint16)
        corner = (LEFT + 10 * step_px * number, TOP)
        path = root / "ab"[number % 2] / f"{number}.tif"
        write_tiff(path, pixels, corner=corner, descriptions=["B04"])
    return root


@pytest.mark.parametrize(("step_px", "is_said"), [(8, True), (16, False)])
def test_overlapping_chips_of_a_default_split_are_said_aloud(
    tmp_path: Path, step_px: int, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = LabelledDataConfig(
        root=str(write_row(tmp_path, step_px)), sensor="sentinel-2-l2a", offset=0.0
    )
    read_labelled(config)
    assert (
        "images show ground of other splits (train / val: " in caplog.text
    ) == is_said


def test_neighbours_on_a_turned_grid_do_not_overlap(tmp_path: Path) -> None:
    # Far from its zone's middle, a square of UTM is turned by degrees.
    corners = [(LEFT + 300_000, 7_000_000 - 160 * n) for n in range(2)]
    images = []
    for number, corner in enumerate(corners):
        pixels = np.ones((1, 16, 16), np.uint16)
        path = tmp_path / f"{number}.tif"
        write_tiff(path, pixels, corner=corner, descriptions=["B04"])
        area = footprint_of(describe_raster(path, "sentinel-2-l2a", Stated(offset=0)))
        images.append((("train", "test")[number], "", area))
    assert count_overlaps(images) == {"train / test": 0}


def test_copies_without_a_place_in_two_splits_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(900, 2000, (1, 16, 16)).astype(np.uint16)
        for part in (
            ("train", "test") if number == 3 else (("train", "test")[number % 2],)
        ):
            name = f"{part}_{number}.tif"
            path = tmp_path / part / "ab"[number % 3 > 0] / name
            write_tiff(path, pixels, crs=None, descriptions=["B04"])
    config = LabelledDataConfig(root=str(tmp_path), sensor="sentinel-2-l2a", offset=0.0)
    read_labelled(config)
    told = [r.getMessage() for r in caplog.records if "have the pixels" in r.message]
    assert len(told) == 1
    assert "1 images of other splits have the pixels of images of" in told[0]
    assert "test_3" in told[0]
    assert "train_3" in told[0]
