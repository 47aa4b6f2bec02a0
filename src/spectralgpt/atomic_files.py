"""Files that are there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["PARTIAL_SUFFIX", "folder_beside", "replace_file"]

PARTIAL_SUFFIX = ".partial"
"""Of hidden files that a killed process left behind; they may be removed."""


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
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # safetensors and torch wrap the system's error in their own.
        if "os error" in str(error).lower() and not isinstance(error, OSError):
            raise OSError(str(error)) from error
        raise


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside a file that is in the making; it goes in the end.

    A file that is made in it and moved out has the permissions of any new file.

    Raises:
        OSError: the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
