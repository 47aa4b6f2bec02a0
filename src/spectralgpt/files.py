"""Files read with bounds, and written whole or not at all: text, CSV, JSON.

What comes from outside gives plain values or one error: encoding, size, depth and
numbers are bounded before they can cost anything. A text is UTF-8, or says by its
first bytes that it is UTF-16. In other encodings letters would be guessed, and a name
guessed wrong is another file or another class.
"""

import codecs
import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectralgpt.errors import DataError, OutputError
from spectralgpt.outputs import folder_beside

_MOST_BYTES = 2**28
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The marks of UTF-32 begin as one of UTF-16 does.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# How old and new versions of safetensors write the system's error into their own.
_HIDDEN_ERROR = re.compile(r"\bos (?:error |\{ code: )(\d+)", re.IGNORECASE)
_MOST_DEPTH = 100
_CHECK = "check"
_DIGITS = 16
# Beyond what a float holds; Python's own limit is for what it turns into text.
_MOST_DIGITS = 308
_LONG_NUMBER = re.compile(rb"\d{%d}" % (_MOST_DIGITS + 1))
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1
_MEBIBYTE = 2**20
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, *_REFUSED)
"""Numbers of the system's errors of a place in which nothing can be written."""


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
        content = _read_bounded(path, most_bytes, "text")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {reason}.") from None
    return decode_text(content, str(path))


def _read_bounded(path: Path, most_bytes: int, what: str) -> bytes:
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DataError(
            f"{path} is larger than {most_bytes / 2**20:g} MiB, the most that is read "
            f"of a {what}: is it the right file?"
        )
    return content


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


def read_json(path: Path, most_bytes: int = _MOST_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: UTF-8, with or without a byte-order mark.
        most_bytes: the largest file that is read.

    Raises:
        DataError: it is too large, or see `parse_json`.
        OSError: there is no such file, or it cannot be read.
    """
    return parse_json(_read_bounded(path, most_bytes, "JSON file here"), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a JSON text holds.

    Args:
        text: bytes are UTF-8, with or without a byte-order mark.
        where: what it is, for messages: a file and place.

    Raises:
        DataError: it is not JSON, not UTF-8, nested deeply, or has a number of
            hundreds of digits; one line that names `where`.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    # Longer numbers are digits in a text as a rule: only they are looked at one by one.
    whole = _bounded_int if _LONG_NUMBER.search(raw) else None
    try:
        values = json.loads(raw.decode("utf-8"), parse_int=whole)
    except RecursionError:
        raise DataError(_too_deep(where)) from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from None
    if _may_be_deep(raw) and _is_deeper(values, _MOST_DEPTH):
        raise DataError(_too_deep(where))
    return values


def checked_line(values: Mapping[str, Any]) -> str:
    """Return an entry of a journal or a record as one line, with its own checksum."""
    checked = {**values, _CHECK: _checksum(values)}
    return json.dumps(checked, ensure_ascii=False) + "\n"


def parse_checked(line: bytes) -> dict[str, Any] | None:
    """Return what `checked_line` wrote; None if the line is not as it was written."""
    try:
        values = parse_json(line, "an entry")
    except DataError:
        return None
    if not isinstance(values, dict) or values.pop(_CHECK, None) != _checksum(values):
        return None
    return values


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Do what `write_file` does, for callers who say themselves what went wrong.

    Raises:
        OSError: it cannot be written (disk full, no permission); the old file stays.
    """
    try:
        with folder_beside(path) as folder:
            temporary = folder / path.name
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            write(temporary)
            # safetensors makes files anew that only their owner may read.
            temporary.chmod(mode)
            sync_file(temporary)
            os.replace(temporary, path)
    except BaseException as error:
        hidden = _HIDDEN_ERROR.search(str(error))
        if hidden and not isinstance(error, OSError):
            number = int(hidden.group(1))
            raise OSError(number, os.strerror(number), str(path)) from error
        # The user knows nothing of the folder beside it.
        if isinstance(error, OSError) and error.errno is not None:
            named = Path(error.filename or path)
            error.filename = str(path if path.parent in named.parents else named)
        raise


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that `path` is either the old one or the whole new one.

    Args:
        path: the file to make, in a folder that is made if it is missing.
        write: writes to the path that it is given, of the same name, on the same disk.

    Raises:
        OutputError: it cannot be written (disk full, no permission); says what to do.
            The old file stays.
    """
    try:
        replace_file(path, write)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {explain_failure(path, error)} What was there is "
            "unchanged."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; see `write_file`."""
    write_file(path, lambda to: to.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON, indented; see `write_file`."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_table(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write a CSV with a line of names; see `write_file`.

    Args:
        path: the file to make.
        rows: values by column; what a row lacks is left empty.
        columns: all of them; by default those of the first row.
    """
    rows = list(rows)

    def write(to: Path) -> None:
        with to.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns or rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)


def explain_failure(path: Path, error: Exception) -> str:
    """Say in one line why something cannot be written, and what to do.

    Args:
        path: what was to be written.
        error: the system's, or one of a library that hides it.
    """
    reason, todo = " ".join(str(error).split()), "Allow writing there"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.strerror:
        reason = " ".join(str(error.strerror).split())
    if number not in (*_REFUSED, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG):
        todo = f"Make room{_say_free(path)}"
    return f"{reason.rstrip('.')}. {todo}, or choose another --output."


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it does not get there.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_DIGITS]


def _bounded_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _may_be_deep(raw: bytes) -> bool:
    """Tell quickly; brackets in texts count as well."""
    depth = np.cumsum(_STEPS[np.frombuffer(raw, np.uint8)], dtype=np.int32)
    return bool(len(depth)) and int(depth.max()) > _MOST_DEPTH


def _is_deeper(values: Any, most: int) -> bool:
    level = [values]
    for _ in range(most + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _too_deep(where: str) -> str:
    return f"{where} is nested deeper than {_MOST_DEPTH} levels: it was not read."


def _say_free(path: Path) -> str:
    there = next((each for each in path.parents if each.is_dir()), None)
    try:
        free = shutil.disk_usage(there or path).free
    except OSError:
        return ""
    return f" (the disk has {free / _MEBIBYTE:.1f} MiB left)"
