"""Text, CSV and JSON read with bounds; files and folders written whole or not at all.

What comes from outside gives plain values or one error: encoding, size, depth and
numbers are bounded before they can cost anything. A text is UTF-8, or says by its
first bytes that it is UTF-16. In other encodings letters would be guessed, and a name
guessed wrong is another file or another class.

What is being made lies in a hidden, locked folder beside its place. The system frees a
lock when its process ends, however it ends: what is not locked was left by a killed
process, and is removed.
"""

import codecs
import contextlib
import csv
import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from spectralgpt.errors import ConfigError, DataError, OutputError

_log = logging.getLogger(__name__)

MADE_BY = "made by spectralgpt"
"""What files beside a result say of themselves."""
_OURS = re.compile(
    MADE_BY.encode()
    + rb'|"processing:software": \{\s*"spectralgpt"|"format": "spectralgpt-export"'
)
_HEAD_BYTES = 2**16
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
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, *_REFUSED)
"""Numbers of the system's errors of a place in which nothing can be written."""
_MAKING_SUFFIX = ".making"
_HIDDEN = re.compile(rf"/\.[^/]+\.[0-9a-f]{{32}}\{_MAKING_SUFFIX}/made(?=/)")
_LEFT = re.compile(r"\..+\.[0-9a-zA-Z_]{8,32}\.(making|partial)")
_LOCK = "lock"
_LOCK_TRIES = 100
"""Other processes remove a lock, and its folder, as often in a row at most."""
_TEMPORARY: set[Path] = set()
"""What this process removes before it ends, also where no `finally` is reached."""
_BEGINNING = threading.RLock()
"""Held where something temporary begins, and for good once the process is to end."""
_REMOVAL_TRIES = 50


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
    """Do what `write_file` does, for callers that report errors in their own words.

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


def may_replace(path: Path) -> bool:
    """Tell whether a file beside a result is ours to write: none is there, or ours.

    What others made is kept, also by --overwrite, which names none of these files.
    """
    if not path.is_file():
        return True
    with path.open("rb") as file:
        is_ours = _OURS.search(file.read(_HEAD_BYTES)) is not None
    if not is_ours:
        _log.warning(
            "%s is kept: spectralgpt did not make it. Move it to have ours.", path
        )
    return is_ours


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


def explain_unwritable(error: Exception) -> str | None:
    """Say where nothing can be written, and what to do; None of all other errors."""
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE:
        return None
    where = error.filename or "the output"
    return f"{where} cannot be used: {explain_failure(Path(where), error)}"


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


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def name_openly(text: str) -> str:
    """Name files in a hidden folder by the place that they will be moved to."""
    return _HIDDEN.sub("", text)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside something that is in the making; it goes in the end.

    A file that is made in it and moved out has the permissions of any new file. What
    killed processes left beside the same path is removed; folders of processes that are
    alive are locked. Folders made above it are removed again if they stay empty.

    Raises:
        OSError: the folder cannot be made.
    """
    new = missing_folders(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unlocked(path.parent.glob(f".{glob.escape(path.name)}.*{_MAKING_SUFFIX}"))
    folder = path.with_name(f".{path.name}.{uuid4().hex}{_MAKING_SUFFIX}")
    try:
        with _BEGINNING:
            _TEMPORARY.add(folder)
            folder.mkdir()
        with FileLock(folder / _LOCK):
            # Beside the lock, so that all that it holds may be moved out.
            made = folder / "made"
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _TEMPORARY.discard(folder)
        remove_if_empty(new)


@contextmanager
def appearing(
    output: Path,
    what: str,
    own_files: Sequence[str],
    *,
    overwrite: bool,
    inputs: Sequence[str | Path] = (),
) -> Iterator[Path]:
    """Yield a folder to fill, which becomes the output if nothing goes wrong.

    Args:
        output: folder to make; an empty one may be there.
        what: it is, such as `labelled set`.
        own_files: what tells a folder that was made so before.
        overwrite: replace such a folder.
        inputs: what is read, which must not lie in it.

    Raises:
        ConfigError: the folder is there, and may not be replaced.
        OSError: it cannot be made.
    """
    output = output.absolute()
    found = [path.name for path in output.iterdir()] if output.is_dir() else []
    if found and not overwrite:
        raise ConfigError(
            f"{output} exists. Name another --output, or replace it with --overwrite."
        )
    is_ours = all((output / name).is_file() for name in own_files)
    check_replaceable(output, what, [] if is_ours else found, inputs)
    with folder_beside(output) as beside:
        folder = beside / output.name
        folder.mkdir()
        yield folder
        if output.exists():
            shutil.rmtree(output)
        folder.replace(output)


@contextmanager
def claiming(result: Path) -> Iterator[None]:
    """Keep other processes from a file or folder while it is being made.

    What killed processes left half-made in the folder is removed. The lock lies beside
    the result, or in it where nothing can be written beside it.

    Raises:
        ConfigError: another process is at work on it, or nothing can be written there.
    """
    result = result.resolve()
    new = missing_folders(result.parent)
    path = _lock_path(result)
    try:
        lock = _lock(path)
    except Timeout:
        raise ConfigError(
            f"{result} is being made by another process: wait for it, or name another "
            "--output."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"nothing can be written in {path.parent}: {error.strerror}. Name another "
            "--output."
        ) from None
    _TEMPORARY.add(path)
    try:
        remove_leftovers(result)
        yield
    finally:
        path.unlink(missing_ok=True)
        _TEMPORARY.discard(path)
        lock.release()
        remove_if_empty(new)


def _lock_path(result: Path) -> Path:
    is_inside = result.is_dir() and not os.access(result.parent, os.W_OK)
    return (result if is_inside else result.parent) / f".{result.name}.{_LOCK}"


def _lock(path: Path) -> FileLock:
    """Lock a file that whoever holds it removes in the end."""
    error = OSError(errno.ENOLCK, "a lock is lost as soon as it is made")
    for _ in range(_LOCK_TRIES):
        make_folder(path.parent)
        try:
            path.touch()
            inode = path.stat().st_ino
            lock = FileLock(path)
            lock.acquire(timeout=0)
            with contextlib.suppress(FileNotFoundError):
                # Else it was removed before it was locked, and others see another one.
                if path.stat().st_ino == inode:
                    return lock
            lock.release()
        except FileNotFoundError as lost:
            # The folder went meanwhile, or is none for files, as in /proc.
            error = lost
    raise error


def check_replaceable(
    folder: Path, what: str, strange: Sequence[str], inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse to empty a folder that is not known, or that holds what is still needed.

    Args:
        folder: to be emptied.
        what: it may be, such as `pack`.
        strange: what is in it, where it is nothing of the kind; empty where it is.
        inputs: what is read for the new one; what is no path on this machine is passed.

    Raises:
        ConfigError: it is something else, or an input lies in it.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Name another --output.")
    if strange:
        raise ConfigError(
            f"{folder} is not empty and holds no {what} (found: {min(strange)}), so "
            "not even --overwrite replaces it. Name another --output."
        )
    for each in map(Path, inputs):
        if each.exists() and each.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"{each} is to be read, and lies in {folder}, which is to be replaced. "
                "Name another --output."
            )


def make_folder(folder: Path) -> None:
    """Make a folder for output, with those above it, if it is not there.

    Raises:
        ConfigError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_the_way = [each for each in (folder, *folder.parents) if each.is_file()]
        reason = f"{error.strerror} ({error.filename})"
        reason = f"{in_the_way[0]} is a file" if in_the_way else reason
        raise ConfigError(
            f"cannot make the output folder {folder}: {reason}. Name another --output."
        ) from error


def missing_folders(folder: Path) -> list[Path]:
    """Return a folder and those above it that are not there, the lowest first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_if_empty(folders: Sequence[Path]) -> None:
    """Remove folders that hold nothing, in this order."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-made in a folder, and in those in it."""
    with contextlib.suppress(OSError):
        for each in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            hidden = [path for path in each.iterdir() if _LEFT.fullmatch(path.name)]
            _remove_unlocked(hidden)


def drop_temporaries(result: Path) -> None:
    """Remove what this process has in the making, and those that it has killed.

    The process is to end then: what its other threads begin afterwards waits for good.

    Args:
        result: the file or folder that they worked on.
    """
    _BEGINNING.acquire(timeout=1)
    remove_leftovers(result)
    _remove_unlocked([_lock_path(result.resolve())])
    for path in list(_TEMPORARY):
        for _ in range(_REMOVAL_TRIES):
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            if not path.exists():
                break
            # Another thread was writing there.
            time.sleep(0.01)


def _remove_unlocked(paths: Iterable[Path]) -> None:
    """Remove locks and what is half-made, if its process is dead: none has the lock."""
    for path in paths:
        lock = path / _LOCK if path.is_dir() else path
        with contextlib.suppress(Timeout, OSError):
            if lock.is_file():
                with FileLock(lock, timeout=0):
                    path.unlink() if lock == path else shutil.rmtree(path)


def is_first_process() -> bool:
    """Tell whether this process is rank 0, also before the processes have met."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name]) == 0
    ranks = (os.environ.get(name, "0") for name in ("NODE_RANK", "LOCAL_RANK"))
    return all(int(rank) == 0 for rank in ranks)
