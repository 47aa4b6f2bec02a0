import pytest
import torch

from spectralgpt.models import heads
from spectralgpt.models.heads import resize_group_weights

PLACES = ((500.0, 700.0), (500.0, 600.0, 700.0, 900.0))


def test_group_sum_starts_as_the_mean() -> None:
    tokens = torch.rand(2, 4, 3, 5, 6)
    found = heads._GroupSum(4)(tokens)
    torch.testing.assert_close(found, tokens.mean(dim=1).permute(0, 3, 1, 2))


def test_group_sum_equals_a_linear_map() -> None:
    tokens = torch.rand(2, 4, 3, 5, 6)
    fusion = heads._GroupSum(4)
    torch.nn.init.normal_(fusion.weight)
    torch.nn.init.normal_(fusion.bias)
    moved = tokens.permute(0, 4, 2, 3, 1)  # (B, D, Hp, Wp, G)
    wanted = torch.nn.functional.linear(moved, fusion.weight, fusion.bias)
    torch.testing.assert_close(fusion(tokens), wanted.squeeze(-1))


def test_group_projection_equals_one_linear_map_of_all_tokens() -> None:
    tokens = torch.rand(2, 4, 3, 5, 6)
    fusion = heads._GroupProjection(4, 6, 7)
    together = tokens.permute(0, 2, 3, 1, 4).flatten(3)  # (B, Hp, Wp, G * D)
    wanted = together @ fusion.weight.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(fusion(tokens), wanted.permute(0, 3, 1, 2))


def test_weights_are_interpolated_over_wavelength() -> None:
    weights = torch.tensor([1.0, 3.0])
    found = resize_group_weights(weights, PLACES)
    # Between, at and beyond the known groups; half as much each, there are twice as
    # many.
    assert found.tolist() == [0.5, 1.0, 1.5, 1.5]


def test_same_bands_give_the_same_weights() -> None:
    weights = torch.rand(2, 7, 6)
    assert resize_group_weights(weights, ((500, 700), (500, 700))) is weights
    assert resize_group_weights(weights, None) is weights


@pytest.mark.parametrize(
    "fusion", [heads._GroupSum(2), heads._GroupProjection(2, 6, 7)]
)
def test_equal_groups_give_the_same_map_however_many(fusion: torch.nn.Module) -> None:
    torch.nn.init.constant_(fusion.weight, 0.3)
    feature = torch.rand(1, 1, 3, 5, 6)
    few = fusion(feature.expand(-1, 2, -1, -1, -1))
    many = fusion(feature.expand(-1, 4, -1, -1, -1), PLACES)
    torch.testing.assert_close(few, many)
