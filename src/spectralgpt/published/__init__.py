"""The published SpectralGPT checkpoints: key names, file format and shapes."""

from spectralgpt.published.files import (
    PUBLISHED_CONFIG_KEY,
    check_is_weights,
    is_safetensors,
    read_published_file,
    read_torch_file,
)
from spectralgpt.published.models import (
    build_published_model,
    from_published,
    load_published_state_dict,
    to_published,
)

__all__ = [
    "PUBLISHED_CONFIG_KEY",
    "build_published_model",
    "check_is_weights",
    "from_published",
    "is_safetensors",
    "load_published_state_dict",
    "read_published_file",
    "read_torch_file",
    "to_published",
]
