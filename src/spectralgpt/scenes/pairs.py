"""Two dates of the same places: which files belong together, and whether they fit."""

import logging
from collections.abc import Sequence
from pathlib import Path

from spectralgpt.errors import DataError
from spectralgpt.rasters import RasterItem, cut_to_common, is_stac_member
from spectralgpt.sensors import Band

__all__ = ["match_pairs", "on_same_pixels"]

logger = logging.getLogger(__name__)

_SHOWN = 5


def match_pairs(
    before: Path,
    first: Sequence[Path],
    after: Path,
    second: Sequence[Path],
) -> list[tuple[Path, ...]]:
    """Match the images of two dates by their names.

    Args:
        before: the file or folder that the user named.
        first: its images; they are matched by their path below the folder, without
            the ending.
        after: the same of the second date.
        second: its images.

    Returns:
        (before, after), sorted by name; two single images need not have one name.

    Raises:
        DataError: a date is not there, an image has no partner, or two have the same
            name; says which.
    """
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    for root, paths in ((before, first), (after, second)):
        # What is listed as itself is no folder.
        if list(paths) == [root] and not (root.exists() or is_stac_member(root)):
            raise DataError(f"{root} does not exist. Check the path.")
    by_name, others = _by_name(before, first), _by_name(after, second)
    lonely = [str(path) for name, path in by_name.items() if name not in others]
    lonely += [str(path) for name, path in others.items() if name not in by_name]
    if lonely:
        more = ", ..." if len(lonely) > _SHOWN else ""
        raise DataError(
            f"{len(lonely)} images have no partner of the same name at the other date: "
            f"{', '.join(lonely[:_SHOWN])}{more}. Name both dates alike."
        )
    return [(by_name[name], others[name]) for name in sorted(by_name)]


def on_same_pixels(
    items: Sequence[RasterItem], bands: Sequence[Sequence[Band]]
) -> tuple[RasterItem, ...]:
    """Cut dates to the ground that all of them show; says so where that is less.

    Args:
        items: the dates, one or two.
        bands: of each, those that are read.

    Raises:
        RasterError: their pixels do not lie on each other; says how they differ.
    """
    if len(items) == 1:
        return tuple(items)
    cut = cut_to_common(items[0], items[1], bands[0], bands[1])
    if cut[0] is not items[0]:
        grid = cut[0].grid(bands[0])
        logger.warning(
            "%s and %s show %d x %d px of the same ground: these are mapped.",
            items[0].name,
            items[1].name,
            grid.height,
            grid.width,
        )
    return cut


def _by_name(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name if path == root else path.relative_to(root).as_posix()
        if not path.is_dir():
            name = name.removesuffix(path.suffix)
        if name in found:
            raise DataError(
                f"{found[name]} and {path} have the same name, so that it is in doubt "
                "which of them belongs to the other date. Give only one."
            )
        found[name] = path
    return found
