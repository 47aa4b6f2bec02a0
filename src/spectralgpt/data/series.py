"""Series: several dates of one place, and when images were taken.

A date comes from an image's name or the metadata beside it, or is stated in the
description; it is never guessed. Days count from 1 January 1970.
"""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spectralgpt.config import build_config
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.files import read_json
from spectralgpt.rasters import RasterFile
from spectralgpt.rasters.files import day_in

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_METADATA_KEYS = ("datetime", "acquisition_date", "date", "PRODUCT_ID", "system:index")
"""STAC, BigEarthNet, plain files, and Sentinel-2 from Earth Engine as in SSL4EO-S12."""
_FILE = "metadata.json"
_MOST_DATES = 10_000


@dataclass(frozen=True)
class SeriesRule:
    """How the images of a data set form series of dates of one place.

    Args:
        dates: dates T of a sample.
        at_least: fewest usable dates of a sample; those that it lacks are invalid.
            None asks for all T.
        date: regular expression with a group `date` (a day as 2020-08-13 or 20200813)
            for an image's path under the root; None takes the first date in its name
            (the day of acquisition in names of Sentinel-2, Landsat and EnMAP
            products), in that of a folder above it, or in its metadata.
        stack: days of the dates that each file holds one after another (NaN where
            unknown), all bands of the first date first; none for a date an image.

    Raises:
        ConfigError: a count makes no sense, or the expression is wrong.
    """

    dates: int
    at_least: int | None = None
    date: str | None = None
    stack: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.dates < 1 or not 1 <= self.fewest <= self.dates:
            raise ConfigError(
                f"series of {self.dates} dates, at least {self.fewest}: use 1 or more "
                "dates, and at_least from 1 to that."
            )
        if self.stack and len(self.stack) < self.fewest:
            raise ConfigError(
                f"series of at least {self.fewest} dates from files that stack "
                f"{len(self.stack)}. Ask for fewer."
            )
        if self.date is not None and self.stack:
            raise ConfigError("series: give either 'date' or 'stack'.")
        try:
            groups = re.compile(self.date or "(?P<date>)").groupindex
        except re.error as error:
            raise ConfigError(
                f"series: 'date' is no regular expression: {error}."
            ) from None
        if "date" not in groups:
            raise ConfigError(
                f"series: 'date' needs a group (?P<date>...): {self.date}"
            )

    @property
    def fewest(self) -> int:
        """Fewest usable dates of a sample."""
        return self.dates if self.at_least is None else self.at_least

    @classmethod
    def from_table(cls, table: Any, where: str) -> "SeriesRule":
        """Read it from a description: a number of dates, or a table of the arguments.

        `stack` is a list of days, or how many there are, if they are not known.
        """
        values = table if isinstance(table, Mapping) else {"dates": table}
        if "stack" in values:
            values = {**values, "stack": _take_stack(values["stack"], where)}
        return build_config(values, cls, where)


@dataclass(frozen=True)
class Series:
    """The dates of one place.

    Args:
        items: one image per date, sorted by date.
        days: their days since 1 January 1970, NaN if unknown.
        rule: how many of them a sample has.
    """

    items: tuple[RasterFile, ...]
    days: tuple[float, ...]
    rule: SeriesRule

    @property
    def place(self) -> str:
        """What the images show."""
        return self.items[0].place


def items_of(images: Sequence[RasterFile] | Sequence[Series]) -> tuple[RasterFile, ...]:
    """Return all images, those of series one after the other."""
    return tuple(
        item
        for one in images
        for item in (one.items if isinstance(one, Series) else (one,))
    )


def _day_of(text: str) -> int | None:
    """Return the first date in a text in days since 1 January 1970, None without."""
    day = day_in(text)
    return None if day is None else day.toordinal() - _EPOCH


def find_day(name: str, path: Path, rule: SeriesRule) -> int:
    """Find when an image was taken.

    Args:
        name: its path under the data set's root, with forward slashes.
        path: the file or folder.
        rule: may state where in the name the date is.

    Returns:
        Days since 1 January 1970.

    Raises:
        DataError: neither the name nor metadata beside the image hold a date.
    """
    if rule.date is not None:
        match = re.search(rule.date, name)
        day = _day_of(match.group("date")) if match else None
        if day is None:
            raise DataError(
                f"{name}: 'date' pattern '{rule.date}' finds no date. Change it."
            )
        return day
    for part in reversed(PurePosixPath(name).parts):
        day = _day_of(part)
        if day is not None:
            return day
    day = _day_in_metadata(path)
    if day is None:
        raise DataError(
            f"{name} has no date in its name or metadata. Name it after its day "
            "(2020-08-13), or say in the description where the date is."
        )
    return day


def _day_in_metadata(path: Path) -> int | None:
    """Read the JSON file in an image's folder, or beside an image's file."""
    file = path / _FILE if path.is_dir() else path.with_suffix(".json")
    if not file.is_file():
        return None
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        return None
    properties = content.get("properties")
    table = {**(properties if isinstance(properties, dict) else {}), **content}
    days = [_day_of(str(table[key])) for key in _METADATA_KEYS if key in table]
    return next((day for day in days if day is not None), None)


def _take_stack(value: Any, where: str) -> tuple[float, ...]:
    if type(value) is int and 0 < value <= _MOST_DATES:
        return (math.nan,) * value
    if not isinstance(value, list):
        raise ConfigError(
            f"{where}: 'stack' must be a list of days, or how many there are, from 1 "
            f"to {_MOST_DATES}: found {value!r:.80}."
        )
    # YAML reads 2020-08-13 as a date.
    days = [_day_of(str(entry)) for entry in value]
    wrong = [entry for entry, day in zip(value, days, strict=True) if day is None]
    if wrong or not days:
        raise ConfigError(
            f"{where}: 'stack' must list days such as 2020-08-13, found {wrong}."
        )
    return tuple(float(day) for day in days if day is not None)
