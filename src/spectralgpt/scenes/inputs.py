"""The scenes that a user names, as they are listed, described, paired and done."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import list_candidates
from spectralgpt.data.statistics import tell_if_far
from spectralgpt.errors import ConfigError, DataError, RasterError, SpectralGPTError
from spectralgpt.files import read_text
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import (
    RASTER_SUFFIXES,
    RasterFile,
    cut_to_common,
    is_product,
    list_folder,
    list_stac_items,
)
from spectralgpt.rasters.product_files import STAC_SUFFIXES, ZIP_SUFFIX
from spectralgpt.rasters.stac import is_stac_member
from spectralgpt.sensors import Band, find_sensor, list_sensors

if TYPE_CHECKING:
    from pystac import Item

logger = logging.getLogger(__name__)

_ALL_CLOUD = 99.95
"""Percent; what is written as 100.0."""
SCENE_SUFFIXES = frozenset(
    (
        *(*RASTER_SUFFIXES, *STAC_SUFFIXES, ZIP_SUFFIX, ".vrt", ".npy", ".safe"),
        *(".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".png", ".bmp"),
    )
)
"""Endings that are no part of a scene's name."""
_SHOWN = 5
_LIST_SUFFIX = ".txt"
_COMMENT = "#"
_LOOKED_AT: Counter[tuple[Path, float]] = Counter()
_MOST_LOOKED_AT = 16
"""Images of a folder that are held against what the model was trained on."""


Progress = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """What was made of many files.

    Args:
        path: the file that was written.
        rows: number of its rows.
        failures: files that could not be used, and why, in one line each.
    """

    path: Path
    rows: int
    failures: list[tuple[Path, str]]


def list_inputs(
    paths: Sequence[Path], sensor: str | None, preprocessing: Preprocessing | None
) -> list[Path]:
    """List the images: files as they are, all rasters below folders.

    A product, or a folder with one file per band, is one image. A path that does not
    exist is kept, so that it is counted among the failures.

    Args:
        paths: files and folders.
        sensor: whose band names tell folders of band files; None takes the model's.
        preprocessing: the model's contract.

    Raises:
        DataError: nothing is named, or the folders hold no rasters.
    """
    # A user's own file may have described the model's.
    if sensor is None and preprocessing and preprocessing.sensor in list_sensors():
        sensor = preprocessing.sensor
    known = None if sensor is None else find_sensor(sensor)
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not is_product(path):
            products = [
                entry
                for entry in list_folder(path)
                if (entry.is_dir() and is_product(entry))
                or entry.suffix.lower() == ZIP_SUFFIX
            ]
            candidates = list_candidates(path, known)
            found += products + [
                candidate.path
                for candidate in candidates
                if not any(candidate.path.is_relative_to(each) for each in products)
            ]
        else:
            found.append(path)
    if not found:
        raise DataError(
            f"There are no rasters in {', '.join(map(str, paths)) or 'no input'}."
        )
    return list(dict.fromkeys(found))


def find_input(
    path: Path, sensor: str | None, preprocessing: Preprocessing | None
) -> Path:
    """Return the one image that a path names; for the arguments see `list_inputs`.

    Raises:
        DataError: it is a folder with several, or none.
    """
    found = list_inputs([path], sensor, preprocessing)
    if len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} images, such as {found[0].name} and "
            f"{found[1].name}: name one of them."
        )
    return found[0]


def describe_input(
    path: "Path | Item", image_format: ImageFormat, preprocessing: Preprocessing
) -> RasterFile:
    """Describe a file; one that does not say its sensor is taken to be the model's.

    Args:
        path: a file, the folder of a product, an item of a STAC file, or one in memory.
        image_format: what is stated about it.
        preprocessing: the model's contract.

    Raises:
        RasterError: it is missing, or cannot be read.
        DataError: its metadata say that all of it is cloud.
    """
    if isinstance(path, Path) and not path.exists() and not is_stac_member(path):
        raise RasterError(f"{path} does not exist.")
    item = image_format.assuming(preprocessing.assumed).describe(path)
    # Of a part of a scene the whole does not tell.
    if image_format.area is None and (item.cloud_percent or 0) >= _ALL_CLOUD:
        raise DataError(
            f"{item.name} shows no ground: its metadata call "
            f"{item.cloud_percent:.1f} % of it cloud. Leave it out, or name a part of "
            "it with --bounds."
        )
    folder = path.parent if isinstance(path, Path) else Path()
    _hold_against(item, folder, preprocessing)
    return item


def _hold_against(item: RasterFile, folder: Path, preprocessing: Preprocessing) -> None:
    """Warn, once a folder and scale, where reflectance is not what the model knows."""
    key = folder, item.quantification
    if preprocessing.seen is None or _LOOKED_AT[key] >= _MOST_LOOKED_AT:
        return
    _LOOKED_AT[key] += 1
    if tell_if_far([item], preprocessing, item.name):
        _LOOKED_AT[key] = _MOST_LOOKED_AT


