"""What is stated of image files: by people, and by the metadata of products."""

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from spectralgpt.errors import UnitError
from spectralgpt.rasters.locations import Location

UNIT_TAG = "SPECTRALGPT_UNIT"
SENSOR_TAG = "SPECTRALGPT_SENSOR"
"""What our own files state of themselves."""

_NUMERIC = ("bands", "unit", "offset", "quantification", "nodata")
_LEAST, _MOST = 1e-30, 1e30
"""What pixels in 32 bits can be added to and divided by."""
_UNITS = ("auto", "digital-numbers", "reflectance")
_SAME_SCALE = 1e-6
_ALL_PERCENT = 100
_DATE = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?=T\d{2,}|\D|$)")
"""20200813, 2020-08-13 or 2020_08_13, alone or before a time of day."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What is stated of image files; None and auto ask the files.

    Args:
        sensor: sensor of the images, such as sentinel-2-l2a, or the path of a YAML file
            that describes one.
        bands: names of the files' layers in their order ("-" leaves one out,
            "sensor-order" alone names all); for a folder with one file a band, the
            bands to take.
        unit: `digital-numbers`, `reflectance` or `auto`.
        offset: added to digital numbers before scaling, or `auto`.
        quantification: digital numbers per unit of reflectance, or `auto`.
        nodata: all numbers that mean no measurement, or `auto`.
        band_pattern: regular expression with a group `band` for the names of files of
            one band.

    Raises:
        UnitError: the unit is unknown, or a number cannot be what it is stated to be.
    """

    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    unit: Literal["auto", "digital-numbers", "reflectance"] = "auto"
    offset: float | Literal["auto"] = "auto"
    quantification: float | Literal["auto"] = "auto"
    nodata: tuple[float, ...] | Literal["auto"] = "auto"
    band_pattern: str | None = None

    def __post_init__(self) -> None:
        """Check what can be seen without the files."""
        for name, kind in (("bands", str), ("nodata", int | float)):
            value = getattr(self, name)
            if isinstance(value, list):
                # As YAML and JSON have them.
                value = tuple(value)
                object.__setattr__(self, name, value)
            is_tuple = isinstance(value, tuple)
            if is_tuple and not all(isinstance(each, kind) for each in value):
                raise UnitError(f"{name} cannot be {value!r:.80}.")
        if self.unit not in _UNITS:
            raise UnitError(f"unknown unit '{self.unit}' (known: {', '.join(_UNITS)}).")
        quantification = 1.0 if self.quantification == "auto" else self.quantification
        offset = 0.0 if self.offset == "auto" else self.offset
        Scale(quantification, offset, "what is stated")
        if self.nodata != "auto" and not isinstance(self.nodata, tuple):
            raise UnitError(
                f"nodata must be numbers or 'auto', found {self.nodata!r:.80}."
            )
        if self.bands is not None and not isinstance(self.bands, tuple):
            raise UnitError(f"bands must be a list of names, found {self.bands!r:.80}.")

    @property
    def facts(self) -> dict[str, Any]:
        """What is stated and not left to the files, by name."""
        usual = Stated()
        named = {each.name: getattr(self, each.name) for each in fields(Stated)}
        return {name: v for name, v in named.items() if v != getattr(usual, name)}

    def contradicts(self, other: "Stated") -> list[str]:
        """Say which facts both state, and otherwise; sensor and names left out."""
        own, others = self.facts, other.facts
        both = [name for name in _NUMERIC if name in own and name in others]
        return [
            f"{name} {own[name]} where {others[name]} was stated"
            for name in both
            if own[name] != others[name]
        ]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Stated":
        """Build from `facts`, as JSON may have kept them.

        Raises:
            UnitError: a fact is unknown or of the wrong kind.
        """
        try:
            return Stated(**facts)
        except TypeError as error:
            raise UnitError(f"what is stated cannot be read: {error}.") from None


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
        """Refuse what cannot turn numbers into reflectance."""
        try:
            is_usable = (
                _LEAST < self.quantification < _MOST and abs(self.offset) < _MOST
            )
        except TypeError:
            is_usable = False
        if not is_usable:
            raise UnitError(
                f"{self.source}: the quantification is {self.quantification} and the "
                f"offset {self.offset}; digital numbers per unit of reflectance must "
                "be above 0, and both finite and no further than 1e30. State the right "
                "ones."
            )

    @classmethod
    def common(
        cls, shown: str, factors: Mapping[str, tuple[float, float]], source: str
    ) -> "Scale | None":
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
                f"{', '.join(f'{m:g} * DN + {a:g}' for m, a in factors.values())}. "
                "Convert it to reflectance first."
            )
        if not (math.isfinite(gain) and gain > 0):
            raise UnitError(f"{shown} states a scale of {gain:g}; it must be above 0.")
        return cls(1 / gain, added / gain, source)

    def agrees(self, quantification: float | str, offset: float | str) -> bool:
        """Whether it is what was stated; `auto` states nothing."""
        pairs = ((quantification, self.quantification), (offset, self.offset))
        return all(
            one == "auto" or math.isclose(float(one), other, rel_tol=_SAME_SCALE)
            for one, other in pairs
        )


@dataclass(frozen=True)
class ProductMetadata:
    """What the metadata of a product say of it, before its rasters are opened.

    Args:
        sensor: name in the registry.
        files: file and layer (from 1) of each band, by canonical name.
        scale: what its numbers mean, None if the metadata do not say.
        date: day it was taken, None if nothing says.
        nodata: number that means no measurement by band, where they say one.
        cloud_percent: share of the scene that the metadata call cloud, 0 to 100, None
            if they do not say.
    """

    sensor: str
    files: Mapping[str, tuple[Location, int]]
    scale: Scale | None = None
    date: datetime.date | None = None
    nodata: Mapping[str, float] = field(default_factory=dict)
    cloud_percent: float | None = None


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
