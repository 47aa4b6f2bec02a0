"""`check_archive` says what is there, and finds each fault that is planted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import rasterio
from pyarrow import parquet

from spectralgpt.data.archives.checks import CheckOptions, check_archive
from spectralgpt.data.archives.findings import ArchiveCheck
from spectralgpt.data.listings import FaultKind
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import ConfigError, DatasetNotFoundError
from spectralgpt.rasters import Stated
from spectralgpt.sensors import load_sensor
from tests.fmow import name_of, write_fmow, write_image, write_tables
from tests.raster_files import S2_L2A, write_tiff
from tests.toy import SENSOR, write_archive

REAL = {
    "major-tom": ("major-tom", 2, "1068 x 1068", set()),
    "ssl4eo-s12": ("ssl4eo-s12", 2, "264 x 264", set()),
    "ssl4eo-s12-l2a": ("ssl4eo-s12", 2, "264 x 264", set()),
    "bigearthnet-v1": ("bigearthnet-v1", 5, "120 x 120", set()),
    "eurosat-ms": ("eurosat-ms", 3, "64 x 64", set()),
    "hyspecnet-11k": ("hyspecnet-enmap", 1, "128 x 128", set()),
    # One patch and the map of another one were taken for the sample, no table.
    "bigearthnet-v2": (
        "bigearthnet-v2",
        1,
        "120 x 120",
        {FaultKind.NO_TABLE, FaultKind.NO_IMAGE, FaultKind.NO_LABEL},
    ),
}


def kinds(found: ArchiveCheck) -> set[FaultKind]:
    return {fault.kind for fault in found.faults}


def named(found: ArchiveCheck, kind: FaultKind) -> list[str]:
    return [fault.name for fault in found.faults if fault.kind == kind]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("name", REAL)
def test_real_samples(shared: Path, name: str) -> None:
    folder, count, size, faults = REAL[name]
    found = check_archive(name, shared / "data" / folder)
    assert kinds(found) == faults
    assert (found.num_listed, found.num_checked) == (count, count)
    assert found.sizes == {size: count}
    assert len(found.examples) == count
    assert found.statistics is not None
    assert all(-0.1 < value < 1 for value in found.statistics.mean.values())
    json.dumps(found.as_table())


def test_real_labels_are_counted(shared: Path) -> None:
    found = check_archive("bigearthnet-v1", shared / "data" / "bigearthnet-v1")
    (counts,) = found.class_counts.values()
    assert len(counts) == 43
    assert counts["Pastures"] == 2
    assert sum(counts.values()) == 14
    found = check_archive("eurosat-ms", shared / "data" / "eurosat-ms")
    present = {name for name, count in found.class_counts[""].items() if count}
    assert present == {"AnnualCrop", "Pasture", "SeaLake"}


def test_sound_fmow(tmp_path: Path) -> None:
    write_fmow(tmp_path)
    seen: list[tuple[int, int]] = []
    found = check_archive(
        "fmow-sentinel2", tmp_path, report=lambda *done: seen.append(done)
    )
    assert found.faults == ()
    assert found.split_counts == {"test": 12, "train": 12, "val": 12}
    assert found.class_counts["train"]["zoo"] == 4
    assert sum(found.class_counts["train"].values()) == 12
    assert sum(found.sizes.values()) == 36
    assert len(found.sizes) == 15
    assert found.overlaps == {"train / val": 0, "train / test": 0, "val / test": 0}
    assert seen[-1] == (36, 36)
    assert len(seen) == 36
    assert found.fault_lines() == []


def plant_missing_band(root: Path, path: Path) -> None:
    write_image(root, ("train", "airport", 0, 3), 0, bands=1)


def plant_truncation(root: Path, path: Path) -> None:
    truncate(path)


def plant_no_image(root: Path, path: Path) -> None:
    path.unlink()


def plant_duplicate(root: Path, path: Path) -> None:
    shutil.copyfile(path.with_name("airport_0_101.tif"), path)


def plant_empty(root: Path, path: Path) -> None:
    write_tiff(path, np.zeros((13, 40, 44), np.uint16))


def plant_reflectance(root: Path, path: Path) -> None:
    write_tiff(path, np.full((13, 40, 44), 60_000, np.uint16))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (plant_missing_band, FaultKind.MISSING_BAND),
        (plant_truncation, FaultKind.UNREADABLE),
        (plant_no_image, FaultKind.NO_IMAGE),
        (plant_duplicate, FaultKind.DUPLICATE),
        (plant_empty, FaultKind.EMPTY),
        (plant_reflectance, FaultKind.IMPLAUSIBLE),
    ],
)
def test_planted_in_fmow(
    tmp_path: Path, plant: Callable[[Path, Path], None], kind: FaultKind
) -> None:
    rows = write_fmow(tmp_path)
    name = name_of(rows[0])
    plant(tmp_path, tmp_path / "fmow-sentinel" / name)
    found = check_archive("fmow-sentinel2", tmp_path)
    assert kinds(found) == {kind}
    (fault,) = found.faults
    assert fault.name in (name, name.replace("_0_3", "_0_101"))
    assert found.fault_lines()[0].startswith(f"{kind}: 1: train/airport/airport_0")
    # What is sound is measured all the same.
    assert found.statistics is not None
    assert found.examples


def test_planted_in_the_tables_of_fmow(tmp_path: Path) -> None:
    rows = write_fmow(tmp_path)
    wrong = [("train", "castle", 0, 1), ("train", "airport", "../../1", 1), rows[1]]
    write_tables(tmp_path, [*rows, *wrong])
    stray = tmp_path / "fmow-sentinel" / "train" / "zoo" / "zoo_9" / "zoo_9_1.tif"
    write_tiff(stray, np.ones((1, 4, 4), np.uint16))
    found = check_archive("fmow-sentinel2", tmp_path)
    assert named(found, FaultKind.UNKNOWN_CLASS) == ["train.csv: castle,0,1"]
    assert named(found, FaultKind.OUTSIDE) == ["train.csv: airport,../../1,1"]
    assert named(found, FaultKind.DUPLICATE) == [name_of(rows[1])]
    assert found.notes == ("1 files are in no table, as the archive says",)


def test_a_place_in_two_splits_is_counted(tmp_path: Path) -> None:
    rows = write_fmow(tmp_path)
    moved = ("val", "zoo", 0, 7)
    write_image(tmp_path, moved, 77)
    write_tables(tmp_path, [*rows, moved])
    found = check_archive("fmow-sentinel2", tmp_path)
    assert found.overlaps["train / val"] == 1


def test_a_limit_draws_the_same_images_again(tmp_path: Path) -> None:
    rows = write_fmow(tmp_path)
    truncate(tmp_path / "fmow-sentinel" / name_of(rows[0]))
    options = [CheckOptions(limit=9, seed=seed, workers=n) for seed, n in
               ((0, 1), (0, 4), (1, 1))]  # fmt: skip
    one, two, other = (check_archive("fmow-sentinel2", tmp_path, o) for o in options)
    assert (one.num_listed, one.num_checked) == (36, 9)
    assert one == two
    assert one.statistics != other.statistics
    assert sum(one.split_counts.values()) == 36
    with pytest.raises(ConfigError, match="limit is 0; it must be at least 1"):
        CheckOptions(limit=0)


@pytest.fixture
def patches(shared: Path, tmp_path: Path) -> Path:
    """A copy of the real patches of BigEarthNet v1."""
    root = tmp_path / "bigearthnet-v1"
    shutil.copytree(shared / "data" / "bigearthnet-v1", root)
    for path in root.rglob("*"):
        path.chmod(0o755)
    return root


def test_planted_in_real_patches(patches: Path) -> None:
    one, two, three, four, five = sorted(patches.iterdir())
    (one / f"{one.name}_B05.tif").unlink()
    truncate(two / f"{two.name}_B08.tif")
    shutil.copyfile(three / f"{three.name}_B04.tif", three / f"{three.name}_B11.tif")
    labels = four / f"{four.name}_labels_metadata.json"
    labels.write_text(json.dumps({"labels": ["Moon"]}))
    (five / f"{five.name}_labels_metadata.json").unlink()
    (patches / "bigearthnet-train.csv").write_text("S2A_MSIL2A_gone_1_1,S1\n")
    found = check_archive("bigearthnet-v1", patches)
    assert {(fault.kind, fault.name) for fault in found.faults} >= {
        (FaultKind.MISSING_BAND, one.name),
        (FaultKind.UNREADABLE, two.name),
        (FaultKind.WRONG_SIZE, three.name),
        (FaultKind.UNKNOWN_CLASS, four.name),
        (FaultKind.NO_LABEL, five.name),
        (FaultKind.NO_IMAGE, "S2A_MSIL2A_gone_1_1"),
    }
    assert len(kinds(found)) == len(found.faults) == 6
    missing = next(f for f in found.faults if f.kind == FaultKind.MISSING_BAND)
    assert missing.detail == "no B05"
    # A band from elsewhere does not lie on the others.
    write_tiff(one / f"{one.name}_B05.tif", np.ones((1, 60, 60), np.uint16), res=20)
    found = check_archive("bigearthnet-v1", patches)
    assert named(found, FaultKind.MISALIGNED) == [one.name]


def write_version_2(shared: Path, root: Path) -> tuple[str, Path, Path]:
    """The real patch with the real map laid to it, and a table."""
    real = shared / "data" / "bigearthnet-v2"
    shutil.copytree(real / "BigEarthNet-S2", root / "BigEarthNet-S2")
    for path in root.rglob("*"):
        path.chmod(0o755)
    (patch,) = (root / "BigEarthNet-S2").glob("*/*")
    mask = root / "Reference_Maps" / patch.parent.name / patch.name
    mask.mkdir(parents=True)
    mask = mask / f"{patch.name}_reference_map.tif"
    shutil.copyfile(next(real.glob("Reference_Maps/*/*/*.tif")), mask)
    columns = {
        "patch_id": [patch.name],
        "labels": [["Pastures", "Mixed forest"]],
        "split": ["validation"],
    }
    parquet.write_table(pyarrow.table(columns), root / "metadata.parquet")
    return patch.name, patch, mask


def test_maps_of_version_2(shared: Path, tmp_path: Path) -> None:
    name, patch, mask = write_version_2(shared, tmp_path)
    found = check_archive("bigearthnet-v2", tmp_path)
    assert found.faults == ()
    assert found.pixel_counts == {
        "val": {"code 211": 7075, "code 311": 4131, "code 313": 2040, "code 231": 1154}
    }
    assert found.class_counts["val"]["Pastures"] == 1
    write_tiff(mask, np.full((1, 60, 60), 777, np.uint16))
    found = check_archive("bigearthnet-v2", tmp_path)
    assert kinds(found) == {FaultKind.WRONG_SIZE, FaultKind.UNKNOWN_CLASS}
    mask.unlink()
    extra = patch.with_name(f"{name}9")
    patch.rename(extra)
    found = check_archive("bigearthnet-v2", tmp_path)
    assert named(found, FaultKind.NO_IMAGE) == [name]
    assert named(found, FaultKind.NO_LABEL) == [extra.name]


def test_ones_own_folders_of_classes(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "own", per_class=4)
    options = CheckOptions(stated=Stated(sensor=SENSOR, offset=0.0))
    assert check_archive("folder", root, options).faults == ()
    field = sorted((root / "field").iterdir())
    shutil.copyfile(field[0], root / "loose.tif")
    shutil.copyfile(field[0], field[1])
    write_tiff(
        field[2], np.full((3, 8, 8), 900, np.uint16), descriptions=["B02", "B03", "B04"]
    )
    found = check_archive("folder", root, options)
    assert named(found, FaultKind.NO_LABEL) == ["loose.tif"]
    assert named(found, FaultKind.DUPLICATE) == ["field/field_001.tif"]
    assert named(found, FaultKind.MISSING_BAND) == ["field/field_002.tif"]
    described = tmp_path / "own.yaml"
    described.write_text(
        f"layout: folder\nroot: {root}\nsensor: {SENSOR}\noffset: 0\n"
        "class_names: [field, forest]\n"
    )
    found = check_archive(str(described))
    assert named(found, FaultKind.UNKNOWN_CLASS) == ["water"]


def test_ones_own_table(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "own", per_class=2)
    rows = [f"field/field_00{i}.tif,field,train" for i in (0, 1, 1, 7)]
    rows += ["../../secret.tif,field,train", "water/water_000.tif,,test"]
    rows += ["forest/forest_000.tif,forest,holiday"]
    (root / "labels.csv").write_text("\n".join(["image,label,split", *rows]))
    found = check_archive(
        "csv", root, CheckOptions(stated=Stated(sensor=SENSOR, offset=0.0))
    )
    assert named(found, FaultKind.NO_IMAGE) == ["field/field_007.tif"]
    assert named(found, FaultKind.OUTSIDE) == ["../../secret.tif"]
    assert named(found, FaultKind.UNKNOWN_SPLIT) == ["forest/forest_000.tif"]
    assert "field/field_001.tif" in named(found, FaultKind.DUPLICATE)
    assert set(named(found, FaultKind.NO_LABEL)) == {
        *("water/water_000.tif", "water/water_001.tif", "forest/forest_001.tif")
    }


def test_a_description_of_images(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.full((12, 16, 16), 500 + number, np.uint16)
        write_tiff(tmp_path / "data" / f"{number}.tif", pixels, descriptions=S2_L2A)
    described = tmp_path / "mine.yaml"
    described.write_text("root: data\nsensor: sentinel-2-l2a\noffset: 0\n")
    found = check_archive(str(described), tmp_path)
    assert (found.name, found.num_checked, found.faults) == ("mine", 3, ())
    truncate(tmp_path / "data" / "1.tif")
    assert kinds(check_archive(str(described), tmp_path)) == {FaultKind.UNREADABLE}


def write_tiles(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "dataset").mkdir(parents=True)
    for split in ("train", "val"):
        names = [f"{split}_{number}" for number in range(2)]
        (root / "dataset" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            image = rng.integers(200, 3000, (10, 128, 128)).astype(np.uint16)
            codes = rng.choice([0, 21, 22, 31, 41, 5], (1, 128, 128)).astype(np.uint8)
            write_tiff(root / split / "img" / f"{name}.tif", image)
            write_tiff(root / split / "label" / f"{name}.tif", codes)


def test_segmunich(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    bands = tuple(name for name in S2_L2A if name not in ("B01", "B09"))
    options = CheckOptions(stated=Stated(bands=bands))
    found = check_archive("segmunich", tmp_path, options)
    assert found.faults == ()
    assert sum(found.pixel_counts["train"].values()) == 2 * 128 * 128
    assert {"arable land", "forests", "wetlands"} <= set(found.pixel_counts["val"])
    mask = tmp_path / "train" / "label" / "train_0.tif"
    write_tiff(mask, np.full((1, 128, 128), 99, np.uint8))
    truncate(tmp_path / "val" / "img" / "val_1.tif")
    found = check_archive("segmunich", tmp_path, options)
    assert kinds(found) == {FaultKind.UNKNOWN_CLASS, FaultKind.UNREADABLE}
    mask.unlink()
    found = check_archive("segmunich", tmp_path, options)
    assert kinds(found) == {FaultKind.NO_MATCH}


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="There is no folder"):
        check_archive("eurosat-ms", tmp_path / "none")
    with pytest.raises(ConfigError, match="say where eurosat-ms is"):
        check_archive("eurosat-ms")
    for name in ("eurosat-ms", "folder", "fmow-sentinel2", "bigearthnet-v1"):
        with pytest.raises(DatasetNotFoundError):
            check_archive(name, tmp_path)


def test_split_lists_of_eurosat(tmp_path: Path) -> None:
    folder = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(100, 3000, (13, 64, 64)).astype(np.uint16)
        write_tiff(folder / "River" / f"River_{number}.tif", pixels)
    (tmp_path / "eurosat-train.txt").write_text("River_0.jpg\nRiver_1.jpg\n")
    (tmp_path / "eurosat-test.txt").write_text("River_2.jpg\nRiver_77.jpg\n")
    found = check_archive("eurosat-ms", tmp_path)
    assert named(found, FaultKind.NO_IMAGE) == ["River_77"]
    assert found.split_counts == {"": 1, "test": 1, "train": 2}
    assert found.notes == ("1 images are in no split list",)
    # All were written at one corner.
    assert found.overlaps == {"train / test": 1}
    (folder / "Rivers").mkdir()
    assert FaultKind.UNKNOWN_CLASS in kinds(check_archive("eurosat-ms", tmp_path))


def test_split_lists_of_hyspecnet(shared: Path, tmp_path: Path) -> None:
    (patch,) = (shared / "data" / "hyspecnet-enmap").iterdir()
    tile = patch.name.split("-Y")[0]
    there = tmp_path / "hyspecnet-11k" / "patches" / tile / patch.name
    there.mkdir(parents=True)
    image = f"{patch.name}-SPECTRAL_IMAGE.TIF"
    shutil.copyfile(patch / image, there / image)
    lists = tmp_path / "hyspecnet-11k" / "splits" / "hard"
    lists.mkdir(parents=True)
    lines = [f"{tile}/{name}/{name}-DATA.npy" for name in (patch.name, f"{tile}-Y0_X0")]
    (lists / "val.csv").write_text("\n".join(lines))
    found = check_archive("hyspecnet-11k", tmp_path)
    assert found.split_counts == {"val": 1}
    assert named(found, FaultKind.NOT_THERE) == [f"{tile}-Y0_X0"]


def test_ones_own_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(200, 3000, (12, 24, 24)).astype(np.uint16)
        codes = rng.integers(0, 2, (1, 24, 24)).astype(np.uint8)
        write_tiff(tmp_path / "images" / f"{number}.tif", pixels, descriptions=S2_L2A)
        write_tiff(tmp_path / "masks" / f"{number}.tif", codes)
    options = CheckOptions(stated=Stated(sensor="sentinel-2-l2a", offset=0.0))
    found = check_archive("masks", tmp_path, options)
    assert found.faults == ()
    assert sum(found.pixel_counts[""].values()) == 3 * 24 * 24
    described = tmp_path / "own.yaml"
    described.write_text(
        f"task: segmentation\nroot: {tmp_path}\nsensor: sentinel-2-l2a\noffset: 0\n"
        "classes: {dry: 0}\n"
    )
    found = check_archive(str(described))
    assert kinds(found) == {FaultKind.UNKNOWN_CLASS}
    assert len(found.faults) == 3
    # The root lies beside the file, and nodata of a mask is no class.
    described.write_text(described.read_text().replace(str(tmp_path), "."))
    for path in (tmp_path / "masks").iterdir():
        with rasterio.open(path, "r+") as dataset:
            dataset.nodata = 1
    assert check_archive(str(described)).faults == ()
    (tmp_path / "masks" / "2.tif").unlink()
    (fault,) = check_archive("masks", tmp_path, options).faults
    assert fault.kind == FaultKind.NO_MATCH
    assert "1 with image but no mask (2)" in fault.detail


def test_pairs_of_cities(tmp_path: Path) -> None:
    name = "Onera Satellite Change Detection dataset - "
    rng = np.random.default_rng(0)
    for split, city in (("Train", "bercy"), ("Test", "rio")):
        for date in ("imgs_1_rect", "imgs_2_rect"):
            for band in load_sensor(SENSOR).band_names:
                pixels = rng.integers(200, 3000, (1, 20, 30)).astype(np.uint16)
                path = tmp_path / f"{name}Images" / city / date / f"{band}.tif"
                write_tiff(path, pixels)
        codes = rng.integers(1, 3, (1, 20, 30)).astype(np.uint8)
        folder = tmp_path / f"{name}{split} Labels" / city / "cm"
        write_tiff(folder / f"{city}-cm.tif", codes)
    found = check_archive("oscd", tmp_path)
    assert found.faults == ()
    assert found.split_counts == {"test": 2, "train": 2}
    assert set(found.pixel_counts["train"]) == {"unchanged", "changed"}
    (tmp_path / f"{name}Images" / "rio" / "imgs_2_rect" / "B08.tif").unlink()
    found = check_archive("oscd", tmp_path)
    assert kinds(found) == {FaultKind.MISSING_BAND}
    # Pretraining leaves the cities out that are tested on.
    items = find_items([read_source("archive:oscd")], tmp_path)
    assert {item.place for item in items} == {"oscd/bercy"}


def test_litter_is_no_fault_and_other_names_of_splits_are_known(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_archive(tmp_path / split, per_class=2, size=16)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    shutil.copytree(tmp_path / "train" / "water", tmp_path / "__MACOSX" / "water")
    options = CheckOptions(stated=Stated(sensor=SENSOR, offset=0.0))
    found = check_archive("folder", tmp_path, options)
    assert found.split_counts == {"train": 6, "val": 6}
    assert set(found.class_counts["val"]) == {"field", "forest", "water"}
    shutil.copytree(tmp_path / "train", tmp_path / "holdout")
    (fault,) = check_archive("folder", tmp_path, options).faults
    assert "beside them holdout" in fault.detail


def test_chips_that_overlap_are_counted_before_they_are_split(tmp_path: Path) -> None:
    write_archive(tmp_path, per_class=3, size=16, spread_m=100.0)
    found = check_archive(
        "folder", tmp_path, CheckOptions(stated=Stated(sensor=SENSOR, offset=0.0))
    )
    assert found.num_overlapping == 9
    table = found.as_table()
    assert table["images_on_ground_of_another_without_split"] == 9
