"""The named sizes of the model, as values."""

from dataclasses import asdict, dataclass
from typing import Any

from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder

__all__ = ["SIZES", "ModelSize", "build_autoencoder", "build_encoder", "model_size"]


@dataclass(frozen=True)
class ModelSize:
    """Width, depth and heads of encoder and decoder."""

    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 4
    decoder_num_heads: int = 16


# base, large and huge: Hong et al. 2024; tiny and small are ours, for laptops.
_SIZES = {
    "tiny": ModelSize(192, 6, 3, 128, 2, 4),
    "small": ModelSize(384, 8, 6, 256, 3, 8),
    "base": ModelSize(768, 12, 12),
    "large": ModelSize(1024, 24, 16),
    "huge": ModelSize(1280, 32, 16),
}
SIZES = tuple(_SIZES)


def model_size(name: str) -> ModelSize:
    """Return a size by name.

    Raises:
        ConfigError: there is no size of that name.
    """
    if name not in _SIZES:
        raise ConfigError(f"model size {name!r} is unknown: use {', '.join(SIZES)}.")
    return _SIZES[name]


def build_autoencoder(size: str, **overrides: Any) -> MaskedAutoencoder:
    """Build a masked autoencoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `MaskedAutoencoder`.
    """
    return MaskedAutoencoder(**(asdict(model_size(size)) | overrides))


def build_encoder(size: str, **overrides: Any) -> SpectralEncoder:
    """Build an encoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `SpectralEncoder`.
    """
    chosen = model_size(size)
    own = {"embed_dim": chosen.embed_dim, "depth": chosen.depth}
    own["num_heads"] = chosen.num_heads
    return SpectralEncoder(**(own | overrides))
