"""Descriptions of data sets, read strictly from YAML, and the images that they mean.

A description states facts about an archive: which files are images, what their numbers
mean, and whether they are dates of places. Another archive needs another YAML file and
no code. Paths in it are relative to a data folder that the user names.
"""

import fnmatch
import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from spectralgpt.config import build_config, check_keys, check_range, read_mapping
from spectralgpt.data.archives.registry import PREFIX, load_archive
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import Entry, Index, Selection, list_candidates
from spectralgpt.data.packing.manifest import is_pack
from spectralgpt.data.packing.reading import Pack, Storage
from spectralgpt.data.series import Series, SeriesRule, find_day
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
from spectralgpt.rasters import (
    NO_BAND,
    RasterFile,
    Sizes,
    Stated,
    describe_raster,
    quiet_gdal,
)
from spectralgpt.sensors import Sensor, find_sensor

_LOG = logging.getLogger(__name__)
_READERS = 4
"""Headers read at once; more gains little and loads shared file systems."""
_HOLDOUTS = ("auto", "place", "block", "never")
_Table = Mapping[str, Any]


@dataclass(frozen=True)
class Source(Stated):
    """The description of a data set of unlabelled images: what is stated, and more.

    In its YAML file `band_pattern` is called `pattern`, and `offset` may be a mapping,
    which is `offsets`.

    Args:
        name: for messages and item names.
        root: folder, relative to the user's data folder.
        items: glob under `root` of the files or folders that are images; `auto` takes
            every raster, and every folder with one file a band.
        index: CSV or Parquet file that lists the images, instead of `items`.
        exclude: globs of items to leave out.
        keep: only items whose id is listed.
        band_pattern: regular expression with a group `band` for names of one-band
            files; with a group `item` too, files of one folder are grouped into images.
        offsets: (glob, offset or `auto`) pairs in place of `offset`; the first glob
            that fits an item counts, and one must.
        place: regular expression with a group `place`; images of one place share it.
        holdout: `auto`, `place` (whole places), `block` (a part of each image) or
            `never`.
        weight: how often images are drawn, relative to their size.
        sizes: side of all images in px, if all have the same: one number, or one for
            each ground sampling distance in m; `file` where every file tells its own in
            its first bytes. Images are then listed without opening them; `sensor` and,
            for files of many layers, `bands` must be stated.
        folders: where the root may lie, the first that exists counts; for archives.
        series: the images are dates of places; how they form series. None takes each
            image by itself.
        pack: folder or address of a pack, which says all the rest itself (see
            `spectralgpt.data.packing`); None for files.
    """

    name: str
    root: str = "."
    items: str = "auto"
    index: Index | None = None
    exclude: tuple[str, ...] = ()
    keep: Selection | None = None
    offsets: tuple[tuple[str, float | Literal["auto"]], ...] = ()
    place: str | None = None
    holdout: str = "auto"
    weight: float = 1.0
    sizes: Sizes | None = None
    folders: tuple[str, ...] = ()
    series: SeriesRule | None = None
    pack: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes is not None and self.sensor is None:
            raise ConfigError(f"{self.name}: sizes need the sensor. State it.")
        if self.holdout not in _HOLDOUTS:
            raise ConfigError(
                f"{self.name}: holdout must be one of {', '.join(_HOLDOUTS)}, "
                f"found '{self.holdout}'."
            )
        check_range("above 0", self, "weight", section=f"{self.name}: ")
        _check_pattern(self.name, "place", self.place, "place")
        _check_pattern(self.name, "pattern", self.band_pattern, "band")

    def stated_of(self, item: str) -> Stated:
        """Return what is stated of an item, by its path under the root.

        Raises:
            ConfigError: offsets are stated, and none for it.
        """
        stated = Stated.of(self.facts)
        if not self.offsets:
            return stated
        for glob, offset in self.offsets:
            if fnmatch.fnmatchcase(item, glob):
                return replace(stated, offset=offset)
        raise ConfigError(
            f"{self.name}: no offset pattern fits '{item}' "
            f"(patterns: {', '.join(glob for glob, _ in self.offsets)}). Add one."
        )


