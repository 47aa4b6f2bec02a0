"""Published checkpoint files: read without running code, and found wanting early."""

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectralgpt.errors import CheckpointError

__all__ = ["PUBLISHED_CONFIG_KEY", "read_published_file", "weights_of"]

# Beside the weights in files of ours, so that any size can be built again.
PUBLISHED_CONFIG_KEY = "spectralgpt_config"
_WEIGHT_KEYS = ("model", "state_dict")
_PARALLEL = "module."


def read_published_file(path: Path) -> dict[str, Any]:
    """Read a published .pth file without running any code from it.

    Raises:
        CheckpointError: the file is truncated, no checkpoint, or holds pickled code.
    """
    try:
        # Published files carry their command line as a Namespace, a plain record.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(),
        ):
            # torch warns of foreign pickles just before it refuses them.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights (pickled code?) or is no checkpoint, and "
            "was not loaded: convert it to safetensors where you trust it."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint: download or copy it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path} holds a {type(checkpoint).__name__}, no weights."
        )
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint.

    Args:
        checkpoint: the state dict itself, or a table that holds it under `model` or
            `state_dict`. The prefix that parallel training puts before every key is
            taken off.

    Raises:
        CheckpointError: there is no state dict.
    """
    weights: Any = checkpoint
    for key in _WEIGHT_KEYS:
        if key in checkpoint:
            weights = checkpoint[key]
            break
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in weights.items()
    ):
        raise CheckpointError(
            "checkpoint holds no state dict: expected parameter names with tensors, "
            f"bare or under the key {' or '.join(map(repr, _WEIGHT_KEYS))}."
        )
    if weights and all(name.startswith(_PARALLEL) for name in weights):
        return {name.removeprefix(_PARALLEL): weights[name] for name in weights}
    return dict(weights)
