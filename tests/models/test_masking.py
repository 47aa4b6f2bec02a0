import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.masking import MASK_STYLES, MaskStyle, draw_mask, draw_noise
from spectralgpt.models.tokens import TokenGrid

GRID = TokenGrid(12, 96, 96)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 0.999), st.sampled_from(MASK_STYLES), st.integers(0, 1000))
def test_every_token_is_either_visible_or_masked(
    ratio: float, style: MaskStyle, seed: int
) -> None:
    grid = TokenGrid(12, 32, 24)
    generator = torch.Generator().manual_seed(seed)
    mask = draw_mask(grid, draw_noise(grid, 3, style, generator), ratio, style)
    assert mask.visible.shape[1] >= 1
    for row, visible in zip(mask.is_masked, mask.visible, strict=True):
        assert len(set(visible.tolist())) == len(visible)
        assert sorted(visible.tolist()) == (row == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("ratio", "visible"), [(0.9, 57), (0.75, 144), (0.0, 576)])
def test_paper_ratio_leaves_57_of_576_tokens(ratio: float, visible: int) -> None:
    mask = draw_mask(GRID, draw_noise(GRID, 1), ratio)
    assert mask.visible.shape == (1, visible)


def test_smallest_noise_stays_visible_in_order() -> None:
    grid = TokenGrid(3, 16, 16)
    mask = draw_mask(grid, torch.tensor([[0.4, 0.1, 0.9, 0.3]]), 0.5)
    assert mask.visible.tolist() == [[1, 3]]
    assert mask.is_masked.tolist() == [[1, 0, 1, 0]]


def test_tube_hides_the_same_places_in_all_band_groups() -> None:
    mask = draw_mask(GRID, draw_noise(GRID, 2, "tube"), 0.9, "tube")
    by_group = mask.is_masked.reshape(2, 4, 144)
    assert torch.equal(by_group, by_group[:, :1].expand(2, 4, 144))
    assert mask.visible.shape == (2, 4 * 14)


def test_spectral_hides_whole_band_groups() -> None:
    mask = draw_mask(GRID, draw_noise(GRID, 2, "spectral"), 0.5, "spectral")
    share = mask.is_masked.reshape(2, 4, 144).mean(dim=2)
    assert sorted(share[0].tolist()) == [0, 0, 1, 1]


def test_masks_differ_between_images_and_repeat_with_the_generator() -> None:
    drawn = [
        draw_noise(GRID, 2, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_wrong_requests_are_explained() -> None:
    with pytest.raises(ConfigError, match="mask_ratio is 1"):
        draw_mask(GRID, draw_noise(GRID, 1), 1)
    with pytest.raises(ConfigError, match="style 'stripes' is unknown"):
        draw_noise(GRID, 1, "stripes")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"'tube' on this image needs \(batch, 144\)"):
        draw_mask(GRID, torch.rand(1, 576), 0.9, "tube")