def for_each_input(
    paths: Sequence[Path],
    work: Callable[[Path, Progress], None],
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> list[tuple[Path, str]]:
    """Do something with every file; a bad one is noted and does not stop the others.

    Args:
        paths: the files.
        work: what to do; its errors of ours are caught. It may say which share of a
            file is done, 0..1.
        strict: stop at the first error instead.
        progress: called with shares of files, which add up to their number.

    Returns:
        The files that failed, and why, in one line each.

    Raises:
        DataError: all files failed.
    """
    failures = []
    for path in paths:
        advance = adding_up(progress)
        try:
            work(path, advance)
        except SpectralGPTError as error:
            if strict:
                raise
            failures.append((path, " ".join(str(error).split())))
        advance(1.0)
    if len(failures) == len(paths) == 1:
        raise DataError(failures[0][1])
    if len(failures) == len(paths):
        raise DataError(
            f"None of the {len(paths)} images could be used; the first: "
            f"{failures[0][1]}"
        )
    return failures


def adding_up(progress: Progress | None) -> Progress:
    """Return what takes the share that is done, 0..1, and passes on what is new."""
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        if progress is not None:
            progress(share - done)
        done = share

    return advance


def match_pairs(
    before: Path, first: Sequence[Path], after: Path, second: Sequence[Path]
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
    items: Sequence[RasterFile], bands: Sequence[Sequence[Band]]
) -> tuple[RasterFile, ...]:
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


def list_scenes(
    sources: Sequence[Path], sensor: str | None, preprocessing: Preprocessing | None
) -> list[Path]:
    """List the scenes that a user names, each once, with absolute paths.

    Args:
        sources: scenes and folders of them, as in `scenes.inputs.list_inputs`; text
            files with a path per line, which start at the list's folder; STAC items,
            collections and item collections.
        sensor: whose band names tell folders of band files; None takes the model's.
        preprocessing: the model's contract.

    Returns:
        Paths, missing ones too, so that they fail one by one.

    Raises:
        DataError: no scene is named, or a list is no text.
        RasterError: a STAC collection cannot be read, or leads out of its folder.
    """
    found: list[Path] = []
    for source in sources:
        suffix = source.suffix.lower()
        if source.is_file() and suffix == _LIST_SUFFIX:
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
            all else by name, see `spectralgpt.scenes.inputs.match_pairs`.
        sensor: see `list_scenes`.
        preprocessing: see `list_scenes`.

    Returns:
        (before, after), absolute paths.

    Raises:
        DataError: no scene is named, or one has no partner.
        RasterError: a STAC collection cannot be read, or leads out of its folder.
    """
    roots = (before.absolute(), after.absolute())
    if not any(root.suffix.lower() == _LIST_SUFFIX for root in roots):
        first, second = (list_scenes([root], sensor, preprocessing) for root in roots)
        return match_pairs(roots[0], first, roots[1], second)
    for root in roots:
        if root.suffix.lower() != _LIST_SUFFIX:
            raise DataError(f"{root} is no list: give lists of both dates, or of none.")
    lines = [_read_list(root) for root in roots]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{before} names {len(lines[0])} scenes, {after} {len(lines[1])}: write "
            "both dates of a place in the same line."
        )
    return list(dict.fromkeys(zip(*lines, strict=True)))


def _read_list(path: Path) -> list[Path]:
    """Read a path per line; blank lines and those after # say nothing."""
    named = [line.strip() for line in read_text(path).splitlines()]
    found = [path.parent / name for name in named if name and name[0] != _COMMENT]
    if not found:
        raise DataError(f"{path} names no scenes: write a path a line.")
    return found


def name_maps(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return the file of each image's map: its name, with folders if need be.

    Raises:
        ConfigError: two images would share a map.
    """
    most = max(len(path.absolute().parts) for path in paths)
    for depth in range(1, most + 1):
        names = ["_".join(_plain(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return {
                path: output / f"{name}.tif"
                for path, name in zip(paths, names, strict=True)
            }
    twice = [
        str(path)
        for path, name in zip(paths, names, strict=True)
        if names.count(name) > 1
    ]
    raise ConfigError(
        f"{' and '.join(twice[:2])} would be mapped to the same file. Map them into "
        "different folders."
    )


def _plain(path: Path) -> Path:
    """Return the absolute path without the drive, and the ending of a raster.

    Other dots are part of a name, as in the ids of STAC items.
    """
    path = path.absolute()
    is_ending = not path.is_dir() and path.suffix.lower() in SCENE_SUFFIXES
    return (path.with_suffix("") if is_ending else path).relative_to(path.anchor)
