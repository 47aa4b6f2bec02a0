"""What the name of a model stands for: a named size, or a file of weights.

Importing this is quick, so that a wrong name is found before torch is imported.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralgpt.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from spectralgpt.models.encoder import SpectralEncoder
    from spectralgpt.models.mae import MaskedAutoencoder

__all__ = [
    "SIZES",
    "WEIGHTS_FILE",
    "ModelSize",
    "build_autoencoder",
    "build_encoder",
    "find_weights",
    "model_size",
]

WEIGHTS_FILE = "model.safetensors"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# A missing file of these is no Hub name, which may have a dot in it, as in v1.5.
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


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


def find_weights(name_or_path: str | Path) -> Path | None:
    """Return the file that a model's weights are in, which is not read.

    Returns:
        None for sizes and Hub names.

    Raises:
        CheckpointError: there is no such model, or a folder holds none.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if path.is_dir():
        # A run folder holds its exported model in checkpoints/model.
        for candidate in (path, path / "checkpoints" / "model"):
            if (candidate / WEIGHTS_FILE).is_file():
                return candidate / WEIGHTS_FILE
        raise CheckpointError(f"folder {path} holds no {WEIGHTS_FILE}: is it a model?")
    if path.is_file():
        return path
    is_hub_name = _HUB_NAME.fullmatch(name) and path.suffix not in _WEIGHTS_SUFFIXES
    if name not in SIZES and not is_hub_name:
        raise CheckpointError(
            f"no model at {name}: give a checkpoint folder or file, a Hub name "
            f"owner/name, or a size ({', '.join(SIZES)})."
        )
    return None


def build_autoencoder(size: str, **overrides: Any) -> "MaskedAutoencoder":
    """Build a masked autoencoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `MaskedAutoencoder`.
    """
    from spectralgpt.models.mae import MaskedAutoencoder

    return MaskedAutoencoder(**(asdict(model_size(size)) | overrides))


def build_encoder(size: str, **overrides: Any) -> "SpectralEncoder":
    """Build an encoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `SpectralEncoder`.
    """
    from spectralgpt.models.encoder import SpectralEncoder

    chosen = model_size(size)
    own = {"embed_dim": chosen.embed_dim, "depth": chosen.depth}
    own["num_heads"] = chosen.num_heads
    return SpectralEncoder(**(own | overrides))
