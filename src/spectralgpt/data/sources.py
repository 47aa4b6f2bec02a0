"""Data sets described in YAML: which files are images, and what their numbers mean.

A description states facts about an archive, so that another archive needs another YAML
file and no code. Paths in it are relative to a data folder that the user names. What an
index file lists is not trusted: its paths must stay under the data set's root.
"""

import fnmatch
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spectralgpt.data.listings import Candidate, Index, Selection, list_candidates
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
from spectralgpt.rasters import RasterItem, describe_raster, quiet_gdal
from spectralgpt.sensors import Sensor, load_sensor, read_sensor
from spectralgpt.yaml_files import check_keys, read_mapping, take_number, take_text

__all__ = ["HOLDOUTS", "Source", "find_items", "read_source", "refuse_if_bad"]

_LOG = logging.getLogger(__name__)
HOLDOUTS = ("auto", "place", "block", "never")
_AUTO = "auto"
_Table = Mapping[str, Any]
_READERS = 4
"""Headers read at once; more gains little and loads shared file systems."""


@dataclass(frozen=True)
class Source:
    """The description of a data set of unlabelled images.

    Args:
        name: for messages and item names.
        sensor: name in the registry, or path of a sensor's YAML file; None takes it
            from the files.
        root: folder, relative to the user's data folder.
        items: glob under `root` of the files or folders that are images; `auto` takes
            every raster, and every folder with one file a band.
        index: CSV or Parquet file that lists the images, instead of `items`.
        exclude: globs of items to leave out.
        keep: only items whose id is listed.
        bands: see `spectralgpt.rasters.describe_raster`.
        pattern: regular expression with a group `band` for names of one-band files;
            with a group `item` too, files of one folder are grouped into images.
        unit: `auto`, `digital-numbers` or `reflectance`.
        quantification: digital numbers per unit of reflectance, or `auto`.
        offset: (glob, offset or `auto`) pairs; the first glob that fits an item counts.
        nodata: numbers that mean no measurement, or `auto`.
        place: regular expression with a group `place`; images of one place share it.
        holdout: `auto`, `place` (whole places), `block` (a part of each image) or
            `never`.
        weight: how often images are drawn, relative to their size.
    """

    name: str
    sensor: str | None = None
    root: str = "."
    items: str = "auto"
    index: Index | None = None
    exclude: tuple[str, ...] = ()
    keep: Selection | None = None
    bands: tuple[str, ...] | None = None
    pattern: str | None = None
    unit: str = "auto"
    quantification: float | str = "auto"
    offset: tuple[tuple[str, float | str], ...] = (("*", "auto"),)
    nodata: tuple[float, ...] | str = "auto"
    place: str | None = None
    holdout: str = "auto"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.holdout not in HOLDOUTS:
            raise ConfigError(
                f"{self.name}: holdout must be one of {', '.join(HOLDOUTS)}, "
                f"found '{self.holdout}'."
            )
        if not self.weight > 0:
            raise ConfigError(f"{self.name}: weight must be above 0: {self.weight}.")
        _check_pattern(self.name, "place", self.place, "place")
        _check_pattern(self.name, "pattern", self.pattern, "band")

    def offset_of(self, item: str) -> float | str:
        """Return the offset stated for an item, by its path under the root."""
        for glob, offset in self.offset:
            if fnmatch.fnmatchcase(item, glob):
                return offset
        raise ConfigError(
            f"{self.name}: no offset pattern fits '{item}' "
            f"(patterns: {', '.join(glob for glob, _ in self.offset)}). Add one."
        )


