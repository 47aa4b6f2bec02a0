"""Small builders that tests share."""

import torch

from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing, sensor_preprocessing

TINY = {
    "patch_size": 8,
    "bands_per_token": 3,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "decoder_embed_dim": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 4,
}


def tiny_contract(image_size: int = 32) -> Preprocessing:
    """The 12 bands of Sentinel-2 L1C without B10, scaled per image."""
    return sensor_preprocessing(
        "sentinel-2-l1c", exclude=("B10",), image_size=image_size
    )


def tiny_model(image_size: int = 32, seed: int = 0) -> MaskedAutoencoder:
    """A seeded model of depth 2 on the bands of `tiny_contract`."""
    torch.manual_seed(seed)
    wavelengths = tiny_contract().wavelengths_nm
    return MaskedAutoencoder(image_size, 12, wavelengths_nm=wavelengths, **TINY)


def tiny_encoder(image_size: int = 32, seed: int = 0) -> SpectralEncoder:
    """A seeded encoder of depth 2 on the bands of `tiny_contract`."""
    return tiny_model(image_size, seed).encoder
