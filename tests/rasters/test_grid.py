from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine

from spectralgpt.errors import BandError, RasterError, ShapeError, UnitError
from spectralgpt.rasters import Grid, Raster, Window
from spectralgpt.rasters.grid import Axis, apply, resample
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


UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
GRID = Grid(20, 30, UTM, "EPSG:32632")


def test_the_same_pixels_do_not_differ() -> None:
    rounded = replace(GRID, transform=Affine(10.0, 0, 500_000.01, 0, -10.0, 4e6))
    assert GRID.difference(rounded) is None
    assert Grid(4, 5).difference(Grid(4, 5)) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(GRID, height=21), "size: 20 x 30 px against 21 x 30 px"),
        (replace(GRID, crs="EPSG:32633"), "system: EPSG:32632 against EPSG:32633"),
        (replace(GRID, transform=None, crs=None), "the second has none"),
        (
            replace(GRID, transform=Affine(10.0, 0, 500_020.0, 0, -10.0, 4e6)),
            "transform: their corners lie up to 2 px apart",
        ),
        (
            # 30 columns and 20 rows of half the size: the far corner by 15 and 10.
            replace(GRID, transform=Affine(20.0, 0, 500_000.0, 0, -20.0, 4e6)),
            "up to 18.03 px apart",
        ),
    ],
)
def test_how_two_grids_differ_is_said(other: Grid, message: str) -> None:
    found = GRID.difference(other)
    assert found is not None
    assert message in found


@pytest.mark.parametrize("shift", [(0, 0), (3, 5), (-4, 2), (19, -29), (-1, -1)])
def test_common_windows_show_the_same_ground(shift: tuple[int, int]) -> None:
    rows, columns = shift
    corner = apply(UTM, columns, rows)
    step = Affine(10.0, 0, corner[0], 0, -10.0, corner[1])
    other = Grid(25, 30, step, "EPSG:32632")
    windows = GRID.common(other)
    assert windows is not None
    parts = [grid.part(w) for grid, w in zip((GRID, other), windows, strict=True)]
    assert parts[0] == parts[1]
    assert GRID.contains(windows[0])
    assert other.contains(windows[1])
    covered = range(max(0, rows), min(20, 25 + rows))
    assert windows[0].height == len(covered)


@pytest.mark.parametrize("moved", [(300.0, 0.0), (4.0, 0.0), (0.0, 203.0)])
def test_grids_without_common_pixels_have_no_common_windows(
    moved: tuple[float, float],
) -> None:
    step = Affine(10.0, 0, 500_000.0 + moved[0], 0, -10.0, 4e6 - moved[1])
    assert GRID.common(replace(GRID, transform=step)) is None


def whole(pixels, rows, columns, valid=None):
    if valid is None:
        valid = np.ones(pixels.shape, dtype=bool)
    (top, bottom), (left, right) = rows.span, columns.span
    cut = slice(None), slice(top, bottom), slice(left, right)
    return resample(pixels[cut], valid[cut], rows, columns)


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).random((2, height, width))
    return values.astype(np.float32)


def test_whole_pixels_come_back_unchanged():
    pixels = noise(9, 11)
    out, valid = whole(pixels, Axis.between(2, 7, 5, 9), Axis.between(1, 9, 8, 11))
    np.testing.assert_array_equal(out, pixels[:, 2:7, 1:9])
    assert valid.all()


@pytest.mark.parametrize("out", [16, 24, 48, 64])
def test_enlarging_and_shrinking_match_torch_bicubic(out):
    pixels = noise(32, 32)
    ours, _ = whole(pixels, Axis.between(0, 32, out, 32), Axis.between(0, 32, out, 32))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None], size=out, mode="bicubic", antialias=True
    )[0].numpy()
    inner = slice(5, -5)  # at the border torch renormalises, ours repeats the edge
    np.testing.assert_allclose(
        ours[:, inner, inner], theirs[:, inner, inner], atol=2e-6
    )


def test_cubic_is_exact_for_straight_lines():
    ramp = np.arange(20, dtype=np.float32)[None, :, None].repeat(20, axis=2)
    rows = Axis.between(4.25, 12.75, 17, 20)
    out, _ = whole(ramp, rows, Axis.between(0, 20, 20, 20))
    centres = 4.25 + (np.arange(17) + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(out[0, :, 3], centres, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    start=st.floats(0, 20),
    length=st.floats(1, 20),
    out=st.integers(1, 40),
    first=st.integers(0, 39),
)
def test_part_of_an_axis_equals_the_axis_of_the_part(start, length, out, first):
    first = min(first, out - 1)
    axis = Axis.between(start, start + length, out, 40)
    step = length / out
    alone = Axis.between(start + first * step, start + out * step, out - first, 40)
    pixels = noise(40, 3)
    columns = Axis.between(0, 3, 3, 3)
    together, _ = whole(pixels, axis, columns)
    apart, _ = whole(pixels, alone, columns)
    np.testing.assert_allclose(together[:, first:], apart, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), out=st.integers(1, 60), value=st.floats(-1, 2))
def test_constant_stays_constant(size, out, value):
    pixels = np.full((1, size, size), value, dtype=np.float32)
    axis = Axis.between(0, size, out, size)
    result, valid = whole(pixels, axis, axis)
    np.testing.assert_allclose(result, value, atol=1e-5)
    assert valid.all()


def test_invalid_pixels_do_not_leak_into_valid_ones():
    pixels = np.full((1, 12, 12), 0.3, dtype=np.float32)
    valid = np.ones(pixels.shape, dtype=bool)
    valid[:, 4:8, 4:8] = False
    pixels[~valid] = 0
    axis = Axis.between(0, 12, 30, 12)
    out, known = whole(pixels, axis, axis, valid)
    np.testing.assert_allclose(out[known], 0.3, atol=1e-5)
    assert not known[:, 10:20, 10:20].any()
    assert (out[~known] == 0).all()
    assert known.sum() == 30 * 30 - 10 * 10


def test_edge_is_repeated_for_one_pixel_and_no_further():
    axis = Axis.between(-3, 7, 10, 5)
    pixels = np.arange(5, dtype=np.float32)[None, :, None]
    out, valid = whole(pixels, axis, Axis.between(0, 1, 1, 1))
    assert valid[0, :, 0].tolist() == [False] * 2 + [True] * 7 + [False]
    assert out[0, 2, 0] == 0
    assert out[0, 8, 0] == 4


def test_wide_scenes_equal_their_parts():
    rng = np.random.default_rng(0)
    pixels = rng.random((2, 4, 700), dtype=np.float32)
    valid = np.ones(pixels.shape, bool)
    rows, columns = Axis.between(0, 4, 8, 4), Axis.between(0, 700, 1400, 700)
    whole, _ = resample(pixels, valid, rows, columns)
    for start in range(0, 1400, 350):
        part = columns.part(start, start + 350)
        first, last = part.span
        seen = np.s_[..., first:last]
        alone, _ = resample(pixels[seen], valid[seen], rows, part)
        np.testing.assert_allclose(whole[..., start : start + 350], alone, atol=1e-6)


def test_whole_pixels_are_copied_not_shared():
    pixels = np.ones((1, 3, 3), dtype=np.float32)
    axis = Axis.between(0, 3, 3, 3)
    out, _ = resample(pixels, np.ones(pixels.shape, bool), axis, axis)
    out[:] = 5
    assert (pixels == 1).all()
