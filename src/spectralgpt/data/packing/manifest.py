"""What a pack says of itself and its images: read strictly, as from anywhere.

The manifest is JSON; the table of the images is Parquet, one row per image.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spectralgpt.config import build_config, check_keys
from spectralgpt.data.series import SeriesRule
from spectralgpt.errors import DataError, SpectralGPTError, require
from spectralgpt.files import parse_json
from spectralgpt.rasters import RasterFile
from spectralgpt.sensors import Band, Sensor, list_sensors, load_sensor

MANIFEST = "pack.json"
INDEX = "images.parquet"
TENSOR = "{}.{}"
"""Name of the array in a shard that holds a stack of bands: those of kind and stack."""
NO_SERIES = -1
_FORMAT = "spectralgpt-pack"
_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9]+)+")
"""Names in the pack's own folder: no separators, no dots at the front."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
DTYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float32", "float64"),
)
_LARGEST = 1e38
_NO_NUMBER = "nan"
"""JSON has no NaN, which can be the number that means no measurement."""


@dataclass(frozen=True)
class PackFile:
    """A file of a pack.

    Args:
        file: its name in the pack's folder.
        bytes: its size.
        sha256: of its bytes, as 64 hexadecimal digits.
        images: how many it holds the numbers of.

    Raises:
        DataError: the name could leave the folder, or a number makes no sense.
    """

    file: str
    bytes: int
    sha256: str
    images: int = 0

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.file):
            raise DataError(
                f"{self.file!r:.80} is no name of a file in a pack's folder."
            )
        if not _DIGEST.fullmatch(self.sha256):
            raise DataError(f"the checksum of {self.file} makes no sense.")
        if self.bytes < 1 or self.images < 0:
            raise DataError(f"{self.file} has no size or number of images that can be.")


@dataclass(frozen=True)
class BandStack:
    """Bands of an image that lie on one grid and have one type: one array.

    Args:
        bands: names, in the order of the array.
        height: rows.
        width: columns.
        dtype: NumPy's name of the type.
        nodata: see `spectralgpt.rasters.BandFile`.
    """

    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str
    nodata: float | None = None

    def __post_init__(self) -> None:
        if not self.bands or self.height < 1 or self.width < 1:
            raise DataError("a stack of bands is empty.")
        if self.dtype not in DTYPES:
            raise DataError(f"numbers of type '{self.dtype}' cannot be packed.")


ImageKind = tuple[RasterFile, tuple[BandStack, ...]]
"""What images have in common: all but name, place, position and numbers. An image of
this kind, without name, place and files, and the stacks of its bands."""


def _read_kind(values: Mapping[str, Any], sensors: Mapping[str, Sensor]) -> ImageKind:
    """Read what `layout_of` gives."""
    check_keys(values, "layout", required=("sensor", "stacks", *_COMMON))
    for name in ("quantification", "offset", "weight"):
        _check_number(name, values[name], -math.inf if name == "offset" else 0)
    if values["quantification"] == 0:
        raise DataError("quantification is 0.")
    for name in ("unit", "offset_source", "holdout"):
        if not isinstance(values[name], str):
            raise DataError(f"{name} of images is no text.")
    nodata = None if values["nodata"] is None else _from_json(values["nodata"])
    if nodata is not None and not math.isnan(nodata):
        _check_number("nodata", nodata)
    common = {name: values[name] for name in _COMMON} | {
        "nodata": nodata,
        "other_invalid": tuple(map(_from_json, values["other_invalid"])),
    }
    sensor = sensors[values["sensor"]]
    stacks = tuple(
        build_config(stack, BandStack, "stack") for stack in values["stacks"]
    )
    for stack in stacks:
        sensor.select(stack.bands)
    return RasterFile("", sensor, {}, **common), stacks


