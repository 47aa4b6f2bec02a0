import numpy as np
import pytest

from spectralgpt.data.simulation.terrain import (
    Grid,
    band_along,
    fractal_noise,
    hillshade,
    lay_parcels,
    lay_voronoi,
    quantile_mask,
    smooth_noise,
)

GRID = Grid(96, 5.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def roughness(field: np.ndarray) -> float:
    return float(np.abs(np.diff(field, axis=0)).mean())


def test_noise_is_standardised_and_smoother_with_a_larger_exponent() -> None:
    rough, smooth = fractal_noise(GRID, rng(), 1.0), fractal_noise(GRID, rng(), 2.4)
    for field in (rough, smooth):
        assert field.mean() == pytest.approx(0.0, abs=1e-4)
        assert field.std() == pytest.approx(1.0, abs=1e-3)
    assert roughness(smooth) < 0.3 * roughness(rough)


def test_smooth_noise_follows_its_scale() -> None:
    assert roughness(smooth_noise(GRID, rng(), 80.0)) < 0.5 * roughness(
        smooth_noise(GRID, rng(), 20.0)
    )


def test_quantile_mask_marks_the_share_asked_for() -> None:
    assert quantile_mask(smooth_noise(GRID, rng(), 20.0), 0.3).mean() == pytest.approx(
        0.3, abs=0.05
    )


def test_slopes_that_face_the_sun_are_brighter() -> None:
    column = np.arange(GRID.size, dtype=np.float32) * GRID.step_m
    rising_east = np.broadcast_to(0.2 * column, (GRID.size, GRID.size))
    from_west = hillshade(rising_east, GRID, 40.0, 270.0)
    from_east = hillshade(rising_east, GRID, 40.0, 90.0)
    assert from_west.min() > 1.1
    assert from_east.max() < 0.9
    rising_south = rising_east.T
    assert hillshade(rising_south, GRID, 40.0, 180.0).max() < 0.9
    level = np.zeros((GRID.size, GRID.size), dtype=np.float32)
    assert hillshade(level, GRID, 40.0, 150.0) == pytest.approx(1.0)


def test_a_straight_strip_has_the_width_asked_for() -> None:
    inside = band_along(GRID, rng(), 50.0, winding=0.0, angle=0.0)
    share = GRID.coverage(inside).mean()
    assert share * GRID.extent_m == pytest.approx(50.0, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_parcels_number_every_cell_and_know_their_edges(seed: int) -> None:
    for parcels in (
        lay_parcels(GRID, rng(seed), 120.0, 80.0, warp_m=8.0),
        lay_voronoi(GRID, rng(seed), 120.0),
    ):
        assert parcels.index.min() >= 0
        assert parcels.index.max() < parcels.count
        assert parcels.edge_m.min() >= 0.0
        present = np.unique(parcels.index).size
        assert 4 <= present <= 80
        # Where two neighbours belong to different parcels, the edge is near.
        at_edge = parcels.index[:, 1:] != parcels.index[:, :-1]
        assert parcels.edge_m[:, 1:][at_edge].max() < 4.0 * GRID.step_m
