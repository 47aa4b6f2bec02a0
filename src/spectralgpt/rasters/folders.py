"""Folders of data as people keep them: what counts, and which paths stay inside.

Notebooks, unpackers and file managers leave copies and thumbnails beside the data; one
rule says for every lister that these are no data. Links that users make in their own
folders are followed; what a file writes must not lead out of its folder by itself.
"""

import glob
import os
from pathlib import Path

from spectralgpt.errors import RasterError

__all__ = [
    "glob_folder",
    "is_litter",
    "is_path",
    "list_folder",
    "path_below",
    "walk",
]

_LITTER = frozenset(
    {
        "__MACOSX",
        "__pycache__",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)
"""Folders of programs, beside all hidden ones such as .ipynb_checkpoints."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes that systems allow."""


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is none of the data."""
    return name.startswith(".") or name in _LITTER


def list_folder(folder: Path) -> list[Path]:
    """List the data in a folder, sorted.

    Raises:
        RasterError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        raise RasterError(f"{folder} cannot be read: {error.strerror}.") from None


def walk(root: Path) -> list[Path]:
    """List the data below a folder, sorted; links are followed, each folder once.

    Raises:
        RasterError: a folder cannot be read.
    """
    seen: set[str] = set()
    found: list[Path] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        inside = list_folder(folder)
        found += inside
        waiting += [path for path in inside if path.is_dir()]
    return sorted(found)


def glob_folder(root: Path, pattern: str) -> list[Path]:
    """List the data that a glob finds under a folder, sorted; links are followed.

    Args:
        root: the folder.
        pattern: relative to it; `**` is any number of folders. What is hidden is only
            found by a pattern that names it.
    """
    found = glob.glob(pattern, root_dir=root, recursive=True)
    stated = set(Path(pattern).parts)
    return sorted(
        root / name
        for name in found
        if not any(is_litter(part) for part in set(Path(name).parts) - stated)
    )


def is_path(text: str) -> bool:
    """Whether a file can be called so; the system fails on what is no name or long."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    names = raw.split(b"/")
    is_short = len(raw) < _LONGEST_PATH and max(map(len, names)) <= _LONGEST_NAME
    return is_short and b"\0" not in raw


def path_below(folder: Path, text: str) -> Path | None:
    """Return the path that a file names relative to its folder, None if it leads out.

    It leads out by `..`, as an absolute path to elsewhere, or by what is no path; where
    links lead is the user's own choice.

    Args:
        folder: of the file.
        text: as it stands there.
    """
    if not text or not is_path(text) or "\\" in text or "://" in text:
        return None
    for base in (os.path.abspath(folder), os.path.realpath(folder)):
        path = Path(os.path.normpath(Path(base) / text))
        if Path(base) in path.parents:
            return folder / path.relative_to(base)
    return None
