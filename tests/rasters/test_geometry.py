import numpy as np
import pytest
from rasterio import Affine

from spectralgpt.errors import BandError, RasterError, ShapeError, UnitError
from spectralgpt.rasters import Grid, Raster, Window
from spectralgpt.sensors import load_sensor

BANDS = load_sensor("sentinel-2-l2a").select(["B02", "B03"])


def raster(**changes):
    fields = {
        "pixels": np.zeros((2, 4, 4), np.float32),
        "valid": np.ones((2, 4, 4), bool),
        "bands": BANDS,
    }
    return Raster(**fields | changes)


def test_map_to_a_coarser_grid_with_another_corner():
    fine = Grid(40, 40, Affine(10, 0, 435730, 0, -10, 4179460), "EPSG:32618")
    coarse = Grid(7, 7, Affine(60, 0, 435720, 0, -60, 4179480), "EPSG:32618")
    (row_scale, row_shift), (column_scale, column_shift) = fine.map_to(coarse)
    assert (row_scale, column_scale) == pytest.approx((1 / 6, 1 / 6))
    assert (row_shift, column_shift) == pytest.approx((20 / 60, 10 / 60))


def test_grids_without_georeference_cover_the_same_rectangle():
    assert Grid(120, 60).map_to(Grid(20, 10)) == ((1 / 6, 0.0), (1 / 6, 0.0))


def test_grids_in_other_reference_systems_are_refused():
    one = Grid(4, 4, Affine.identity(), "EPSG:32618")
    with pytest.raises(RasterError, match="reference system: EPSG:32618 against None"):
        one.map_to(Grid(4, 4))


def test_turned_grid_is_refused():
    one = Grid(4, 4, Affine.identity(), "EPSG:32618")
    other = Grid(4, 4, Affine.rotation(10), "EPSG:32618")
    with pytest.raises(RasterError, match="turned against each other"):
        one.map_to(other)


def test_window_needs_pixels():
    with pytest.raises(ShapeError, match="at least one pixel"):
        Window(0, 0, 0, 3)


def test_raster_holds_reflectance_only():
    with pytest.raises(UnitError, match="found unit 'digital-numbers'"):
        raster(unit="digital-numbers")


def test_raster_refuses_parts_that_do_not_fit():
    with pytest.raises(ShapeError, match="float32"):
        raster(pixels=np.zeros((2, 4, 4)))
    with pytest.raises(ShapeError, match="valid must be bool"):
        raster(valid=np.ones((2, 4, 3), bool))
    with pytest.raises(BandError, match="1 bands are named, 2 are there"):
        raster(bands=BANDS[:1])


def test_coordinates_of_the_corner_and_of_the_first_pixel_centre():
    transform = Affine(10, 0, 500, 0, -10, 900)
    assert raster(transform=transform).coordinates(0, 0) == (500, 900)
    assert raster(transform=transform).coordinates(0.5, 0.5) == (505, 895)
    with pytest.raises(RasterError, match="no georeference"):
        raster().coordinates(0, 0)


def test_point_lies_in_its_pixel():
    grid = Grid(4, 4, Affine(10, 0, 600000, 0, -10, 4100000), "EPSG:32618")
    assert grid.pixel_at(600000.1, 4099999.9) == (0, 0)
    assert grid.pixel_at(600025, 4099985) == (1, 2)
    with pytest.raises(
        RasterError, match="reaches from 600000,4100000 to 600040,40999"
    ):
        grid.pixel_at(599999, 4100001)
    with pytest.raises(RasterError, match="no georeference"):
        Grid(4, 4).pixel_at(1, 2)
