"""The one reader of texts from outside: lists, tables, metadata of products.

A text is UTF-8, or says by its first bytes that it is UTF-16. In other encodings
letters would be guessed, and a name guessed wrong is another file or another class.
"""

import codecs
import csv
from pathlib import Path

from spectralgpt.errors import DataError

__all__ = ["decode_text", "read_table", "read_text"]

_MOST_BYTES = 2**28
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The marks of UTF-32 begin as one of UTF-16 does.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """Read a text file.

    Args:
        path: UTF-8, or UTF-16 with a byte-order mark.
        most_bytes: the largest file that is read.

    Raises:
        DataError: it is not there, cannot be read, is too large, or is no text; one
            line that names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {reason}.") from None
    if len(content) > most_bytes:
        raise DataError(
            f"{path} is larger than {most_bytes / 2**20:g} MiB, the most that is read "
            "of a text: is it the right file?"
        )
    return decode_text(content, str(path))


def decode_text(content: bytes, where: str) -> str:
    """Return bytes as text, without a byte-order mark.

    Args:
        content: of a whole file.
        where: what it is, for messages.

    Raises:
        DataError: it is in another encoding, or holds bytes of 0; says where.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DataError(
            f"{where} holds a byte of 0 in line {line}, so it is no text, or UTF-16 "
            "without a byte-order mark: save it as UTF-8."
        )
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where} is not UTF-8 (byte 0x{content[error.start]:02x} in line {line}): "
            "save it as UTF-8, or as UTF-16 with a byte-order mark."
        ) from None
    if "\0" in text:
        raise DataError(f"{where} holds characters of 0, so it is no text.")
    return text


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV with a line of names.

    Returns:
        The names of the columns, and each row by them; what a short row lacks is "".

    Raises:
        DataError: see `read_text`; or it is no such table: two columns have one name,
            or a row has more values than there are columns.
    """
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), restval="")
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [dict(row) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as CSV: {error} (line {reader.line_num})."
        ) from None
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns called '{twice[0]}'. Rename one.")
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(
                f"{path}, row {number} has more values than the {len(columns)} "
                "columns: put values with commas in quotes."
            )
    return columns, rows
