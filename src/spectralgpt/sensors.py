"""Known sensors: which bands they have, where those lie, and what their numbers mean.

The facts are data: one YAML file per sensor in `sensors/`, each citing its source, and
measured spectral responses in `sensors/responses/`. This module reads them strictly.
Where the pixels of a product lie on disk, and which of the offset rules applies to it,
is decided in `spectralgpt.rasters`.
"""

import functools
import math
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import (
    check_keys,
    list_yaml,
    read_mapping,
    suggest,
    take_number,
    take_text,
)
from spectralgpt.errors import BandError, ConfigError

_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_LONGEST_NAME = 3
"""Words, as in "red edge 1"."""
_QUALIFIERS = {"edge", "infra", "narrow", "broad", "deep", "ultra", "vegetation"}
"""Beside the name of a colour they make another band of it."""
_Curves = tuple[tuple[str, int, tuple[float, ...]], ...]
_NM_PER_UM = 1000
_LEAST_NM = 100
"""No sensor of ours sees below: such a wavelength must be micrometres."""
_REACH = 2
"""Widths that a Gaussian response is followed to: 0.0015 % of its peak."""


@dataclass(frozen=True)
class Band:
    """One spectral channel.

    Args:
        name: canonical name, such as `B8A`.
        wavelength_nm: centre wavelength in nanometres.
        width_nm: spectral width in nanometres.
        gsd_m: ground sampling distance in metres.
    """

    name: str
    wavelength_nm: float
    width_nm: float
    gsd_m: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"{self.name!r:.40} is no name of a band.")
        for key in ("wavelength_nm", "width_nm", "gsd_m"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(
                    f"band '{self.name}': {key} must be above 0, found {value!r:.40}."
                )

    @property
    def row(self) -> tuple[float, float, float]:
        """Centre in nm, width in nm and ground sampling distance in m, for models."""
        return float(self.wavelength_nm), float(self.width_nm), float(self.gsd_m)


@dataclass(frozen=True)
class BaselineRule:
    """How the offset of digital numbers follows from the processing baseline.

    Args:
        since: first baseline with `offset`, times 100 (400 is baseline 04.00).
        offset: digital numbers added before scaling, from that baseline on.
        offset_before: the same for earlier baselines.
        reprocessed: baseline numbers that tell nothing, such as 9999.
    """

    since: int
    offset: float
    offset_before: float
    reprocessed: tuple[int, ...] = ()

    def offset_for(self, baseline: int) -> float | None:
        """Return the offset of a baseline, or None if the baseline tells nothing."""
        if baseline in self.reprocessed:
            return None
        return self.offset if baseline >= self.since else self.offset_before

    def offset_said(self, text: str) -> float | None:
        """Return the offset of a baseline as metadata write it, such as 04.00.

        None if the text is no baseline, or the baseline tells nothing.
        """
        match = re.fullmatch(r"(\d\d)\.(\d\d)", text.strip())
        return self.offset_for(int(match[1] + match[2])) if match else None


@dataclass(frozen=True)
class Sensor:
    """One product of one sensor.

    Reflectance = (digital number + offset) / quantification.

    Args:
        name: registry name, such as `sentinel-2-l2a`.
        title: name for people.
        bands: in the order of the product's own numbering.
        quantification: digital numbers per unit of reflectance; None where products
            have no fixed scale and the user must state one.
        offset: added to digital numbers before scaling.
        nodata: digital number that means no measurement.
        saturated: digital number that means saturation.
        baseline: how the offset follows from the processing baseline, if it does.
        source: where the numbers come from.
        product_name: regular expression that names of its products match, "" if none.
        responses: measured responses: band, first wavelength in nm, and the relative
            response at steps of 1 nm.
        aliases: other spellings of band names, lower case, to the canonical name.
    """

    name: str
    title: str
    bands: tuple[Band, ...]
    quantification: float | None
    offset: float
    nodata: float | None
    saturated: float | None
    baseline: BaselineRule | None
    source: str
    product_name: str = ""
    responses: _Curves = field(default=(), repr=False, compare=False)
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in the order of the product's own numbering."""
        return tuple(band.name for band in self.bands)

    @functools.cached_property
    def _by_spelling(self) -> dict[str, Band]:
        by_name = {band.name: band for band in self.bands}
        spellings = {_plain_name(s): by_name[name] for s, name in self.aliases}
        return spellings | {_plain_name(name): band for name, band in by_name.items()}

    def find(self, name: str) -> Band | None:
        """Return the band called `name` in any known spelling, or None."""
        return self._by_spelling.get(_plain_name(name))

    def band(self, name: str) -> Band:
        """Return the band called `name`; case, separators and aliases do not matter.

        Raises:
            BandError: the sensor has no such band.
        """
        band = self.find(name)
        if band is None:
            raise BandError(
                f"{self.name} has no band '{name}'{suggest(name, self.band_names)} "
                f"(known: {_shorten(self.band_names)})."
            )
        return band

    def find_in_name(self, stem: str) -> Band | None:
        """Return the band that a file name says: the last of its words that is one."""
        found = self.find_in_words(stem)
        return found[-1][0] if found else None

    def find_in_words(self, text: str) -> list[tuple[Band, str]]:
        """Return the bands in a text, each with the word after it, "" at the end.

        The longest run of words that is a band counts: "red edge 1" is not red.
        """
        words = [word for word in _SEPARATORS.split(text) if word]
        found, at = [], 0
        while at < len(words):
            for stop in range(min(len(words), at + _LONGEST_NAME), at, -1):
                band = self.find("".join(words[at:stop]))
                # Letters alone belong to what follows: "B1 1" and "b 1" are no names.
                if band is not None and all(map(_WORD.fullmatch, words[at : stop - 1])):
                    after = "".join(words[stop:][:1])
                    around = {w.lower() for w in (*words[at - 1 : at], after)}
                    is_colour = stop - at == 1 and words[at].isalpha()
                    if not (is_colour and around & _QUALIFIERS):
                        found.append((band, after))
                    at = stop
                    break
            else:
                at += 1
        return found

    def nearest(self, wavelength_nm: float) -> Band | None:
        """Return the band centred nearest to a wavelength, None if none is near it.

        Near means within half the band's width, where the band still senses.
        """
        band = min(self.bands, key=lambda b: abs(b.wavelength_nm - wavelength_nm))
        distance_nm = abs(band.wavelength_nm - wavelength_nm)
        return band if distance_nm <= band.width_nm / 2 else None

    def response(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how a band weighs wavelengths: (wavelengths_nm, response), (N,) each.

        Wavelengths are whole nanometres, 1 nm apart; the response sums to 1, so that
        it turns a spectrum at these wavelengths into what the band measures. It is the
        measured one (the mean of a sensor's satellites) if the sensor has it, else a
        Gaussian of the band's centre and full width at half maximum, also for bands
        that their makers describe by edges, such as those of Gaofen and PlanetScope.

        Args:
            name: the band in any known spelling.

        Raises:
            BandError: the sensor has no such band.
        """
        band = self.band(name)
        for measured, first_nm, values in self.responses:
            if measured == band.name:
                steps = np.arange(len(values), dtype=float)
                return first_nm + steps, np.array(values) / sum(values)
        return gaussian_response(band)

    def select(
        self, names: Sequence[str] | None = None, exclude: Iterable[str] = ()
    ) -> tuple[Band, ...]:
        """Return bands sorted by wavelength.

        Args:
            names: bands to take, all if None.
            exclude: bands to leave out.

        Raises:
            BandError: a name is unknown or given twice, or no band is left.
        """
        names, exclude = None if names is None else tuple(names), tuple(exclude)
        key = names, exclude
        if key in self._selections:
            return self._selections[key]
        left_out = {self.band(name).name for name in exclude}
        wanted = self.bands if names is None else [self.band(name) for name in names]
        taken = [band for band in wanted if band.name not in left_out]
        if len({band.name for band in taken}) != len(taken):
            raise BandError(
                f"{self.name}: a band is named twice in {list(names or ())}."
            )
        if not taken:
            raise BandError(f"{self.name}: no band is left after the selection.")
        taken.sort(key=lambda band: (band.wavelength_nm, band.name))
        return self._selections.setdefault(key, tuple(taken))

    @functools.cached_property
    def _selections(self) -> dict[Any, tuple[Band, ...]]:
        """What `select` gave: images of one kind ask for the same again and again."""
        return {}


def gaussian_response(band: Band) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how a band weighs wavelengths if all that is known are centre and width.

    See `Sensor.response`.
    """
    centre, reach_nm = band.wavelength_nm, _REACH * band.width_nm
    first_nm = max(1, round(centre - reach_nm))
    wavelengths_nm = np.arange(first_nm, round(centre + reach_nm) + 1, dtype=float)
    squares = ((wavelengths_nm - centre) / band.width_nm) ** 2
    # The nearest step counts, however narrow the band is.
    response = np.exp(-4 * math.log(2) * (squares - squares.min()))
    return wavelengths_nm, response / response.sum()


def _plain_name(name: str) -> str:
    """Return a band's name as it is compared: "Red Edge_1" is rededge1."""
    return re.sub(r"[\s_-]+", "", name).lower()


def match_bands(
    wanted: Sequence[Band], found: Sequence[Band], allow_missing: bool = False
) -> list[int | None]:
    """Find each wanted band among the found ones, by name or by wavelength.

    A band of the same name whose centre agrees is taken. Otherwise the nearest centre
    is, if it lies within half the width of the narrower of both bands. No band is used
    twice.

    Args:
        wanted: bands to find.
        found: bands to choose from.
        allow_missing: give None for a wanted band that is missing.

    Returns:
        For each wanted band its index in `found`.

    Raises:
        BandError: a wanted band is missing; names it and what was found.
    """
    indices = list(_match_bands(tuple(wanted), tuple(found)))
    missing = [b for b, index in zip(wanted, indices, strict=True) if index is None]
    if missing and not allow_missing:
        there = [b.name for b, i in zip(wanted, indices, strict=True) if i is not None]
        how = f", by use_bands {','.join(there)} where it is trained" if there else ""
        raise BandError(
            f"missing band {_describe(missing)}; found {_describe(found) or 'none'}. "
            f"Add the band, take a model of the bands that you have{how}, or state "
            "--bands resample (in files bands: resample) to have it estimated."
        )
    return indices


@functools.lru_cache
def _match_bands(
    wanted: tuple[Band, ...], found: tuple[Band, ...]
) -> tuple[int | None, ...]:
    indices: dict[int, int] = {}
    for position, band in enumerate(wanted):
        for index, other in enumerate(found):
            if other.name == band.name and _agree(band, other):
                indices[position] = index
    free = set(range(len(found))) - set(indices.values())
    for position, band in enumerate(wanted):
        if position in indices:
            continue
        near = [i for i in sorted(free) if _agree(band, found[i])]
        if near:
            nearest = min(
                near, key=lambda i: abs(found[i].wavelength_nm - band.wavelength_nm)
            )
            indices[position] = nearest
            free.remove(nearest)
    return tuple(indices.get(position) for position in range(len(wanted)))


def _describe(bands: Sequence[Band]) -> str:
    return ", ".join(f"{band.name} ({band.wavelength_nm:g} nm)" for band in bands)


def _agree(band: Band, other: Band) -> bool:
    tolerance_nm = min(band.width_nm, other.width_nm) / 2
    return abs(band.wavelength_nm - other.wavelength_nm) <= tolerance_nm


def list_sensors() -> list[str]:
    """Names of the sensors that come with the package, sorted."""
    return list_yaml("sensors")


@functools.cache
def load_sensor(name: str) -> Sensor:
    """Return a sensor of the registry.

    Args:
        name: as `list_sensors` gives it.

    Raises:
        ConfigError: the registry has no such sensor; names the nearest.
    """
    known = list_sensors()
    if name not in known:
        raise ConfigError(
            f"unknown sensor '{name}'{suggest(name, known)} "
            f"(known: {', '.join(known)})."
        )
    with as_file(files("spectralgpt") / "sensors" / f"{name}.yaml") as path:
        return _read_sensor(path)


def find_sensor(name: str) -> Sensor:
    """Return a sensor of the registry, or one that a user's own YAML file describes.

    Only for names that a user states: what files say of themselves is looked up with
    `load_sensor`, so that no file can name another one to be read.

    Args:
        name: as `list_sensors` gives it, or the path of a file that ends in `.yaml`.

    Raises:
        ConfigError: there is no such sensor or file, or the file is wrong.
    """
    return _read_sensor(Path(name)) if name.endswith(".yaml") else load_sensor(name)


def _read_sensor(path: Path) -> Sensor:
    """Read a sensor from a YAML file laid out as those in `sensors/`.

    The file's name without its ending is the sensor's name.
    """
    where = str(path)
    table = read_mapping(path)
    required = ("title", "quantification", "offset", "nodata", "saturated", "source")
    check_keys(
        table,
        where,
        required=(*required, "bands"),
        optional=("baseline", "product_name", "responses"),
    )
    bands, aliases = _read_bands(table, where)
    return Sensor(
        name=path.stem,
        title=take_text(table, "title", where),
        bands=bands,
        quantification=_number_or_none(table, "quantification", where),
        offset=take_number(table, "offset", where),
        nodata=_number_or_none(table, "nodata", where),
        saturated=_number_or_none(table, "saturated", where),
        baseline=_read_baseline(table.get("baseline"), f"{where}, baseline"),
        source=" ".join(take_text(table, "source", where).split()),
        product_name=_read_pattern(table, where),
        responses=_read_responses(table, path, bands, dict(aliases)),
        aliases=aliases,
    )


def _rows(table: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the rows under `bands`, each a mapping."""
    rows = table["bands"]
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{where}: 'bands' must be a list of bands.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(
                f"{where}, band {number}: expected keys with values, found {row!r}."
            )
    return rows


def _read_bands(
    table: Mapping[str, Any], where: str
) -> tuple[tuple[Band, ...], tuple[tuple[str, str], ...]]:
    bands: list[Band] = []
    aliases: dict[str, str] = {}
    for number, row in enumerate(_rows(table, where), start=1):
        place = f"{where}, band {number}"
        numbers = ("wavelength_nm", "width_nm", "gsd_m")
        check_keys(row, place, required=("name", *numbers), optional=("aliases",))
        name = take_text(row, "name", place)
        values = [take_number(row, key, place) for key in numbers]
        if 0 < values[0] < _LEAST_NM:
            raise ConfigError(
                f"{place}: a wavelength_nm of {values[0]:g} must be micrometres: write "
                f"nanometres, {values[0] * _NM_PER_UM:g}, and the width likewise."
            )
        try:
            bands.append(Band(name, *values))
        except ConfigError as error:
            raise ConfigError(f"{where}, {error}") from None
        for spelling in (name, *row.get("aliases", ())):
            if aliases.setdefault(_plain_name(str(spelling)), name) != name:
                raise ConfigError(f"{place}: '{spelling}' already names another band.")
    if len({band.name for band in bands}) != len(bands):
        raise ConfigError(f"{where}: two bands have the same name.")
    return tuple(bands), tuple(aliases.items())


def _read_responses(
    table: Mapping[str, Any],
    path: Path,
    bands: Sequence[Band],
    spellings: Mapping[str, str],
) -> _Curves:
    """Read the measured responses that a sensor names: the package's, or a file beside.

    Bands that the package's file has beyond the sensor's are left out.
    """
    if "responses" not in table:
        return ()
    name = take_text(table, "responses", str(path))
    known = list_yaml("sensors", "responses")
    is_own = name.endswith(".yaml") and Path(name).name == name
    if not is_own and name not in known:
        raise ConfigError(
            f"{path}: unknown responses '{name}'{suggest(name, known)} (known: "
            f"{', '.join(known)}, or the name of a YAML file in the sensor's folder)."
        )
    if is_own:
        curves = read_mapping(where := path.parent / name)
    else:
        folder = files("spectralgpt") / "sensors" / "responses"
        with as_file(folder / f"{name}.yaml") as where:
            curves = read_mapping(where)
    check_keys(curves, str(where), required=("bands",))
    by_name = {band.name: band for band in bands}
    found = {}
    for number, row in enumerate(_rows(curves, str(where)), start=1):
        place = f"{where}, band {number}"
        check_keys(row, place, required=("name", "first_nm", "response"))
        band_name = spellings.get(_plain_name(take_text(row, "name", place)))
        if band_name is None and is_own:
            raise ConfigError(f"{place}: {path.name} has no band '{row['name']}'.")
        if band_name in found:
            raise ConfigError(f"{place}: band '{band_name}' has a response already.")
        if band_name is not None:
            found[band_name] = _read_response(row, by_name[band_name], place)
    return tuple(found.values())


def _read_response(
    row: Mapping[str, Any], band: Band, place: str
) -> tuple[str, int, tuple[float, ...]]:
    first_nm = take_number(row, "first_nm", place)
    try:
        values = tuple(map(float, take_text(row, "response", place).split()))
    except ValueError as error:
        raise ConfigError(f"{place}: 'response' must be numbers: {error}.") from None
    shown = f"{place}: the response of band '{band.name}'"
    if min(values) < 0 or not 0 < sum(values) < math.inf:
        raise ConfigError(
            f"{shown} must be finite numbers from 0 on, not all of them 0."
        )
    if not first_nm.is_integer() or first_nm < 1:
        raise ConfigError(f"{shown} must begin at a whole nanometre, not {first_nm:g}.")
    centre = first_nm + float(np.average(np.arange(len(values)), weights=values))
    if abs(centre - band.wavelength_nm) > band.width_nm:
        raise ConfigError(
            f"{shown} lies around {centre:g} nm, but the band is centred at "
            f"{band.wavelength_nm:g} nm, {band.width_nm:g} nm wide. Correct one."
        )
    return band.name, int(first_nm), values


def _read_baseline(row: Mapping[str, Any] | None, where: str) -> BaselineRule | None:
    if row is None:
        return None
    required = ("since", "offset", "offset_before")
    check_keys(row, where, required=required, optional=("reprocessed",))
    return BaselineRule(
        since=int(take_number(row, "since", where)),
        offset=take_number(row, "offset", where),
        offset_before=take_number(row, "offset_before", where),
        reprocessed=tuple(row.get("reprocessed", ())),
    )


def _read_pattern(table: Mapping[str, Any], where: str) -> str:
    if "product_name" not in table:
        return ""
    pattern = take_text(table, "product_name", where)
    try:
        with warnings.catch_warnings():
            # Patterns that are likely to mean something else.
            warnings.simplefilter("error", FutureWarning)
            re.compile(pattern)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{where}: 'product_name' is no regular expression: {error}."
        ) from None
    return pattern


def _number_or_none(table: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if table[key] is None else take_number(table, key, where)


def _shorten(names: Collection[str], most: int = 16) -> str:
    shown = list(names)[:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "")