def read_source(path: Path | str) -> Source:
    """Read a data set's description.

    Args:
        path: a YAML file; or `archive:NAME` for an archive of the registry, which lies
            in the folder NAME of the user's data folder, or is that folder; or a pack,
            by its folder or address.

    Raises:
        ConfigError: names the file and the key that is wrong, or an unknown archive.
        DataError: a pack is broken.
    """
    if is_pack(path):
        manifest = Storage(path).manifest()
        return Source(manifest.name, series=manifest.series, pack=str(path))
    if str(path).startswith(PREFIX):
        archive = load_archive(str(path).removeprefix(PREFIX))
        where = f"archive {archive.name}"
        source = _from_table(archive.imagery, where, archive.name, Path())
        below = archive.folders
        folders = [f"{archive.name}/{folder}" for folder in below] + [*below]
        return replace(source, folders=tuple(folders))
    path = Path(path)
    return _from_table(read_mapping(path), str(path), path.stem, path.parent)


@functools.cache
def format_of_archive(name: str) -> ImageFormat:
    """Return what the registry states of the images of an archive with labels."""
    source = read_source(PREFIX + name)
    quantification = find_sensor(str(source.sensor)).quantification
    facts = source.facts | {"quantification": quantification}
    if source.offset != "auto":
        facts["offset"] = float(source.offset)
    return ImageFormat(**facts, sizes=source.sizes)


