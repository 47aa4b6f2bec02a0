"""Spectral remote-sensing foundation models.

Public names are loaded when they are first used, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spectralgpt.checkpoints import load, load_model, save_model
    from spectralgpt.models.encoder import SpectralEncoder
    from spectralgpt.models.heads import (
        ChangeModel,
        ClassificationModel,
        SegmentationModel,
    )
    from spectralgpt.models.mae import MaskedAutoencoder
    from spectralgpt.preprocessing import Preprocessing
    from spectralgpt.published import load_published_state_dict
    from spectralgpt.scenes.opened import open_model

__all__ = [
    "ChangeModel",
    "ClassificationModel",
    "MaskedAutoencoder",
    "Preprocessing",
    "SegmentationModel",
    "SpectralEncoder",
    "load",
    "load_model",
    "load_published_state_dict",
    "open_model",
    "save_model",
]

_HOMES = {
    "ChangeModel": "spectralgpt.models.heads",
    "ClassificationModel": "spectralgpt.models.heads",
    "MaskedAutoencoder": "spectralgpt.models.mae",
    "Preprocessing": "spectralgpt.preprocessing",
    "SegmentationModel": "spectralgpt.models.heads",
    "SpectralEncoder": "spectralgpt.models.encoder",
    "load": "spectralgpt.checkpoints",
    "load_model": "spectralgpt.checkpoints",
    "load_published_state_dict": "spectralgpt.published",
    "open_model": "spectralgpt.scenes.opened",
    "save_model": "spectralgpt.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
