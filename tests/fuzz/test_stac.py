"""Damaged STAC files: one short error, or imagery from where it may come from."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters import describe_raster, list_stac_items, read_raster
from tests.fuzz.mutate import (
    NUMBERS,
    WORDS,
    bounded,
    mutate_bytes,
    mutate_text,
    mutate_value,
    rounds,
    said,
)
from tests.product_files import write_item
from tests.raster_files import write_tiff

VALUES: list[Any] = [
    *(None, True, 0, -1, 1e-5, 1e300, 10**400, float("nan"), float("inf")),
    *([], {}, [[]], [None], [{}], {"a": 1}, [{"name": "B04"}], [{"name": None}]),
    *("Feature", "FeatureCollection", "Catalog", "item", "child", "self", "B03"),
    *("B02.tif", "../B02.tif", "/etc/passwd", "file:///etc/passwd", "s3://a/b.tif"),
    *("http://[", "//[x/B02.tif", "B%002.tif", "x" * 300 + ".tif", "%ff.tif", "."),
    *(word for word in WORDS if word not in NUMBERS),
]
KINDS = ("item.json", "items.json", "catalog.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An item, a list of items and a catalog over two TIFFs."""
    for number, band in enumerate(("B02", "B03"), start=2):
        pixels = np.full((1, 8, 8), 1000 * number, "uint16")
        write_tiff(tmp_path / f"{band}.tif", pixels)
    assets = {
        band: {
            "href": f"./{band}.tif",
            "roles": ["data"],
            "eo:bands": [{"name": band, "common_name": name}],
            "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}],
        }
        for band, name in (("B02", "blue"), ("B03", "green"))
    }
    path = write_item(tmp_path / "item.json", assets, **{"eo:cloud_cover": 12.5})
    item = json.loads(path.read_text())
    listed = {"type": "FeatureCollection", "features": [item, {**item, "id": "two"}]}
    (tmp_path / "items.json").write_text(json.dumps(listed))
    links = [{"rel": "item", "href": "./item.json"}, {"rel": "child", "href": "c.json"}]
    catalog = {"type": "Catalog", "id": "c", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    (tmp_path / "c.json").write_text(json.dumps({**catalog, "links": links[:1]}))
    return tmp_path


def damage(text: str, seed: int) -> bytes:
    if seed % 4 == 0:
        return mutate_bytes(text.encode(), seed)
    if seed % 4 == 1:
        return mutate_text(text, seed).encode("utf-8", "surrogatepass")
    table = mutate_value(json.loads(text), seed, VALUES)
    return json.dumps(table).encode("utf-8", "surrogatepass")


def try_list(path: Path) -> int:
    """Read every item that a file names; each may be refused by itself."""
    read = 0
    for member in list_stac_items(path):
        with contextlib.suppress(SpectralGPTError), said():
            item = describe_raster(member)
            files = [file.path for file in item.files.values()]
            assert {*files} <= {path.parent / "B02.tif", path.parent / "B03.tif"}
            assert read_raster(item).pixels.shape == (len(files), 8, 8)
            read += 1
    return read


@pytest.mark.parametrize("name", KINDS)
def test_damaged_stac_files(name: str, folder: Path) -> None:
    path = folder / name
    text = path.read_text()
    assert try_list(path) == (2 if name == "items.json" else 1)
    for seed in rounds():
        path.write_bytes(damage(text, seed))
        with contextlib.suppress(SpectralGPTError), bounded(), said():
            try_list(path)
