import pytest
import torch

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import draw_mask, draw_noise, patchify
from tests.tiny import TINY, loss_share_after_training, tiny_contract, tiny_model

GAOFEN2_NM = (485.0, 555.0, 660.0, 830.0)


def test_masked_tokens_do_not_affect_the_encoder() -> None:
    model = tiny_model().eval()
    images = torch.rand(2, 12, 32, 32)
    grid = model.encoder.grid_of(images)
    noise = draw_noise(grid, 2)
    mask = draw_mask(grid, noise, 0.9)
    tokens = patchify(images, grid)
    wanted = model.encoder.encode_visible(tokens, mask.visible, grid)
    tokens[mask.is_masked.bool()] = torch.nan
    found = model.encoder.encode_visible(tokens, mask.visible, grid)
    assert torch.equal(found, wanted)


def test_unmasked_pass_equals_the_encoder() -> None:
    model = tiny_model().eval()
    images = torch.rand(1, 12, 32, 32)
    noise = torch.arange(64.0)[None]
    output = model(images, mask_ratio=0.0, noise=noise)
    torch.testing.assert_close(output.latent, model.encoder(images).flatten(1, 3))


def test_loss_is_the_weighted_sum_of_both_terms() -> None:
    model = MaskedAutoencoder(
        32, 12, **TINY, token_loss_weight=2.0, spectral_loss_weight=0.5
    )
    output = model(torch.rand(2, 12, 32, 32))
    wanted = 2 * output.token_loss + 0.5 * output.spectral_loss
    torch.testing.assert_close(output.loss, wanted)


@pytest.mark.parametrize("style", ["cube", "tube", "spectral"])
def test_training_step_lowers_the_loss(style: str) -> None:
    model = tiny_model().train()
    images = torch.rand(4, 12, 32, 32)
    assert loss_share_after_training(model, images, mask_style=style) < 0.8


def test_padded_bands_count_in_no_loss() -> None:
    model = tiny_model().eval()
    images = torch.rand(2, 4, 32, 32)
    output = model(images, wavelengths=GAOFEN2_NM)
    error = (model.reconstruct(output) - images) ** 2  # (B, 4, H, W)
    grid, mask = output.grid, output.mask
    by_token = error.new_zeros(2, grid.num_tokens)
    # By hand: the first group has three bands, the second one, over 8 x 8 pixels.
    for group, bands in ((0, slice(0, 3)), (1, slice(3, 4))):
        patches = error[:, bands].unfold(2, 8, 8).unfold(3, 8, 8)
        start = group * grid.positions
        mean = patches.mean(dim=(1, 4, 5)).flatten(1)
        by_token[:, start : start + grid.positions] = mean
    wanted = (by_token * mask).sum() / mask.sum()
    torch.testing.assert_close(output.token_loss, wanted)


def test_invalid_pixels_count_in_no_loss() -> None:
    model = tiny_model().eval()
    images = torch.rand(2, 12, 32, 32)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, :, :8, :8] = False
    noise = draw_noise(model.encoder.grid_of(images), 2)
    # The corner's tokens are masked, so that they can change the loss only.
    noise[0, [0, 16, 32, 48]] = 2
    before = model(images, noise=noise, valid=valid)
    changed = images.clone()
    changed[0, :, :8, :8] = 9
    after = model(changed, noise=noise, valid=valid)
    torch.testing.assert_close(after.loss, before.loss)
    assert not torch.allclose(model(changed, noise=noise).loss, before.loss)


def test_all_valid_gives_the_loss_without_mask() -> None:
    model = tiny_model().eval()
    images = torch.rand(2, 12, 32, 32)
    noise = draw_noise(model.encoder.grid_of(images), 2)
    valid = torch.ones_like(images, dtype=torch.bool)
    with_mask = model(images, noise=noise, valid=valid)
    without = model(images, noise=noise)
    torch.testing.assert_close(with_mask.loss, without.loss)
    torch.testing.assert_close(with_mask.spectral_loss, without.spectral_loss)


@pytest.mark.parametrize("shape", [(64, 64), (16, 48), (128, 8)])
def test_any_size_and_any_bands_train(shape: tuple[int, int]) -> None:
    model = tiny_model()
    output = model(torch.rand(1, 7, *shape), wavelengths=torch.linspace(440, 2200, 7))
    output.loss.backward()
    assert model.encoder.positions.spectral.grad.abs().sum() > 0
    assert model.reconstruct(output).shape == (1, 7, *shape)


def test_wavelengths_of_the_own_bands_change_nothing() -> None:
    model = tiny_model().eval()
    images = torch.rand(1, 12, 32, 32)
    own = tiny_contract().wavelengths_nm
    assert torch.equal(model.encoder(images), model.encoder(images, own))


def test_wrong_input_is_explained() -> None:
    model = tiny_model()
    with pytest.raises(ShapeError, match="7 bands, the model knows 12"):
        model(torch.rand(1, 7, 32, 32))
    with pytest.raises(ShapeError, match="valid has shape"):
        model(torch.rand(1, 12, 32, 32), valid=torch.ones(1, 1, 32, 32).bool())
    with pytest.raises(ConfigError, match=r"0\.49 is not in nm"):
        MaskedAutoencoder(32, 2, **TINY, wavelengths_nm=(0.49, 0.56))
