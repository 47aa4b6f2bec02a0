from pathlib import Path

import pytest

from spectralgpt.errors import DataError
from spectralgpt.scenes.pairs import match_pairs

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
