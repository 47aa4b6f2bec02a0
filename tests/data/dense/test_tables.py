from pathlib import Path

import pytest

from spectralgpt.data.dense import DenseDataConfig, read_dense
from spectralgpt.errors import DataError, DatasetNotFoundError
from tests.dense_files import BANDS, write_sensor, write_set

ROWS = """image,mask,split,place
images/a.tif,masks/a.tif,train,north
images/b.tif,masks/b.tif,val,south
images/c.tif,masks/c.tif,test,east
"""


def config(root: Path, text: str = ROWS, **options: object) -> DenseDataConfig:
    write_set(root, {name: (8, 8) for name in "abc"})
    (root / "labels.csv").write_text(text, encoding="utf-8")
    stated = {"sensor": write_sensor(root), "bands": BANDS, "classes": {"a": 0, "b": 1}}
    return DenseDataConfig(str(root), layout="csv", **stated | options)  # type: ignore


def test_rows_give_files_split_and_place(tmp_path: Path) -> None:
    dense = read_dense(config(tmp_path))
    chip = dense.select("val").samples[0]
    assert Path(chip.item.name).name == chip.mask.path.name == "b.tif"
    assert dense.places == ("east", "north", "south")


def test_two_dates_are_two_columns(tmp_path: Path) -> None:
    text = "before,after,mask\nimages/a.tif,images/b.tif,masks/a.tif\n"
    # The three images lie at different places, which `align` leaves out here.
    stated = config(tmp_path, text, task="change", align="shape")
    items = read_dense(stated, divided=False).samples[0].items
    assert [Path(item.name).name for item in items] == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images/b.tif", "../b.tif", r"1 paths lie outside .* \(../b.tif\)"),
        ("images/b.tif", "/etc/passwd", r"1 paths lie outside"),
        ("masks/b.tif", "masks/x.tif", r"1 files are missing \(masks/x.tif\)"),
        ("masks/b.tif", "", r"1 paths are empty \(row 3, mask\)"),
        (",val,", ",holdout,", r"1 splits are unknown .*holdout"),
        ("mask,", "label,", r"lacks the columns mask \(found: image, label"),
        (ROWS, "image,mask\n", "has no rows"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    stated = config(tmp_path, ROWS.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_dense(stated, divided=False)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    stated = config(tmp_path, table="other.csv")
    with pytest.raises(DatasetNotFoundError, match=r"other.csv \(option data.table\)"):
        read_dense(stated, divided=False)


def test_images_behind_links_are_read(tmp_path: Path) -> None:
    stated = config(tmp_path / "set")
    (tmp_path / "set" / "images").rename(tmp_path / "images")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "images")
    assert len(read_dense(stated, divided=False).samples) == 3
