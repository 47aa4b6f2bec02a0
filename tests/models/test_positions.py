import math

import pytest
import torch

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models import positions as positions_module
from spectralgpt.models.positions import Positions, resize_positions
from spectralgpt.models.tokens import (
    TokenGrid,
    group_wavelengths,
    resize_spatial,
    resize_spectral,
)
from spectralgpt.sensors import list_sensors, load_sensor
from tests.tiny import tiny_encoder

NM = (443.0, 490.0, 560.0, 665.0, 705.0, 740.0)


def test_group_wavelength_is_the_mean_of_the_bands_it_has() -> None:
    assert group_wavelengths([400, 500, 600, 800], 3) == (500, 800)


def test_spatial_resize_is_exact_at_its_own_size() -> None:
    table = torch.rand(1, 12, 5)
    assert resize_spatial(table, (3, 4), (3, 4)) is table


def test_spatial_resize_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(6.0).repeat_interleave(6).reshape(1, 36, 1)
    larger = resize_spatial(rows, (6, 6), (12, 12)).reshape(12, 12)
    assert torch.allclose(larger, larger[:, :1].expand(12, 12), atol=1e-5)
    assert (larger[1:, 0] > larger[:-1, 0]).all()


def test_spectral_resize_is_exact_for_its_own_bands() -> None:
    table = torch.rand(3, 4)
    assert resize_spectral(table, (443, 560, 700), (443, 560, 700)) is table
    part = resize_spectral(table, (443, 560, 700), (700, 443))
    assert torch.allclose(part, table[[2, 0]])


def test_spectral_resize_is_linear_over_wavelength_and_flat_outside() -> None:
    table = torch.tensor([[0.0], [10.0], [40.0]])
    found = resize_spectral(table, (400, 500, 800), (425, 650, 300, 900))
    assert torch.allclose(found.flatten(), torch.tensor([2.5, 25.0, 0.0, 40.0]))


def test_spectral_resize_sorts_unordered_and_survives_equal_wavelengths() -> None:
    table = torch.tensor([[40.0], [0.0], [0.0]])
    found = resize_spectral(table, (800, 400, 400), (600,))
    assert torch.allclose(found.flatten(), torch.tensor([20.0]))


def test_positions_are_those_of_today_inside_and_go_on_outside() -> None:
    table, own = torch.rand(3, 2, 8), (500.0, 700.0, 1600.0)
    inside = (500.0, 612.0, 700.0, 1599.0, 1600.0)
    found = resize_positions(table, own, inside)
    assert torch.equal(found, resize_spectral(table, own, inside))
    # One step of the table on, and less than two after twice the way.
    low, one, two = resize_positions(table, own, (400.0, 2500.0, 3400.0))
    step = table[2] - table[1]
    torch.testing.assert_close(one, table[2] + math.log(2) * step)
    torch.testing.assert_close(two, table[2] + math.log(3) * step)
    torch.testing.assert_close(low, table[0] + math.log(1.5) * (table[0] - table[1]))


@pytest.mark.parametrize(
    ("rows", "own"),
    [
        (torch.rand(1, 8), (560.0,)),
        (torch.zeros(3, 8), (500.0, 600.0, 700.0)),
        (torch.rand(3, 8)[[0, 0, 1]], (500.0, 600.0, 700.0)),
        (torch.rand(3, 8), (500.0, 500.0, 700.0)),
        (torch.rand(4, 5, 8), (1582.0, 498.0, 830.0, 703.0)),
    ],
)
def test_no_two_wavelengths_outside_share_a_position(
    rows: torch.Tensor, own: tuple[float, ...]
) -> None:
    outside = [nm for nm in range(350, 2501) if not min(own) <= nm <= max(own)]
    found = resize_positions(rows, own, [float(nm) for nm in outside]).flatten(1)
    assert len(torch.unique(found, dim=0)) == len(outside)


def test_groups_beyond_sunlight_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, own = torch.rand(2, 8), (500.0, 800.0)
    with caplog.at_level("WARNING", logger="spectralgpt"):
        resize_positions(table, own, (351.0, 2499.0))
        assert not caplog.messages
        thermal = resize_positions(table, own, (10_900.0, 12_000.0))
    assert len(torch.unique(thermal, dim=0)) == 2
    assert "10900, 12000 nm lie outside reflected sunlight" in caplog.text


@pytest.mark.parametrize("sensor", list_sensors())
def test_no_groups_of_a_sensor_share_a_position(sensor: str) -> None:
    """Under the default model, of groups that differ by more than 1 nm."""
    positions = tiny_encoder().positions
    bands = load_sensor(sensor).select()
    nm = [band.wavelength_nm for band in bands]
    groups = torch.tensor(group_wavelengths(nm, 3))
    table = positions(TokenGrid(len(nm), 32, 32), nm).unflatten(0, (len(groups), -1))
    differ = (groups[:, None] - groups).abs() > 1
    rows = table[:, 0]
    same = (rows[:, None] == rows).all(dim=-1)
    assert not bool((same & differ).any())


@pytest.mark.parametrize("joint", [False, True])
def test_positions_follow_the_grid_of_the_image(joint: bool) -> None:
    own = TokenGrid(6, 32, 32)
    positions = Positions(own, 8, NM, joint)
    torch.nn.init.normal_(next(positions.parameters()))
    assert torch.equal(positions(own), positions(own, NM))
    other = TokenGrid(4, 16, 48)
    assert positions(other, (450, 550, 650, 850)).shape == (2 * 2 * 6, 8)


def test_position_is_the_sum_of_place_and_band_group() -> None:
    grid = TokenGrid(6, 16, 16)
    positions = Positions(grid, 8, NM)
    found = positions(grid)
    wanted = positions.spectral[0, 1] + positions.spatial[0, 3]
    assert torch.equal(found[1 * 4 + 3], wanted)


def test_bands_in_doubt_are_refused() -> None:
    grid = TokenGrid(6, 16, 16)
    with pytest.raises(ShapeError, match="3 bands, the model knows 6"):
        Positions(grid, 8, NM)(TokenGrid(3, 16, 16))
    with pytest.raises(ConfigError, match="built without wavelengths"):
        Positions(grid, 8)(grid, NM)
    with pytest.raises(ShapeError, match="2 wavelengths for images of 6"):
        Positions(grid, 8, NM)(grid, (443, 490))


@pytest.mark.parametrize("dim", [8, 7, 2, 1])
def test_sine_cosine_has_the_width_asked_for(dim: int) -> None:
    assert positions_module._sine_cosine(torch.arange(5), dim).shape == (5, dim)


def test_tables_start_with_neighbours_alike() -> None:
    table = Positions(TokenGrid(12, 64, 64), 64).spatial[0].detach()
    distance = torch.cdist(table, table)
    middle = 3 * 8 + 3
    beside, below, far = middle + 1, middle + 8, 7 * 8 + 7
    assert distance[middle, beside] < distance[middle, far]
    torch.testing.assert_close(distance[middle, beside], distance[middle, below])
    assert (distance + torch.eye(64) * 9).min() > 0.1


def test_wavelengths_in_micrometres_are_refused_by_the_forward_pass() -> None:
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"0\.49 is not in nm: 0\.49 um is 490 nm"):
        tiny_encoder()(images, [0.49, 0.56, 0.665])
