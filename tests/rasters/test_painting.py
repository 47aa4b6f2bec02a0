from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from shapely import box

from spectralgpt.errors import RasterError
from spectralgpt.rasters import Grid, Window
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.rasters.lookup import find_codes, paint_shapes, read_codes_at, rows_of
from tests.raster_files import LEFT, TOP, write_tiff

GRID = Grid(6, 8, Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32632")


def test_a_pixel_is_painted_if_its_centre_lies_in_the_shape() -> None:
    # Covers four tenths of the pixels on its right, six tenths of those below.
    shape = box(LEFT + 20, TOP - 36, LEFT + 54, TOP - 10)
    wanted = np.zeros((6, 8), np.uint8)
    wanted[1:4, 2:5] = 7
    assert np.array_equal(paint_shapes([(shape, 7)], GRID, 0), wanted)
    wanted[1:4, 5] = 7
    assert np.array_equal(paint_shapes([(shape, 7)], GRID, 0, True), wanted)


def test_later_shapes_lie_on_top_and_windows_equal_the_whole() -> None:
    low = box(LEFT, TOP - 60, LEFT + 50, TOP)
    high = box(LEFT + 30, TOP - 40, LEFT + 80, TOP - 20)
    whole = paint_shapes([(low, 1), (high, 2)], GRID, 255)
    assert whole[3, 4] == 2
    assert whole[0, 7] == 255
    part = GRID.part(Window(2, 3, 3, 4))
    assert np.array_equal(
        paint_shapes([(low, 1), (high, 2)], part, 255), whole[2:5, 3:7]
    )
    assert (paint_shapes([], part, 9) == 9).all()


def test_rows_cover_a_grid_once() -> None:
    strips = list(rows_of(Grid(10, 7), most_px=21))
    assert [strip.height for strip in strips] == [3, 3, 3, 1]
    assert [strip.row for strip in strips] == [0, 3, 6, 9]


def test_codes_are_looked_up_at_the_centres(tmp_path: Path) -> None:
    codes = np.arange(48, dtype=np.uint8).reshape(1, 6, 8)
    path = write_tiff(tmp_path / "codes.tif", codes, nodata=10)
    moved = replace(GRID, transform=Affine(10, 0, LEFT + 24, 0, -10, TOP + 10))
    found, known = read_codes_at(path, 1, moved)
    assert not known[0].any()
    assert not known[:, 6:].any()
    assert found[1, 0] == 2  # a centre 29 m from the left lies in the third column
    assert not known[2, 0]  # nodata
    assert np.array_equal(found[3:, :6], codes[0, 2:5, 2:])
    assert find_codes(path, 1, moved)[47 - 8] == 1
    assert 10 not in find_codes(path, 1, moved)


def test_codes_in_degrees_lie_where_they_should(tmp_path: Path) -> None:
    # Each code is a pixel of 0.001 degrees around 9 E, 45 N.
    codes = np.arange(200 * 200, dtype=np.uint16).reshape(1, 200, 200)
    step = 0.001
    path = write_tiff(
        tmp_path / "codes.tif", codes, res=step, corner=(8.9, 45.1), crs="EPSG:4326"
    )
    # On the central meridian, eastings of 500 km are 9 E at any latitude.
    grid = Grid(4, 6, Affine(20, 0, 500_000, 0, -20, 4_983_000), "EPSG:32632")
    found, known = read_codes_at(path, 1, grid)
    assert known.all()
    # 78.8 m a step at this latitude: 110 m east is one step on, 10 m none.
    assert ((found[0] % 200) == [100, 100, 100, 100, 101, 101]).all()
    assert sum(find_codes(path, 1, grid).values()) <= 9
    far = replace(grid, transform=Affine(20, 0, 700_000, 0, -20, 4_983_000))
    assert not read_codes_at(path, 1, far)[1].any()
    assert find_codes(path, 1, far) == {}


def test_layers_that_are_no_codes_are_refused(tmp_path: Path) -> None:
    half = np.full((1, 6, 8), 1.5, np.float32)
    path = write_tiff(tmp_path / "half.tif", half)
    with pytest.raises(RasterError, match=r"fractions such as 1\.5"):
        read_codes_at(path, 1, GRID)
    nowhere = write_tiff(tmp_path / "nowhere.tif", half, crs=None)
    with pytest.raises(RasterError, match="no reference system"):
        find_codes(nowhere, 1, GRID)
    with pytest.raises(RasterError, match="number 2 was asked for"):
        find_codes(path, 2, GRID)


@pytest.mark.parametrize(
    ("crs", "side", "corner", "wanted"),
    [
        ("EPSG:32632", 10.0, (500_000, 5_000_000), (10.0, 10.0)),
        # Web Mercator is stretched by 1 / cos(latitude).
        ("EPSG:3857", 10.0, (1_000_000, 5_621_521), (7.07, 7.07)),
        ("EPSG:4326", 0.001, (9.0, 60.0), (111.2, 55.6)),
        ("EPSG:2263", 10.0, (1_000_000, 200_000), (3.048, 3.048)),  # feet
    ],
)
def test_pixels_are_measured_on_the_ground(
    crs: str, side: float, corner: tuple[float, float], wanted: tuple[float, float]
) -> None:
    grid = Grid(10, 10, Affine(side, 0, corner[0], 0, -side, corner[1]), crs)
    assert pixel_size_m(grid) == pytest.approx(wanted, rel=0.01)
    assert pixel_size_m(Grid(10, 10)) is None
