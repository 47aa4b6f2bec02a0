"""Texts and JSON from outside: what is harmless is read, and one line for the rest."""

import codecs
import time
from pathlib import Path

import pytest

from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.errors import DataError, OutputError
from spectralgpt.files import (
    decode_text,
    parse_json,
    read_json,
    read_table,
    read_text,
    write_file,
    write_json,
    write_table,
)
from spectralgpt.scenes.inputs import list_scenes

NAMES = "image,label\nforêt.tif,forêt\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_that_says_its_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(NAMES.encode(encoding))
    assert read_text(path) == NAMES
    assert read_table(path) == (
        ["image", "label"],
        [{"image": "forêt.tif", "label": "forêt"}],
    )
    path.write_bytes(codecs.BOM_UTF16_BE + NAMES.encode("utf-16-be"))
    assert read_text(path) == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NAMES.encode("latin-1"), r"not UTF-8 \(byte 0xea in line 2\)"),
        (NAMES.encode("utf-16-le"), "byte of 0 in line 1"),
        (b"image,label\na\0.tif,x\n", "byte of 0 in line 2"),
        (b"image,label,image\n", "two columns called 'image'"),
        (b"image,label\na.tif,x,y\n", "row 1 has more values than the 2 columns"),
        (b"image\n" + b"x" * 200_000, r"cannot be read as CSV: field larger"),
        (codecs.BOM_UTF16_LE + b"a", "not UTF-8"),
    ],
)
def test_what_is_no_table_is_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_and_lists_in_any_encoding_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "forêt.tif").touch()
    for encoding in ("latin-1", "utf-16-le"):
        table = tmp_path / "labels.csv"
        table.write_bytes(NAMES.encode(encoding))
        with pytest.raises(DataError, match=r"labels\.csv .*save it as UTF-8"):
            read_labelled(LabelledDataConfig(str(tmp_path), layout="csv"))
        scenes = tmp_path / "scenes.txt"
        scenes.write_bytes("forêt.tif\n".encode(encoding))
        with pytest.raises(DataError, match=r"scenes\.txt .*save it as UTF-8"):
            list_scenes([scenes], None, None)
    for encoding in ("utf-8-sig", "utf-16"):
        scenes.write_bytes("forêt.tif\n".encode(encoding))
        assert list_scenes([scenes], None, None) == [tmp_path / "forêt.tif"]


def test_what_is_not_there_or_too_large_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        read_text(tmp_path / "none.csv")
    with pytest.raises(DataError, match="embedded null byte"):
        read_text(tmp_path / "a\0b.csv")
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="is it the right file"):
        read_text(path, most_bytes=99)
    assert decode_text(b"", "a") == ""


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


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"image": "forêt, 1.tif", "label": 'a "b"'}, {"image": "x"}]
    write_table(tmp_path / "new" / "a.csv", rows)
    assert read_table(tmp_path / "new" / "a.csv") == (
        ["image", "label"],
        [rows[0], {"image": "x", "label": ""}],
    )
    write_json(tmp_path / "a.json", {"forêt": [1.5]})
    assert read_json(tmp_path / "a.json") == {"forêt": [1.5]}


def test_full_device_is_one_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def write(path: Path) -> None:
        with Path("/dev/full").open("wb") as full:
            full.write(b"x" * 10)

    with pytest.raises(OutputError, match="No space left"):
        write_file(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "hidden",
    [
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "'
        'No space left on device" })',
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_a_full_disk_that_a_library_hides_is_said(tmp_path: Path, hidden: str) -> None:
    def write(path: Path) -> None:
        raise RuntimeError(hidden)

    wanted = r"cannot write .*there\.bin: No space left on device\. Make room"
    with pytest.raises(OutputError, match=wanted):
        write_file(tmp_path / "there.bin", write)
    assert not list(tmp_path.iterdir())
