"""Labels of images from masks: the class of most pixels, or all that cover a share."""

from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.preprocessing import BandStatistics, sensor_preprocessing
from spectralgpt.sensors import load_sensor
from tests.raster_files import write_tiff

SENSOR = "sentinel-2-l2a"
# Codes 1 grass, 2 water, 0 no label; quarters of an image of 16 px, in tiles of 8.
QUARTERS = np.kron(np.array([[1, 2], [2, 0]]), np.ones((8, 8))).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        mask = QUARTERS.copy()
        mask[:8, :8][0, :3] = 2  # 3 of 64 pixels of the first quarter are water.
        for folder, pixels in (("images", np.full((16, 16), 900)), ("masks", mask)):
            path = tmp_path / folder / f"{name}.tif"
            path.parent.mkdir(exist_ok=True)
            write_tiff(path, pixels.astype(np.uint16)[None])
    (tmp_path / "cover.yaml").write_text(
        f"root: .\nsensor: {SENSOR}\nbands: [B04]\noffset: 0\n"
        "classes: {grass: 1, water: 2}\nignored: [0]\n"
    )
    return tmp_path


def config(root: Path, **changes: object) -> LabelledDataConfig:
    labels = str(root / "cover.yaml")
    values = {"root": str(root), "layout": "masks", "labels": labels, "tile_px": 8}
    return LabelledDataConfig(**(values | changes))  # type: ignore[arg-type]


def test_a_tile_has_the_class_of_most_of_its_pixels(root: Path) -> None:
    found = read_labelled(config(root))
    assert found.task == "single-label"
    assert found.class_names == ("grass", "water")
    of_a = {
        (chip.window.row, chip.window.column): chip.labels
        for chip in found.samples
        if chip.window is not None and Path(chip.item.name).stem.split(":")[0] == "a"
    }
    # The unlabelled quarter is no image to learn from.
    assert of_a == {(0, 0): (0,), (0, 8): (1,), (8, 0): (1,)}
    assert {chip.split for chip in found.samples} == {"train", "val", "test"}


@pytest.mark.parametrize(("share", "labels"), [(0.04, (0, 1)), (0.1, (0,))])
def test_labels_are_all_classes_with_a_share(
    root: Path, share: float, labels: tuple[int, ...]
) -> None:
    found = read_labelled(config(root, label_share=share))
    assert found.task == "multi-label"
    first = next(c for c in found.samples if c.window is not None and c.window.row == 0
                 and c.window.column == 0)  # fmt: skip
    assert first.labels == labels


def test_classes_of_a_model_keep_their_order(root: Path) -> None:
    found = read_labelled(config(root), class_names=("water", "grass"))
    assert found.class_names == ("water", "grass")
    assert sum(chip.labels == (0,) for chip in found.samples) == 8


def test_what_gives_no_labels_is_explained(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"label_share is .* above 0 and at most 1"):
        read_labelled(config(root, label_share=2.0))
    text = (root / "cover.yaml").read_text()
    (root / "cover.yaml").write_text(text.replace("ignored: [0]", "ignored: [0, 7]"))
    for path in (root / "masks").iterdir():
        write_tiff(path, np.full((1, 16, 16), 7, np.uint16))
    with pytest.raises(DataError, match="no mask holds a labelled pixel"):
        read_labelled(config(root))


def test_a_stratified_split_keeps_the_tiles_of_an_image_together(root: Path) -> None:
    for seed in range(4):
        found = read_labelled(config(root, split="stratified", split_seed=seed))
        splits: dict[str, set[str]] = {}
        for chip in found.samples:
            splits.setdefault(chip.item.name, set()).add(chip.split)
        assert all(len(each) == 1 for each in splits.values())


def test_statistics_leave_out_the_tiles_of_other_splits(root: Path) -> None:
    for path in sorted((root / "images").iterdir()):
        path.unlink()
        (root / "masks" / path.name).unlink()
    write_tiff(root / "images" / "a.tif", np.full((1, 16, 64), 9, np.uint16), res=100.0)
    codes = np.ones((1, 16, 64), np.uint8)
    codes[:, 8:] = 2
    write_tiff(root / "masks" / "a.tif", codes, res=100.0)
    text = (root / "cover.yaml").read_text()
    text += "split: blocks\nblock_m: 800\nfractions: {train: 0.5, val: 0.5, test: 0}\n"
    (root / "cover.yaml").write_text(text)
    found = read_labelled(config(root))
    numbers = np.full((1, 16, 64), 5000, np.uint16)
    for window in (chip.window for chip in found.select("train").samples):
        assert window is not None
        numbers[:, window.row : window.row + 8, window.column : window.column + 8] = 999
    write_tiff(root / "images" / "a.tif", numbers, res=100.0)
    statistics = sample_statistics(
        found.select("train"), [load_sensor(SENSOR).band("B04")]
    )
    assert statistics.mean["B04"] == pytest.approx(0.0999)
    assert statistics.std["B04"] == pytest.approx(0, abs=1e-6)


def test_a_class_that_labels_no_image_is_named(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (root / "cover.yaml").read_text().replace("water: 2", "water: 2, reed: 3")
    (root / "cover.yaml").write_text(text)
    path = root / "masks" / "a.tif"
    mask = QUARTERS.copy()
    mask[0, :2] = 3
    write_tiff(path, mask[None])
    read_labelled(config(root))
    assert "no image has enough of reed (2 px) for a label" in caplog.text


def test_tiles_are_those_of_the_mask_whichever_bands_are_read(tmp_path: Path) -> None:
    # Band B02 has twice the pixels of B05, which alone is read.
    for name in "abc":
        fine = np.full((1, 32, 32), 900, np.uint16)
        write_tiff(tmp_path / "images" / name / "B02.tif", fine)
        coarse = np.full((1, 16, 16), 1000, np.uint16)
        coarse[:, 8:, 8:] = 3000
        write_tiff(tmp_path / "images" / name / "B05.tif", coarse, res=20.0)
        codes = np.ones((1, 32, 32), np.uint8)
        codes[:, 16:, 16:] = 2
        write_tiff(tmp_path / "masks" / f"{name}.tif", codes)
    (tmp_path / "cover.yaml").write_text(
        f"root: .\nsensor: {SENSOR}\noffset: 0\nclasses: {{grass: 1, water: 2}}\n"
    )
    found = read_labelled(config(tmp_path, tile_px=16))
    band = load_sensor(SENSOR).band("B05")
    ones = {"B05": 1.0}
    statistics = BandStatistics({"B05": 0.0}, ones, {"B05": 0.0}, ones, "stated")
    contract = sensor_preprocessing(
        SENSOR, image_size=8, scaling="fixed-range", statistics=statistics,
        names=[band.name],
    )  # fmt: skip
    dataset = LabelledDataset(found, contract)
    for index, chip in enumerate(found.samples):
        wanted = 0.3 if chip.labels == (1,) else 0.1
        middle = dataset[index]["image"][0, 2:-2, 2:-2]
        assert middle.numpy() == pytest.approx(wanted, abs=0.01)