def read_source(path: Path | str) -> Source:
    """Read a data set's description.

    Raises:
        ConfigError: names the file and the key that is wrong.
    """
    path = Path(path)
    where = str(path)
    table = read_mapping(path)
    check_keys(table, where, optional=tuple(_TAKE))
    values = {key: _TAKE[key](table, key, where) for key in table}
    if str(values.get("sensor", "")).endswith(".yaml"):
        values["sensor"] = str(path.parent / values["sensor"])
    return Source(**{"name": path.stem} | values)


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
        root = Path(data_root) / source.root
        if not root.is_dir():
            raise DatasetNotFoundError(
                f"{source.name}: {root} does not exist. Put the data there, or name "
                "the folder that holds it."
            )
        sensor = _load_sensor(source.sensor)
        candidates = list_candidates(
            root, source.items, source.index, source.exclude, source.keep,
            source.pattern, sensor,
        )  # fmt: skip
        if not candidates:
            raise DataError(
                f"{source.name}: no image under {root} fits '{source.items}'. Check "
                "the description."
            )
        found += _describe_all(source, sensor, candidates, max_bad_share)
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
    source: Source,
    sensor: Sensor | None,
    candidates: Sequence[Candidate],
    max_bad_share: float,
) -> list[RasterItem]:
    def describe(candidate: Candidate) -> RasterItem | str:
        offset = source.offset_of(candidate.name)
        try:
            return _describe(source, sensor, candidate, offset)
        except SpectralGPTError as error:
            return str(error)

    with quiet_gdal(), ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(describe, candidates))
    problems = [result for result in results if isinstance(result, str)]
    refuse_if_bad(source.name, problems, len(results), max_bad_share)
    return [result for result in results if isinstance(result, RasterItem)]


def _describe(
    source: Source, sensor: Sensor | None, candidate: Candidate, offset: float | str
) -> RasterItem:
    item = describe_raster(
        candidate.path,
        sensor=sensor,
        bands=source.bands,
        unit=source.unit,
        offset=offset,
        quantification=source.quantification,
        nodata=source.nodata,
        pattern=source.pattern,
        members=candidate.members,
        name=f"{source.name}/{candidate.name}",
    )
    place = candidate.name
    if source.place is not None:
        match = re.search(source.place, candidate.name)
        if match is None:
            raise ConfigError(
                f"{source.name}: place pattern '{source.place}' does not fit "
                f"'{candidate.name}'. Change it."
            )
        place = match.group("place")
    return replace(
        item,
        place=f"{source.name}/{place}",
        holdout=source.holdout,
        weight=source.weight,
    )


def _load_sensor(name: str | None) -> Sensor | None:
    if name is None:
        return None
    return read_sensor(Path(name)) if name.endswith(".yaml") else load_sensor(name)


def _check_pattern(name: str, key: str, pattern: str | None, group: str) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ConfigError(
            f"{name}: '{key}' is no regular expression: {error}."
        ) from None
    if group not in groups:
        raise ConfigError(f"{name}: '{key}' needs a group (?P<{group}>...): {pattern}")


def _take_texts(table: _Table, key: str, where: str) -> tuple[str, ...]:
    values = [table[key]] if isinstance(table[key], str) else table[key]
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise ConfigError(f"{where}: '{key}' must be a list of texts: {values!r}.")
    return tuple(values)


def _take_number_or_auto(table: _Table, key: str, where: str) -> float | str:
    return _AUTO if table[key] == _AUTO else take_number(table, key, where)


def _take_numbers(table: _Table, key: str, where: str) -> tuple[float, ...] | str:
    values = table[key]
    if values == _AUTO:
        return _AUTO
    if not isinstance(values, list):
        raise ConfigError(f"{where}: '{key}' must be a list or auto: {values!r}.")
    return tuple(take_number({key: value}, key, where) for value in values)


def _take_offset(
    table: _Table, key: str, where: str
) -> tuple[tuple[str, float | str], ...]:
    value = table[key]
    pairs = value if isinstance(value, Mapping) else {"*": value}
    return tuple(
        (str(glob), _take_number_or_auto({key: entry}, key, where))
        for glob, entry in pairs.items()
    )


_TAKE: dict[str, Callable[[_Table, str, str], Any]] = {
    "name": take_text,
    "sensor": take_text,
    "root": take_text,
    "items": take_text,
    "index": lambda t, key, where: Index.from_table(t[key], f"{where}, {key}"),
    "exclude": _take_texts,
    "keep": lambda t, key, where: Selection.from_table(t[key], f"{where}, {key}"),
    "bands": _take_texts,
    "pattern": take_text,
    "unit": take_text,
    "quantification": _take_number_or_auto,
    "offset": _take_offset,
    "nodata": _take_numbers,
    "place": take_text,
    "holdout": take_text,
    "weight": take_number,
}
"""How each key of a description is read: strictly."""
