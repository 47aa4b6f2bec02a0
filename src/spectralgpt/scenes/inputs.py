"""Files and folders that a user hands in, one after the other, bad ones counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import list_candidates
from spectralgpt.data.statistics import tell_if_far
from spectralgpt.errors import DataError, RasterError, SpectralGPTError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import (
    ZIP_SUFFIX,
    RasterItem,
    is_product,
    is_stac_member,
    list_folder,
)
from spectralgpt.sensors import find_sensor, list_sensors

__all__ = [
    "Failure",
    "describe_input",
    "find_input",
    "for_each_input",
    "list_inputs",
    "over_area",
]


_ALL_CLOUD = 99.95
"""Percent; what is written as 100.0."""


@dataclass(frozen=True)
class Failure:
    """An input that could not be used, and why, in one line."""

    path: Path
    reason: str


def list_inputs(
    paths: Sequence[Path], sensor: str | None, preprocessing: Preprocessing | None
) -> list[Path]:
    """List the images: files as they are, all rasters below folders.

    A product, or a folder with one file a band, is one image. A path that does not
    exist is kept, so that it is counted among the failures.

    Args:
        paths: files and folders.
        sensor: whose band names tell folders of band files; None takes the model's.
        preprocessing: the model's contract.

    Raises:
        DataError: nothing is named, or the folders hold no rasters.
    """
    if sensor is None:
        sensor = _known_sensor(preprocessing)
    known = None if sensor is None else find_sensor(sensor)
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not is_product(path):
            products = _products_in(path)
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


def _products_in(folder: Path) -> list[Path]:
    """Products that lie in a folder: folders of them, and zip archives."""
    entries = list_folder(folder)
    return [
        entry
        for entry in entries
        if (entry.is_dir() and is_product(entry)) or entry.suffix.lower() == ZIP_SUFFIX
    ]


def over_area(
    paths: Sequence[Path], image_format: ImageFormat
) -> tuple[list[Path], ImageFormat]:
    """Make one mosaic of all images where an area is stated.

    Returns:
        The paths and what is stated about them; with an area the first path alone,
        with the others stated to lie below it.
    """
    if image_format.area is None:
        return list(paths), image_format
    return [paths[0]], replace(image_format, below=tuple(paths[1:]))


def find_input(
    path: Path, sensor: str | None, preprocessing: Preprocessing | None
) -> Path:
    """Return the one image that a path names; see `list_inputs`.

    Raises:
        DataError: it is a folder with several.
    """
    found = list_inputs([path], sensor, preprocessing)
    if len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} images, such as {found[0].name} and "
            f"{found[1].name}: name one of them."
        )
    return found[0]


def describe_input(
    path: Path, image_format: ImageFormat, preprocessing: Preprocessing
) -> RasterItem:
    """Describe a file; one that does not say its sensor is taken to be the model's.

    Raises:
        RasterError: it is missing, or cannot be read.
        DataError: its metadata say that all of it is cloud.
    """
    if not path.exists() and not is_stac_member(path):
        raise RasterError(f"{path} does not exist.")
    item = image_format.assuming(preprocessing.assumed).describe(path)
    # Of a part of a scene the whole does not tell.
    if image_format.area is None and (item.cloud_percent or 0) >= _ALL_CLOUD:
        raise DataError(
            f"{path} shows no ground: its metadata call {item.cloud_percent:.1f} % of "
            "it cloud. Leave it out, or name a part of it with --bounds."
        )
    _hold_against(item, path.parent, preprocessing)
    return item


_LOOKED_AT: Counter[tuple[Path, float]] = Counter()
_MOST_LOOKED_AT = 16
"""Images of a folder that are held against what the model was trained on."""


def _hold_against(item: RasterItem, folder: Path, preprocessing: Preprocessing) -> None:
    """Warn, once a folder and scale, where reflectance is not what the model knows."""
    key = folder, item.quantification
    if preprocessing.seen is None or _LOOKED_AT[key] >= _MOST_LOOKED_AT:
        return
    _LOOKED_AT[key] += 1
    if tell_if_far([item], preprocessing, item.name):
        _LOOKED_AT[key] = _MOST_LOOKED_AT


def _known_sensor(preprocessing: Preprocessing | None) -> str | None:
    """Return the model's sensor, None if a user's own file described it."""
    if preprocessing is None or preprocessing.sensor not in list_sensors():
        return None
    return preprocessing.sensor


def for_each_input(
    paths: Sequence[Path],
    work: Callable[[Path], None],
    *,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Failure]:
    """Do something with every file; a bad one is noted and does not stop the others.

    Args:
        paths: the files.
        work: what to do; its errors of ours are caught.
        strict: stop at the first error instead.
        progress: called with 1 after each file.

    Returns:
        The failures.

    Raises:
        DataError: all files failed.
    """
    failures = []
    for path in paths:
        try:
            work(path)
        except SpectralGPTError as error:
            if strict:
                raise
            failures.append(Failure(path, " ".join(str(error).split())))
        if progress is not None:
            progress(1)
    if len(failures) == len(paths) == 1:
        raise DataError(failures[0].reason)
    if len(failures) == len(paths):
        raise DataError(
            f"None of the {len(paths)} images could be used; the first: "
            f"{failures[0].reason}"
        )
    return failures
