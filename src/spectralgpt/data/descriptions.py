"""Descriptions of data sets: facts about an archive, read strictly from YAML.

Another archive needs another YAML file and no code. Paths in it are relative to a data
folder that the user names. `sources` finds the images that a description means.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spectralgpt.data.archives.registry import PREFIX, load_archive
from spectralgpt.data.dates import SeriesRule
from spectralgpt.data.layouts import FILE_SIZES, Sizes
from spectralgpt.data.listings import Index, Selection
from spectralgpt.data.packing.manifest import is_pack
from spectralgpt.data.packing.reading import read_manifest
from spectralgpt.data.packing.storage import Storage
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Stated
from spectralgpt.yaml_files import check_keys, read_mapping, take_number, take_text

__all__ = ["HOLDOUTS", "Source", "read_source", "source_from_table"]

HOLDOUTS = ("auto", "place", "block", "never")
_AUTO = "auto"
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
        if self.holdout not in HOLDOUTS:
            raise ConfigError(
                f"{self.name}: holdout must be one of {', '.join(HOLDOUTS)}, "
                f"found '{self.holdout}'."
            )
        if not self.weight > 0:
            raise ConfigError(f"{self.name}: weight must be above 0: {self.weight}.")
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
        manifest = read_manifest(Storage(path))
        return Source(manifest.name, series=manifest.series, pack=str(path))
    if str(path).startswith(PREFIX):
        archive = load_archive(str(path).removeprefix(PREFIX))
        where = f"archive {archive.name}"
        source = source_from_table(archive.imagery, where, archive.name, Path())
        below = archive.folders
        folders = [f"{archive.name}/{folder}" for folder in below] + [*below]
        return replace(source, folders=tuple(folders))
    path = Path(path)
    return source_from_table(read_mapping(path), str(path), path.stem, path.parent)


def source_from_table(table: _Table, where: str, name: str, folder: Path) -> Source:
    """Make a description from its keys and values.

    Args:
        table: as read from YAML.
        where: file and place, for messages.
        name: of the data set, if the table says none.
        folder: that the path of a sensor's YAML file is relative to.

    Raises:
        ConfigError: names the key that is wrong.
    """
    check_keys(table, where, optional=tuple(_TAKE))
    values = {
        _FIELDS.get(key, key): _TAKE[key](table, key, where)
        for key in table
        if not (key == "offset" and isinstance(table[key], Mapping))
    }
    if isinstance(table.get("offset"), Mapping):
        values["offsets"] = _take_offsets(table["offset"], where)
    if str(values.get("sensor", "")).endswith(".yaml"):
        values["sensor"] = str(folder / values["sensor"])
    return Source(**{"name": name} | values)


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


def _take_offsets(pairs: _Table, where: str) -> tuple[tuple[str, float | str], ...]:
    return tuple(
        (str(glob), _take_number_or_auto({"offset": entry}, "offset", where))
        for glob, entry in pairs.items()
    )


def _take_sizes(table: _Table, key: str, where: str) -> Sizes:
    value = table[key]
    if isinstance(value, Mapping):
        return {float(gsd_m): _take_side(side, where) for gsd_m, side in value.items()}
    return FILE_SIZES if value == FILE_SIZES else _take_side(value, where)


def _take_side(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(
            f"{where}: 'sizes' must be whole numbers of pixels, found {value!r}."
        )
    return value


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
    "offset": _take_number_or_auto,
    "nodata": _take_numbers,
    "place": take_text,
    "holdout": take_text,
    "weight": take_number,
    "sizes": _take_sizes,
    "series": lambda t, key, where: SeriesRule.from_table(t[key], f"{where}, {key}"),
}
"""How each key of a description is read: strictly."""
_FIELDS = {"pattern": "band_pattern"}
"""Keys that are called otherwise here."""
