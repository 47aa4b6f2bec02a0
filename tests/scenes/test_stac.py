import datetime
import json
from pathlib import Path

import pystac
import pytest
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio import Affine

from spectralgpt.rasters import Grid
from spectralgpt.scenes.maps import _class_asset, _measure_asset, _polygon_asset
from spectralgpt.scenes.stac import write_item

UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
GRID = Grid(100, 200, UTM, "EPSG:32632")
DAY = datetime.date(2021, 7, 3)


def test_an_item_says_where_when_and_what(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    assets = {
        "classes": _class_asset(
            tmp_path / "scene.tif", [("open water", "#0072b2"), ("trees", "#1b7837")]
        ),
        "probabilities": _measure_asset(tmp_path / "p.tif", "Shares", ["a", "b"]),
        "polygons": _polygon_asset(tmp_path / "scene.gpkg"),
    }
    (tmp_path / "scene.png").touch()
    scene = tmp_path / "scene.tif"
    assert write_item(scene, GRID, assets, [DAY], "run-1", "Scene and map") == path
    first = path.read_bytes()
    item = json.loads(first)
    assert item["id"] == "scene"
    west, south, east, north = item["bbox"]
    # 500 km east is the central meridian of zone 32; 2 km are 0.022 degrees there.
    assert west == pytest.approx(9.0, abs=1e-6)
    assert east == pytest.approx(9.0222, abs=2e-4)
    assert north - south == pytest.approx(1000 / 110_950, rel=0.01)
    ring = item["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert len(ring) == 5
    properties = item["properties"]
    assert properties["datetime"] == "2021-07-03T00:00:00Z"
    assert properties["proj:code"] == "EPSG:32632"
    assert properties["proj:shape"] == [100, 200]
    assert properties["proj:transform"] == list(UTM)[:6]
    assert properties["spectralgpt:model"] == "run-1"
    assert {key: asset["roles"][0] for key, asset in item["assets"].items()} == {
        "classes": "data",
        "probabilities": "data",
        "polygons": "data",
        "quicklook": "thumbnail",
    }
    (band,) = item["assets"]["classes"]["bands"]
    water = band["classification:classes"][0]
    assert (water["value"], water["title"]) == (0, "open water")
    assert (water["name"], water["color_hint"]) == ("open_water", "0072B2")
    write_item(scene, GRID, assets, [DAY], "run-1", "Scene and map")
    assert path.read_bytes() == first
    path.write_text("{}")
    # Another's file is no item of ours, and is not said to be one.
    assert write_item(scene, GRID, assets, [DAY], "run-1", "Scene and map") is None
    assert path.read_text() == "{}"
    path.write_bytes(first)
    assert_valid(path)


def assert_valid(path: Path) -> None:
    # Schemas of extensions lie on the network; pystac brings the core's.
    pystac.Item.from_file(str(path))
    kind, version = pystac.STACObjectType.ITEM, pystac.get_stac_version()
    JsonSchemaSTACValidator().validate_core(json.loads(path.read_text()), kind, version)


def test_two_dates_are_a_span(tmp_path: Path) -> None:
    later = datetime.date(2022, 1, 5)
    path = write_item(tmp_path / "a.tif", GRID, {}, [later, DAY], "", "")
    assert path is not None
    properties = json.loads(path.read_text())["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "2021-07-03T00:00:00Z"
    assert properties["end_datetime"] == "2022-01-05T23:59:59Z"
    assert_valid(path)


def test_without_a_place_or_a_day_there_is_no_item(tmp_path: Path) -> None:
    nowhere = Grid(4, 4, None, None)
    assert write_item(tmp_path / "a.tif", nowhere, {}, [DAY], "", "") is None
    assert write_item(tmp_path / "a.tif", GRID, {}, [None], "", "") is None
    assert list(tmp_path.iterdir()) == []
