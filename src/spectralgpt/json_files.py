"""The one reader of JSON from outside: records, items, labels, metadata of products.

Whatever the text holds, it gives plain values or one error: depth, size and numbers are
bounded before they can cost anything.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spectralgpt.errors import DataError

__all__ = ["checked_line", "parse_checked", "parse_json", "read_json"]

_MOST_BYTES = 2**28
_MOST_DEPTH = 100
_CHECK = "check"
_DIGITS = 16
# Beyond what a float holds; Python's own limit is for what it turns into text.
_MOST_DIGITS = 308
_LONG_NUMBER = re.compile(rb"\d{%d}" % (_MOST_DIGITS + 1))
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1


def read_json(path: Path, most_bytes: int = _MOST_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: UTF-8, with or without a byte-order mark.
        most_bytes: the largest file that is read.

    Raises:
        DataError: it is too large, or see `parse_json`.
        OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DataError(
            f"{path} is larger than {most_bytes / 2**20:g} MiB, the most that is read "
            "of a JSON file here: is it the right file?"
        )
    return parse_json(content, str(path))


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
