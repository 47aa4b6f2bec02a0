"""Labels fall on the right cells, and no rectangle is in two splits."""

import json
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.demo.imagery import CellLabels, Imagery
from spectralgpt.errors import DataError


@pytest.fixture(scope="module")
def imagery() -> Imagery:
    return Imagery.shipped()


def feature(left: float, top: float, right: float, bottom: float) -> dict[str, object]:
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": {"class": "a"}, "geometry": geometry}


def write(path: Path, *features: dict[str, object]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_shipped_labels_cover_the_scene_and_both_sides_of_the_split(
    imagery: Imagery,
) -> None:
    assert imagery.labels is not None
    labels = CellLabels.read(imagery.labels, imagery, 8)
    assert labels.classes.shape == (80, 80)
    assert len(labels.class_names) == 6
    assert labels.rectangles.max() + 1 == 96
    for name in labels.class_names:
        for split in ("train", "val", "test"):
            cells, rectangles = labels.count(split, name)
            assert cells >= rectangles >= 1


def test_only_the_held_out_strip_tests(imagery: Imagery) -> None:
    assert imagery.labels is not None
    labels = CellLabels.read(imagery.labels, imagery, 8)
    rows = np.unique(np.nonzero(labels.split == "test")[0])
    assert rows.min() >= 24
    assert rows.max() < 48
    inside = labels.split[24:48]
    assert set(np.unique(inside)) == {"", "test"}


def test_a_rectangle_is_in_one_split_only(imagery: Imagery) -> None:
    assert imagery.labels is not None
    labels = CellLabels.read(imagery.labels, imagery, 8)
    for number in range(labels.rectangles.max() + 1):
        assert len(np.unique(labels.split[labels.rectangles == number])) == 1


def test_labels_agree_with_what_pixels_must_show(imagery: Imagery) -> None:
    """Water is darker in the near infrared than anything, sand brightest in red."""
    from spectralgpt.demo import run
    from spectralgpt.preprocessing import sensor_preprocessing

    assert imagery.labels is not None
    labels = CellLabels.read(imagery.labels, imagery, 8)
    contract = sensor_preprocessing("sentinel-2-l1c", ["B04", "B08"])
    spectra = run._mean_spectra(imagery.read_pixels(contract), 8)
    red, near_infrared = spectra[..., 0], spectra[..., 1]

    def of(values: np.ndarray, name: str) -> np.ndarray:
        return values[labels.classes == labels.class_names.index(name)]

    index = (near_infrared - red) / (near_infrared + red)
    assert np.median(of(index, "open water")) < -0.1
    assert np.median(of(index, "forest")) > 0.4
    assert np.median(of(index, "green field")) > 0.4
    assert of(red, "sand").min() > of(red, "bare or stubble field").max() * 0.8
    assert of(red, "forest").max() < np.median(of(red, "green field")) * 1.5


def test_rectangle_lands_on_its_cells(tmp_path: Path, imagery: Imagery) -> None:
    # Two cells to the right, one down, from the north-west corner: 80 m each.
    path = write(tmp_path / "l.geojson", feature(442420, 4174840, 442500, 4174680))
    labels = CellLabels.read(path, imagery, 8)
    rows, columns = np.nonzero(labels.classes >= 0)
    assert rows.tolist() == [1, 2]
    assert columns.tolist() == [2, 2]


def test_rectangles_off_the_grid_or_across_strips_are_refused(
    tmp_path: Path, imagery: Imagery
) -> None:
    off = write(tmp_path / "off.geojson", feature(442265, 4174920, 442345, 4174840))
    with pytest.raises(DataError, match="grid of 8 px"):
        CellLabels.read(off, imagery, 8)
    top = 4174920 - 1840
    across = write(tmp_path / "across.geojson", feature(442260, top, 442340, top - 160))
    with pytest.raises(DataError, match="crosses strips"):
        CellLabels.read(across, imagery, 8)
