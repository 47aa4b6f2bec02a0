import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.tokens import (
    MASK_STYLES,
    MaskStyle,
    TokenGrid,
    draw_mask,
    draw_noise,
    find_available,
)

GRID = TokenGrid(12, 96, 96)


@settings(max_examples=50)
@given(
    st.floats(0, 0.999),
    st.sampled_from(MASK_STYLES),
    st.integers(0, 1000),
    st.sampled_from([None, 1, 2, 3]),
)
def test_every_token_is_either_visible_or_masked(
    ratio: float, style: MaskStyle, seed: int, dates: int | None
) -> None:
    grid = TokenGrid(12, 32, 24, num_dates=dates)
    if style == "date" and (dates or 1) == 1:
        return
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


@pytest.mark.parametrize("style", ["cube", "tube", "spectral"])
def test_all_tokens_available_changes_no_mask(style: MaskStyle) -> None:
    noise = draw_noise(GRID, 3, style)
    plain = draw_mask(GRID, noise, 0.75, style)
    everything = torch.ones(3, GRID.num_tokens, dtype=torch.bool)
    same = draw_mask(GRID, noise, 0.75, style, everything)
    assert torch.equal(plain.is_masked, same.is_masked)


def test_image_without_a_band_group_shows_as_many_tokens_of_the_others() -> None:
    valid = torch.ones(2, 12, 96, 96, dtype=torch.bool)
    valid[1, 3:6] = False
    valid[0, 3:5] = False  # one band of the group is there
    available = find_available(valid, GRID)
    assert available is not None
    mask = draw_mask(GRID, draw_noise(GRID, 2), 0.9, available=available)
    assert mask.visible.shape == (2, 57)
    groups = mask.visible // 144
    assert 1 in groups[0]
    assert 1 not in groups[1]


def test_padding_makes_no_band_group_available() -> None:
    grid = TokenGrid(7, 16, 16)
    valid = torch.ones(1, 7, 16, 16, dtype=torch.bool)
    valid[0, 6] = False  # the only real band of the last group
    available = find_available(valid, grid)
    assert available is not None
    assert available[0].tolist() == [True] * 8 + [False] * 4


def test_image_without_any_token_is_refused() -> None:
    nothing = torch.zeros(1, GRID.num_tokens, dtype=torch.bool)
    with pytest.raises(ShapeError, match="no available token"):
        draw_mask(GRID, draw_noise(GRID, 1), 0.9, available=nothing)
    with pytest.raises(ShapeError, match=r"available has shape \(1, 576\)"):
        draw_mask(GRID, draw_noise(GRID, 2), 0.9, available=nothing)


SERIES = TokenGrid(12, 32, 24, num_dates=3)


def test_tube_hides_the_same_places_in_all_band_groups_of_a_date() -> None:
    noise = draw_noise(SERIES, 2, "tube")
    mask = draw_mask(SERIES, noise, 0.5, "tube")
    by_date = mask.is_masked.reshape(2, 3, 4, 12)
    assert torch.equal(by_date, by_date[:, :, :1].expand(2, 3, 4, 12))
    # By hand: the half of all places of all dates with the smallest noise is visible.
    kept = noise <= noise.sort(dim=1).values[:, 17:18]
    assert torch.equal(by_date[:, :, 0].flatten(1) == 0, kept)


def test_spectral_hides_whole_band_groups_of_a_date() -> None:
    mask = draw_mask(SERIES, draw_noise(SERIES, 2, "spectral"), 0.5, "spectral")
    share = mask.is_masked.reshape(2, 12, 12).mean(dim=2)
    assert sorted(share[0].tolist()) == [0] * 6 + [1] * 6


def test_date_hides_whole_dates() -> None:
    noise = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.3, 0.1]])
    mask = draw_mask(SERIES, noise, 0.5, "date")
    share = mask.is_masked.reshape(2, 3, 48).mean(dim=2)
    assert share.tolist() == [[1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("style", MASK_STYLES)
def test_missing_dates_and_band_groups_are_never_visible(style: MaskStyle) -> None:
    valid = torch.ones(2, 3, 12, 32, 24, dtype=torch.bool)
    valid[0, 1] = False  # a date
    valid[1, 2, 3:6] = False  # a band group of a date
    available = find_available(valid, SERIES)
    assert available is not None
    mask = draw_mask(SERIES, draw_noise(SERIES, 2, style), 0.0, style, available)
    by_group = mask.is_masked.reshape(2, 3, 4, 12)
    assert by_group[0, 1].all()
    assert by_group[1, 2, 1].all()
    # Both show as many as the one that lacks a whole date.
    assert mask.visible.shape == (2, 2 * 48)


def test_dates_are_hidden_only_where_there_are_several() -> None:
    with pytest.raises(ConfigError, match="'date' hides whole dates, but there is one"):
        draw_noise(GRID, 1, "date")


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
