"""What a pack says of itself: read strictly, for it may come from anywhere."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spectralgpt.data.dates import SeriesRule
from spectralgpt.errors import DataError, SpectralGPTError
from spectralgpt.json_files import parse_json
from spectralgpt.rasters import RasterItem
from spectralgpt.sensors import Band, Sensor
from spectralgpt.yaml_files import check_keys

__all__ = [
    "INDEX",
    "MANIFEST",
    "BandStack",
    "Layout",
    "Manifest",
    "PackFile",
    "is_pack",
    "is_remote",
]

MANIFEST = "pack.json"
INDEX = "images.parquet"
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


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name} is {value!r:.40}, which is no count.")


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
        _check_count(f"size of {self.file}", self.bytes, 1)
        _check_count(f"images in {self.file}", self.images, 0)


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
        if not self.bands or not all(isinstance(band, str) for band in self.bands):
            raise DataError("a stack of bands is empty.")
        for name in ("height", "width"):
            _check_count(name, getattr(self, name), 1)
        if self.dtype not in DTYPES:
            raise DataError(f"numbers of type '{self.dtype}' cannot be packed.")


@dataclass(frozen=True)
class Layout:
    """What images have in common: all but name, place, position and numbers.

    The arguments are those of `spectralgpt.rasters.RasterItem`.
    """

    sensor: str
    stacks: tuple[BandStack, ...]
    quantification: float
    offset: float
    nodata: float | None
    unit: str
    offset_source: str
    other_invalid: tuple[float, ...]
    holdout: str
    weight: float

    def __post_init__(self) -> None:
        for name in ("quantification", "offset", "weight"):
            _check_number(
                name, getattr(self, name), -math.inf if name == "offset" else 0
            )
        if self.quantification == 0:
            raise DataError("quantification is 0.")
        if self.nodata is not None and not math.isnan(self.nodata):
            _check_number("nodata", self.nodata)
        for name in ("sensor", "unit", "offset_source", "holdout"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"{name} of images is no text.")

    @classmethod
    def of(cls, item: RasterItem, stacks: tuple[BandStack, ...]) -> "Layout":
        """Return that of an image."""
        return cls(
            sensor=item.sensor.name,
            stacks=stacks,
            quantification=item.quantification,
            offset=item.offset,
            nodata=item.nodata,
            unit=item.unit,
            offset_source=item.offset_source,
            other_invalid=item.other_invalid,
            holdout=item.holdout,
            weight=item.weight,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        values["nodata"] = _to_json(self.nodata)
        values["other_invalid"] = [_to_json(value) for value in self.other_invalid]
        for stack in values["stacks"]:
            if stack["nodata"] is None:
                # As packs have always been.
                del stack["nodata"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Layout":
        """Build from `to_dict`'s values."""
        stacks = tuple(
            BandStack(**stack | {"bands": tuple(stack["bands"])})
            for stack in values["stacks"]
        )
        others = tuple(_from_json(value) for value in values["other_invalid"])
        nodata = None if values["nodata"] is None else _from_json(values["nodata"])
        return cls(
            **{
                **values,
                "stacks": stacks,
                "other_invalid": others,
                "nodata": nodata,
            }
        )


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
        layouts: of the images; rows of the index name them by number.
        index: the table of the images.
        shards: the numbers.
        series: how images form series of dates, None if they do not.
        left_out: what was wrong with images that are not in the pack.
    """

    name: str
    images: int
    sensors: Mapping[str, Sensor]
    layouts: tuple[Layout, ...]
    index: PackFile
    shards: tuple[PackFile, ...]
    series: SeriesRule | None = None
    left_out: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """Return it as text."""
        series = self.series
        table = {
            **_MADE_BY,
            "name": self.name,
            "images": self.images,
            "sensors": {name: _plain(sensor) for name, sensor in self.sensors.items()},
            "layouts": [layout.to_dict() for layout in self.layouts],
            "index": asdict(self.index),
            "shards": [asdict(shard) for shard in self.shards],
            # Days are in the index.
            "series": series and {"dates": series.dates, "at_least": series.at_least},
            "left_out": list(self.left_out),
        }
        table[_OWN_DIGEST] = _digest_of(table)
        return json.dumps(table, indent=1, allow_nan=False) + "\n"

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
            return _build(table)
        except (SpectralGPTError, *_DAMAGE) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{where} is no sound manifest of a pack: {reason} Pack the images "
                "again (spectralgpt data pack)."
            ) from None


def _digest_of(table: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, whatever its layout as text."""
    text = json.dumps(table, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_OWN_DIGEST = "sha256"
_MADE_BY = {"format": _FORMAT, "version": _VERSION}
# What values of the wrong kind raise where they are put together.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_KEYS = (
    *("name", "images", "sensors", "layouts", "index", "shards", "series"),
    "left_out",
)


def _build(table: Mapping[str, Any]) -> Manifest:
    sensors = {name: _sensor(values) for name, values in table["sensors"].items()}
    layouts = tuple(Layout.from_dict(values) for values in table["layouts"])
    for layout in layouts:
        sensor = sensors[layout.sensor]
        for stack in layout.stacks:
            sensor.select(stack.bands)
    series = table["series"]
    shards = tuple(PackFile(**shard) for shard in table["shards"])
    _check_count("images", table["images"], 0)
    if table["images"] > sum(shard.bytes for shard in shards):
        raise DataError("there are more images than bytes in its shards.")
    return Manifest(
        name=str(table["name"]),
        images=table["images"],
        sensors=sensors,
        layouts=layouts,
        index=PackFile(**table["index"]),
        shards=shards,
        series=None if series is None else SeriesRule(**series),
        left_out=tuple(map(str, table["left_out"])),
    )


def _plain(sensor: Sensor) -> dict[str, Any]:
    """Return a sensor as far as images that are described already need it."""
    plain = asdict(sensor)
    return {key: plain[key] for key in _SENSOR_KEYS}


_SENSOR_KEYS = (
    *("name", "title", "bands", "quantification", "offset", "nodata", "saturated"),
    *("source", "aliases"),
)


def _sensor(values: Mapping[str, Any]) -> Sensor:
    check_keys(values, "sensor", required=_SENSOR_KEYS)
    bands = tuple(Band(**band) for band in values["bands"])
    aliases = tuple((str(one), str(two)) for one, two in values["aliases"])
    return Sensor(**{**values, "bands": bands, "aliases": aliases, "baseline": None})


def is_remote(location: str | Path) -> bool:
    """Whether a place is an address rather than a path."""
    return "://" in str(location)


def is_pack(location: str | Path) -> bool:
    """Whether a place holds a pack; an address is taken to be one."""
    return is_remote(location) or (Path(location) / MANIFEST).is_file()
