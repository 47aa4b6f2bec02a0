import numpy as np
import pytest

from spectralgpt.data.simulation.composition import block_mean, compose
from spectralgpt.data.simulation.materials import Cover, Layer

FACTOR, SIZE = 3, 4


def full(value: float) -> np.ndarray:
    return np.full((SIZE * FACTOR, SIZE * FACTOR), value, dtype=np.float32)


def test_block_mean_averages_blocks() -> None:
    field = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert block_mean(field, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_upper_layers_hide_lower_ones() -> None:
    layers = [Layer(Cover.WATER, 0, full(1.0)), Layer(Cover.TREES, 1, full(0.25))]
    made = compose(layers, full(1.0), FACTOR, 2)
    assert made.spectra[0] == pytest.approx(0.75)
    assert made.covers[Cover.TREES] == pytest.approx(0.25)
    assert made.covers.sum(axis=0) == pytest.approx(1.0)


def test_an_edge_gives_mixed_pixels() -> None:
    half = full(0.0)
    half[:, :4] = 1.0  # one pixel and a third
    layers = [Layer(Cover.CROPLAND, 0, full(1.0)), Layer(Cover.WATER, 1, half)]
    made = compose(layers, full(1.0), FACTOR, 2)
    assert made.spectra[1][0] == pytest.approx([1.0, 1 / 3, 0.0, 0.0])


def test_light_scales_spectra_but_not_covers() -> None:
    made = compose([Layer(Cover.BARE, 0, full(1.0))], full(0.5), FACTOR, 1)
    assert made.spectra[0] == pytest.approx(0.5)
    assert made.covers[Cover.BARE] == pytest.approx(1.0)


def test_shadow_takes_light_and_leaves_the_cover() -> None:
    layers = [Layer(Cover.BARE, 0, full(1.0)), Layer(None, 1, full(0.4))]
    made = compose(layers, full(1.0), FACTOR, 2)
    assert made.spectra[0] == pytest.approx(0.6)
    assert made.covers[Cover.BARE] == pytest.approx(1.0)


def test_spectra_can_differ_from_cell_to_cell() -> None:
    numbers = np.zeros((SIZE * FACTOR, SIZE * FACTOR), dtype=np.intp)
    numbers[3:6, 6:9] = 2
    numbers[0, 0] = 1
    made = compose([Layer(Cover.CROPLAND, numbers, full(1.0))], full(1.0), FACTOR, 3)
    assert made.spectra[2, 1, 2] == pytest.approx(1.0)
    assert made.spectra[1, 0, 0] == pytest.approx(1 / 9)
    assert made.spectra.sum(axis=0) == pytest.approx(1.0)
