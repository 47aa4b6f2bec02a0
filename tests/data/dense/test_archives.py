import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    count_classes,
    find_faults,
    read_dense,
)
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    DatasetNotFoundError,
    RasterError,
)
from spectralgpt.preprocessing import BandStatistics, sensor_preprocessing
from tests.dense_files import OSCD_NAME, write_oscd, write_segmunich
from tests.raster_files import write_tiff

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
IMAGES = OSCD_NAME.format("Images")


def segmunich(root: Path, **options: object) -> DenseDataConfig:
    stated = {"bands": TEN, "offset": 0.0} | options
    return DenseDataConfig(str(root), layout="segmunich", **stated)  # type: ignore


def oscd(root: Path) -> DenseDataConfig:
    return DenseDataConfig(str(root), task="change", layout="oscd")


def fixed_range(sensor: str, names: tuple[str, ...], size: int) -> object:
    zero, one = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    statistics = BandStatistics(zero, one, zero, one)
    return sensor_preprocessing(
        sensor, names, image_size=size, scaling="fixed-range", statistics=statistics
    )


def test_segmunich_keeps_its_lists_and_renumbers_its_codes(tmp_path: Path) -> None:
    dense = read_dense(segmunich(write_segmunich(tmp_path)))
    assert len(dense.select("train").samples) == len(dense.select("val").samples) == 3
    assert len(dense.class_names) == 13
    # Source: issue 3, the published label table.
    renumbered = {21: 1, 22: 2, 23: 3, 31: 4, 32: 6, 33: 7, 41: 8, 13: 9, 14: 10}
    for code, index in renumbered.items():
        assert dense.codes[code] == dense.codes[index] == index
    assert [dense.codes[code] for code in (0, 5, 11, 12)] == [0, 5, 11, 12]


def test_segmunich_targets_follow_the_pixels(tmp_path: Path) -> None:
    dense = read_dense(segmunich(write_segmunich(tmp_path)))
    contract = fixed_range("sentinel-2-l2a", TEN, 128)
    sample = DenseDataset(dense, contract)[1]  # type: ignore[arg-type]
    assert sample["image"].shape == (10, 128, 128)
    # The last band holds 1000 + 10 * code.
    codes = np.rint(sample["image"][9].numpy() * 1000 - 100).astype(int)
    expected = np.vectorize(dense.codes.get)(codes)
    assert (sample["target"].numpy() == expected).all()


def test_segmunich_asks_for_its_bands(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"do not name their 10 bands.*State data.b"):
        read_dense(segmunich(write_segmunich(tmp_path), bands=None), divided=False)


def test_segmunich_faults_are_found(tmp_path: Path) -> None:
    root = write_segmunich(tmp_path / "a")
    nine = np.ones((9, 128, 128), np.uint16)
    write_tiff(root / "train" / "img" / "train_1.tif", nine)
    with pytest.raises(BandError, match=r"train_1.tif has 9 layers, 10 bands"):
        read_dense(segmunich(root), divided=False)
    root = write_segmunich(tmp_path / "b")
    write_tiff(root / "val" / "label" / "val_2.tif", np.zeros((1, 64, 64), np.uint8))
    with pytest.raises(RasterError, match=r"val_2.tif does not fit image .*val_2.tif"):
        read_dense(segmunich(root), divided=False)
    with pytest.raises(DataError, match="has 64 x 64 px; tiles of SegMunich have 128"):
        read_dense(segmunich(write_segmunich(tmp_path / "c", side=64)), divided=False)
    root = write_segmunich(tmp_path / "d")
    label = np.full((1, 128, 128), 24, np.uint8)
    write_tiff(root / "train" / "label" / "train_0.tif", label)
    with pytest.raises(DataError, match=r"train_0.tif holds unknown class codes 24"):
        count_classes(read_dense(segmunich(root), divided=False))
    (root / "train" / "img" / "train_2.tif").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 3 tiles of .*\(train_2\)"):
        read_dense(segmunich(root), divided=False)
    root = write_segmunich(tmp_path / "e")
    (root / "dataset" / "val.txt").write_text("../../etc/passwd\n", encoding="utf-8")
    with pytest.raises(DataError, match="must list names of tiles"):
        read_dense(segmunich(root), divided=False)


def test_segmunich_tells_of_tiles_that_no_list_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_segmunich(tmp_path)
    (root / "dataset" / "train.txt").write_text("train_0\ntrain_1", encoding="utf-8")
    assert len(read_dense(segmunich(root), divided=False).select("train").samples) == 2
    assert "1 tiles that no list names (train_2)" in caplog.text


