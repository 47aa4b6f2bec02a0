from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from spectralgpt.data.archives.major_tom import unpack
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import DataError
from spectralgpt.rasters import read_raster
from spectralgpt.sensors import load_sensor

BANDS = load_sensor("sentinel-2-l2a").band_names
CELLS = ("0U/0U_199R", "199U/199U_1099R")


def hub_row(product: Path) -> dict[str, object]:
    """A row as the Hub has it: the files of a product as bytes."""
    return {
        "product_id": product.name,
        "grid_cell": product.parent.name,
        "product_datetime": "2020-02-23 03:27:39",
        "thumbnail": (product / "thumbnail.png").read_bytes(),
        **{band: (product / f"{band}.tif").read_bytes() for band in BANDS},
        "cloud_mask": (product / "cloud_mask.tif").read_bytes(),
    }


def write_hub(path: Path, rows: list[dict[str, object]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1)
    return path


def test_cells_come_out_as_they_are_in_the_folders(
    shared: Path, tmp_path: Path
) -> None:
    real = shared / "data" / "major-tom" / "S2L2A"
    products = [next((real / cell).iterdir()) for cell in CELLS]
    file = write_hub(tmp_path / "part_00001.parquet", list(map(hub_row, products)))
    made = unpack([file], tmp_path / "out")
    for product, folder in zip(products, made, strict=True):
        assert folder.relative_to(tmp_path / "out/S2L2A") == product.relative_to(real)
        assert {p.name for p in folder.iterdir()} == {p.name for p in product.iterdir()}
        for path in product.iterdir():
            assert (folder / path.name).read_bytes() == path.read_bytes()
    items = find_items([read_source("archive:major-tom")], tmp_path / "out")
    assert [item.offset for item in items] == [-1000, 0]
    assert read_raster(items[1], out_size=8).pixels.shape == (12, 8, 8)
    # Once more changes nothing.
    times = [path.stat().st_mtime_ns for folder in made for path in folder.iterdir()]
    unpack([file], tmp_path / "out")
    assert times == [p.stat().st_mtime_ns for folder in made for p in folder.iterdir()]


@pytest.mark.parametrize(
    ("key", "value"),
    [("grid_cell", "../0U_1R"), ("product_id", "../S2A_MSIL2A_x"), ("product_id", "")],
)
def test_rows_lead_nowhere_else(tmp_path: Path, key: str, value: str) -> None:
    row: dict[str, object] = dict.fromkeys(BANDS, b"II*")
    row |= {"grid_cell": "0U_199R", "product_id": "S2A_MSIL2A_1", key: value}
    file = write_hub(tmp_path / "part.parquet", [row])
    with pytest.raises(DataError, match="names the cell"):
        unpack([file], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = write_hub(tmp_path / "a.parquet", [{"grid_cell": "0U_1R", "B01": b""}])
    with pytest.raises(DataError, match="lacks the columns product_id, B02"):
        unpack([file], tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"text")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack([tmp_path / "b.parquet"], tmp_path)
    with pytest.raises(DataError, match="unknown source 'S1'"):
        unpack([], tmp_path, "S1")
    assert np.array(BANDS).size == 12
