"""Small builders that tests share."""

from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt import objectives
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.objective import Objective
from spectralgpt.preprocessing import Preprocessing, sensor_preprocessing
from spectralgpt.training.optim import OptimizerConfig, build_optimizer

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


def tiny_objective(name: str) -> Objective:
    """An objective by its name, of 12 bands and 32 px."""
    sizes = {"image_size": 32, "num_bands": 12, "patch_size": 8, "embed_dim": 48}
    wanted = sizes | {"depth": 2, "num_heads": 4}
    known = objectives.settings_of(name)
    model = objectives.build(name, **{k: v for k, v in wanted.items() if k in known})
    return model.eval()


def tiny_encoder(image_size: int = 32, seed: int = 0) -> SpectralEncoder:
    """A seeded encoder of depth 2 on the bands of `tiny_contract`."""
    return tiny_model(image_size, seed).encoder


def loss_share_after_training(
    model: MaskedAutoencoder, images: Tensor, **given: Any
) -> float:
    """Return the loss after a few steps on the same images, over that before."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        generator = torch.Generator().manual_seed(0)
        output = model(images, 0.5, generator=generator, **given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    return losses[-1] / losses[0]


def rates_and_decays(
    model: nn.Module, weight_decay: float, layer_decay: float | None = None
) -> dict[str, tuple[float, float]]:
    """Return `lr_scale` and weight decay of each trainable parameter by its name."""
    config = OptimizerConfig(weight_decay=weight_decay, layer_decay=layer_decay)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in build_optimizer(model, config, fused=False).param_groups
        for parameter in group["params"]
    }
