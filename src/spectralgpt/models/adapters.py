"""Low-rank adapters: fine-tuning an encoder through a few small matrices.

The encoder's weights stay as they are; each chosen map gains the product of two narrow
matrices, which starts at zero. Merged, the product is added to the map, and the model
is a plain one again, as large and as fast as before.
"""

import copy
from typing import TypeVar

from torch import nn

from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder

# Query, key and value are one map here, and share the adapter's first matrix.
_TARGETS = r"blocks\.\d+\.attn\.(qkv|proj)"
_MARK = "lora_"

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def add_adapters(
    encoder: SpectralEncoder,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
) -> SpectralEncoder:
    """Freeze an encoder and give its attention maps low-rank adapters, in place.

    The output is unchanged until the adapters are trained. A head on the encoder stays
    as trainable as it was.

    Args:
        encoder: its own weights get no gradients any more.
        rank: columns of the narrow matrices, at least 1 and below the encoder's width.
        alpha: the adapter's product counts alpha / rank.
        dropout: share of an adapter's input that a training step leaves out, 0..1.

    Returns:
        The encoder.

    Raises:
        ConfigError: a number is out of range, there are adapters already, or `peft` is
            not installed.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    _check(encoder, rank, alpha, dropout)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "low-rank adapters need the package peft: install it with "
            "pip install 'spectralgpt[adapters]'."
        ) from error
    settings = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=_TARGETS
    )
    inject_adapter_in_model(settings, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_MARK in name)
    return encoder


def has_adapters(model: nn.Module) -> bool:
    """Tell whether any map of the model has an adapter."""
    return any(_MARK in name for name, _ in model.named_parameters())


def merge_adapters(model: AnyModel) -> AnyModel:
    """Return a plain copy of the model, with all adapters added to their maps.

    Args:
        model: left as it is, so that its training can go on.

    Returns:
        A model whose parameters all take gradients again, in the mode that `model` is
        in; a copy as it is where there are no adapters.
    """
    plain = copy.deepcopy(model)
    if not has_adapters(plain):
        return plain
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [
        (name, module)
        for name, module in plain.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
    for name, module in adapted:
        module.merge()
        plain.set_submodule(name, module.get_base_layer())
    for holder in plain.modules():
        # Left on the encoder by peft, which would take it for an adapted model.
        holder.__dict__.pop("peft_config", None)
    return plain.requires_grad_()


def _check(encoder: SpectralEncoder, rank: int, alpha: int, dropout: float) -> None:
    if has_adapters(encoder):
        raise ConfigError(
            "the encoder has adapters already: merge them first (merge_adapters)."
        )
    if not 1 <= rank < encoder.embed_dim:
        raise ConfigError(
            f"adapter rank {rank} is not in 1..{encoder.embed_dim - 1}, the encoder's "
            "width less one."
        )
    if alpha < 1:
        raise ConfigError(f"adapter alpha is {alpha}: use at least 1.")
    if not 0 <= dropout < 1:
        raise ConfigError(f"adapter dropout is {dropout}: use 0 up to below 1.")
