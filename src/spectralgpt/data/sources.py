"""The images of data sets that are described in YAML.

A description (see `spectralgpt.data.descriptions`) says which files are images and what
their numbers mean. What an index file lists is not trusted: its paths must stay under
the data set's root.
"""

import functools
import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spectralgpt.data.descriptions import (
    HOLDOUTS,
    Source,
    read_source,
    source_from_table,
)
from spectralgpt.data.layouts import StatedLayout, describe_stated
from spectralgpt.data.listings import Candidate, list_candidates
from spectralgpt.data.packing.reading import open_pack
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
from spectralgpt.rasters import RasterItem, describe_file, quiet_gdal
from spectralgpt.sensors import Sensor, find_sensor

__all__ = [
    "HOLDOUTS",
    "Source",
    "describe_image",
    "find_items",
    "find_root",
    "list_images",
    "place_of",
    "read_source",
    "refuse_if_bad",
    "source_from_table",
]

_LOG = logging.getLogger(__name__)
_READERS = 4
"""Headers read at once; more gains little and loads shared file systems."""


def find_root(source: Source, data_root: Path | str) -> Path:
    """Return the folder that a description's items are in.

    Raises:
        DatasetNotFoundError: there is none.
    """
    places = [Path(data_root) / folder for folder in source.folders or (source.root,)]
    for place in places:
        if place.is_dir():
            return place
    looked = " or ".join(map(str, places))
    raise DatasetNotFoundError(
        f"{source.name}: {looked} does not exist. Put the data there, or name the "
        "folder that holds it."
    )


def list_images(source: Source, root: Path) -> list[Candidate]:
    """List what a description takes as images; opens none.

    Args:
        source: the description.
        root: as `find_root` gives it.

    Raises:
        DataError: there is none, or an index is wrong.
    """
    candidates = list_candidates(
        root, source.items, source.index, source.exclude, source.keep,
        source.band_pattern, _load_sensor(source.sensor),
    )  # fmt: skip
    if not candidates:
        raise DataError(
            f"{source.name}: no image under {root} fits '{source.items}'. Check the "
            "description."
        )
    return candidates


def find_items(
    sources: Iterable[Source], data_root: Path | str, max_bad_share: float = 0.1
) -> list[RasterItem]:
    """Find the images of data sets and read what their headers say.

    A file that cannot be read is left out, counted and reported once.

    Args:
        sources: descriptions.
        data_root: the folder that their roots are relative to.
        max_bad_share: largest share of images of one data set that may be bad, 0..1.

    Raises:
        DatasetNotFoundError: a root does not exist.
        DataError: a data set has no image, or too many are bad.
        ConfigError: a description does not fit the files.
    """
    found: list[RasterItem] = []
    for source in sources:
        if source.pack is not None:
            found += open_pack(source.pack).items()
            continue
        candidates = list_images(source, find_root(source, data_root))
        found += _describe_all(source, candidates, max_bad_share)
    return found


def refuse_if_bad(
    what: str, problems: Sequence[str], total: int, max_bad_share: float
) -> None:
    """Report bad images once; refuse to go on if there are too many.

    Args:
        what: the data set, for the message.
        problems: one message for each bad image.
        total: number of images, good and bad.
        max_bad_share: largest share that may be bad, 0..1.

    Raises:
        DataError: more are bad.
    """
    if not problems:
        return
    summary = (
        f"{what}: {len(problems)} of {total} images are bad and left out, "
        f"the first: {problems[0]}"
    )
    if len(problems) > max_bad_share * total:
        raise DataError(
            f"{summary} More than the share of {max_bad_share:g} that may be bad."
        )
    _LOG.warning("%s", summary)


def _describe_all(
    source: Source, candidates: Sequence[Candidate], max_bad_share: float
) -> list[RasterItem]:
    def describe(candidate: Candidate) -> RasterItem | str:
        # A description that says nothing of an image is wrong, not the image.
        source.stated_of(candidate.name)
        try:
            return describe_image(source, candidate)
        except SpectralGPTError as error:
            return str(error)

    if source.sizes is not None:
        # Nothing is opened, so that threads would only wait for each other.
        results = [describe(candidate) for candidate in candidates]
    else:
        with quiet_gdal(), ThreadPoolExecutor(_READERS) as pool:
            results = list(pool.map(describe, candidates))
    problems = [result for result in results if isinstance(result, str)]
    refuse_if_bad(source.name, problems, len(results), max_bad_share)
    return [result for result in results if isinstance(result, RasterItem)]


def describe_image(source: Source, candidate: Candidate) -> RasterItem:
    """Describe one image of a data set.

    Raises:
        SpectralGPTError: the image or the description is wrong.
    """
    sensor, stated = _load_sensor(source.sensor), source.stated_of(candidate.name)
    name = f"{source.name}/{candidate.name}"
    if source.sizes is not None and sensor is not None:
        layout = StatedLayout(sensor, source.sizes, stated)
        item = describe_stated(candidate.path, layout, candidate.members, name)
    else:
        item = describe_file(
            candidate.path, stated, sensor, members=candidate.members, name=name
        )
    return replace(
        item,
        place=f"{source.name}/{place_of(source, candidate.name)}",
        holdout=source.holdout,
        weight=source.weight,
    )


def place_of(source: Source, name: str) -> str:
    """Return what an image shows, by its path under the root.

    Raises:
        ConfigError: the description's pattern does not fit.
    """
    if source.place is None:
        return name
    match = re.search(source.place, name)
    if match is None:
        raise ConfigError(
            f"{source.name}: place pattern '{source.place}' does not fit '{name}'. "
            "Change it."
        )
    return match.group("place")


@functools.cache
def _load_sensor(name: str | None) -> Sensor | None:
    return None if name is None else find_sensor(name)
