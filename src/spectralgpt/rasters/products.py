"""Describing an image on disk: its bands, unit, scale and offset.

Nothing is guessed: what neither the files nor the caller say is an error that asks.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spectralgpt.errors import ConfigError, RasterError, UnitError
from spectralgpt.rasters.facts import Facts, day_in
from spectralgpt.rasters.files import (
    Header,
    open_raster,
    quiet_gdal,
    read_masks,
)
from spectralgpt.rasters.gdal_errors import reading
from spectralgpt.rasters.items import BandFile, RasterItem
from spectralgpt.rasters.layers import find_bands, find_stated_bands
from spectralgpt.rasters.locations import Location
from spectralgpt.rasters.metadata import read_facts
from spectralgpt.rasters.offsets import offset_from_pixels, offset_from_texts
from spectralgpt.rasters.stac_lists import is_stac_member
from spectralgpt.sensors import Sensor, find_sensor, list_sensors, load_sensor

__all__ = ["SENSOR_TAG", "UNITS", "UNIT_TAG", "describe_raster"]

UNITS = ("auto", "digital-numbers", "reflectance")
UNIT_TAG = "SPECTRALGPT_UNIT"
SENSOR_TAG = "SPECTRALGPT_SENSOR"
_SAMPLE_SIDE = 128
"""Pixels a side of the thinned-out sample that decides what the header does not."""
_REFLECTANCE_BELOW = 2.0
_NUMBERS_ABOVE = 20.0
"""Between the two, a 99th percentile of float values could be either unit."""
_BRIGHT_PERCENT = 99.0


@dataclass(frozen=True)
class _Scale:
    """What `RasterItem` says of the same names."""

    unit: str
    quantification: float
    offset: float
    offset_source: str


def describe_raster(
    path: Path | str,
    sensor: Sensor | str | None = None,
    bands: Sequence[str] | None = None,
    unit: str = "auto",
    offset: float | str = "auto",
    quantification: float | str = "auto",
    nodata: Sequence[float] | str = "auto",
    pattern: str | None = None,
    members: Sequence[Path] | None = None,
    name: str | None = None,
) -> RasterItem:
    """Find out where the bands of an image lie and what its numbers mean.

    Args:
        path: a raster file (GeoTIFF, JP2, VRT, ENVI, .npy), a folder with one file a
            band, a product of a known kind as folder or zip archive, or a STAC item
            (see `spectralgpt.rasters.metadata`).
        sensor: from the registry, or the path of a YAML file like those in `sensors/`;
            None takes it from the file's tag or the product's name.
        bands: names of a file's layers in their order ("-" skips one, "sensor-order"
            alone names all); for a folder, the bands to take. None reads band
            descriptions, wavelengths in them, or file names.
        unit: `reflectance`, `digital-numbers`, or `auto`: the file's own tag, or its
            type and values.
        offset: added to digital numbers, or `auto`: the file's own, or the sensor's
            rule (see `spectralgpt.rasters.offsets`).
        quantification: digital numbers per unit of reflectance, or `auto`: the file's
            own, or the sensor's.
        nodata: all numbers that mean no measurement, or `auto`: the file's own if it
            states one, else the sensor's; saturation is invalid in any case.
        pattern: regular expression with a group `band` for file names in a folder.
        members: the files of a folder that belong to the image; all if None.
        name: for messages; the path if None.

    Raises:
        RasterError: a file is missing or cannot be read.
        BandError: bands are in doubt.
        UnitError: the unit or offset is in doubt or contradicts the file.
        ConfigError: the sensor is in doubt.
    """
    path = Path(path)
    if not path.exists() and not is_stac_member(path):
        raise RasterError(f"{path} does not exist. Check the path.")
    is_described = pattern is not None or members is not None
    facts = None if is_described else read_facts(path)
    sensor = _resolve_sensor(path, sensor, facts)
    if facts is not None and facts.sensor != sensor.name:
        # What the user states wins: then the metadata are those of something else.
        facts = None
    if facts is not None and not (path.is_file() and bands is not None):
        files, headers = find_stated_bands(path, sensor, facts.files, bands)
    else:
        files, headers = find_bands(path, sensor, bands, pattern, members)
    scale = _resolve_scale(
        path, sensor, files, headers, unit, quantification, offset, facts
    )
    if nodata == "auto" and facts is not None and facts.nodata is not None:
        nodata = facts.nodata
    invalid = _resolve_nodata(sensor, headers, nodata, scale.unit)
    return RasterItem(
        name=name or str(path),
        sensor=sensor,
        files=files,
        quantification=scale.quantification,
        offset=scale.offset,
        nodata=invalid[0] if invalid else None,
        unit=scale.unit,
        offset_source=scale.offset_source,
        other_invalid=tuple(invalid[1:]),
        place=name or str(path),
        date=facts.date if facts is not None else _date_in_names(path),
        cloud_percent=None if facts is None else facts.cloud_percent,
    )


def _date_in_names(path: Path) -> datetime.date | None:
    """The date in a file's name, or that of its folder; names of products have one."""
    absolute = path.absolute()
    return day_in(absolute.name) or day_in(absolute.parent.name)


