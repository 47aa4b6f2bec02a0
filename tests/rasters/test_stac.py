"""STAC files that name many items."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest

from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.rasters import (
    Stated,
    describe_raster,
    list_stac_items,
    open_scene,
    read_raster,
)
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


BASELINE = {"s2:processing_baseline": "05.11", "s2:product_type": "S2MSI2A"}


def item_on_disk(folder: Path, href: str = "./red.tif") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_tiff(folder / "red.tif", np.full((1, 8, 8), 1500, "uint16"))
    path = write_item(folder / "item.json", {"B04": {"href": href}}, **BASELINE)
    table = json.loads(path.read_text()) | {"bbox": None}
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize("is_absolute", [False, True])
def test_an_item_of_pystac_is_read_as_its_file(
    tmp_path: Path, is_absolute: bool
) -> None:
    path = item_on_disk(tmp_path)
    item = pystac.Item.from_file(str(path))
    if is_absolute:
        item.make_asset_hrefs_absolute()
    found, same = describe_raster(item), describe_raster(path)
    assert found == same
    assert found.name == str(path)
    np.testing.assert_allclose(read_raster(found).pixels, 0.05, atol=1e-6)
    with open_scene(item) as scene:
        np.testing.assert_allclose(scene.read().pixels, 0.05, atol=1e-6)
    with open_scene([item, path], bands=["B04"]) as scene:
        assert scene.shape == (8, 8)


def test_an_item_of_pystac_that_was_changed_counts_as_it_is_now(tmp_path: Path) -> None:
    item = pystac.Item.from_file(str(item_on_disk(tmp_path)))
    item.properties["earthsearch:boa_offset_applied"] = True
    raster = read_raster(describe_raster(item))
    np.testing.assert_allclose(raster.pixels, 0.15, atol=1e-6)


def test_what_is_stated_of_an_item_wins(tmp_path: Path) -> None:
    path = item_on_disk(tmp_path)
    item = pystac.Item.from_file(str(path))
    item.id = "mine"
    item.properties = {"datetime": "2024-02-23T03:27:39Z"}
    item.save_object(dest_href=str(tmp_path / "mine.json"))
    item.set_self_href(str(tmp_path / "mine.json"))
    with pytest.raises(ConfigError, match="does not say which sensor took it"):
        describe_raster(item)
    stated = Stated(offset=-500.0)
    for each in (item, tmp_path / "mine.json"):
        found = describe_raster(each, "sentinel-2-l2a", stated)
        np.testing.assert_allclose(read_raster(found).pixels, 0.1, atol=1e-6)


def test_an_item_without_a_file_leads_to_no_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = item_on_disk(tmp_path)
    table = json.loads(path.read_text())
    others = (None, str(tmp_path / "gone.json"), f"file://{tmp_path}/other.json")
    write(tmp_path / "other.json", "Feature")
    for home in others:
        for href in (
            "./red.tif",
            str(tmp_path / "red.tif"),
            f"file://{tmp_path}/red.tif",
        ):
            item = pystac.Item.from_dict(table)
            item.assets["B04"].href = href
            if home:
                item.set_self_href(home)
            with pytest.raises(RasterError, match="neither read from a file nor saved"):
                describe_raster(item)
    item = pystac.Item.from_file(str(path))
    item.assets["B04"].href = "../red.tif"
    with pytest.raises(RasterError, match="leads out of the item's folder"):
        describe_raster(item)


def test_addresses_of_an_item_in_memory_are_those_it_was_published_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def refuse(path: object) -> None:
        asked.append(str(path))
        raise RasterError("not here")

    monkeypatch.setattr("spectralgpt.rasters.bands.read_header", refuse)
    table = json.loads(item_on_disk(tmp_path).read_text())
    for href, home in (
        ("https://a.org/x/red.tif", None),
        ("./red.tif", "https://b.org/y/item.json"),
        ("/red.tif", "https://b.org/y/item.json"),
    ):
        item = pystac.Item.from_dict(table)
        item.assets["B04"].href = href
        if home:
            item.set_self_href(home)
            item.assets["B04"].href = href
        with pytest.raises(RasterError, match="not here"):
            describe_raster(item)
    assert asked == [
        *("https://a.org/x/red.tif", "https://b.org/y/red.tif"),
        "https://b.org/red.tif",
    ]


@pytest.mark.parametrize("wrong", [3, {"type": "Feature"}, [1]])
def test_what_is_no_item_is_refused(wrong: Any) -> None:
    with pytest.raises(RasterError, match="is no scene: give a path or a pystac"):
        describe_raster(wrong)
