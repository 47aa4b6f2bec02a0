"""Rasters across 180 degrees have one place, and what is written of it stays small."""

import datetime
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from rasterio import Affine
from rasterio.warp import transform
from shapely import Polygon, box, geometry

from spectralgpt.data.labelling.labels import LabelSource, open_labels
from spectralgpt.data.overlaps import count_overlaps, footprint_of
from spectralgpt.rasters import Grid, Stated, Window, describe_raster
from spectralgpt.rasters.footprints import cut_at_180, footprint_lonlat
from spectralgpt.rasters.lookup import find_codes, read_codes_at
from spectralgpt.scenes.places import _cell_of_point
from spectralgpt.scenes.similarity import _Place, write_places
from spectralgpt.scenes.stac import write_item
from spectralgpt.scenes.tables import _write_embeddings
from tests import embedding_files
from tests.raster_files import write_tiff

SIDE = 100
ZONE_1 = "EPSG:32701"
# Two kilometres of Fiji on both sides of 180 degrees, 17 degrees south.
(X,), (Y,) = transform("EPSG:4326", ZONE_1, [180.0], [-17.0])
GRID = Grid(SIDE, SIDE, Affine(20, 0, X - 1000, 0, -20, Y + 1000), ZONE_1)
HALF_DEG = 0.0094
"""About a kilometre in degrees of longitude there."""


def area_of(shape) -> float:
    """Degrees squared."""
    return geometry.shape(shape).area if isinstance(shape, dict) else shape.area


def test_a_footprint_across_180_degrees_goes_on_beyond_them() -> None:
    corners = footprint_lonlat(GRID)
    assert corners is not None
    west, east = min(x for x, _ in corners), max(x for x, _ in corners)
    assert 179.9 < west < 180 < east < 180.1
    parts = cut_at_180(Polygon(corners))
    assert parts.geom_type == "MultiPolygon"
    assert parts.area == pytest.approx(Polygon(corners).area)
    assert -180 <= parts.bounds[0] < parts.bounds[2] <= 180


def test_a_footprint_around_a_pole_is_the_cap() -> None:
    grid = Grid(10, 10, Affine(1e5, 0, -5e5, 0, -1e5, 5e5), "EPSG:3995")
    shape = Polygon(footprint_lonlat(grid) or ())
    assert shape.is_valid
    assert shape.bounds == pytest.approx((-180, 83.5, 180, 90), abs=0.2)


def test_an_item_is_cut_and_its_box_runs_from_west_to_east(tmp_path: Path) -> None:
    day = datetime.date(2021, 1, 1)
    path = write_item(tmp_path / "a.tif", GRID, {}, [day], "", "")
    assert path is not None
    item = json.loads(path.read_text())
    assert item["geometry"]["type"] == "MultiPolygon"
    assert area_of(item["geometry"]) < 0.001
    west, south, east, north = item["bbox"]
    assert west == pytest.approx(180 - HALF_DEG, abs=1e-3)
    assert east == pytest.approx(-180 + HALF_DEG, abs=1e-3)
    assert south < -17 < north


def test_footprints_of_embeddings_do_not_span_the_globe(tmp_path: Path) -> None:
    footprint = footprint_lonlat(GRID, Window(0, 0, SIDE, SIDE))
    row = {"path": "a.tif", "embedding": np.zeros(3, np.float32)}
    row |= {"longitude": 180, "latitude": -17, "footprint": footprint}
    frame = geopandas.read_parquet(_write_embeddings(tmp_path, [row], "geoparquet"))
    assert frame.geometry[0].area < 0.001
    assert frame.geometry[0].intersects(box(179.99, -18, 180, -16))
    assert frame.geometry[0].intersects(box(-180, -18, -179.99, -16))


def test_places_that_look_alike_do_not_span_the_globe(tmp_path: Path) -> None:
    classes = np.zeros((4, 4), int)
    place = Affine(500, 0, X - 1000, 0, -500, Y + 1000)
    raster = embedding_files.write_embeddings(
        tmp_path / "e.tif", classes, number_type="int8"
    )
    object.__setattr__(raster, "grid", Grid(4, 4, place, ZONE_1))
    places = [_Place(raster, 1, column, 1.0) for column in range(4)]
    frame = geopandas.read_file(write_places(places, tmp_path / "found.geojson"))
    assert len(frame) == 4
    assert all(shape.area < 0.001 for shape in frame.geometry)
    assert (frame["longitude"].abs() > 179.9).all()


