"""Pixels under a coarser, or another, grid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.warp import transform

from spectralgpt.errors import RasterError
from spectralgpt.rasters import OpenFiles, Window, describe_raster
from spectralgpt.rasters.grid import Grid, apply
from spectralgpt.rasters.lookup import (
    lay_under,
    reaches,
    sample,
    sample_scene,
    shown_grid,
)
from tests.raster_files import LEFT, TOP, write_tiff

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
