"""What a pack says of itself and its images: read strictly, as from anywhere.

The manifest is JSON; the table of the images is Parquet, one row an image.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.config import build_config, check_keys
from spectralgpt.data.series import SeriesRule
from spectralgpt.errors import DataError, SpectralGPTError
from spectralgpt.files import parse_json
from spectralgpt.rasters import RasterFile
from spectralgpt.sensors import Band, Sensor

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


@dataclass(frozen=True)
class ImageKind:
    """What images have in common: all but name, place, position and numbers.

    Args:
        item: an image of this kind, without name, place and files.
        stacks: its bands.
    """

    item: RasterFile
    stacks: tuple[BandStack, ...]

    @classmethod
    def of(cls, item: RasterFile, stacks: tuple[BandStack, ...]) -> "ImageKind":
        """Return that of an image."""
        common = {name: getattr(item, name) for name in _COMMON}
        return cls(RasterFile("", item.sensor, {}, **common), stacks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        stacks = [asdict(stack) for stack in self.stacks]
        for stack in stacks:
            if stack["nodata"] is None:
                # As packs have always been.
                del stack["nodata"]
        common = {name: getattr(self.item, name) for name in _COMMON}
        return {
            "sensor": self.item.sensor.name,
            "stacks": stacks,
            **common,
            "nodata": _to_json(self.item.nodata),
            "other_invalid": [_to_json(value) for value in self.item.other_invalid],
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], sensors: Mapping[str, Sensor]
    ) -> "ImageKind":
        """Build from `to_dict`'s values.

        Raises:
            DataError: a value cannot be.
            ConfigError: a key is missing or unknown.
        """
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
        return cls(RasterFile("", sensor, {}, **common), stacks)


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
    left_out: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """Return it as text."""
        series = self.series
        table = {
            **_MADE_BY,
            "name": self.name,
            "images": self.images,
            "sensors": {name: _plain(sensor) for name, sensor in self.sensors.items()},
            "layouts": [kind.to_dict() for kind in self.kinds],
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
    kinds = tuple(ImageKind.from_dict(each, sensors) for each in table["layouts"])
    series = table["series"]
    shards = tuple(build_config(each, PackFile, "shards") for each in table["shards"])
    if not 0 <= table["images"] <= sum(shard.bytes for shard in shards):
        raise DataError("there are more images than bytes in its shards.")
    return Manifest(
        name=str(table["name"]),
        images=table["images"],
        sensors=sensors,
        kinds=kinds,
        index=build_config(table["index"], PackFile, "index"),
        shards=shards,
        series=None if series is None else build_config(series, SeriesRule, "series"),
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


_NUMBERS = 6
"""Numbers of a transform from (column, row) to coordinates."""
NO_SERIES = -1


_MAY_LACK = ("crs", "transforms")


def write_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the table as Parquet.

    Args:
        rows: of each image its name, place, the number of its layout (its kind), of the
            shard and the row among that one's images of the kind; `crs` as text and
            `transforms`, six numbers for each stack of bands one after the other, both
            None without georeference; the number of its series, -1 if none, and `day`,
            days since 1 January 1970, NaN if unknown.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, kind()) for name, kind in _columns(pa).items()])
    table = pa.Table.from_pylist(rows, schema=schema)
    # Shards are written by number; no compression codec but the usual one is needed.
    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _columns(pa: Any) -> Mapping[str, Any]:
    return {
        "name": pa.string,
        "place": pa.string,
        "layout": pa.int32,
        "shard": pa.int32,
        "row": pa.int32,
        "crs": pa.string,
        "transforms": lambda: pa.list_(pa.float64()),
        "series": pa.int32,
        "day": pa.float64,
    }


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The columns of the table, for N images.

    Args:
        names: see `write_rows`, as for the others.
        places: what they show.
        kinds: (N,) numbers of kinds.
        shards: (N,) numbers of shards.
        rows: (N,) places in the shards.
        crs: coordinate reference systems.
        transforms: all of them, one after the other.
        starts: (N + 1,) where those of each image start and end.
        series: (N,) numbers of series.
        days: (N,) days.
    """

    names: list[str]
    places: list[str]
    kinds: npt.NDArray[np.int32]
    shards: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    crs: list[str | None]
    transforms: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    series: npt.NDArray[np.int32]
    days: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.names)

    def transforms_of(self, number: int, stacks: int) -> list[list[float] | None]:
        """Return the transform of each stack of bands of an image."""
        start, stop = self.starts[number : number + 2]
        if start == stop:
            return [None] * stacks
        table = self.transforms[start:stop].reshape(stacks, _NUMBERS)
        return [[float(value) for value in row] for row in table]

    @classmethod
    def from_parquet(
        cls, content: bytes, manifest: Manifest, where: str
    ) -> "ImageTable":
        """Read the table and hold it against the manifest.

        Args:
            content: of the file.
            manifest: of the pack.
            where: for messages.

        Raises:
            DataError: the checksum differs, or a row says what cannot be.
        """
        import pyarrow as pa

        if hashlib.sha256(content).hexdigest() != manifest.index.sha256:
            raise DataError(
                f"{where} is corrupt: its checksum is not the one that was written. "
                "Copy or fetch it again, or pack the images again."
            )
        try:
            table = _read_table(content, manifest.images)
            table._check(manifest)
        except (pa.ArrowException, OSError, MemoryError, *_DAMAGE) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{where} is no table of a pack: {reason}") from None
        return table

    def _check(self, manifest: Manifest) -> None:
        if len(self) != manifest.images:
            raise ValueError(f"{len(self)} rows for {manifest.images} images.")
        counts = np.array([len(kind.stacks) for kind in manifest.kinds])
        for numbers, most in (
            (self.kinds, len(counts)),
            (self.shards, len(manifest.shards)),
        ):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < most:
                raise ValueError("a row names a layout or shard that there is not.")
        if self.rows.size and self.rows.min() < 0:
            raise ValueError("a row has a negative place in its shard.")
        lengths = np.diff(self.starts)
        if np.any((lengths != 0) & (lengths != counts[self.kinds] * _NUMBERS)):
            raise ValueError("a row has a transform too many or too few.")


