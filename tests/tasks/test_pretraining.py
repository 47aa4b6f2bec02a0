from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError
from spectralgpt.losses import normalize_tokens
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import TokenGrid, count_units, patchify, pixel_mask
from spectralgpt.models.views import band_means
from spectralgpt.tasks import pretraining
from spectralgpt.tasks.pretraining import (
    ErrorSum,
    PretrainingTask,
    score_reconstructions,
)
from tests.tiny import tiny_objective

GRID = TokenGrid(num_bands=5, height=16, width=16)


def tiny_model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        image_size=16,
        num_bands=5,
        embed_dim=16,
        depth=1,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )


def tiny_batch(seeds: list[int]) -> dict[str, Any]:
    images = torch.stack(
        [torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(s))
         for s in seeds]
    )  # fmt: skip
    valid = torch.ones_like(images, dtype=torch.bool)
    return {"images": images, "valid": valid, "seed": torch.tensor(seeds)}


def test_noise_of_a_sample_depends_on_its_seed_alone() -> None:
    together = pretraining._draw_sample_noise(8, torch.tensor([5, 6, 7]))
    alone = pretraining._draw_sample_noise(8, torch.tensor([6]))
    assert together.shape == (3, 8)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("style", "units"), [("cube", 8), ("tube", 4), ("spectral", 2)]
)
def test_noise_is_of_what_is_hidden_as_a_whole(style: Any, units: int) -> None:
    assert count_units(GRID, style) == units


def test_pixel_mask_covers_the_bands_and_pixels_of_masked_tokens() -> None:
    is_masked = torch.zeros(1, GRID.num_tokens)
    is_masked[0, 1] = 1  # first band group, first row, second column
    is_masked[0, 6] = 1  # second band group, second row, first column
    expected = torch.zeros(1, 5, 16, 16, dtype=torch.bool)
    expected[0, 0:3, 0:8, 8:16] = True
    expected[0, 3:5, 8:16, 0:8] = True
    assert torch.equal(pixel_mask(is_masked, GRID), expected)


def test_mirror_images_are_rebuilt_from_the_same_visible_pixels() -> None:
    model, batch = tiny_model().eval(), tiny_batch([1, 2])
    task = PretrainingTask(model, mask_ratio=0.5)
    alone, hidden = task.rebuild(batch)
    found, same = task.rebuild(batch, flips=True)
    assert torch.equal(same, hidden)
    noise, parts = task._noise(batch).unflatten(1, (2, 2, 2)), []
    for axes in ((), (-1,), (-2,), (-1, -2)):
        drawn, seen = noise, batch["images"]
        for axis in axes:
            drawn, seen = drawn.flip(axis), seen.flip(axis)
        with torch.no_grad():
            made = model.reconstruct(model(seen, 0.5, drawn.flatten(1)))
        parts.append(made.flip(axes))
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))
    assert not torch.allclose(found[hidden], alone[hidden], atol=1e-3)


def test_a_mask_that_cannot_be_mirrored_is_said() -> None:
    # Bands that are hidden as a whole are hidden in the mirror, too.
    task, batch = PretrainingTask(tiny_model().eval(), 0.5, "spectral"), tiny_batch([1])
    found, hidden = task.rebuild(batch, flips=True)
    assert torch.equal(hidden, task.rebuild(batch)[1])
    assert not torch.allclose(found[hidden], task.rebuild(batch)[0][hidden], atol=1e-3)
    # RingMo leaves random pixels of hidden patches visible.
    ragged = PretrainingTask(tiny_objective("ringmo"), 0.5)
    images = torch.rand(4, 12, 64, 64)
    batch = {"images": images, "valid": images > -1, "seed": torch.arange(4)}
    with pytest.raises(ConfigError, match=r"cannot be mirrored .* --test-flips"):
        ragged.rebuild(batch, flips=True)


def test_loss_is_the_sum_of_its_terms_and_repeats() -> None:
    task = PretrainingTask(tiny_model(), mask_ratio=0.5)
    first, second = task.loss(tiny_batch([1, 2])), task.loss(tiny_batch([1, 2]))
    assert list(first) == ["loss", "token_loss", "spectral_loss"]
    assert torch.allclose(first["loss"], first["token_loss"] + first["spectral_loss"])
    assert torch.equal(first["loss"], second["loss"])


def test_loss_of_a_batch_is_the_mean_over_its_samples() -> None:
    task = PretrainingTask(tiny_model(), mask_ratio=0.5)
    whole = task.loss(tiny_batch([1, 2, 3, 4]))["loss"]
    parts = [task.loss(tiny_batch(pair))["loss"] for pair in ([1, 4], [2, 3])]
    assert torch.allclose(whole, torch.stack(parts).mean(), rtol=1e-5)


