"""Embeddings with their places, as GeoParquet or npz."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.errors import DataError
from spectralgpt.rasters import RasterItem, Window
from spectralgpt.rasters.footprints import (
    LONLAT,
    centre_lonlat,
    cut_at_180,
    footprint_lonlat,
)

__all__ = ["EmbeddingRow", "TableFormat", "place_row", "table_path", "write_embeddings"]

TableFormat = Literal["geoparquet", "npz"]
_SUFFIX = {"geoparquet": ".parquet", "npz": ".npz"}
_NOWHERE = (float("nan"), float("nan"))
_CORNERS = 4


@dataclass(frozen=True)
class EmbeddingRow:
    """One embedding and what it is of.

    Args:
        path: the file.
        window: its pixels, on the grid of the file's finest band that was read.
        bands: names of the bands, in the model's order.
        crs: reference system of the file as text, empty without one.
        centre: (longitude, latitude), degrees; NaN without a reference system.
        footprint: four (longitude, latitude) corners, or None; see
            `spectralgpt.rasters.footprints.footprint_lonlat`.
        embedding: (D,) float32.
    """

    path: str
    window: Window
    bands: str
    crs: str
    centre: tuple[float, float]
    footprint: tuple[tuple[float, float], ...] | None
    embedding: NDArray[np.float32]


def place_row(
    path: Path,
    item: RasterItem,
    bands: Sequence[Any],
    window: Window,
    embedding: NDArray[np.float32],
) -> EmbeddingRow:
    """Add to an embedding where it lies."""
    grid = item.grid(bands)
    return EmbeddingRow(
        path=str(path),
        window=window,
        bands=",".join(band.name for band in bands),
        crs=grid.crs or "",
        centre=centre_lonlat(grid, window) or _NOWHERE,
        footprint=footprint_lonlat(grid, window),
        embedding=embedding,
    )


def table_path(folder: Path, table_format: TableFormat) -> Path:
    """Return the file that `write_embeddings` makes."""
    return folder / f"embeddings{_SUFFIX[table_format]}"


def write_embeddings(
    folder: Path, rows: Sequence[EmbeddingRow], table_format: TableFormat
) -> Path:
    """Write embeddings.parquet or embeddings.npz; footprints are in EPSG:4326.

    Raises:
        DataError: there are no rows.
        CheckpointError: the file cannot be written.
    """
    if not rows:
        raise DataError("There are no embeddings to write.")
    path = table_path(folder, table_format)
    write = _write_geoparquet if table_format == "geoparquet" else _write_npz
    write_atomically(path, lambda temporary: write(temporary, rows))
    return path


def _columns(rows: Sequence[EmbeddingRow]) -> dict[str, list[Any]]:
    return {
        "path": [row.path for row in rows],
        "row": [row.window.row for row in rows],
        "column": [row.window.column for row in rows],
        "height": [row.window.height for row in rows],
        "width": [row.window.width for row in rows],
        "bands": [row.bands for row in rows],
        "crs": [row.crs for row in rows],
        "longitude": [row.centre[0] for row in rows],
        "latitude": [row.centre[1] for row in rows],
    }


def _write_geoparquet(path: Path, rows: Sequence[EmbeddingRow]) -> None:
    import geopandas
    from shapely import Polygon

    columns = _columns(rows)
    columns["embedding"] = [row.embedding for row in rows]
    footprints = [row.footprint and cut_at_180(Polygon(row.footprint)) for row in rows]
    frame = geopandas.GeoDataFrame(columns, geometry=footprints, crs=LONLAT)
    frame.to_parquet(path, index=False)


def _write_npz(path: Path, rows: Sequence[EmbeddingRow]) -> None:
    nowhere = np.full((_CORNERS, 2), np.nan)
    arrays: dict[str, Any] = {
        name: np.array(values) for name, values in _columns(rows).items()
    }
    arrays["embedding"] = np.stack([row.embedding for row in rows])
    arrays["footprint"] = np.stack(
        [nowhere if row.footprint is None else np.array(row.footprint) for row in rows]
    )
    # Through a file object: given a name, numpy would add a suffix to it.
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
