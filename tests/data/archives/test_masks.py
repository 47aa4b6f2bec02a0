"""What a check finds of images with masks before training does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from spectralgpt.data.archives.checks import CheckOptions, check_archive
from spectralgpt.data.listings import FaultKind
from spectralgpt.rasters import Stated, describe_raster, read_raster
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


def write_masked(root: Path, codes: dict[str, int], extra: str = "") -> Path:
    """Images that show a constant, and masks: a code above, class 0 below."""
    rng = np.random.default_rng(0)
    for number, (name, code) in enumerate(codes.items()):
        pixels = rng.integers(200, 3000, (12, 30, 40)).astype(np.uint16)
        mask = np.zeros((1, 30, 40), np.uint8)
        mask[:, :10], mask[:, 20:, 20:] = code, 255
        corner = (500_000 + 9000.0 * number, 4_000_000)
        for folder, numbers in (("images", pixels), ("masks", mask)):
            path = root / folder / f"{name}.tif"
            names = S2_L2A if folder == "images" else None
            write_tiff(path, numbers, descriptions=names, corner=corner)
    described = root / "own.yaml"
    described.write_text(
        "task: segmentation\nroot: .\nsensor: sentinel-2-l2a\noffset: 0\n"
        f"classes: {{water: 0, trees: 3}}\nignored: [255]\n{extra}"
    )
    return described


def test_masks_are_drawn_as_training_reads_them(tmp_path: Path) -> None:
    described = write_masked(tmp_path, dict.fromkeys("abcdefgh", 3))
    found = check_archive(str(described))
    assert found.masked is not None
    assert found.masked.class_names == ("water", "trees")
    names = [f"images/{name}.tif" for name in "abcdefgh"]
    assert sorted(found.as_table()["drawn"]) == names
    for _, _, (image,), mask in found.examples:
        assert image.pixels.shape == (12, 30, 40)
        assert (mask[:10] == 1).all()
        assert (mask[10:20] == 0).all()
        assert (mask[20:, 20:] == -1).all()


def test_of_both_dates_the_first_is_drawn_first_with_the_mask(tmp_path: Path) -> None:
    described = write_pairs(tmp_path, dict.fromkeys("abcd", 0.0))
    found = check_archive(str(described))
    assert sorted(name for name, *_ in found.examples) == [
        f"before/{name}.tif" for name in "abcd"
    ]
    for name, _, (before, after), mask in found.examples:
        for folder, raster in (("before", before), ("after", after)):
            stated = Stated(sensor="sentinel-2-l2a", offset=0.0)
            path = tmp_path / folder / Path(name).name
            item = describe_raster(path, stated=stated)
            assert np.allclose(raster.pixels, read_raster(item).pixels)
        assert (mask[:12] == 1).all()
        assert (mask[12:] == 0).all()


def test_a_large_image_is_drawn_small_and_one_in_tiles_by_its_tiles(
    tmp_path: Path,
) -> None:
    side = 300
    codes = np.zeros((1, side, side), np.uint8)
    codes[:, :, : side // 2] = 1
    pixels = np.full((12, side, side), 900, np.uint16)
    write_tiff(tmp_path / "images" / "a.tif", pixels, descriptions=S2_L2A)
    write_tiff(tmp_path / "masks" / "a.tif", codes)
    described = tmp_path / "own.yaml"
    text = "task: segmentation\nroot: .\nsensor: sentinel-2-l2a\noffset: 0\n"
    described.write_text(f"{text}classes: {{land: 0, lake: 1}}\nsplit: given\n")
    ((_, _, (image,), mask),) = check_archive(str(described)).examples
    assert image.pixels.shape[1:] == mask.shape == (128, 128)
    assert (mask[:, :64] == 1).all()
    assert (mask[:, 64:] == 0).all()
    described.write_text(described.read_text() + "tile_px: 50\n")
    found = check_archive(str(described))
    # 12 of 36 tiles, from all over the image.
    names = found.as_table()["drawn"]
    assert len(names) == 12
    assert names[0] == "images/a.tif[0,0]"
    assert names[-1] == "images/a.tif[250,150]"
    assert {mask.shape for *_, mask in found.examples} == {(50, 50)}


def test_what_is_at_fault_is_not_drawn(tmp_path: Path) -> None:
    described = write_masked(tmp_path, {**dict.fromkeys("abcdefg", 3), "odd": 7})
    (tmp_path / "masks" / "a.tif").write_bytes(b"no image")
    cut = tmp_path / "images" / "b.tif"
    cut.write_bytes(cut.read_bytes()[:900])
    write_tiff(tmp_path / "masks" / "c.tif", np.zeros((1, 9, 9), np.uint8), crs=None)
    found = check_archive(str(described))
    assert {(fault.kind, Path(fault.name).stem) for fault in found.faults} >= {
        (FaultKind.UNREADABLE, "a"),
        (FaultKind.UNREADABLE, "b"),
        (FaultKind.APART, "c"),
        (FaultKind.UNKNOWN_CLASS, "odd"),
    }
    drawn = sorted(Path(name).stem for name, *_ in found.examples)
    assert drawn == ["d", "e", "f", "g"]


def test_masks_that_training_could_not_read_are_faults_where_they_are_drawn(
    tmp_path: Path,
) -> None:
    write_masked(tmp_path, dict.fromkeys("abcdefgh", 3))
    described = tmp_path / "each.yaml"
    described.write_text(
        "task: segmentation\nroot: .\nsensor: sentinel-2-l2a\noffset: 0\n"
        "class_masks:\n"
        "  one: 'masks/(?P<place>.+)\\.tif'\n"
        "  two: 'others/(?P<place>.+)\\.tif'\n"
    )
    shutil.copytree(tmp_path / "masks", tmp_path / "others")
    faults = check_archive(str(described)).faults
    assert len(faults) == 8
    assert {fault.kind for fault in faults} == {FaultKind.REFUSED}
    assert "pixels belong to another class too" in faults[0].detail


def test_pairs_are_drawn_whole_where_few_images_are_opened(tmp_path: Path) -> None:
    described = write_pairs(tmp_path, dict.fromkeys("abcdefghij", 0.0))
    found = check_archive(str(described), options=CheckOptions(limit=4))
    assert found.num_checked == 4
    assert found.examples
    assert {len(dates) for _, _, dates, _ in found.examples} == {2}
    # Not a pair of which one file is bad.
    for name in "abcdefghi":
        path = tmp_path / "before" / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:-400])
    found = check_archive(str(described))
    assert found.as_table()["drawn"] == ["before/j.tif"]