def _read_table(content: bytes, images: int) -> ImageTable:
    import pyarrow as pa
    from pyarrow import parquet

    found = parquet.read_metadata(io.BytesIO(content)).num_rows
    if found != images:
        # Before reading: a few bytes can stand for any number of equal rows.
        raise ValueError(f"{found} rows for {images} images.")
    table = parquet.read_table(io.BytesIO(content)).combine_chunks()
    kinds = _columns(pa)
    if table.schema.names != list(kinds):
        raise ValueError(f"columns {table.schema.names}.")
    for name, kind in kinds.items():
        if table.schema.field(name).type != kind():
            raise ValueError(f"type of column {name}.")
    columns = {name: table.column(name).combine_chunks() for name in kinds}
    if any(columns[name].null_count for name in kinds if name not in _MAY_LACK):
        raise ValueError("a value is missing.")
    lengths = columns["transforms"].value_lengths().fill_null(0)
    starts = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))])
    return ImageTable(
        names=columns["name"].to_pylist(),
        places=_shared(columns["place"]),
        kinds=columns["layout"].to_numpy(),
        shards=columns["shard"].to_numpy(),
        rows=columns["row"].to_numpy(),
        crs=_shared(columns["crs"]),
        transforms=columns["transforms"].flatten().to_numpy(zero_copy_only=False),
        starts=starts.astype(np.int64),
        series=columns["series"].to_numpy(),
        days=columns["day"].to_numpy(),
    )


def _shared(column: Any) -> list[Any]:
    """Return texts of which most are the same, each of them once in memory."""
    encoded = column.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    return [values[-1 if i is None else i] for i in encoded.indices.to_pylist()]
