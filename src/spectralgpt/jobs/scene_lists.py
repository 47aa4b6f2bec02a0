"""Which scenes a job is about: files, folders, lists of paths, STAC collections.

Each may be one scene, or two dates of a place.
"""

from collections.abc import Sequence
from pathlib import Path

from spectralgpt.errors import DataError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import STAC_SUFFIXES, list_stac_items
from spectralgpt.scenes.inputs import list_inputs
from spectralgpt.scenes.pairs import match_pairs
from spectralgpt.text_files import read_text

__all__ = ["LIST_SUFFIX", "list_pairs", "list_scenes"]

LIST_SUFFIX = ".txt"
_COMMENT = "#"


def list_scenes(
    sources: Sequence[Path], sensor: str | None, preprocessing: Preprocessing | None
) -> list[Path]:
    """List the scenes that a user names, each once, with absolute paths.

    Args:
        sources: scenes and folders of them, as in `scenes.inputs.list_inputs`; text
            files with a path a line, which start at the list's folder; STAC items,
            collections and item collections.
        sensor: whose band names tell folders of band files; None takes the model's.
        preprocessing: the model's contract.

    Returns:
        Paths, those of scenes that are not there, too: they are to fail one by one.

    Raises:
        DataError: no scene is named, or a list is no text.
        RasterError: a STAC collection cannot be read, or leads out of its folder.
    """
    found: list[Path] = []
    for source in sources:
        suffix = source.suffix.lower()
        if source.is_file() and suffix == LIST_SUFFIX:
            found += _read_list(source)
        elif source.is_file() and suffix in STAC_SUFFIXES:
            found += list_stac_items(source)
        else:
            found += list_inputs([source], sensor, preprocessing)
    return list(dict.fromkeys(path.absolute() for path in found))


def list_pairs(
    before: Path, after: Path, sensor: str | None, preprocessing: Preprocessing | None
) -> list[tuple[Path, ...]]:
    """List the places that a user names at two dates, each once.

    Args:
        before: the first date, as in `list_scenes`.
        after: the second date. Lines of two text files belong together in their order,
            all else by name, see `spectralgpt.scenes.pairs.match_pairs`.
        sensor: see `list_scenes`.
        preprocessing: see `list_scenes`.

    Returns:
        (before, after), absolute paths.

    Raises:
        DataError: no scene is named, or one has no partner.
        RasterError: a STAC collection cannot be read, or leads out of its folder.
    """
    roots = (before.absolute(), after.absolute())
    if not any(root.suffix.lower() == LIST_SUFFIX for root in roots):
        first, second = (list_scenes([root], sensor, preprocessing) for root in roots)
        return match_pairs(roots[0], first, roots[1], second)
    for root in roots:
        if root.suffix.lower() != LIST_SUFFIX:
            raise DataError(f"{root} is no list: give lists of both dates, or of none.")
    lines = [_read_list(root) for root in roots]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{before} names {len(lines[0])} scenes, {after} {len(lines[1])}: write "
            "both dates of a place in the same line."
        )
    return list(dict.fromkeys(zip(*lines, strict=True)))


def _read_list(path: Path) -> list[Path]:
    """Read a path a line; blank lines and those after # say nothing."""
    named = [line.strip() for line in read_text(path).splitlines()]
    found = [path.parent / name for name in named if name and name[0] != _COMMENT]
    if not found:
        raise DataError(f"{path} names no scenes: write a path a line.")
    return found
