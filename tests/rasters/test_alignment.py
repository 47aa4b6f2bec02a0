from dataclasses import replace

import pytest
from rasterio import Affine

from spectralgpt.rasters import Grid
from spectralgpt.rasters.grid import apply, common_windows, describe_difference

UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
GRID = Grid(20, 30, UTM, "EPSG:32632")


def test_the_same_pixels_do_not_differ() -> None:
    rounded = replace(GRID, transform=Affine(10.0, 0, 500_000.01, 0, -10.0, 4e6))
    assert describe_difference(GRID, rounded) is None
    assert describe_difference(Grid(4, 5), Grid(4, 5)) is None


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
    found = describe_difference(GRID, other)
    assert found is not None
    assert message in found


@pytest.mark.parametrize("shift", [(0, 0), (3, 5), (-4, 2), (19, -29), (-1, -1)])
def test_common_windows_show_the_same_ground(shift: tuple[int, int]) -> None:
    rows, columns = shift
    corner = apply(UTM, columns, rows)
    step = Affine(10.0, 0, corner[0], 0, -10.0, corner[1])
    other = Grid(25, 30, step, "EPSG:32632")
    windows = common_windows(GRID, other)
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
    assert common_windows(GRID, replace(GRID, transform=step)) is None
