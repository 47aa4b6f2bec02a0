"""Major TOM Core as the Hub has it, parquet files, written out as folders.

A row of a parquet file is one product of one cell, its bands as GeoTIFF files in
columns of bytes. They are written to `ROW/CELL/PRODUCT/BAND.tif`, the layout of the
data set's own tools, which everything else here can read.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spectralgpt.errors import DataError, DatasetNotFoundError, require
from spectralgpt.sensors import load_sensor

logger = logging.getLogger(__name__)

_SENSORS = {"S2L2A": "sentinel-2-l2a", "S2L1C": "sentinel-2-l1c"}
_CELL = re.compile(r"(\d+[UD])_\d+[LR]")
_PRODUCT = re.compile(r"S2[A-Z]_MSIL[12][AC]_\w+")
_EXTRA = {"cloud_mask": "cloud_mask.tif", "thumbnail": "thumbnail.png"}


def download(part: int, folder: Path, source: str = "S2L2A") -> Path:
    """Fetch one parquet file of Core-S2L2A or Core-S2L1C from the Hub, several GB.

    Args:
        part: number of the file, from 1.
        folder: where to.
        source: `S2L2A` or `S2L1C`.

    Raises:
        DataError: there is no such source.
        DatasetNotFoundError: the Hub does not give it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    _bands(source)
    name = f"images/part_{part:05d}.parquet"
    repository = f"Major-TOM/Core-{source}"
    try:
        made = hf_hub_download(
            repository, name, repo_type="dataset", local_dir=str(folder)
        )
    except (HfHubHTTPError, OSError) as error:
        raise DatasetNotFoundError(
            f"{name} of {repository} cannot be fetched: {error}"
        ) from None
    return Path(made)


def unpack(files: Iterable[Path], folder: Path, source: str = "S2L2A") -> list[Path]:
    """Write the images of parquet files as folders with one file per band.

    Rows are read one by one; a product that is there already is left alone.

    Args:
        files: parquet files of the Hub.
        folder: gets `S2L2A/ROW/CELL/PRODUCT/BAND.tif`.
        source: `S2L2A` or `S2L1C`.

    Returns:
        The folders of the products.

    Raises:
        DataError: a file is no such parquet file, or names something that cannot be a
            folder.
    """
    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    bands = _bands(source)
    made = []
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                columns = _columns(file, opened.schema_arrow.names, bands)
                for batch in opened.iter_batches(batch_size=1, columns=columns):
                    made += [
                        _write(row, folder / source, bands, file)
                        for row in batch.to_pylist()
                    ]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be unpacked: {error}") from None
    return made


def _bands(source: str) -> tuple[str, ...]:
    if source not in _SENSORS:
        raise DataError(f"unknown source '{source}' (known: {', '.join(_SENSORS)}).")
    return load_sensor(_SENSORS[source]).band_names


def _columns(file: Path, found: list[str], bands: Iterable[str]) -> list[str]:
    needed = ["product_id", "grid_cell", *bands]
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(
            f"{file} lacks the columns {', '.join(missing)} of Major TOM Core (found: "
            f"{', '.join(found)})."
        )
    return [*needed, *(name for name in _EXTRA if name in found)]


def _write(row: dict[str, Any], root: Path, bands: Iterable[str], file: Path) -> Path:
    cell, product = str(row["grid_cell"]), str(row["product_id"])
    match = _CELL.fullmatch(cell)
    if match is None or not _PRODUCT.fullmatch(product):
        raise DataError(f"{file} names the cell '{cell}' and the product '{product}'.")
    folder = root / match.group(1) / cell / product
    contents = {f"{band}.tif": row[band] for band in bands}
    contents |= {name: row[key] for key, name in _EXTRA.items() if row.get(key)}
    empty = [name for name, content in contents.items() if not content]
    if empty:
        logger.warning("%s of %s: no %s.", product, file, ", ".join(empty))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if content and not (folder / name).exists():
            # A file that is only half written must not count as there.
            half = folder / f".{name}"
            half.write_bytes(content)
            half.replace(folder / name)
    return folder
