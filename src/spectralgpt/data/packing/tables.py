"""The table of a pack's images: one row an image, as Parquet."""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectralgpt.data.packing.manifest import Manifest
from spectralgpt.errors import DataError

__all__ = ["ImageRow", "ImageTable", "write_rows"]

_NUMBERS = 6
"""Numbers of a transform from (column, row) to coordinates."""
NO_SERIES = -1


@dataclass(frozen=True)
class ImageRow:
    """What the table says of an image.

    Args:
        name: for messages.
        place: what it shows.
        layout: number of its layout.
        shard: number of the shard that holds its numbers.
        row: which of the shard's images of that layout it is.
        crs: coordinate reference system as text, None without georeference.
        transforms: six numbers for each stack of bands, one after the other; None
            without georeference.
        series: number of the series it is a date of, -1 if none.
        day: days since 1 January 1970, NaN if unknown.
    """

    name: str
    place: str
    layout: int
    shard: int
    row: int
    crs: str | None = None
    transforms: tuple[float, ...] | None = None
    series: int = NO_SERIES
    day: float = math.nan


def write_rows(rows: Sequence[ImageRow]) -> bytes:
    """Return the table as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, kind()) for name, kind in _columns(pa).items()])
    values = {
        name: pa.array([getattr(row, name) for row in rows], schema.field(name).type)
        for name in schema.names
    }
    # Shards are written by number; no compression codec but the usual one is needed.
    stream = io.BytesIO()
    parquet.write_table(pa.table(values, schema=schema), stream, compression="zstd")
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
        names: see `ImageRow`, as are the others.
        places: what they show.
        layouts: (N,) numbers of layouts.
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
    layouts: npt.NDArray[np.int32]
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
            table = _read(content, manifest.images)
            table._check(manifest)
        except (pa.ArrowException, *_DAMAGE) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{where} is no table of a pack: {reason}") from None
        return table

    def _check(self, manifest: Manifest) -> None:
        if len(self) != manifest.images:
            raise ValueError(f"{len(self)} rows for {manifest.images} images.")
        counts = np.array([len(layout.stacks) for layout in manifest.layouts])
        for numbers, most in (
            (self.layouts, len(counts)),
            (self.shards, len(manifest.shards)),
        ):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < most:
                raise ValueError("a row names a layout or shard that there is not.")
        if self.rows.size and self.rows.min() < 0:
            raise ValueError("a row has a negative place in its shard.")
        lengths = np.diff(self.starts)
        if np.any((lengths != 0) & (lengths != counts[self.layouts] * _NUMBERS)):
            raise ValueError("a row has a transform too many or too few.")


# What pyarrow raises on damaged headers and pages, beside errors of its own.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError)


def _read(content: bytes, images: int) -> ImageTable:
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
        layouts=columns["layout"].to_numpy(),
        shards=columns["shard"].to_numpy(),
        rows=columns["row"].to_numpy(),
        crs=_shared(columns["crs"]),
        transforms=columns["transforms"].flatten().to_numpy(zero_copy_only=False),
        starts=starts.astype(np.int64),
        series=columns["series"].to_numpy(),
        days=columns["day"].to_numpy(),
    )


_MAY_LACK = ("crs", "transforms")


def _shared(column: Any) -> list[Any]:
    """Return texts of which most are the same, each of them once in memory."""
    encoded = column.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    return [values[-1 if i is None else i] for i in encoded.indices.to_pylist()]
