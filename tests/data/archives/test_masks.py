"""What a check finds of images with masks before training does."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from spectralgpt.data.archives.checks import CheckOptions, check_archive
from spectralgpt.data.listings import FaultKind
from spectralgpt.rasters import Stated
from tests.raster_files import S2_L2A, write_tiff
from tests.toy import SENSOR, write_archive


def write_pairs(root: Path, shifts: dict[str, float]) -> Path:
    """Pairs of dates; the second lies so many of its pixels further right."""
    rng = np.random.default_rng(0)
    for number, (name, shift) in enumerate(shifts.items()):
        for folder, moved in (("before", 0.0), ("after", 10.0 * shift)):
            pixels = rng.integers(200, 3000, (12, 24, 24)).astype(np.uint16)
            path = root / folder / f"{name}.tif"
            corner = (500_000 + 9000.0 * number + moved, 4_000_000)
            write_tiff(path, pixels, descriptions=S2_L2A, corner=corner)
        codes = np.zeros((1, 24, 60), np.uint8)
        codes[:, :12] = 1
        corner = (500_000 + 9000.0 * number, 4_000_000)
        write_tiff(root / "masks" / f"{name}.tif", codes, corner=corner)
    described = root / "pairs.yaml"
    described.write_text(
        "task: change\nroot: .\nsensor: sentinel-2-l2a\noffset: 0\n"
        "classes: {same: 0, changed: 1}\n"
    )
    return described


def test_pairs_that_training_refuses_are_faults_and_others_are_not(
    tmp_path: Path,
) -> None:
    shifts = {"a": 0, "b": 3, "c": 2.4, "d": 0, "e": 6.7, "f": 1}
    found = check_archive(str(write_pairs(tmp_path, shifts)))
    assert [(fault.kind, fault.name) for fault in found.faults] == [
        (FaultKind.APART, "c"),
        (FaultKind.APART, "e"),
    ]
    assert "up to 2.4 px apart" in found.faults[0].detail
    sound = dict.fromkeys("abcd", 2.0)
    checked = check_archive(str(write_pairs(tmp_path / "sound", sound)))
    assert checked.faults == ()
    # Two dates of a place are meant to show the same ground.
    assert checked.num_overlapping == 0


def test_what_training_refuses_of_a_whole_set_is_a_fault(tmp_path: Path) -> None:
    described = write_pairs(tmp_path, {"a": 0, "b": 0})
    (fault,) = check_archive(str(described)).faults
    assert fault.kind == FaultKind.REFUSED
    assert "2 places, too few for the splits" in fault.detail
    root = write_archive(tmp_path / "own", per_class=4)
    own = tmp_path / "own.yaml"
    own.write_text(
        f"layout: folder\nroot: {root}\nsensor: {SENSOR}\noffset: 0\nsplit: given\n"
    )
    (fault,) = check_archive(str(own)).faults
    assert "12 of 12 images have no split" in fault.detail


@pytest.mark.parametrize(
    ("classes", "positive", "says"),
    [
        ("{a: 0, b: 1}", None, "cannot be told from their names"),
        ("{same: 0, changed: 1}", "lake", "the classes are changed, same"),
    ],
)
def test_a_class_of_scores_that_nobody_can_tell_is_a_fault(
    tmp_path: Path, classes: str, positive: str | None, says: str
) -> None:
    described = write_pairs(tmp_path, dict.fromkeys("wxyz", 0.0))
    settings = yaml.safe_load(described.read_text())
    settings |= {"classes": yaml.safe_load(classes), "positive": positive}
    described.write_text(yaml.safe_dump(settings))
    (fault,) = check_archive(str(described)).faults
    assert fault.kind == FaultKind.REFUSED
    assert says in fault.detail


def test_what_training_refuses_is_found_without_a_file_of_settings(
    tmp_path: Path,
) -> None:
    root = write_archive(tmp_path, per_class=1)
    for kind in ("water", "forest"):
        (root / kind / f"{kind}_000.tif").unlink()
    options = CheckOptions(stated=Stated(sensor=SENSOR, offset=0.0))
    (fault,) = check_archive("folder", root, options).faults
    assert "too few for the splits" in fault.detail
