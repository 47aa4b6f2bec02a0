"""What the metadata of a product say of it, in one shape for all kinds of products."""

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.rasters.locations import Location
from spectralgpt.rasters.stated import check_scale

__all__ = ["Facts", "Scale", "common_scale", "day_in", "parse_xml", "percent_in"]

_ALL_PERCENT = 100
_SAME_SCALE = 1e-6

_DATE = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?=T\d{2,}|\D|$)")
"""20200813, 2020-08-13 or 2020_08_13, alone or before a time of day."""


@dataclass(frozen=True)
class Scale:
    """Reflectance = (number in the file + offset) / quantification.

    Args:
        quantification: numbers per unit of reflectance.
        offset: added before dividing.
        source: what says so, for people.

    Raises:
        UnitError: the quantification is not above 0, or one of both not finite.
    """

    quantification: float
    offset: float
    source: str

    def __post_init__(self) -> None:
        """Check both numbers."""
        check_scale(self.source, self.quantification, self.offset)

    def agrees(self, quantification: float | str, offset: float | str) -> bool:
        """Whether it is what was stated; `auto` states nothing."""
        pairs = ((quantification, self.quantification), (offset, self.offset))
        return all(
            one == "auto" or math.isclose(float(one), other, rel_tol=_SAME_SCALE)
            for one, other in pairs
        )


@dataclass(frozen=True)
class Facts:
    """What is known of a product before its rasters are opened.

    Args:
        sensor: name in the registry.
        files: file and layer (from 1) of each band, by canonical name.
        scale: what its numbers mean, None if the metadata do not say.
        date: day it was taken, None if nothing says.
        nodata: number that means no measurement by band, where they say one.
        expected: bands that the metadata list; those without a file are missing.
        cloud_percent: share of the scene that the metadata call cloud, 0 to 100, None
            if they do not say.
    """

    sensor: str
    files: Mapping[str, tuple[Location, int]]
    scale: Scale | None = None
    date: datetime.date | None = None
    nodata: Mapping[str, float] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    cloud_percent: float | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Bands that the metadata list and that have no file."""
        return tuple(name for name in self.expected if name not in self.files)


def day_in(text: str) -> datetime.date | None:
    """Return the first date in a text, None without one.

    Eight digits that are no day of the calendar are no date.
    """
    for match in _DATE.finditer(text):
        year, month, day = (int(match[group]) for group in (1, 3, 4))
        try:
            return datetime.date(year, month, day)
        except ValueError:
            continue
    return None


def percent_in(text: object) -> float | None:
    """Return a number from 0 to 100, None if it is something else."""
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if 0 <= number <= _ALL_PERCENT else None


def parse_xml(shown: str, text: str) -> ElementTree.Element:
    """Parse the metadata of a product.

    Raises:
        RasterError: it is no XML.
    """
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RasterError(
            f"{shown} is no valid XML ({error}): fetch the product again."
        ) from None


def common_scale(
    shown: str, factors: Mapping[str, tuple[float, float]], source: str
) -> Scale | None:
    """Return the scale that all bands have in common, None without bands.

    Args:
        shown: the product, for messages.
        factors: (m, a) of reflectance = m * number + a, by band.
        source: what says so.

    Raises:
        UnitError: bands differ, or a factor is not above 0.
    """
    if not factors:
        return None
    (gain, added), *others = dict.fromkeys(factors.values())
    if others:
        raise UnitError(
            f"{shown} states other scales for some of its bands: "
            f"{', '.join(f'{m:g} * DN + {a:g}' for m, a in factors.values())}. Convert "
            "it to reflectance first."
        )
    if not (math.isfinite(gain) and gain > 0):
        raise UnitError(f"{shown} states a scale of {gain:g}; it must be above 0.")
    return Scale(1 / gain, added / gain, source)