def test_oscd_pairs_dates_and_keeps_its_split(tmp_path: Path) -> None:
    dense = read_dense(oscd(write_oscd(tmp_path)), divided=False)
    assert dense.select("train").places == ("paris", "pisa")
    assert dense.select("test").places == ("milano",)
    assert dense.class_names == ("unchanged", "changed")
    assert dense.codes == {1: 0, 2: 1}
    for chip in dense.samples:
        assert [Path(i.name).name for i in chip.items] == ["imgs_1_rect", "imgs_2_rect"]
        assert {i.offset for i in chip.items} == {0.0}
        assert all(len(i.bands) == 13 for i in chip.items)


def test_oscd_targets_follow_the_change(tmp_path: Path) -> None:
    dense = read_dense(oscd(write_oscd(tmp_path)), divided=False)
    contract = fixed_range("sentinel-2-l1c", ("B04", "B12"), 32)
    data = DenseDataset(dense, contract)  # type: ignore[arg-type]
    seen = 0
    for index in range(len(data)):
        sample = data[index]
        assert sample["image"].shape == (2, 2, 32, 32)
        scored = sample["target"] >= 0
        # B12 is the last of the two, and grows by 0.3 where something changed.
        grown = (sample["image"][1, 1] - sample["image"][0, 1]) > 0.1
        assert (grown == (sample["target"] == 1))[scored].all()
        assert (sample["image"][:, 0] - 0.08).abs().max() < 1e-5
        seen += int(scored.sum())
    assert seen == 3 * 40 * 48


def test_oscd_takes_pictures_where_a_city_has_no_tiff(tmp_path: Path) -> None:
    root = write_oscd(tmp_path)
    for path in root.rglob("*-cm.tif"):
        with rasterio.open(path) as dataset:
            numbers = (dataset.read() - 1) * np.uint8(255)
        plain = write_tiff(tmp_path / "plain.tif", numbers)
        rasterio.shutil.copy(plain, path.parent / "cm.png", driver="PNG")
    expected = count_classes(read_dense(oscd(root), divided=False))
    next(root.rglob("milano-cm.tif")).unlink()
    dense = read_dense(oscd(root), divided=False)
    assert dense.codes == {0: 0, 255: 1}
    assert count_classes(dense) == expected


def test_oscd_faults_are_found(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"OSCD is not at .*download true"):
        read_dense(oscd(tmp_path), divided=False)
    root = write_oscd(tmp_path / "a")
    (root / IMAGES / "pisa" / "imgs_2_rect" / "B07.tif").unlink()
    with pytest.raises(BandError, match="no file named after band B07"):
        read_dense(oscd(root), divided=False)
    shutil.rmtree(root / IMAGES / "pisa" / "imgs_2_rect")
    with pytest.raises(DataError, match=r"1 dates are missing \(pisa/imgs_2_rect\)"):
        read_dense(oscd(root), divided=False)
    root = write_oscd(tmp_path / "b")
    next(root.rglob("pisa-cm.tif")).unlink()
    with pytest.raises(DataError, match=r"1 of 3 cities of OSCD have no mask.*pisa"):
        read_dense(oscd(root), divided=False)
    shutil.rmtree(root / OSCD_NAME.format("Train Labels") / "pisa")
    with pytest.raises(DataError, match=r"1 cities have no mask \(pisa\)"):
        read_dense(oscd(root), divided=False)
    root = write_oscd(tmp_path / "c")
    mask = next(root.rglob("milano-cm.tif"))
    write_tiff(mask, np.ones((1, 40, 47), np.uint8), crs=None)
    with pytest.raises(RasterError, match=r"milano-cm.tif does not fit.*40 x 48 px"):
        read_dense(oscd(root), divided=False)
    write_tiff(mask, np.zeros((1, 40, 48), np.uint8), crs=None)
    with pytest.raises(DataError, match=r"unknown class codes 0 \(1920 px\)"):
        count_classes(read_dense(oscd(root), divided=False))


def test_oscd_reads_a_truncated_band_as_a_fault(tmp_path: Path) -> None:
    root = write_oscd(tmp_path)
    path = root / IMAGES / "paris" / "imgs_1_rect" / "B05.tif"
    rasterio.shutil.copy(path, tmp_path / "x.tif", driver="COG", compress="none")
    path.write_bytes((tmp_path / "x.tif").read_bytes()[:-200])
    faults = find_faults(read_dense(oscd(root), divided=False))
    assert len(faults) == 1
    assert "B05.tif cannot be read as a raster" in faults[0]


def test_archives_state_their_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data.task to change"):
        DenseDataConfig(str(tmp_path), layout="oscd")
    with pytest.raises(ConfigError, match="layout segmunich has one date"):
        segmunich(tmp_path, task="change")
