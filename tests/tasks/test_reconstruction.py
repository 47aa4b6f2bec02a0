import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.tasks.reconstruction import (
    ErrorSum,
    band_means,
    fill_by_space_and_spectrum,
    fill_linearly_in_space,
    score_fillers,
)


def random_visible(shape: tuple[int, ...], seed: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < share


def plane(bands: int = 2, size: int = 16) -> torch.Tensor:
    rows = torch.arange(size, dtype=torch.float32)[:, None]
    columns = torch.arange(size, dtype=torch.float32)[None, :]
    return torch.stack([0.01 * (band + 1) * rows + 0.03 * columns
                        for band in range(bands)])[None]  # fmt: skip


def test_band_means_use_visible_pixels_of_the_own_band_only() -> None:
    images = torch.tensor([[[[1.0, 5.0]], [[10.0, 30.0]], [[7.0, 7.0]]]])
    visible = torch.tensor([[[[True, False]], [[True, True]], [[False, False]]]])
    means = band_means(images, visible)
    # The third band shows nothing: it takes the mean of all that is visible.
    assert means.flatten().tolist() == pytest.approx([1.0, 20.0, 41 / 3])


def test_linear_filling_is_exact_on_a_plane_inside_the_visible_hull() -> None:
    images = plane()
    visible = random_visible(images.shape, 0, 0.3)
    for corner in (0, -1):
        visible[..., corner, 0] = visible[..., corner, -1] = True
    filled = fill_linearly_in_space(images, visible)
    assert torch.allclose(filled, images, atol=1e-5)


def test_linear_filling_takes_the_nearest_pixel_where_there_is_no_triangle() -> None:
    images = plane(bands=1)
    visible = torch.zeros(images.shape, dtype=torch.bool)
    visible[0, 0, 4, [2, 12]] = True
    filled = fill_linearly_in_space(images, visible)
    assert filled[0, 0, 9, 3] == images[0, 0, 4, 2]
    assert filled[0, 0, 0, 15] == images[0, 0, 4, 12]


def test_spectral_filling_carries_structure_over_from_a_neighbour_band() -> None:
    generator = torch.Generator().manual_seed(3)
    pattern = torch.rand(1, 1, 16, 16, generator=generator)
    images = pattern.expand(1, 3, 16, 16) + torch.tensor([0.0, 0.2, 0.4]).view(3, 1, 1)
    visible = torch.ones(images.shape, dtype=torch.bool)
    visible[0, 1, 4:12, 4:12] = False
    hidden = ~visible
    errors = {}
    for name, filled in {
        "space": fill_by_space_and_spectrum(images, visible, 8, 1),
        "spectrum": fill_by_space_and_spectrum(images, visible, 1, 2),
    }.items():
        errors[name] = float(((filled - images)[hidden] ** 2).mean())
    assert errors["spectrum"] < 0.1 * errors["space"]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.02, 0.1, 0.5]),
    pixels=st.sampled_from([4, 8]),
    bands=st.sampled_from([1, 2, 4]),
)
def test_filled_values_ignore_hidden_pixels(
    seed: int, share: float, pixels: int, bands: int
) -> None:
    images = torch.rand((2, 4, 16, 16), generator=torch.Generator().manual_seed(seed))
    visible = random_visible(images.shape, seed + 1, share)
    spoiled = torch.where(visible, images, torch.tensor(1e3))
    for fill in (
        fill_linearly_in_space,
        lambda x, v: fill_by_space_and_spectrum(x, v, pixels, bands),
    ):
        filled = fill(images, visible)
        assert bool(filled.isfinite().all())
        assert torch.allclose(filled, fill(spoiled, visible), atol=1e-6)


def test_tent_weights_are_those_of_linear_interpolation() -> None:
    images = torch.zeros(1, 1, 1, 9)
    images[..., 0], images[..., 8] = 1.0, 3.0
    visible = torch.zeros(images.shape, dtype=torch.bool)
    visible[..., [0, 8]] = True
    filled = fill_by_space_and_spectrum(images, visible, 8, 1).flatten()
    assert np.allclose(filled, np.linspace(1, 3, 9), atol=1e-6)


def test_scores_are_the_mean_squared_error_of_counted_pixels() -> None:
    images = plane()
    visible = torch.ones(images.shape, dtype=torch.bool)
    visible[0, 0, 3, 3] = visible[0, 1, 5, 5] = False
    counted = ~visible
    counted[0, 1, 5, 5] = False
    rebuilt = images.clone()
    rebuilt[0, 0, 3, 3] += 0.5
    rebuilt[0, 1, 5, 5] += 9.0
    scores = score_fillers([(images, rebuilt, visible, counted)])
    assert scores["model"] == pytest.approx(0.25, rel=1e-5)
    assert scores["linear_space"] == pytest.approx(0.0, abs=1e-9)
    mean = images[0, 0][visible[0, 0]].mean()
    expected = float((mean - images[0, 0, 3, 3]) ** 2)
    assert scores["band_mean"] == pytest.approx(expected, rel=1e-4)
    assert scores["space_spectrum"] < scores["band_mean"]
    assert scores["images"] == 1


def test_error_of_no_pixels_is_not_a_number() -> None:
    assert ErrorSum().mean != ErrorSum().mean
