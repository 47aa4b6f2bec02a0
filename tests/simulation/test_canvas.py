import numpy as np
import pytest

from spectralgpt.simulation.canvas import (
    Canvas,
    Cover,
    Parcels,
    Region,
    Season,
    block_mean,
    highest,
)

REGION = Region.draw(0, 0)
SEASON = Season.draw(REGION, np.random.default_rng(0))
FLAT = np.full(1051, 0.3)
FACTOR, SIZE = 3, 4


def canvas(seed: int = 0, size: int = 96, step_m: float = 5.0) -> Canvas:
    return Canvas(size, step_m, REGION, SEASON, np.random.default_rng(seed))


def small() -> Canvas:
    return canvas(size=SIZE * FACTOR)


def full(value: float) -> np.ndarray:
    return np.full((SIZE * FACTOR, SIZE * FACTOR), value, dtype=np.float32)


def roughness(field: np.ndarray) -> float:
    return float(np.abs(np.diff(field, axis=0)).mean())


def test_noise_is_standardised_and_smoother_with_a_larger_exponent() -> None:
    rough, smooth = canvas().noise(1.0), canvas().noise(2.4)
    for field in (rough, smooth):
        assert field.mean() == pytest.approx(0.0, abs=1e-4)
        assert field.std() == pytest.approx(1.0, abs=1e-3)
    assert roughness(smooth) < 0.3 * roughness(rough)


def test_noise_follows_its_scale() -> None:
    coarse, fine = canvas().noise(0.0, 80.0), canvas().noise(0.0, 20.0)
    assert roughness(coarse) < 0.5 * roughness(fine)


def test_highest_marks_the_share_asked_for() -> None:
    marked = highest(canvas().noise(0.0, 20.0), 0.3)
    assert marked.mean() == pytest.approx(0.3, abs=0.05)


def test_a_straight_strip_has_the_width_asked_for() -> None:
    inside = canvas().strip(50.0, winding=0.0)
    across = np.hypot(*np.gradient(inside, 5.0))[1:-1, 1:-1]
    assert inside.max() == pytest.approx(25.0, abs=3.6)
    assert np.median(across) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("warp_m", [0.0, 8.0, 25.0])
def test_parcels_number_every_cell_and_know_their_edges(
    seed: int, warp_m: float
) -> None:
    made = canvas(seed).parcels(120.0, 80.0, warp_m)
    assert made.index.min() >= 0
    assert made.edge_m.min() >= -1e-3
    assert made.edge_m.max() == pytest.approx(40.0, abs=4.0)
    assert 15 <= np.unique(made.index).size <= 80
    # Where two neighbours belong to different parcels, the edge is near.
    at_edge = made.index[:, 1:] != made.index[:, :-1]
    assert made.edge_m[:, 1:][at_edge].max() < 4.0 * 5.0


def test_block_mean_averages_blocks() -> None:
    field = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert block_mean(field, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_upper_layers_hide_lower_ones() -> None:
    made = small()
    made.lay(Cover.WATER, FLAT)
    made.lay(Cover.TREES, FLAT, full(0.25))
    shares, covers = made.compose(full(0.0), FACTOR)
    assert shares[1] == pytest.approx(0.75)
    assert covers[Cover.TREES] == pytest.approx(0.25)
    assert covers.sum(axis=0) == pytest.approx(1.0)


def test_an_edge_gives_mixed_pixels() -> None:
    half = full(0.0)
    half[:, :4] = 1.0  # one pixel and a third
    made = small()
    made.lay(Cover.CROPLAND, FLAT)
    made.lay(Cover.WATER, FLAT, half)
    shares, _ = made.compose(full(0.0), FACTOR)
    assert shares[2][0] == pytest.approx([1.0, 1 / 3, 0.0, 0.0])


def test_what_is_laid_within_a_zone_stays_there() -> None:
    made, zone = small(), full(0.0)
    zone[:6] = 1.0
    made.lay(Cover.BARE, FLAT)
    with made.within(zone), made.within(zone.T):
        made.lay(Cover.TREES, FLAT, 0.5)
    made.lay(None, FLAT, 0.0)
    _, covers = made.compose(full(0.0), FACTOR)
    assert (
        covers[Cover.TREES].tolist()
        == np.kron([[0.5, 0], [0, 0]], np.ones((2, 2))).tolist()
    )


def test_light_scales_spectra_but_not_covers_and_water_lies_level() -> None:
    slope = np.broadcast_to(np.arange(12.0) * 2.0, (12, 12)).astype(np.float32)
    expected = SEASON.light(slope, 5.0)[0, 0]
    assert expected < 0.9
    for cover, light in ((Cover.BARE, expected), (Cover.WATER, 1.0)):
        made = small()
        made.lay(cover, FLAT)
        shares, covers = made.compose(slope, FACTOR)
        assert shares[1] == pytest.approx(light, rel=1e-5)
        assert covers[cover] == pytest.approx(1.0)


def test_shadow_takes_light_and_leaves_the_cover() -> None:
    made = small()
    made.lay(Cover.BARE, FLAT)
    made.shade(full(0.4))
    shares, covers = made.compose(full(0.0), FACTOR)
    assert shares[0] == pytest.approx(0.4)
    assert shares[1] == pytest.approx(0.6)
    assert covers[Cover.BARE] == pytest.approx(1.0)


def test_spectra_can_differ_from_parcel_to_parcel() -> None:
    numbers = np.zeros((12, 12), dtype=np.intp)
    numbers[3:6, 6:9] = 1
    numbers[0, 0] = 2
    made = small()
    made.lay(
        Cover.CROPLAND, [FLAT] * 50, 1.0, Parcels(numbers, full(1), full(1), full(1))
    )
    shares, _ = made.compose(full(0.0), FACTOR)
    assert shares.sum(axis=0) == pytest.approx(1.0)
    common, other, corner = (
        shares[:, i, j].argmax() for i, j in ((3, 3), (1, 2), (0, 0))
    )
    assert shares[common, 1, 1] == pytest.approx(1.0)
    assert shares[other, 1, 2] == pytest.approx(1.0)
    assert shares[corner, 0, 0] == pytest.approx(8 / 9)
    assert other != common
