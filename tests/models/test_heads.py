"""Classification heads: what they pool, and what they refuse."""

import pytest
import torch

from spectralgpt.building import build_model, model_config, resize_model
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from tests.tiny import tiny_contract, tiny_encoder

WAVELENGTHS = tiny_contract().wavelengths_nm


def test_groups_are_pooled_apart() -> None:
    model = ClassificationModel(tiny_encoder(), 3, pooling="groups").eval()
    images = torch.rand(2, 12, 32, 40)
    tokens = model.encoder.encode(images)  # (B, G, Hp, Wp, D)
    expected = [model.encoder.norm(tokens[:, g].mean(dim=(1, 2))) for g in range(4)]
    torch.testing.assert_close(model.features(images), torch.cat(expected, dim=1))
    assert model(images).shape == (2, 3)


def test_a_series_of_one_date_is_an_image() -> None:
    model = ClassificationModel(tiny_encoder(), 3, pooling="groups").eval()
    images = torch.rand(2, 12, 32, 32)
    assert torch.equal(model(images[:, None]), model(images))


def test_config_builds_the_pooling_again() -> None:
    model = ClassificationModel(tiny_encoder(), 3, pooling="groups")
    again = build_model(model_config(model))
    assert again.load_state_dict(model.state_dict()).missing_keys == []
    assert model_config(again) == model_config(model)


def test_pooling_by_groups_is_bound_to_its_bands() -> None:
    encoder = SpectralEncoder(32, 12, 8, 3, 48, 1, 4, WAVELENGTHS)
    model = ClassificationModel(encoder, 3, pooling="groups")
    with pytest.raises(CheckpointError, match="its own 12 bands"):
        resize_model(model, wavelengths_nm=[500.0, 600.0, 700.0])
    with pytest.raises(ShapeError, match="1 band groups, the head was built for 4"):
        model(torch.rand(1, 3, 32, 32), [500.0, 600.0, 700.0])
    with pytest.raises(ConfigError, match="skip_first_token belongs to"):
        ClassificationModel(encoder, 3, skip_first_token=True, pooling="groups")
