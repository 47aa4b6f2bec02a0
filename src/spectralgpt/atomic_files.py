"""Files that are there whole or not at all."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

__all__ = [
    "PARTIAL_SUFFIX",
    "folder_beside",
    "missing_folders",
    "remove_if_empty",
    "replace_file",
    "sync_file",
]

PARTIAL_SUFFIX = ".partial"
"""Of hidden files that a killed process left behind; they may be removed."""
_MAKING_SUFFIX = ".making"
_LOCK = "lock"


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that `path` is either the old one or the whole new one.

    Args:
        path: the file to make, in a folder that is made if it is missing.
        write: writes to the path that it is given, in the same folder.

    Raises:
        OSError: it cannot be written (disk full, no permission); the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        write(temporary)
        # safetensors makes files anew that only their owner may read.
        temporary.chmod(mode)
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # safetensors and torch wrap the system's error in their own.
        if "os error" in str(error).lower() and not isinstance(error, OSError):
            raise OSError(str(error)) from error
        raise


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it does not get there.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside something that is in the making; it goes in the end.

    A file that is made in it and moved out has the permissions of any new file. What
    killed processes left beside the same path is removed; folders of processes that are
    alive are locked. Where nothing comes of it, no new folder stays above it.

    Raises:
        OSError: the folder cannot be made.
    """
    new = missing_folders(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    prefix = f".{path.name}."
    folder = Path(tempfile.mkdtemp(_MAKING_SUFFIX, prefix, path.parent))
    lock = FileLock(folder / _LOCK)
    try:
        with lock:
            # Beside the lock, so that all that it holds may be moved out.
            made = folder / "made"
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove_if_empty(new)


def missing_folders(folder: Path) -> list[Path]:
    """Return a folder and those above it that are not there, the lowest first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_if_empty(folders: Sequence[Path]) -> None:
    """Remove folders that hold nothing, in this order."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _remove_stale(path: Path) -> None:
    """Remove folders of `folder_beside` whose process is dead: none has the lock."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{_MAKING_SUFFIX}"):
        lock = folder / _LOCK
        if not lock.is_file():
            continue
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
