import time
from pathlib import Path

import pytest

from spectralgpt.errors import DataError
from spectralgpt.json_files import parse_json, read_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * 500 + "]" * 500, "nested deeper than 100"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested deeper than 100"),
        ("9" * 5000, "a number of 5000 digits"),
        ('{"a": ' + "9" * 400 + "}", "a number of 400 digits"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        ("<html>", "is not JSON"),
    ],
)
def test_hostile_text_is_one_short_error_at_once(text: str | bytes, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=says) as caught:
        parse_json(text, "the record")
    assert time.monotonic() - began < 5
    assert str(caught.value).startswith("the record ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("\ufeff[1]", [1]),
        (b"\xef\xbb\xbf[1]", [1]),
        ('["' + "[" * 500 + '"]', ["[" * 500]),
        ('["' + "9" * 500 + '"]', ["9" * 500]),
        ("[" * 99 + "]" * 99, None),
        ("1.5e300", 1.5e300),
    ],
)
def test_what_is_harmless_is_read(text: str | bytes, holds: object) -> None:
    found = parse_json(text, "x")
    assert holds is None or found == holds


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "1," * 2000 + "1]")
    with pytest.raises(DataError, match=r"a\.json is larger than .* MiB"):
        read_json(path, most_bytes=1000)
    assert len(read_json(path)) == 2001
