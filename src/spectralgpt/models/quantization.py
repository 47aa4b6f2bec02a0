"""Weights of the encoder's blocks as 8-bit integers, for inference in less memory.

Each row of a matrix has a scale of its own; activations stay as they are. All that is
small, or that answers depend on most, keeps its numbers: the token embedding,
positions, norms and heads.
"""

import logging
from itertools import chain
from typing import Literal, get_args

from torch import Tensor, nn

from spectralgpt.errors import ConfigError
from spectralgpt.models.building import Model
from spectralgpt.models.encoder import SpectralEncoder

__all__ = ["Quantization", "plain_parts", "quantize_encoder", "weight_bytes"]

Quantization = Literal["none", "int8"]


def quantize_encoder(model: Model, quantization: Quantization = "int8") -> None:
    """Hold the weights of a model's encoder in fewer bits, in place.

    The model can then run, but neither be trained nor saved.

    Args:
        model: any of ours; an autoencoder's decoder stays as it is.
        quantization: int8, or none, which does nothing.

    Raises:
        ConfigError: torchao is not installed, or the quantization is unknown.
    """
    if quantization not in get_args(Quantization):
        raise ConfigError(
            f"quantization {quantization!r} is unknown: use "
            f"{' or '.join(get_args(Quantization))}."
        )
    if quantization == "none":
        return
    # On import it warns of torch's own future.
    log = logging.getLogger("torch.utils._pytree")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ConfigError(
            "int8 weights need torchao: pip install 'spectralgpt[quantize]'."
        ) from None
    finally:
        log.setLevel(level)
    encoder = model if isinstance(model, SpectralEncoder) else model.encoder
    quantize_(
        encoder.blocks, Int8WeightOnlyConfig(set_inductor_config=False, version=2)
    )
    # Gradients would flow through weights that cannot be trained.
    encoder.blocks.requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Return the memory of a model's weights, bytes."""
    values = chain(model.parameters(), model.buffers())
    return sum(part.nbytes for value in values for part in plain_parts(value))


def plain_parts(value: Tensor) -> list[Tensor]:
    """Return the plain tensors that a weight consists of: integers and their scales."""
    names = getattr(value, "tensor_data_names", None)
    return [value] if names is None else [getattr(value, name) for name in names]