@pytest.mark.parametrize("kind", ["cut", "beyond", "jumping"])
def test_labels_on_both_sides_of_180_degrees_are_painted(
    tmp_path: Path, kind: str
) -> None:
    south, north = -17.005, -16.995
    shapes = {
        "cut": cut_at_180(box(179.996, south, 180.004, north)),
        "beyond": box(179.996, south, 180.004, north),
        "jumping": Polygon(
            [(179.996, south), (-179.996, south), (-179.996, north), (179.996, north)]
        ),
    }
    # What lies on one side alone, and on the other.
    more = [box(179.992, south, 179.995, north), box(-179.995, south, -179.992, north)]
    frame = geopandas.GeoDataFrame(
        {"kind": ["reef", "sand", "palm"]},
        geometry=[shapes[kind], *more],
        crs="EPSG:4326",
    )
    path = tmp_path / "labels.gpkg"
    frame.to_file(path)
    classes, painter_on, _ = open_labels(LabelSource(path, "kind"), [GRID])
    painted, overlaps = painter_on(GRID)(Window(0, 0, SIDE, SIDE))
    names = {code: name for name, code in classes.code_of.items()}
    columns = {
        names[code]: np.flatnonzero((painted == code).any(axis=0))
        for code in np.unique(painted)
        if code in names
    }
    assert overlaps == 0
    # A degree of longitude is 106.5 km there: 0.004 degrees are 426 m, 21 px.
    assert columns["reef"][[0, -1]] == pytest.approx([29, 70], abs=1)
    assert len(columns["reef"]) == columns["reef"][-1] - columns["reef"][0] + 1
    assert columns["sand"][[0, -1]] == pytest.approx([8, 23], abs=1)
    assert columns["palm"][[0, -1]] == pytest.approx([76, 91], abs=1)


@pytest.mark.parametrize("turn", [0.0, 360.0])
def test_labels_west_of_greenwich_are_painted_from_either_count(
    tmp_path: Path, turn: float
) -> None:
    (x,), (y,) = transform("EPSG:4326", "EPSG:32630", [-4.0], [40.0])
    grid = Grid(SIDE, SIDE, Affine(20, 0, x - 1000, 0, -20, y + 1000), "EPSG:32630")
    shapes = [box(turn - 4.002, 39.9, turn - 3.998, 40.1), box(0, 0, 1, 1)]
    frame = geopandas.GeoDataFrame(
        {"kind": ["road", "sea"]}, geometry=shapes, crs="EPSG:4326"
    )
    path = tmp_path / "labels.gpkg"
    frame.to_file(path)
    classes, painter_on, _ = open_labels(LabelSource(path, "kind"), [grid])
    painted, _ = painter_on(grid)(Window(0, 0, SIDE, SIDE))
    columns = np.flatnonzero((painted == classes.code_of["road"]).any(axis=0))
    # A degree of longitude is 85.4 km there: 0.002 degrees are 171 m, 8.5 px.
    assert columns[[0, -1]] == pytest.approx([41, 58], abs=1)


@pytest.mark.parametrize("west", [-180.0, 0.0, 170.0])
def test_codes_of_a_layer_in_degrees_are_found_on_both_sides(
    tmp_path: Path, west: float
) -> None:
    step, width = (0.5, 720) if west != 170 else (0.5, 40)
    longitudes = (west + (np.arange(width) + 0.5) * step + 180) % 360 - 180
    codes = np.where(longitudes > 0, 7, 9).astype(np.uint8)
    codes[np.abs(longitudes) < 170] = 3
    layer = np.broadcast_to(codes, (1, 8, width)).copy()
    place = {"res": step, "corner": (west, -15.0), "crs": "EPSG:4326"}
    path = write_tiff(tmp_path / "codes.tif", layer, **place)
    found, known = read_codes_at(path, 1, GRID)
    assert known.all()
    assert (found[:, : SIDE // 2 - 1] == 7).all()
    assert (found[:, SIDE // 2 + 1 :] == 9).all()
    assert set(find_codes(path, 1, GRID)) == {7, 9}


def test_a_point_is_found_from_either_side() -> None:
    grid = Grid(10, 10, Affine(0.01, 0, 179.95, 0, -0.01, -16.95), "EPSG:4326")
    assert _cell_of_point(grid, 179.955, -17.0, "EPSG:4326")[1] == 0
    assert _cell_of_point(grid, -179.955, -17.0, "EPSG:4326")[1] == 9


def test_images_that_overlap_there_are_counted(tmp_path: Path) -> None:
    images = []
    for name, split, east_m in (("a", "train", 0), ("b", "test", 1000)):
        corner = (X - 1000 + east_m, Y + 1000)
        pixels = np.ones((1, SIDE, SIDE), np.uint16)
        place = {"res": 20, "corner": corner, "crs": ZONE_1}
        path = tmp_path / f"{name}.tif"
        write_tiff(path, pixels, descriptions=["B04"], **place)
        item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
        images.append((split, "", footprint_of(item)))
    assert count_overlaps(images) == {"train / test": 1}