def layout_of(item: RasterFile, stacks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what an image has in common with others, as plain values for JSON.

    Args:
        item: the image.
        stacks: the arguments of each `BandStack` that are set.
    """
    return {
        "sensor": item.sensor.name,
        "stacks": list(stacks),
        **{name: getattr(item, name) for name in _COMMON},
        "nodata": _to_json(item.nodata),
        "other_invalid": [_to_json(value) for value in item.other_invalid],
    }


_COMMON = (
    *("quantification", "offset", "nodata", "unit", "offset_source"),
    *("other_invalid", "holdout", "weight"),
)
"""Arguments of `RasterFile` that images of a kind share."""


def _check_number(name: str, value: Any, least: float = -math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value or abs(value) > _LARGEST:
        raise DataError(f"{name} is {value!r:.40}, which is no number that can be.")


def _to_json(value: float | None) -> float | str | None:
    return _NO_NUMBER if value is not None and math.isnan(value) else value


def _from_json(value: float | str) -> float:
    return math.nan if value == _NO_NUMBER else float(value)


@dataclass(frozen=True)
class Manifest:
    """What a pack holds.

    Args:
        name: of the data set.
        images: how many.
        sensors: by name, with their bands, so that a pack needs no other file.
        kinds: of images; rows of the index name them by number. In the file they are
            called layouts.
        index: the table of the images.
        shards: the numbers.
        series: how images form series of dates, None if they do not.
        left_out: what was wrong with images that are not in the pack.
    """

    name: str
    images: int
    sensors: Mapping[str, Sensor]
    kinds: tuple[ImageKind, ...]
    index: PackFile
    shards: tuple[PackFile, ...]
    series: SeriesRule | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Manifest":
        """Read it.

        Args:
            text: of `pack.json`.
            where: for messages.

        Raises:
            DataError: it is no manifest of a pack, or says what cannot be.
        """
        try:
            table = parse_json(text, MANIFEST)
            if not isinstance(table, dict) or table.pop("format", None) != _FORMAT:
                raise DataError("this is no pack.")
            if table.pop("version", None) != _VERSION:
                raise DataError("it was made by another version of this package.")
            # Packs from before have none.
            stated = table.pop(_OWN_DIGEST, None)
            if stated is not None and stated != _digest_of(table | _MADE_BY):
                raise DataError(
                    "its checksum is not the one that was written, so it was damaged "
                    "or edited. Copy or fetch it again."
                )
            check_keys(table, MANIFEST, required=_KEYS)
            return cls._of(table)
        except (SpectralGPTError, *DAMAGE) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{where} is no sound manifest of a pack: {reason} Pack the images "
                "again (spectralgpt data pack)."
            ) from None

    @classmethod
    def _of(cls, table: Mapping[str, Any]) -> "Manifest":
        sensors = {name: _sensor(values) for name, values in table["sensors"].items()}
        shards = [build_config(each, PackFile, "shards") for each in table["shards"]]
        if not 0 <= table["images"] <= sum(shard.bytes for shard in shards):
            raise DataError("there are more images than bytes in its shards.")
        series = table["series"]
        return cls(
            str(table["name"]),
            table["images"],
            sensors,
            tuple(_read_kind(each, sensors) for each in table["layouts"]),
            build_config(table["index"], PackFile, "index"),
            tuple(shards),
            None if series is None else build_config(series, SeriesRule, "series"),
            tuple(map(str, table["left_out"])),
        )


def manifest_text(table: Mapping[str, Any]) -> str:
    """Return the text of `pack.json`.

    Args:
        table: what `Manifest` takes, in its order, as plain values but for the sensors.
    """
    sensors = {name: asdict(sensor) for name, sensor in table["sensors"].items()}
    # As far as images that are described already need them.
    plain = {n: {key: one[key] for key in _SENSOR_KEYS} for n, one in sensors.items()}
    table = _MADE_BY | dict(table) | {"sensors": plain}
    table |= {_OWN_DIGEST: _digest_of(table)}
    return json.dumps(table, indent=1, allow_nan=False) + "\n"


def _digest_of(table: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, whatever its layout as text."""
    text = json.dumps(table, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_OWN_DIGEST = "sha256"
_MADE_BY = {"format": _FORMAT, "version": _VERSION}
# What values of the wrong kind raise where they are put together.
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_KEYS = (
    *("name", "images", "sensors", "layouts", "index", "shards", "series"),
    "left_out",
)


_SENSOR_KEYS = (
    *("name", "title", "bands", "quantification", "offset", "nodata", "saturated"),
    *("source", "aliases"),
)


def _sensor(values: Mapping[str, Any]) -> Sensor:
    check_keys(values, "sensor", required=_SENSOR_KEYS)
    bands = tuple(Band(**band) for band in values["bands"])
    aliases = tuple((str(one), str(two)) for one, two in values["aliases"])
    sensor = Sensor(**{**values, "bands": bands, "aliases": aliases, "baseline": None})
    if sensor.name in list_sensors():
        known = load_sensor(sensor.name)
        if known.bands == sensor.bands:
            return replace(sensor, responses=known.responses)
    return sensor


def is_pack(location: str | Path) -> bool:
    """Whether a place holds a pack; an address is taken to be one."""
    return "://" in str(location) or (Path(location) / MANIFEST).is_file()


def index_schema() -> Any:
    """Return the columns of the table of the images, which has a row per image.

    They are its name, place, the number of its layout, of the shard and the row among
    that one's images of the layout; `crs` as text and `transforms`, six numbers for
    each stack of bands one after the other, both None without georeference; the number
    of its series, `NO_SERIES` if none, and `day`, days since 1 January 1970, NaN if
    unknown.
    """
    require("pyarrow")
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("name", "place")]
    numbers = [(name, pa.int32()) for name in ("layout", "shard", "row")]
    places = [("crs", pa.string()), ("transforms", pa.list_(pa.float64()))]
    dates = [("series", pa.int32()), ("day", pa.float64())]
    return pa.schema([*texts, *numbers, *places, *dates])