def _resolve_sensor(
    path: Path, sensor: Sensor | str | None, facts: Facts | None
) -> Sensor:
    if isinstance(sensor, Sensor):
        return sensor
    if sensor is not None:
        return find_sensor(sensor)
    if facts is not None:
        return load_sensor(facts.sensor)
    if path.is_file():
        with quiet_gdal(), open_raster(path) as dataset:
            tag = dataset.tags().get(SENSOR_TAG)
        if tag is not None:
            return load_sensor(tag)
    for known in map(load_sensor, list_sensors()):
        if known.product_name and re.search(known.product_name, str(path.absolute())):
            return known
    raise ConfigError(
        f"{path} does not say which sensor took it. State one of: "
        f"{', '.join(list_sensors())}."
    )


def _resolve_scale(
    path: Path,
    sensor: Sensor,
    files: Mapping[str, BandFile],
    headers: Mapping[Location, Header],
    unit: str,
    quantification: float | str,
    offset: float | str,
    facts: Facts | None,
) -> _Scale:
    unit = _resolve_unit(path, files, headers, unit)
    is_stated = quantification != "auto" or (offset != "auto" and offset != 0)
    if unit == "reflectance":
        if is_stated:
            raise UnitError(
                f"{path} already holds reflectance: a stated quantification "
                f"({quantification}) or offset ({offset}) would be a twice-applied "
                "offset. Leave both out."
            )
        return _Scale(unit, 1.0, 0.0, "the file holds reflectance")
    own = _own_scale(path, files, headers)
    if own is not None:
        if is_stated:
            raise UnitError(
                f"{path} states its own scale and offset {own}: a stated "
                f"quantification ({quantification}) or offset ({offset}) would be a "
                "twice-applied offset. Leave both out."
            )
        return _Scale(unit, 1 / own[0], own[1] / own[0], "the file's own scale")
    known = None if facts is None else facts.scale
    if known is not None and quantification == "auto" and offset == "auto":
        return _Scale(unit, known.quantification, known.offset, known.source)
    per_unit = sensor.quantification if quantification == "auto" else quantification
    if per_unit is None:
        raise UnitError(
            f"{path}: {sensor.name} has no fixed scale. State the quantification: "
            "digital numbers per unit of reflectance."
        )
    if not float(per_unit) > 0:
        raise UnitError(
            f"{path}: quantification is {per_unit}; digital numbers per unit of "
            "reflectance must be above 0."
        )
    if offset != "auto":
        return _Scale(unit, float(per_unit), float(offset), "stated")
    found = _find_offset(path, sensor, files, headers)
    return _Scale(unit, float(per_unit), *found)


