"""Places with several dates: which images show one place, and when they were taken.

Where a date is found, and how files that hold several dates are read, is said by a
description's key `series` (see `spectralgpt.data.dates`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectralgpt.data.dates import SeriesRule, find_day
from spectralgpt.data.listings import Candidate
from spectralgpt.data.packing.reading import open_pack
from spectralgpt.data.sources import (
    Source,
    describe_image,
    find_items,
    find_root,
    list_images,
    place_of,
    refuse_if_bad,
)
from spectralgpt.errors import ConfigError, SpectralGPTError
from spectralgpt.rasters import NO_BAND, RasterItem

__all__ = ["Series", "find_series"]

_Dated = tuple[float, str, RasterItem]
"""Day, name that settles the order within a day, image."""


@dataclass(frozen=True)
class Series:
    """The dates of one place.

    Args:
        items: one image a date, sorted by date.
        days: their days since 1 January 1970, NaN if unknown.
        rule: how many of them a sample has.
    """

    items: tuple[RasterItem, ...]
    days: tuple[float, ...]
    rule: SeriesRule

    @property
    def place(self) -> str:
        """What the images show."""
        return self.items[0].place


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
                for items, days in open_pack(source.pack).series()
            ]
        elif rule.stack:
            series = _unstack(source, rule, data_root, max_bad_share)
        else:
            items = find_items([source], data_root, max_bad_share)
            series = _group(source, rule, items, data_root, max_bad_share)
        problems = [text for one in series if (text := _problem(one))]
        refuse_if_bad(f"{source.name}, places", problems, len(series), max_bad_share)
        found += [one for one in series if not _problem(one)]
    return found


def _group(
    source: Source,
    rule: SeriesRule,
    items: Sequence[RasterItem],
    data_root: Path | str,
    max_bad_share: float,
) -> list[Series]:
    root = find_root(source, data_root)
    places: dict[str, list[_Dated]] = {}
    problems = []
    for item in items:
        name = item.name.removeprefix(f"{source.name}/")
        try:
            day = find_day(name, root / name, rule)
        except SpectralGPTError as error:
            problems.append(str(error))
            continue
        places.setdefault(item.place, []).append((day, name, item))
    refuse_if_bad(source.name, problems, len(items), max_bad_share)
    return [_in_order(dates, rule) for dates in places.values()]


def _unstack(
    source: Source, rule: SeriesRule, data_root: Path | str, max_bad_share: float
) -> list[Series]:
    """Take each file as a place, and runs of its layers as dates."""
    if source.bands is None:
        raise ConfigError(f"{source.name}: 'stack' needs the bands of one date.")
    candidates = list_images(source, find_root(source, data_root))
    series, problems = [], []
    for candidate in candidates:
        try:
            series.append(_layers_of_dates(source, source.bands, rule, candidate))
        except SpectralGPTError as error:
            problems.append(str(error))
    refuse_if_bad(source.name, problems, len(candidates), max_bad_share)
    return series


def _layers_of_dates(
    source: Source, bands: tuple[str, ...], rule: SeriesRule, candidate: Candidate
) -> Series:
    place = f"{source.name}/{place_of(source, candidate.name)}"
    count = len(rule.stack)
    dates: list[_Dated] = []
    for number, day in enumerate(rule.stack):
        before = (NO_BAND,) * len(bands) * number
        after = (NO_BAND,) * len(bands) * (count - 1 - number)
        layers = (*before, *bands, *after)
        item = describe_image(replace(source, bands=layers), candidate)
        name = f"{item.name}, date {number + 1}"
        dates.append((day, f"{number:06}", replace(item, name=name, place=place)))
    return _in_order(dates, rule)


def _in_order(dates: Sequence[_Dated], rule: SeriesRule) -> Series:
    ordered = sorted(dates, key=lambda date: date[:2])
    days = tuple(float(day) for day, _, _ in ordered)
    return Series(tuple(item for _, _, item in ordered), days, rule)


def _problem(series: Series) -> str:
    """Say what is wrong with a place, "" if nothing is."""
    fewest = series.rule.fewest
    if len(series.items) < fewest:
        return (
            f"{series.place} has {len(series.items)} date(s), {fewest} were asked for."
        )
    first = series.items[0].shape()
    for item in series.items[1:]:
        if item.shape() != first:
            return (
                f"{item.name} has {item.shape()[0]} x {item.shape()[1]} px, another "
                f"date of its place {first[0]} x {first[1]}: they cannot be cut alike."
            )
    return ""
