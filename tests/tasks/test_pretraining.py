from typing import Any

import pytest
import torch

from spectralgpt.losses import normalize_tokens
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import TokenGrid, patchify
from spectralgpt.tasks.pretraining import (
    PretrainingTask,
    draw_sample_noise,
    pixel_mask,
    score_reconstructions,
)

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


@pytest.mark.parametrize(
    ("style", "units"), [("cube", 8), ("tube", 4), ("spectral", 2)]
)
def test_noise_of_a_sample_depends_on_its_seed_alone(style: Any, units: int) -> None:
    together = draw_sample_noise(GRID, torch.tensor([5, 6, 7]), style)
    alone = draw_sample_noise(GRID, torch.tensor([6]), style)
    assert together.shape == (3, units)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_pixel_mask_covers_the_bands_and_pixels_of_masked_tokens() -> None:
    is_masked = torch.zeros(1, GRID.num_tokens)
    is_masked[0, 1] = 1  # first band group, first row, second column
    is_masked[0, 6] = 1  # second band group, second row, first column
    expected = torch.zeros(1, 5, 16, 16, dtype=torch.bool)
    expected[0, 0:3, 0:8, 8:16] = True
    expected[0, 3:5, 8:16, 0:8] = True
    assert torch.equal(pixel_mask(is_masked, GRID), expected)


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
    counted = pixel_mask(output.mask, output.grid)
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
    # Noise around its own mean has the variance of the uniform distribution, and an
    # untrained model cannot do better.
    assert scores["token_mean"] == pytest.approx(1 / 12, rel=0.1)
    assert scores["model"] > 0.9 * scores["token_mean"]
