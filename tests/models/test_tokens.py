import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models import mae
from spectralgpt.models.tokens import TokenGrid, patchify, unpatchify
from tests.tiny import tiny_encoder

grids = st.builds(
    lambda bands, rows, columns, patch, group: TokenGrid(
        bands, rows * patch, columns * patch, patch, group
    ),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([2, 4, 8]),
    st.integers(1, 4),
)


@settings(max_examples=50)
@given(grids)
def test_unpatchify_inverts_patchify(grid: TokenGrid) -> None:
    images = torch.rand(2, grid.num_bands, grid.height, grid.width)
    tokens = patchify(images, grid)
    assert tokens.shape == (2, grid.num_tokens, grid.token_dim)
    assert torch.equal(unpatchify(tokens, grid), images)


def test_token_order_is_band_group_then_row_then_column() -> None:
    grid = TokenGrid(num_bands=6, height=16, width=24)
    images = torch.zeros(1, 6, 16, 24)
    images[0, 3:, 8:, 16:] = 1  # second band group, second row, third column
    tokens = patchify(images, grid)
    assert tokens.sum(dim=-1).nonzero().tolist() == [[0, 1 * 6 + 1 * 3 + 2]]


def test_values_in_a_token_run_band_then_row_then_column() -> None:
    grid = TokenGrid(num_bands=3, height=8, width=8)
    images = torch.arange(3 * 64, dtype=torch.float32).reshape(1, 3, 8, 8)
    assert torch.equal(patchify(images, grid)[0, 0], torch.arange(192.0))


def test_padding_repeats_the_last_band_and_weighs_nothing() -> None:
    grid = TokenGrid(num_bands=4, height=8, width=8)
    images = torch.rand(1, 4, 8, 8)
    last = patchify(images, grid)[0, 1].reshape(3, 64)
    assert torch.equal(last[1], images[0, 3].flatten())
    assert torch.equal(last[2], images[0, 3].flatten())
    weights = mae._token_weights(None, grid)
    assert weights is not None
    assert weights[0, 1].reshape(3, 64).sum(dim=1).tolist() == [64, 0, 0]


def test_invalid_pixels_weigh_nothing() -> None:
    grid = TokenGrid(num_bands=3, height=8, width=8)
    valid = torch.ones(2, 3, 8, 8, dtype=torch.bool)
    valid[1, 2, 5, 6] = False
    weights = mae._token_weights(valid, grid)
    assert weights is not None
    assert (weights == 0).nonzero().tolist() == [[1, 0, 2 * 64 + 5 * 8 + 6]]


def test_whole_images_need_no_weights() -> None:
    assert mae._token_weights(None, TokenGrid(3, 8, 8)) is None


def test_image_smaller_than_a_token_is_refused() -> None:
    with pytest.raises(ShapeError, match="height 7 px is no multiple of patch_size 8"):
        TokenGrid.of(torch.zeros(1, 3, 7, 8), 8, 3)
    with pytest.raises(ConfigError, match="height is 0"):
        TokenGrid(3, 0, 8)


def test_missing_batch_axis_is_explained() -> None:
    with pytest.raises(ShapeError, match="batch axis"):
        TokenGrid.of(torch.zeros(3, 8, 8), 8, 3)


@settings(max_examples=25)
@given(grids, st.integers(1, 3), st.booleans())
def test_a_series_is_cut_as_its_dates_are(
    grid: TokenGrid, dates: int, with_valid: bool
) -> None:
    series = torch.rand(2, dates, grid.num_bands, grid.height, grid.width)
    whole = TokenGrid.of(series, grid.patch_size, grid.bands_per_token)
    assert whole.num_dates == dates
    tokens = patchify(series, whole)
    by_date = [patchify(series[:, date], grid) for date in range(dates)]
    assert torch.equal(tokens, torch.cat(by_date, dim=1))
    assert torch.equal(unpatchify(tokens, whole), series)
    valid = series > 0.3 if with_valid else None
    found = mae._token_weights(valid, whole)
    wanted = [
        mae._token_weights(None if valid is None else valid[:, date], grid)
        for date in range(dates)
    ]
    if found is None:
        assert wanted == [None] * dates
    else:
        assert torch.equal(found, torch.cat([w for w in wanted if w is not None], 1))


def test_no_dates_are_refused() -> None:
    with pytest.raises(ShapeError, match="num_dates is 0"):
        TokenGrid.of(torch.zeros(1, 0, 3, 8, 8), 8, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.bfloat16])
def test_images_of_another_type_than_the_weights_are_named(dtype: torch.dtype) -> None:
    images = torch.ones(1, 12, 32, 32).to(dtype)
    with pytest.raises(ShapeError, match=f"images are {dtype}, the weights torch.fl"):
        tiny_encoder()(images)


def test_autocast_and_weights_of_other_types_work() -> None:
    images = torch.rand(1, 12, 32, 32)
    encoder = tiny_encoder()
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(images).isfinite().all()
        assert encoder(images.bfloat16()).isfinite().all()
        with pytest.raises(ShapeError, match=r"images are torch\.int64"):
            encoder(images.long())
    whole = encoder(images)
    twice = encoder.double()(images.double())
    torch.testing.assert_close(twice.float(), whole, rtol=1e-4, atol=1e-4)
