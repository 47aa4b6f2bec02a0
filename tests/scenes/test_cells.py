from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import read_raster
from spectralgpt.scenes.cells import CellOptions, _starts, cell_grid, embed_strips
from tests.tiny import tiny_contract, tiny_encoder
from tests.toy import SENSOR, chip_pixels, write_chip

FORMAT = ImageFormat(sensor=SENSOR, offset=0.0)


def embed(path: Path, cell_px: int | None) -> tuple[np.ndarray, ...]:
    item = FORMAT.describe(path)
    options = CellOptions(cell_px)
    strips = list(embed_strips(tiny_encoder().eval(), tiny_contract(), item, options))
    rows = np.cumsum([0, *(len(strip.values) for strip in strips)])
    assert [strip.row for strip in strips] == rows[:-1].tolist()
    parts = [(s.values, s.valid, s.reflectance) for s in strips]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


@given(
    st.integers(8, 300),
    st.sampled_from([8, 32, 96]),
    st.sampled_from([1, 2, 4]),
    st.floats(0, 0.9),
)
def test_each_small_cell_is_met_by_every_cutting_of_patches(
    length: int, size: int, cell: int, overlap: float
) -> None:
    starts = _starts(length, size, 8, cell, overlap)
    for at in range(0, length, cell):
        covering = {-start % 8 for start in starts if start <= at < start + size}
        assert covering == set(range(0, 8, cell))


@pytest.mark.parametrize(("cell_px", "size"), [(4, 60), (2, 37), (8, 84)])
def test_small_cells_cover_any_scene(tmp_path: Path, cell_px: int, size: int) -> None:
    pixels = chip_pixels("forest", size, np.random.default_rng(0))
    path = write_chip(tmp_path / "a.tif", pixels)
    values, valid, reflectance = embed(path, cell_px)
    grid = cell_grid(FORMAT.describe(path), tiny_contract(), None, cell_px)
    side = -(-size // cell_px)
    assert values.shape == (side, side, 48)
    assert (grid.height, grid.width) == (side, side)
    assert np.abs(values).sum(axis=-1).min() > 0
    assert valid.min() == 1
    raster = read_raster(FORMAT.describe(path), tiny_contract().bands)
    expected = raster.pixels[:, :cell_px, cell_px : 2 * cell_px].mean(axis=(1, 2))
    np.testing.assert_allclose(reflectance[0, 1], expected, atol=1e-5)


def test_small_cells_find_an_edge_more_exactly(tmp_path: Path) -> None:
    pixels = chip_pixels("forest", 64, np.random.default_rng(0))
    for numbers in pixels.values():
        numbers[:, :28], numbers[:, 28:] = 500, 3000
    path = write_chip(tmp_path / "a.tif", pixels)

    def width_px(cell_px: int) -> float:
        values = embed(path, cell_px)[0].mean(axis=0)
        low, high = values[0], values[-1]
        along = (values - low) @ (high - low) / ((high - low) ** 2).sum()
        return float(((along > 0.25) & (along < 0.75)).sum() * cell_px)

    assert width_px(2) <= width_px(8) + 2


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    pixels = chip_pixels("field", 96, np.random.default_rng(0))
    for numbers in pixels.values():
        numbers[:, :40] = 0
    _, valid, _ = embed(write_chip(tmp_path / "a.tif", pixels), 4)
    # The bands of 20 m know half a pixel more, through resampling.
    assert valid[:, :9].max() == 0
    assert valid[:, 11:].min() == 1


@pytest.mark.parametrize("cell_px", [0, 3, 16])
def test_cells_that_do_not_divide_a_patch_are_refused(cell_px: int) -> None:
    with pytest.raises(ConfigError, match="use 1, 2, 4, 8"):
        CellOptions(cell_px).side(8)