def test_invalid_pixels_count_neither_in_the_loss_nor_in_the_score() -> None:
    task = PretrainingTask(tiny_model(), mask_ratio=0.99)
    clean, spoiled = tiny_batch([3]), tiny_batch([3])
    for batch in (clean, spoiled):
        batch["valid"][0, 3] = False
    # Tokens of the second group are masked here, so that the encoder does not see them.
    output = task.forward(clean)
    assert bool(output.mask[0, 4:].all())
    spoiled["images"][0, 3] = 100.0
    assert torch.equal(task.loss(clean)["loss"], task.loss(spoiled)["loss"])
    scores = []
    for batch in (clean, spoiled):
        task.validate(batch)
        scores.append(task.metrics()["masked_error"])
    assert scores[0] == scores[1] > 0


def test_score_is_the_error_of_masked_pixels_over_all_batches() -> None:
    task = PretrainingTask(tiny_model(), mask_ratio=0.5)
    batch = tiny_batch([1, 2, 3])
    with torch.no_grad():
        output = task.forward(batch)
    counted = task.model.hidden_pixels(output)
    difference = (task.model.reconstruct(output) - batch["images"])[counted]
    for seeds in ([1, 2], [3]):
        with torch.no_grad():
            task.validate(tiny_batch(seeds))
    found = task.metrics()["masked_error"]
    assert found == pytest.approx(float((difference**2).mean()), rel=1e-5)
    with torch.no_grad():
        task.validate(batch)
    assert task.metrics()["masked_error"] == pytest.approx(found, rel=1e-6)


def test_normalised_targets_are_rebuilt_in_the_scale_of_the_images() -> None:
    model = tiny_model()
    model.normalize_targets = True
    task = PretrainingTask(model, mask_ratio=0.5)
    batch = tiny_batch([1, 2])
    output = task.forward(batch)
    grid = output.grid
    rebuilt, tokens = output.rebuilt, patchify(batch["images"], grid)
    torch.testing.assert_close(
        normalize_tokens(tokens),
        (tokens - tokens.mean(-1, keepdim=True)) / tokens.std(-1, keepdim=True),
        atol=1e-3,
        rtol=1e-3,
    )
    # The error in the images' scale is the normalised one times each token's variance.
    weights = tokens.var(-1, keepdim=True)
    expected = (output.prediction - normalize_tokens(tokens)) ** 2 * weights
    torch.testing.assert_close((rebuilt - tokens) ** 2, expected, atol=1e-4, rtol=1e-3)


def test_a_model_that_is_told_levels_is_compared_with_them_alone() -> None:
    model = tiny_model()
    model.normalize_targets = True
    scores = score_reconstructions(PretrainingTask(model, 0.5), [tiny_batch([1, 2, 3])])
    assert set(scores) == {"model", "token_mean", "images"}
    assert scores["images"] == 3
    # Noise around its own mean has the variance of the uniform distribution, and an
    # untrained model cannot do better.
    assert scores["token_mean"] == pytest.approx(1 / 12, rel=0.1)
    assert scores["model"] > 0.9 * scores["token_mean"]


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
    filled = pretraining._fill_linearly_in_space(images, visible)
    assert torch.allclose(filled, images, atol=1e-5)


def test_linear_filling_takes_the_nearest_pixel_where_there_is_no_triangle() -> None:
    images = plane(bands=1)
    visible = torch.zeros(images.shape, dtype=torch.bool)
    visible[0, 0, 4, [2, 12]] = True
    filled = pretraining._fill_linearly_in_space(images, visible)
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
        "space": pretraining._fill_by_space_and_spectrum(images, visible, 8, 1),
        "spectrum": pretraining._fill_by_space_and_spectrum(images, visible, 1, 2),
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
        pretraining._fill_linearly_in_space,
        lambda x, v: pretraining._fill_by_space_and_spectrum(x, v, pixels, bands),
    ):
        filled = fill(images, visible)
        assert bool(filled.isfinite().all())
        assert torch.allclose(filled, fill(spoiled, visible), atol=1e-6)


def test_tent_weights_are_those_of_linear_interpolation() -> None:
    images = torch.zeros(1, 1, 1, 9)
    images[..., 0], images[..., 8] = 1.0, 3.0
    visible = torch.zeros(images.shape, dtype=torch.bool)
    visible[..., [0, 8]] = True
    filled = pretraining._fill_by_space_and_spectrum(images, visible, 8, 1).flatten()
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
    scores = {}
    guesses = {
        "model": rebuilt,
        **{n: f(images, visible) for n, f in pretraining.fillers().items()},
    }
    for name, guess in guesses.items():
        error = ErrorSum()
        error.add(guess, images, counted)
        scores[name] = error.mean
    assert scores.pop("model") == pytest.approx(0.25, rel=1e-5)
    assert scores.pop("linear_space") == pytest.approx(0.0, abs=1e-9)
    mean = images[0, 0][visible[0, 0]].mean()
    expected = float((mean - images[0, 0, 3, 3]) ** 2)
    band_mean = scores.pop("band_mean")
    assert band_mean == pytest.approx(expected, rel=1e-4)
    assert min(scores.values()) < band_mean


def test_error_of_no_pixels_is_not_a_number() -> None:
    assert ErrorSum().mean != ErrorSum().mean
