import pytest
import torch

from spectralgpt.errors import ShapeError
from tests.tiny import tiny_encoder


@pytest.mark.parametrize("dates", [None, 2])
def test_absent_groups_are_not_shown(dates: int | None) -> None:
    encoder = tiny_encoder().eval()
    size = (2, dates, 12, 32, 32) if dates else (2, 12, 32, 32)
    images = torch.rand(size)
    other = images.clone()
    other[..., 3:6, :, :] = torch.rand_like(other[..., 3:6, :, :])
    every = encoder(images)
    encoder.absent_groups = (1,)
    found = encoder(images)
    assert found.shape == every.shape
    assert torch.equal(found, encoder(other))
    assert not torch.allclose(found, every)


def test_features_of_absent_groups_are_the_mean_of_the_others() -> None:
    encoder = tiny_encoder().eval()
    encoder.absent_groups = (0, 2)
    found = encoder.encode(torch.rand(1, 12, 32, 32))
    mean = found[:, [1, 3]].mean(dim=1)
    torch.testing.assert_close(found[:, 0], mean)
    torch.testing.assert_close(found[:, 2], mean)


def test_an_image_without_any_group_is_refused() -> None:
    encoder = tiny_encoder()
    encoder.absent_groups = (0, 1, 2, 3)
    with pytest.raises(ShapeError, match="all band groups are absent"):
        encoder(torch.rand(1, 12, 32, 32))
