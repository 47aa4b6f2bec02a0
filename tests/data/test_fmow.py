from collections import Counter
from pathlib import Path

import pytest

from spectralgpt.data import fmow
from spectralgpt.data.fmow import read_fmow
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import DataError, DatasetNotFoundError, RasterError
from spectralgpt.rasters import read_raster
from tests.fmow import name_of, write_fmow, write_image, write_tables


def test_62_classes_in_order() -> None:
    assert len(fmow._categories()) == 62
    assert list(fmow._categories()) == sorted(fmow._categories())
    assert {"airport", "single-unit_residential", "zoo"} < set(fmow._categories())


def test_tables_give_labels_splits_and_places(tmp_path: Path) -> None:
    rows = write_fmow(tmp_path)
    config = LabelledDataConfig(str(tmp_path), layout="fmow-sentinel2")
    labelled = read_labelled(config)
    assert Counter(chip.split for chip in labelled.samples) == dict.fromkeys(
        ("train", "val", "test"), 12
    )
    for row, chip in zip(rows, labelled.samples, strict=True):
        assert chip.item.name.endswith(name_of(row))
        assert labelled.class_names[chip.labels[0]] == row[1]
    raster = read_raster(labelled.samples[7].item)
    assert raster.pixels.shape == (13, 42, 45)
    # Digital numbers without an offset; B10 is the eleventh layer of the files.
    assert raster.pixels[0] == pytest.approx((1000 + 7) / 10_000)
    assert labelled.samples[0].item.files["B10"].index == 11
    assert labelled.samples[0].item.files["B8A"].index == 9


def test_pretraining_takes_train_alone_and_keeps_places_together(
    tmp_path: Path,
) -> None:
    write_fmow(tmp_path / "fmow-sentinel2")
    source = read_source("archive:fmow-sentinel2")
    items = find_items([source], tmp_path)
    assert len(items) == 12
    assert len({item.place for item in items}) == 6
    assert all("/train/" in item.name for item in items)
    # The folder may also be the archive's own.
    assert len(find_items([source], tmp_path / "fmow-sentinel2")) == 12


def test_images_that_failed_to_download_are_left_out(tmp_path: Path) -> None:
    rows = write_fmow(tmp_path)
    write_image(tmp_path, rows[0], 0, bands=1)
    items = find_items([read_source("archive:fmow-sentinel2")], tmp_path)
    assert len(items) == 11


@pytest.mark.parametrize(
    "row",
    [
        ("train", "../../../etc", 0, 1),
        ("train", "airport/../../x", 0, 1),
        ("train", "airport", "../9", 1),
        ("train", "castle", 0, 1),
    ],
)
def test_a_table_leads_nowhere_else(tmp_path: Path, row: tuple) -> None:
    rows = write_fmow(tmp_path)
    write_tables(tmp_path, [*rows, row])
    with pytest.raises(DataError, match="1 rows name no known class or no numbers"):
        read_fmow(tmp_path)
    # Only the first leaves the root; the others name nothing that is there.
    error = "leaves" if row[1].startswith("..") else "1 of 13 images"
    with pytest.raises(DataError, match=error):
        find_items([read_source("archive:fmow-sentinel2")], tmp_path, max_bad_share=0)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no train\.csv"):
        read_fmow(tmp_path)
    rows = write_fmow(tmp_path)
    for row in rows:
        (tmp_path / "fmow-sentinel" / name_of(row)).unlink()
    with pytest.raises(DatasetNotFoundError, match="None of the 36 images"):
        read_fmow(tmp_path)


def test_a_truncated_image_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_fmow(tmp_path)
    path = tmp_path / "fmow-sentinel" / name_of(rows[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    labelled = read_fmow(tmp_path)
    bad = [chip for chip in labelled.samples if chip.item.name == str(path)]
    # Depending on where the directory lies, it shows at once or with the pixels.
    assert bad or "1 of 36 images are bad" in caplog.text
    for chip in bad:
        with pytest.raises(RasterError, match="truncated"):
            read_raster(chip.item)
