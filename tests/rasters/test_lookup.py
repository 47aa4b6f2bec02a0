from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.warp import transform
from shapely import box

from spectralgpt.errors import RasterError
from spectralgpt.rasters import OpenFiles, Window, describe_raster, overlay, read_codes
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.rasters.grid import Grid, apply
from spectralgpt.rasters.lookup import (
    find_codes,
    lay_under,
    paint_shapes,
    reaches,
    read_codes_at,
    sample,
    sample_scene,
    shown_grid,
)
from tests.raster_files import LEFT, TOP, write_tiff


def grid(
    side: int, res: float, left: float = 0.0, top: float = 0.0, crs: str = "EPSG:32632"
) -> Grid:
    return Grid(side, side, Affine(res, 0, left, 0, -res, top), crs)


def look_up(path: Path, image: Grid, codes: Grid, window: Window) -> np.ndarray:
    found, known = read_codes(path, 1, *overlay(image, codes).pixels(window))
    return np.where(known, found, -1)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Codes 10 * row + column on 8 x 8 px of 30 m."""
    codes = (10 * np.arange(8)[:, None] + np.arange(8)).astype(np.uint8)
    return write_tiff(tmp_path / "codes.tif", codes[None], res=30.0, corner=(0, 0))


def test_a_coarser_layer_is_repeated_without_blending(numbered: Path) -> None:
    found = look_up(numbered, grid(24, 10), grid(8, 30), Window(0, 0, 24, 24))
    expected = 10 * np.arange(8)[:, None] + np.arange(8)
    assert (found == np.kron(expected, np.ones((3, 3), int))).all()


def test_a_part_of_a_larger_layer_is_found_by_coordinates(numbered: Path) -> None:
    # The image lies two rows down and three columns to the right.
    image = grid(4, 30, left=90, top=-60)
    found = look_up(numbered, image, grid(8, 30), Window(1, 0, 3, 4))
    expected = 10 * np.arange(3, 6)[:, None] + np.arange(3, 7)
    assert (found == expected).all()


def test_a_window_equals_the_same_window_of_the_whole(numbered: Path) -> None:
    image = grid(20, 11, left=3, top=-4)
    whole = look_up(numbered, image, grid(8, 30), Window(0, 0, 20, 20))
    part = look_up(numbered, image, grid(8, 30), Window(5, 7, 6, 9))
    assert (part == whole[5:11, 7:16]).all()


def test_a_layer_from_south_to_north_is_turned(numbered: Path) -> None:
    upward = Grid(8, 8, Affine(30, 0, 0, 0, 30, -240), "EPSG:32632")
    found = look_up(numbered, grid(8, 30), upward, Window(0, 0, 8, 8))
    assert found[0].tolist() == [70 + column for column in range(8)]


def test_half_a_pixel_may_be_missing_and_has_no_code(numbered: Path) -> None:
    image = grid(25, 10, left=-10, top=0)
    found = look_up(numbered, image, grid(8, 30), Window(0, 0, 3, 3))
    assert found.tolist() == [[-1, 0, 0]] * 3


def test_layers_that_end_before_the_image_are_refused() -> None:
    with pytest.raises(RasterError, match=r"the mask ends 6.0 px \(columns\) before"):
        overlay(grid(24, 10, left=60), grid(8, 30))
    with pytest.raises(RasterError, match=r"the mask ends 1.0 px \(rows\) before"):
        overlay(grid(8, 30, top=30), grid(8, 30))
    overlay(grid(8, 30, top=14.9), grid(8, 30))


def test_other_reference_systems_are_refused_and_spellings_are_not() -> None:
    from rasterio.crs import CRS

    spelled = CRS.from_epsg(32632).to_wkt()
    overlay(grid(8, 30), grid(8, 30, crs=spelled))
    with pytest.raises(
        RasterError, match=r"image is in EPSG:32632, the mask in EPSG:4"
    ):
        overlay(grid(8, 30), grid(8, 30, crs="EPSG:4326"))


def test_without_georeference_shapes_must_agree() -> None:
    plain = Grid(8, 8)
    overlay(grid(8, 30), plain)
    overlay(plain, plain)
    with pytest.raises(RasterError, match=r"9 x 9 px, the mask 8 x 8, and not both"):
        overlay(grid(9, 30), plain)
    with pytest.raises(RasterError, match="the mask has no georeference"):
        overlay(grid(8, 30), plain, "georeference")


def test_align_shape_leaves_georeferences_out(numbered: Path) -> None:
    far = grid(8, 10, left=1e6)
    found, _ = read_codes(
        numbered, 1, *overlay(far, grid(8, 30), "shape").pixels(Window(2, 0, 1, 8))
    )
    assert found.tolist() == [[20 + column for column in range(8)]]


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
    strips = list(Grid(10, 7).strips(most_px=21))
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


UTM = Affine(10.0, 0, LEFT, 0, -10.0, TOP)
ROTATED = Affine(8.0, 3.0, LEFT, 3.0, -8.0, TOP)


def reader(numbers: np.ndarray):  # type: ignore[no-untyped-def]
    """Read as GDAL does without overviews: every n-th pixel of the window."""

    def read(window: Window, size: tuple[int, int]) -> np.ndarray:
        rows = window.row + (np.arange(size[0]) * window.height // size[0])
        columns = window.column + (np.arange(size[1]) * window.width // size[1])
        return numbers[:, rows[:, None], columns]

    return read


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(-20, 80),
    st.integers(-20, 80),
    st.sampled_from([UTM, ROTATED, None]),
)
def test_at_step_one_every_pixel_is_itself(
    height: int, width: int, row: int, column: int, placed: Affine | None
) -> None:
    grid = Grid(height, width, placed, "EPSG:32632" if placed else None)
    numbers = np.arange(height * width).reshape(1, height, width)
    shown = shown_grid(grid, row, column, 1, 40)
    taken = sample(shown, lay_under(grid, grid), reader(numbers))
    expected = np.full((40, 40), -1)
    for at_row in range(max(0, row), min(height, row + 40)):
        for at_column in range(max(0, column), min(width, column + 40)):
            expected[at_row - row, at_column - column] = numbers[0, at_row, at_column]
    if taken is None:
        assert (expected < 0).all()
    else:
        assert (np.where(taken[1], taken[0][0], -1) == expected).all()


def test_at_a_step_each_pixel_shows_one_that_it_covers() -> None:
    grid = Grid(100, 130, UTM, "EPSG:32632")
    rows, columns = np.mgrid[:100, :130]
    taken = sample(
        shown_grid(grid, 0, 0, 4, 33),
        lay_under(grid, grid),
        reader(np.stack([rows, columns])),
    )
    assert taken is not None
    numbers, there = taken
    assert there.sum() == 25 * 33 - 25  # 130 columns hold 32.5 steps
    at_rows, at_columns = np.nonzero(there)
    assert (numbers[0][there] // 4 == at_rows).all()
    assert (numbers[1][there] // 4 == at_columns).all()


def test_other_reference_systems_are_found_by_place() -> None:
    base = Grid(60, 60, UTM, "EPSG:32632")
    west, north = (
        each[0] for each in transform("EPSG:32632", "EPSG:4326", [LEFT], [TOP])
    )
    degrees = Affine(1e-5, 0, west - 1e-4, 0, -1e-5, north + 1e-4)
    source = Grid(900, 900, degrees, "EPSG:4326")
    rows, columns = np.mgrid[:900, :900]
    taken = sample(
        shown_grid(base, 0, 0, 1, 60),
        lay_under(base, source),
        reader(np.stack([rows, columns])),
    )
    assert taken is not None
    assert taken[1].all()
    x, y = apply(UTM, 30.5, 20.5)
    lon, lat = (each[0] for each in transform("EPSG:32632", "EPSG:4326", [x], [y]))
    column, row = apply(~degrees, lon, lat)
    # Thinned out before it is looked up, a number may come from the next pixels.
    assert abs(taken[0][0, 20, 30] - row) < 16
    assert abs(taken[0][1, 20, 30] - column) < 16


def test_what_lies_elsewhere_is_not_reached() -> None:
    base = Grid(60, 60, UTM, "EPSG:32632")
    far = replace(base, transform=Affine(10.0, 0, LEFT + 5000, 0, -10.0, TOP))
    assert not reaches(shown_grid(base, 0, 0, 1, 60), lay_under(base, far))
    assert reaches(shown_grid(base, 0, 0, 1, 60), lay_under(base, base))


def test_one_georeference_alone_is_refused() -> None:
    placed, bare = Grid(9, 9, UTM, "EPSG:32632"), Grid(9, 9)
    for base, source in ((placed, bare), (bare, placed)):
        with pytest.raises(RasterError, match="no georeference"):
            lay_under(base, source)


def test_scenes_give_reflectance_and_bands_of_coarser_grids(tmp_path: Path) -> None:
    fine = np.arange(1, 1 + 40 * 40, dtype=np.uint16).reshape(1, 40, 40)
    coarse = np.arange(1, 1 + 20 * 20, dtype=np.uint16).reshape(1, 20, 20)
    fine[0, :2] = 0
    folder = tmp_path / "S2A_MSIL2A_20200101T000000_N0213_R001_T32TQM_20200101T000000"
    write_tiff(folder / "B02.tif", fine)
    write_tiff(folder / "B11.tif", coarse, res=20.0)
    item = describe_raster(folder, sensor="sentinel-2-l2a")
    base, files = item.grid(), OpenFiles()
    shown = shown_grid(base, 0, 0, 1, 40)
    raster = sample_scene(item, item.bands, shown, base, files)
    files.close()
    assert raster.band_names == ("B02", "B11")
    assert not raster.valid[0, :2].any()
    assert raster.valid[0, 2:].all()
    assert raster.pixels[0, 30, 7] == pytest.approx((1 + 30 * 40 + 7) / 10_000)
    assert (
        raster.pixels[1] == np.kron(coarse[0] / 10_000, np.ones((2, 2))).astype("f4")
    ).all()