def _from_table(table: _Table, where: str, name: str, folder: Path) -> Source:
    """Make a description from the keys and values of YAML, found at `where`."""
    check_keys(table, where, optional=_KEYS)
    blank = [key for key, value in table.items() if value in (None, "")]
    if blank:
        raise ConfigError(
            f"{where}: '{blank[0]}' is empty. Fill it in, or leave it out."
        )
    values = {"name": name, **table}
    if "pattern" in values:
        values["band_pattern"] = values.pop("pattern")
    for key in ("bands", "exclude"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    if isinstance(values.get("offset"), Mapping):
        values["offsets"] = [list(pair) for pair in values.pop("offset").items()]
    if isinstance(values.get("index"), str):
        values["index"] = {"file": values["index"]}
    if "series" in values:
        values["series"] = SeriesRule.from_table(table["series"], f"{where}, series")
    if str(values.get("sensor", "")).endswith(".yaml"):
        values["sensor"] = str(folder / values["sensor"])
    return build_config(values, Source, where)


_KEYS = (
    *("name", "sensor", "root", "items", "index", "exclude", "keep", "bands"),
    *("pattern", "unit", "quantification", "offset", "nodata", "place", "holdout"),
    *("weight", "sizes", "series"),
)


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


def list_images(source: Source, data_root: Path | str) -> list[Entry]:
    """List what a description takes as images; opens none.

    Raises:
        DatasetNotFoundError: the folder does not exist.
        DataError: there is no image, or an index is wrong.
    """
    root = find_root(source, data_root)
    entries = list_candidates(
        root, _load_sensor(source.sensor), source.items, source.index, source.exclude,
        source.keep, source.band_pattern,
    )  # fmt: skip
    if not entries:
        raise DataError(
            f"{source.name}: no image under {root} fits '{source.items}'. Check the "
            "description."
        )
    return entries


def find_items(
    sources: Iterable[Source], data_root: Path | str, max_bad_share: float = 0.1
) -> list[RasterFile]:
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
    found: list[RasterFile] = []
    for source in sources:
        if source.pack is not None:
            found += Pack(source.pack).items()
            continue
        entries = list_images(source, data_root)
        for entry in entries:
            # A description that says nothing of an image is wrong, not the image.
            source.stated_of(entry.name)
        describe = functools.partial(describe_image, source)
        # Where nothing is opened, threads would only wait for each other.
        readers = _READERS if source.sizes is None else 1
        found += keep_good(source.name, describe, entries, max_bad_share, readers)
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


_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def keep_good(
    what: str,
    make: Callable[[_Given], _Made],
    given: Sequence[_Given],
    max_bad_share: float,
    readers: int = 1,
) -> list[_Made]:
    """Make something of each image, leaving out those where that fails.

    Args:
        what: the data set, for the message; see `refuse_if_bad`.
        make: raises `SpectralGPTError` for a bad image.
        given: the images.
        max_bad_share: largest share that may be bad, 0..1.
        readers: threads.

    Raises:
        DataError: more are bad.
    """

    def try_one(each: _Given) -> tuple[list[_Made], list[str]]:
        try:
            return [make(each)], []
        except SpectralGPTError as error:
            return [], [str(error)]

    if readers == 1:
        tried = [try_one(each) for each in given]
    else:
        with quiet_gdal(), ThreadPoolExecutor(readers) as pool:
            tried = list(pool.map(try_one, given))
    problems = [text for _, texts in tried for text in texts]
    refuse_if_bad(what, problems, len(given), max_bad_share)
    return [made for some, _ in tried for made in some]


def describe_image(source: Source, entry: Entry) -> RasterFile:
    """Describe one image of a data set.

    Raises:
        SpectralGPTError: the image or the description is wrong.
    """
    item = describe_raster(
        entry.path,
        _load_sensor(source.sensor),
        source.stated_of(entry.name),
        sizes=source.sizes,
        members=entry.members,
        name=f"{source.name}/{entry.name}",
    )
    return replace(
        item,
        place=f"{source.name}/{place_of(source, entry.name)}",
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


_Dated = tuple[float, str, RasterFile]
"""Day, name that settles the order within a day, image."""


def find_series(
    sources: Iterable[Source], data_root: Path | str, max_bad_share: float = 0.1
) -> list[Series]:
    """Find the series of data sets whose descriptions have the key `series`.

    Args:
        sources: descriptions.
        data_root: the folder that their roots are relative to.
        max_bad_share: largest share of images, and of places, of one data set that may
            be bad, 0..1. A place with too few dates is bad.

    Raises:
        DatasetNotFoundError: a root does not exist.
        DataError: too many images have no date or cannot be read, or too many places
            too few dates.
        ConfigError: a description does not fit the files, or has no key `series`.
    """
    found: list[Series] = []
    for source in sources:
        rule = source.series
        if rule is None:
            raise ConfigError(
                f"{source.name} has no key 'series'. Add it, with the number of dates."
            )
        if source.pack is not None:
            series = [
                Series(tuple(items), tuple(days), rule)
                for items, days in Pack(source.pack).series()
            ]
        elif rule.stack:
            if source.layers is None:
                raise ConfigError(
                    f"{source.name}: 'stack' needs the bands of one date."
                )
            entries = list_images(source, data_root)
            unstack = functools.partial(_layers_of_dates, source, source.layers, rule)
            series = keep_good(source.name, unstack, entries, max_bad_share)
        else:
            series = _group(source, rule, data_root, max_bad_share)
        places = f"{source.name}, places"
        found += keep_good(places, _check_series, series, max_bad_share)
    return found


def _group(
    source: Source, rule: SeriesRule, data_root: Path | str, max_bad_share: float
) -> list[Series]:
    root = find_root(source, data_root)
    items = find_items([source], data_root, max_bad_share)

    def date(item: RasterFile) -> _Dated:
        name = item.name.removeprefix(f"{source.name}/")
        return find_day(name, root / name, rule), name, item

    places: dict[str, list[_Dated]] = {}
    for dated in keep_good(source.name, date, items, max_bad_share):
        places.setdefault(dated[2].place, []).append(dated)
    return [_in_order(dates, rule) for dates in places.values()]


def _layers_of_dates(
    source: Source, bands: tuple[str, ...], rule: SeriesRule, entry: Entry
) -> Series:
    place = f"{source.name}/{place_of(source, entry.name)}"
    count = len(rule.stack)
    dates: list[_Dated] = []
    for number, day in enumerate(rule.stack):
        before = (NO_BAND,) * len(bands) * number
        after = (NO_BAND,) * len(bands) * (count - 1 - number)
        layers = (*before, *bands, *after)
        item = describe_image(replace(source, bands=layers), entry)
        name = f"{item.name}, date {number + 1}"
        dates.append((day, f"{number:06}", replace(item, name=name, place=place)))
    return _in_order(dates, rule)


def _in_order(dates: Sequence[_Dated], rule: SeriesRule) -> Series:
    ordered = sorted(dates, key=lambda date: date[:2])
    days = tuple(float(day) for day, _, _ in ordered)
    return Series(tuple(item for _, _, item in ordered), days, rule)


def _check_series(series: Series) -> Series:
    """Refuse a place with too few dates, or dates of different sizes."""
    fewest = series.rule.fewest
    if len(series.items) < fewest:
        raise DataError(
            f"{series.place} has {len(series.items)} date(s), {fewest} were asked for."
        )
    first = series.items[0].shape()
    for item in series.items[1:]:
        if item.shape() != first:
            raise DataError(
                f"{item.name} has {item.shape()[0]} x {item.shape()[1]} px, another "
                f"date of its place {first[0]} x {first[1]}: they cannot be cut alike."
            )
    return series