def _resolve_unit(
    path: Path,
    files: Mapping[str, BandFile],
    headers: Mapping[Location, Header],
    unit: str,
) -> str:
    if unit not in UNITS:
        raise UnitError(f"unknown unit '{unit}' (known: {', '.join(UNITS)}).")
    tags = {header.tags.get(UNIT_TAG, "") for header in headers.values()}
    if tags == {"reflectance"}:
        if unit == "digital-numbers":
            raise UnitError(
                f"{path} is tagged as reflectance: read as digital numbers it would "
                "get a twice-applied offset. Leave the unit out."
            )
        return "reflectance"
    if unit != "auto":
        return unit
    kinds = {headers[file.path].dtypes[file.index - 1] for file in files.values()}
    if all(kind.startswith(("int", "uint")) for kind in kinds):
        return "digital-numbers"
    values = np.concatenate(_sample_bands(files, headers)).astype(np.float64)
    bright = float(np.percentile(values, _BRIGHT_PERCENT)) if values.size else 0.0
    if bright <= _REFLECTANCE_BELOW:
        return "reflectance"
    if bright >= _NUMBERS_ABOVE:
        return "digital-numbers"
    raise UnitError(
        f"{path} holds float values whose {_BRIGHT_PERCENT:g}th percentile is "
        f"{bright:.4g}: neither clearly reflectance nor digital numbers. State the "
        "unit."
    )


def _own_scale(
    path: Path, files: Mapping[str, BandFile], headers: Mapping[Location, Header]
) -> tuple[float, float] | None:
    """Return the scale of the layers that are bands; others may have their own."""
    scales = {headers[file.path].scales[file.index - 1] for file in files.values()}
    if len(scales) > 1:
        raise UnitError(f"{path}: bands state different scales {sorted(scales)}.")
    own = scales.pop()
    return None if own == (1.0, 0.0) else own


def _find_offset(
    path: Path,
    sensor: Sensor,
    files: Mapping[str, BandFile],
    headers: Mapping[Location, Header],
) -> tuple[float, str]:
    rule = sensor.baseline
    if rule is None:
        return sensor.offset, f"{sensor.name} always"
    inside = next(iter(files.values())).path
    found = offset_from_texts(path, inside, rule)
    if found is None:
        invalid = [v for v in (sensor.nodata, sensor.saturated) if v is not None]
        samples = _sample_bands(files, headers, invalid)
        if not any(numbers.size for numbers in samples):
            raise UnitError(
                f"{path}: no pixel that was looked at is valid, and no processing "
                "baseline in its name or metadata tells the offset. Leave the file "
                "out, or state the offset."
            )
        found = offset_from_pixels(samples, rule)
    if found is None:
        raise UnitError(
            f"{path}: the offset is in doubt: no processing baseline in its name or "
            f"metadata, and no pixel dark enough to tell. State the offset: "
            f"{rule.offset:g} from baseline 04.00 (January 2022) on, "
            f"{rule.offset_before:g} before."
        )
    return found


def _sample_bands(
    files: Mapping[str, BandFile],
    headers: Mapping[Location, Header],
    invalid: Sequence[float] = (),
) -> list[npt.NDArray[np.generic]]:
    """Read some valid numbers of each band, thinned out without interpolation."""
    samples = []
    for path, header in headers.items():
        own = [file for file in files.values() if file.path == path]
        indices = [file.index for file in own]
        masks = dict.fromkeys(mask for file in own for mask in file.masks)
        height = min(header.grid.height, _SAMPLE_SIDE)
        width = min(header.grid.width, _SAMPLE_SIDE)
        with quiet_gdal(), open_raster(path) as dataset, reading(path):
            numbers = dataset.read(indices, out_shape=(len(indices), height, width))
            known = np.isfinite(numbers)
            if masks:
                known &= read_masks(dataset, indices, list(masks), size=(height, width))
        for value in (*invalid, header.nodata):
            if value is not None:
                known &= numbers != value
        samples += [layer[seen] for layer, seen in zip(numbers, known, strict=True)]
    return samples


def _resolve_nodata(
    sensor: Sensor,
    headers: Mapping[Location, Header],
    nodata: Sequence[float] | str,
    unit: str,
) -> list[float]:
    if not isinstance(nodata, str):
        stated = [float(value) for value in nodata]
    elif nodata == "auto":
        own = {h.nodata for h in headers.values() if h.nodata is not None}
        stated = sorted(value for value in own if not np.isnan(value))
        if not stated and sensor.nodata is not None and unit != "reflectance":
            stated = [sensor.nodata]
    else:
        raise ConfigError(f"nodata must be numbers or 'auto', found '{nodata}'.")
    if sensor.saturated is not None and unit != "reflectance":
        stated.append(sensor.saturated)
    return stated
