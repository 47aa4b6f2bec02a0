from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.scenes.inputs import list_pairs, list_scenes, match_pairs, name_maps
from tests.raster_files import write_tiff

BEFORE, AFTER = Path("before"), Path("after")


def test_images_are_matched_by_their_path_below_the_folder() -> None:
    first = [BEFORE / "north/a.tif", BEFORE / "south/a.tif"]
    second = [AFTER / "south/a.jp2", AFTER / "north/a.tif"]
    assert match_pairs(BEFORE, first, AFTER, second) == [
        (first[0], second[1]),
        (first[1], second[0]),
    ]


def test_two_single_images_need_not_have_one_name() -> None:
    first, second = Path("2019.tif"), Path("2020.tif")
    assert match_pairs(first, [first], second, [second]) == [(first, second)]


def test_images_without_a_partner_are_counted_and_named() -> None:
    first = [BEFORE / "a.tif", BEFORE / "b.tif"]
    second = [AFTER / "a.tif", AFTER / "c.tif"]
    with pytest.raises(DataError, match=r"2 images .* before/b.tif, after/c.tif"):
        match_pairs(BEFORE, first, AFTER, second)


def test_two_images_of_one_name_are_refused() -> None:
    first = [BEFORE / "a.tif", BEFORE / "a.jp2"]
    with pytest.raises(DataError, match="have the same name"):
        match_pairs(BEFORE, first, AFTER, [AFTER / "a.tif"])


def test_a_date_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"^before does not exist"):
        match_pairs(BEFORE, [BEFORE], AFTER, [AFTER / "a.tif", AFTER / "b.tif"])


def test_lists_folders_and_files_are_joined_each_scene_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiff(tmp_path / f"in/{name}.tif", np.ones((1, 4, 4), "uint16"))
    text = "# ours\n\n  in/b.tif\nin/missing.tif\n" + f"{tmp_path}/in/a.tif\n"
    (tmp_path / "list.txt").write_text(text)
    found = list_scenes([tmp_path / "list.txt", tmp_path / "in"], None, None)
    names = ["b.tif", "missing.tif", "a.tif"]
    assert found == [tmp_path / "in" / name for name in names]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "names no scenes"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a\0b.tif\n", "byte of 0"),
    ],
)
def test_lists_that_are_none_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list_scenes([tmp_path / "list.txt"], None, None)


def test_two_dates_belong_together_by_line_or_by_name(tmp_path: Path) -> None:
    for name in ("old/a", "old/b", "new/a", "new/b"):
        write_tiff(tmp_path / f"{name}.tif", np.ones((1, 4, 4), "uint16"))
    old, new = tmp_path / "old", tmp_path / "new"
    (tmp_path / "before.txt").write_text("old/b.tif\n# ours\nold/a.tif\n")
    (tmp_path / "after.txt").write_text("new/a.tif\nnew/b.tif\n")
    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    assert list_pairs(before, after, None, None) == [
        (old / "b.tif", new / "a.tif"),
        (old / "a.tif", new / "b.tif"),
    ]
    assert list_pairs(old, new, None, None) == [
        (old / "a.tif", new / "a.tif"),
        (old / "b.tif", new / "b.tif"),
    ]
    (new / "b.tif").unlink()
    with pytest.raises(DataError, match="no partner of the same name"):
        list_pairs(old, new, None, None)
    after.write_text("new/a.tif\n")
    with pytest.raises(DataError, match=r"names 2 scenes, .* 1: write both dates"):
        list_pairs(before, after, None, None)
    with pytest.raises(DataError, match="is no list"):
        list_pairs(before, new, None, None)


def test_maps_take_as_much_of_the_path_as_tells_them_apart(tmp_path: Path) -> None:
    paths = [Path("x/a/one.tif"), Path("x/b/one.tif"), Path("x/b/two.tif")]
    named = name_maps(paths, tmp_path)
    names = ["a_one.tif", "b_one.tif", "b_two.tif"]
    assert [named[path].name for path in paths] == names
    assert name_maps(paths[1:], tmp_path)[paths[1]] == tmp_path / "one.tif"
    with pytest.raises(ConfigError, match="mapped to the same file"):
        name_maps([Path("a.tif"), Path("a.jp2")], tmp_path)
