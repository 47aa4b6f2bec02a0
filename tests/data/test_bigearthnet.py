import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from spectralgpt.data import bigearthnet
from spectralgpt.data.bigearthnet import read_bigearthnet
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.rasters import read_raster
from spectralgpt.sensors import load_sensor
from tests.toy import write_chip

to_19_classes, class_names = bigearthnet._to_19_classes, bigearthnet._class_names
BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07"),
    *("B08", "B8A", "B09", "B11", "B12"),
)
SIDES = {10: 120, 20: 60, 60: 20}


def write_patch(folder: Path, name: str, labels: list[str] | None) -> None:
    for index, band in enumerate(BANDS):
        gsd_m = int(load_sensor("sentinel-2-l2a").band(band).gsd_m)
        shape = (SIDES[gsd_m], SIDES[gsd_m])
        pixels = {band: np.full(shape, 200 + index, np.uint16)}
        path = folder / name / f"{name}_{band}.tif"
        write_chip(path, pixels, [band], describe=False, gsd_m=gsd_m)
    if labels is not None:
        metadata = folder / name / f"{name}_labels_metadata.json"
        metadata.write_text(json.dumps({"labels": labels}))


def test_nomenclature_maps_43_classes_to_19() -> None:
    assert to_19_classes(["Non-irrigated arable land", "Rice fields"]) == (
        "Arable land",
    )
    assert to_19_classes(["Burnt areas", "Airports"]) == ()
    mapped = {name: to_19_classes([name]) for name in class_names(43)}
    assert sum(not target for target in mapped.values()) == 11
    assert {t for target in mapped.values() for t in target} == set(class_names(19))


def test_real_patches_of_version_1_are_read_in_both_nomenclatures(shared: Path) -> None:
    root = shared / "data" / "bigearthnet-v1"
    coarse, fine = read_bigearthnet(root, 19), read_bigearthnet(root, 43)
    assert len(coarse.samples) == len(fine.samples) == 5
    assert len(coarse.class_names) == 19
    for labelled in (coarse, fine):
        chip = labelled.samples[0]
        folder = Path(chip.item.name)
        path = folder / f"{folder.name}_labels_metadata.json"
        stated = json.loads(path.read_text())["labels"]
        expected = stated if labelled is fine else to_19_classes(stated)
        assert {labelled.class_names[k] for k in chip.labels} == set(expected)
    raster = read_raster(coarse.samples[0].item)
    assert raster.pixels.shape == (12, 120, 120)
    assert coarse.samples[0].item.offset == 0


def test_lists_give_the_splits_of_version_1(tmp_path: Path) -> None:
    folder = tmp_path / "BigEarthNet-v1.0"
    for name, split in (("S2A_MSIL2A_1", "train"), ("S2A_MSIL2A_2", "test")):
        write_patch(folder, name, ["Pastures"])
        (tmp_path / f"bigearthnet-{split}.csv").write_text(f"{name},S1_x\n")
    write_patch(folder, "S2A_MSIL2A_3", ["Pastures"])
    chips = read_bigearthnet(tmp_path).samples
    assert [(Path(c.item.name).name, c.split) for c in chips] == [
        ("S2A_MSIL2A_1", "train"),
        ("S2A_MSIL2A_2", "test"),
    ]


def test_version_2_takes_labels_and_splits_from_its_metadata(tmp_path: Path) -> None:
    tile = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    rows = [(f"{tile}_26_57", "train"), (f"{tile}_27_57", "validation")]
    for name, _ in rows:
        write_patch(tmp_path / "BigEarthNet-S2" / tile, name, None)
    columns = {
        "patch_id": [name for name, _ in rows],
        "labels": [["Pastures", "Arable land"], ["Marine waters"]],
        "split": [split for _, split in rows],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "metadata.parquet")
    labelled = read_bigearthnet(tmp_path)
    assert [chip.labels for chip in labelled.samples] == [(2, 4), (18,)]
    assert [chip.split for chip in labelled.samples] == ["train", "val"]
    raster = read_raster(labelled.samples[0].item)
    assert raster.pixels[1, 0, 0] == pytest.approx(201 / 10_000)
    with pytest.raises(ConfigError, match="19 classes"):
        read_bigearthnet(tmp_path, 43)


def test_unknown_label_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no BigEarthNet patches"):
        read_bigearthnet(tmp_path)
    write_patch(tmp_path, "S2A_MSIL2A_1", ["Moon"])
    with pytest.raises(DataError, match="unknown labels: Moon"):
        read_bigearthnet(tmp_path)
