"""Where results go: folders that appear whole, and which process may fill them.

What is being made lies in a hidden, locked folder beside its place. The system frees a
lock when its process ends, however it ends: what nobody has locked was left by one that
was killed, and goes.
"""

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from spectralgpt.errors import ConfigError

_MAKING_SUFFIX = ".making"
_HIDDEN = re.compile(rf"/\.[^/]+\.[0-9a-f]{{32}}\{_MAKING_SUFFIX}/made(?=/)")
_LEFT = re.compile(r"\..+\.[0-9a-zA-Z_]{8,32}\.(making|partial)")
_LOCK = "lock"
_LOCK_TRIES = 100
"""Other processes remove a lock, and its folder, as often in a row at most."""
_TEMPORARY: set[Path] = set()
"""What this process removes before it ends, also where no `finally` is reached."""


def name_openly(text: str) -> str:
    """Name what is in the making in a hidden folder by where it is to be."""
    return _HIDDEN.sub("", text)


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
    _remove_unlocked(path.parent.glob(f".{glob.escape(path.name)}.*{_MAKING_SUFFIX}"))
    folder = path.with_name(f".{path.name}.{uuid4().hex}{_MAKING_SUFFIX}")
    _TEMPORARY.add(folder)
    try:
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
        overwrite: replace such a one.
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
    """Keep a file or folder that is to be made from other processes while it is made.

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
    """Lock a file that whoever holds it removes in the end.

    Raises:
        Timeout: another process holds it.
        OSError: it cannot be made, or does not stay.
    """
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

    Args:
        result: the file or folder that they worked on.
    """
    remove_leftovers(result)
    _remove_unlocked([_lock_path(result.resolve())])
    for path in list(_TEMPORARY):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _remove_unlocked(paths: Iterable[Path]) -> None:
    """Remove locks and what is half-made, if its process is dead: none has the lock."""
    for path in paths:
        lock = path / _LOCK if path.is_dir() else path
        with contextlib.suppress(Timeout, OSError):
            if lock.is_file():
                with FileLock(lock, timeout=0):
                    path.unlink() if lock == path else shutil.rmtree(path)
