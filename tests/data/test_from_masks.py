"""Labels of images from masks: the class of most pixels, or all that cover a share."""

from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.errors import ConfigError, DataError
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
        for chip in found.chips
        if chip.window is not None and Path(chip.item.name).stem.split(":")[0] == "a"
    }
    # The unlabelled quarter is no image to learn from.
    assert of_a == {(0, 0): (0,), (0, 8): (1,), (8, 0): (1,)}
    assert {chip.split for chip in found.chips} == {"train", "val", "test"}


@pytest.mark.parametrize(("share", "labels"), [(0.04, (0, 1)), (0.1, (0,))])
def test_labels_are_all_classes_with_a_share(
    root: Path, share: float, labels: tuple[int, ...]
) -> None:
    found = read_labelled(config(root, label_share=share))
    assert found.task == "multi-label"
    first = next(c for c in found.chips if c.window is not None and c.window.row == 0
                 and c.window.column == 0)  # fmt: skip
    assert first.labels == labels


def test_classes_of_a_model_keep_their_order(root: Path) -> None:
    found = read_labelled(config(root), class_names=("water", "grass"))
    assert found.class_names == ("water", "grass")
    assert sum(chip.labels == (0,) for chip in found.chips) == 8


def test_what_gives_no_labels_is_explained(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"label_share must be in 0\.\.1"):
        read_labelled(config(root, label_share=2.0))
    text = (root / "cover.yaml").read_text()
    (root / "cover.yaml").write_text(text.replace("ignored: [0]", "ignored: [0, 7]"))
    for path in (root / "masks").iterdir():
        write_tiff(path, np.full((1, 16, 16), 7, np.uint16))
    with pytest.raises(DataError, match="no mask holds a labelled pixel"):
        read_labelled(config(root))
