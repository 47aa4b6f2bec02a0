"""The cross decoder rebuilds masked tokens from visible ones, and nothing else."""

import pytest
import torch

from spectralgpt.building import build_autoencoder, build_model, model_config
from spectralgpt.errors import ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import patchify

SMALL = {
    "image_size": 16,
    "num_bands": 6,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


def cross(**settings: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(**(SMALL | {"decoder": "cross"} | settings))  # type: ignore[arg-type]


def test_masked_pixels_have_no_influence() -> None:
    model = cross().eval()
    noise = torch.arange(8.0)[None] / 8
    images = torch.rand(1, 6, 16, 16)
    changed = images.clone()
    changed[:, 3:] += 1  # The four tokens of the second band group are masked.
    with torch.no_grad():
        found = [model(each, 0.5, noise) for each in (images, changed)]
    hidden = found[0].mask[0] == 1
    assert hidden.tolist() == [False] * 4 + [True] * 4
    torch.testing.assert_close(
        found[0].prediction[0, hidden], found[1].prediction[0, hidden]
    )


def test_visible_tokens_are_the_images_own() -> None:
    model = cross(normalize_targets=True).eval()
    images = torch.rand(2, 6, 16, 16)
    with torch.no_grad():
        output = model(images, 0.5)
    hidden = output.mask.bool()
    tokens = patchify(images, output.grid)
    torch.testing.assert_close(output.rebuilt[~hidden], tokens[~hidden])
    assert not torch.allclose(output.rebuilt[hidden], tokens[hidden])


def test_a_share_of_targets_is_rebuilt_in_training_and_all_in_evaluation() -> None:
    model = cross(target_share=0.5)
    images = torch.rand(2, 6, 16, 16)
    rows: list[int] = []
    model.decoder.register_forward_hook(lambda *call: rows.append(call[2].shape[1]))
    model.train()(images, 0.75).loss.backward()
    with torch.no_grad():
        model.eval()(images, 0.75)
    assert rows == [3, 6]


def test_it_learns() -> None:
    model = cross()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images = torch.rand(4, 1, 1, 1).expand(4, 6, 16, 16).contiguous()
    losses = []
    for _ in range(60):
        loss = model(images, 0.5, generator=torch.Generator().manual_seed(1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_it_takes_dates_and_other_bands() -> None:
    centres = (450.0, 550, 650, 850, 1600, 2200)
    model = cross(wavelengths_nm=centres, date_embedding=True)
    series = torch.rand(2, 3, 4, 16, 16)
    days = torch.tensor([[0.0, 30, 60]]).expand(2, -1)
    output = model(series, 0.5, wavelengths=centres[:4], dates=days)
    assert output.prediction.shape == (2, 3 * 2 * 4, 3 * 64)
    output.loss.backward()
    assert all(each.grad is not None for each in model.decoder.parameters())


def test_its_configuration_builds_it_again() -> None:
    model = cross(target_share=0.5)
    again = build_model(model_config(model))
    again.load_state_dict(model.state_dict())
    assert isinstance(again, MaskedAutoencoder)
    assert again.target_share == 0.5


def test_wrong_settings_are_told() -> None:
    with pytest.raises(ConfigError, match="use 'full' or 'cross'"):
        cross(decoder="fast")
    with pytest.raises(ConfigError, match="0 < share <= 1"):
        cross(target_share=0)
    with pytest.raises(ConfigError, match="full decoder rebuilds all tokens"):
        build_autoencoder("tiny", target_share=0.5)
