import json
import math
from pathlib import Path

import pytest

from spectralgpt.data import series
from spectralgpt.data.series import SeriesRule, find_day
from spectralgpt.errors import ConfigError, DataError

TWO = SeriesRule(2)
AUGUST_13 = 18_487
"""13 August 2020."""


@pytest.mark.parametrize(
    "text",
    [
        "20200813T054639_20200813T054952_T43RCP",
        "2020-08-13",
        "2020_08_13",
        "before 20200813",
        "S2B_MSIL2A_20200813T054639_N0214_R048_T43RCP_20200814T083230",
        "LC08_L1TP_193024_20200813_20200829_02_T1",
        "ENMAP01-____L2A-DT0000004950_20200813T162443Z_001_V010110_20221118T145147Z",
        "2020-08-13T05:46:39Z",
    ],
)
def test_date_is_read_from_names_of_products(text: str) -> None:
    assert series._day_of(text) == AUGUST_13


@pytest.mark.parametrize(
    "text",
    [
        "0000200",
        "20201301",
        "2020-0813",
        "1202008131",
        "T43RCP",
        "2020-02-30",
        "123456",
    ],
)
def test_other_digits_are_no_date(text: str) -> None:
    assert series._day_of(text) is None


def test_epoch_is_day_zero() -> None:
    assert series._day_of("1970-01-01") == 0
    assert series._day_of("1969-12-31") == -1


def test_the_image_s_own_name_comes_before_its_folders(tmp_path: Path) -> None:
    name = "20190101_place/2020-08-13.tif"
    assert find_day(name, tmp_path / name, TWO) == AUGUST_13
    name = "place/2020-08-13/image.tif"
    assert find_day(name, tmp_path / name, TWO) == AUGUST_13


def test_stated_pattern_says_where_the_date_is(tmp_path: Path) -> None:
    rule = SeriesRule(2, date=r"_to_(?P<date>\d+)")
    name = "20200101_to_20200813.tif"
    assert find_day(name, tmp_path / name, rule) == AUGUST_13
    with pytest.raises(DataError, match=r"a\.tif: 'date' pattern .* finds no date"):
        find_day("a.tif", tmp_path, rule)


@pytest.mark.parametrize(
    "content",
    [
        {"PRODUCT_ID": "S2B_MSIL2A_20200813T054639_N0214_R048_T43RCP_20200814T083230"},
        {"acquisition_date": "2020-08-13 10:10:31"},
        {"properties": {"datetime": "2020-08-13T05:46:39Z"}},
    ],
)
def test_date_is_read_from_metadata(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "image").mkdir()
    for file in (tmp_path / "image" / "metadata.json", tmp_path / "b.json"):
        file.write_text(json.dumps(content))
    assert find_day("image", tmp_path / "image", TWO) == AUGUST_13
    (tmp_path / "b.tif").touch()
    assert find_day("b.tif", tmp_path / "b.tif", TWO) == AUGUST_13


def test_image_without_a_date_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p/a\.tif has no date in its name") as error:
        find_day("p/a.tif", tmp_path / "p/a.tif", TWO)
    assert "\n" not in str(error.value)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json cannot be read"):
        find_day("x", tmp_path, TWO)
    # The day of processing is no date of an image.
    (tmp_path / "metadata.json").write_text('{"GENERATION_TIME": "2020-08-13"}')
    with pytest.raises(DataError, match="x has no date"):
        find_day("x", tmp_path, TWO)


def test_rule_is_read_from_a_number_or_a_table() -> None:
    assert SeriesRule.from_table(3, "a.yaml") == SeriesRule(3)
    assert SeriesRule(3).fewest == 3
    rule = SeriesRule.from_table({"dates": 3, "at_least": 1, "stack": 5}, "a.yaml")
    assert (rule.dates, rule.fewest, len(rule.stack)) == (3, 1, 5)
    assert all(math.isnan(day) for day in rule.stack)
    table = {"dates": 2, "stack": ["1970-01-03", "1970-01-02"]}
    assert SeriesRule.from_table(table, "a.yaml").stack == (2.0, 1.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("two", "'dates' must be a whole number, found 'two'"),
        (True, "'dates' must be a whole number"),
        (0, "use 1 or more dates"),
        ({"dates": 2, "at_least": 3}, "at least 3: use"),
        ({"date": 2}, "key 'dates' is missing"),
        ({"dates": 2, "stak": 2}, "unknown key 'stak'.*'stack'"),
        ({"dates": 2, "stack": 1}, "at least 2 dates from files that stack 1"),
        ({"dates": 2, "stack": ["May", "2020-01-01"]}, r"found \['May'\]"),
        ({"dates": 2, "stack": 2, "date": "(?P<date>.)"}, "either 'date' or 'stack'"),
        ({"dates": 2, "date": "(.*)"}, "needs a group"),
        ({"dates": 2, "date": "("}, "no regular expression"),
    ],
)
def test_wrong_rules_are_explained(table: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SeriesRule.from_table(table, "a.yaml, series")
