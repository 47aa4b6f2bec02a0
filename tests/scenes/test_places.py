import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from shapely.geometry import Point, box

from spectralgpt.errors import DataError, RasterError
from spectralgpt.rasters.grid import Grid
from spectralgpt.scenes.places import (
    _cell_of_point,
    _cells_of_shapes,
    _labelled_cells,
    _read_shapes,
)
from tests.embedding_files import UTM

GRID = Grid(20, 30, UTM, "EPSG:32632")


def square(left: float, top: float, width: float, height: float) -> object:
    """Return a rectangle in cells of the grid."""
    x, y = 500_000 + 40 * left, 4_600_000 - 40 * top
    return box(x, y - 40 * height, x + 40 * width, y)


def test_points_of_any_reference_system_find_their_cell() -> None:
    x, y = 500_000 + 40 * 7.5, 4_600_000 - 40 * 3.5
    assert _cell_of_point(GRID, x, y, "EPSG:32632") == (3, 7)
    point = geopandas.GeoSeries([Point(x, y)], crs="EPSG:32632").to_crs("EPSG:4326")[0]
    assert _cell_of_point(GRID, point.x, point.y, "EPSG:4326") == (3, 7)
    with pytest.raises(RasterError, match="outside of the image"):
        _cell_of_point(GRID, 0, 0, "EPSG:4326")


def test_a_polygon_has_the_cells_whose_centres_it_holds_or_touches() -> None:
    shapes = [square(2.6, 1.4, 2, 1), square(9.1, 9.1, 0.2, 0.2), square(28, 18, 9, 9)]
    (rows, columns), small, corner = _cells_of_shapes(shapes, GRID)
    assert sorted(zip(rows, columns, strict=True)) == [(1, 3), (1, 4)]
    assert (small[0].tolist(), small[1].tolist()) == ([9], [9])
    assert sorted(zip(*corner, strict=True)) == [(18, 28), (18, 29), (19, 28), (19, 29)]


def test_labels_become_cells_of_their_polygons(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(
        {"kind": ["b", "a", "", "a"]},
        geometry=[square(0, 0, 3, 2), square(10, 10, 1, 1), *[square(20, 5, 2, 2)] * 2],
        crs="EPSG:32632",
    )
    frame.to_crs("EPSG:4326").to_file(tmp_path / "a.gpkg", layer="first")
    frame[:1].to_file(tmp_path / "a.gpkg", layer="second")
    found = _labelled_cells(tmp_path / "a.gpkg", "kind", "first", GRID)
    assert found.names == ("a", "b")
    assert np.bincount(found.classes).tolist() == [5, 6]
    assert np.bincount(found.shapes).tolist() == [6, 1, 4]
    assert any("name no class" in note for note in found.notes)
    with pytest.raises(DataError, match=r"labels of 1 class on the raster \(b\)"):
        _labelled_cells(tmp_path / "a.gpkg", "kind", "second", GRID)


def geojson(first: object) -> str:
    """Return two shapes on the grid, the first with other coordinates."""
    frame = geopandas.GeoDataFrame(
        {"kind": ["a", "b"]},
        geometry=[square(0, 0, 3, 2), square(9, 9, 2, 2)],
        crs="EPSG:32632",
    )
    table = json.loads(frame.to_crs("EPSG:4326").to_json())
    if first is not None:
        table["features"][0]["geometry"]["coordinates"] = first
    return json.dumps(table)


RING = [[9.0, 41.5], [9.1, 41.5], [9.1, 41.6], [9.0, 41.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (geojson([RING[:3]]), "do not form a closed"),
        (geojson([RING, RING[:3]]), "do not form a closed"),
        (geojson([[[9.004, 41.5484]]]), "point array must contain"),
        (geojson([[*RING[:3], [9.0, 95.0], RING[0]]]), "lie nowhere in WGS 84"),
        ("<OGRVRTDataSource></OGRVRTDataSource>", "is neither GeoJSON in UTF-8"),
        ("", "is neither GeoJSON in UTF-8"),
        ("{", "cannot be read as a layer of shapes"),
    ],
)
def test_what_is_no_shape_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.geojson"
    path.write_text(text)
    for read in (
        lambda: _labelled_cells(path, "kind", None, GRID),
        lambda: _read_shapes(path, GRID),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "labels.geojson" in str(caught.value)


def test_labels_with_a_byte_order_mark_are_those_without(tmp_path: Path) -> None:
    path = tmp_path / "labels.geojson"
    path.write_text(geojson(None), encoding="utf-8-sig")
    assert _labelled_cells(path, "kind", None, GRID).rows.tolist() == [
        *(0, 0, 0, 1, 1, 1),
        *(9, 9, 10, 10),
    ]
    assert len(_read_shapes(path, GRID)) == 2


def labelled(path: Path, **kinds: object) -> Path:
    """Write shapes, each named after its class and a digit."""
    names = [name.rstrip("0123456789") for name in kinds]
    frame = geopandas.GeoDataFrame(
        {"kind": names}, geometry=list(kinds.values()), crs="EPSG:32632"
    )
    frame.to_file(path)
    return path


def test_cells_of_two_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.gpkg", b=square(0, 0, 3, 3), a=square(2, 1, 3, 3))
    found = _labelled_cells(path, "kind", None, GRID)
    cells = set(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert len(found.rows) == len(cells) == 7 + 7
    assert not cells & {(1, 2), (2, 2)}
    assert np.bincount(found.classes).tolist() == [7, 7]
    assert found.notes[-1].startswith(
        "2 of 16 labelled cells are of two classes and were left out, such as the one "
        "at 500100,4599940"
    )


def test_a_cell_of_two_shapes_of_one_class_counts_once(tmp_path: Path) -> None:
    shapes = {"a1": square(0, 0, 3, 3), "a2": square(2, 0, 3, 3)}
    path = labelled(tmp_path / "a.gpkg", **shapes, b=square(9, 9, 2, 2))
    found = _labelled_cells(path, "kind", None, GRID)
    assert np.bincount(found.shapes).tolist() == [9, 6, 4]
    assert not any("two classes" in note for note in found.notes)


def test_a_class_without_a_cell_of_its_own_is_an_error(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.gpkg", b=square(0, 0, 3, 3), a=square(1, 1, 1, 1))
    with pytest.raises(DataError, match="every cell of a is labelled with another"):
        _labelled_cells(path, "kind", None, GRID)
