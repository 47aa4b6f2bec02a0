"""What people state of image files: one value, shared by all that read imagery."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from spectralgpt.errors import UnitError

__all__ = ["UNITS", "Stated", "check_scale"]

_NUMERIC = ("bands", "unit", "offset", "quantification", "nodata")
_LEAST, _MOST = 1e-30, 1e30
"""What pixels in 32 bits can be added to and divided by."""
UNITS = ("auto", "digital-numbers", "reflectance")


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
        if self.unit not in UNITS:
            raise UnitError(f"unknown unit '{self.unit}' (known: {', '.join(UNITS)}).")
        quantification = 1.0 if self.quantification == "auto" else self.quantification
        offset = 0.0 if self.offset == "auto" else self.offset
        check_scale("what is stated", quantification, offset)
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


def check_scale(where: str, quantification: float, offset: float) -> None:
    """Refuse what cannot turn numbers into reflectance.

    Raises:
        UnitError: the quantification is not above 0, or one of both not finite.
    """
    try:
        usable = _LEAST < quantification < _MOST and abs(offset) < _MOST
    except TypeError:
        usable = False
    if not usable:
        raise UnitError(
            f"{where}: the quantification is {quantification} and the offset {offset}; "
            "digital numbers per unit of reflectance must be above 0, and both finite "
            "and no further than 1e30. State the right ones."
        )
