"""STAC files that name many items."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.errors import RasterError
from spectralgpt.rasters import describe_raster, list_stac_items, read_raster
from tests.product_files import write_item
from tests.raster_files import write_tiff


def link(rel: str, href: str) -> dict[str, str]:
    return {"rel": rel, "href": href}


def write(path: Path, kind: str, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"type": kind, "stac_version": "1.1.0", "id": "x", **more})
    path.write_text(text, encoding="utf-8")
    return path


def test_links_of_collections_and_their_children_are_followed(tmp_path: Path) -> None:
    write(
        tmp_path / "a/collection.json",
        "Collection",
        links=[link("item", "./one%20more.json"), link("root", "../catalog.json")],
    )
    links = [
        link("self", "https://example.org/catalog.json"),
        link("child", "./a/collection.json"),
        link("child", "catalog.json"),
        link("item", "./items/two.json"),
    ]
    path = write(tmp_path / "catalog.json", "Catalog", links=links)
    assert list_stac_items(path) == [
        tmp_path / "items/two.json",
        tmp_path / "a/one more.json",
    ]


def test_items_of_one_file_are_read_by_their_ids(tmp_path: Path) -> None:
    features = []
    for number, name in ((1500, "S2B_48QUE_1"), (2500, "S2B_48QUE_2")):
        pixels = np.full((1, 8, 8), number, "uint16")
        write_tiff(tmp_path / f"{name}.tif", pixels)
        assets = {"B04": {"href": f"./{name}.tif"}}
        stated = {"s2:processing_baseline": "05.11", "s2:product_type": "S2MSI2A"}
        item = json.loads(
            write_item(tmp_path / "item.json", assets, **stated).read_text()
        )
        features.append({**item, "id": name})
    path = write(tmp_path / "items.json", "FeatureCollection", features=features)
    members = list_stac_items(path)
    assert members == [path / "S2B_48QUE_1", path / "S2B_48QUE_2"]
    for member, reflectance in zip(members, (0.05, 0.15), strict=True):
        item = describe_raster(member)
        raster = read_raster(item, item.sensor.select(["B04"]))
        np.testing.assert_allclose(raster.pixels, reflectance, atol=1e-6)
        assert str(item.date) == "2024-02-23"
    with pytest.raises(RasterError, match="no STAC item"):
        describe_raster(path / "other")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("Feature collection", {}, "neither a STAC item nor a collection"),
        ("Collection", {"links": []}, "names no items"),
        ("Catalog", {"links": [link("item", "../x.json")]}, "leads out of the folder"),
        ("Catalog", {"links": [link("item", "/etc/x.json")]}, "leads out of the"),
        ("Catalog", {"links": [link("item", "a\0b")]}, "only files beside it"),
        ("Catalog", {"links": [link("item", "https://a/x")]}, "only files beside it"),
        ("Catalog", {"links": [link("item", "http://[")]}, "is no address"),
        ("Catalog", {"links": [link("item", "x" * 5000)]}, "only files beside it"),
        ("FeatureCollection", {"features": [{"id": "x" * 5000}]}, "no name"),
        ("Catalog", {"links": [link("child", "no.json")]}, "no.json cannot be read"),
        ("FeatureCollection", {"features": [{"id": "../x"}]}, "no name: '../x'"),
        ("FeatureCollection", {"features": [{"id": ".."}]}, "no name"),
        ("FeatureCollection", {"features": [{}]}, "no name: ''"),
        ("FeatureCollection", {"features": [{"id": "a"}, {"id": "a"}]}, "two items"),
        ("FeatureCollection", {"features": "a"}, "names no items"),
    ],
)
def test_what_is_no_list_or_leads_elsewhere_is_refused(
    kind: str, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "in/list.json", kind, **more)
    with pytest.raises(RasterError, match=message):
        list_stac_items(path)


def test_a_long_chain_of_catalogs_ends(tmp_path: Path) -> None:
    for number in range(1500):
        links = [link("child", f"{number + 1}.json")]
        write(tmp_path / f"{number}.json", "Catalog", links=links)
    write(tmp_path / "1500.json", "Catalog", links=[link("child", "0.json")])
    with pytest.raises(RasterError, match="names no items"):
        list_stac_items(tmp_path / "0.json")
