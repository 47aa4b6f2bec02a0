"""Files of weights: what one is, and torch's own read without running code from it."""

import argparse
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectralgpt.errors import CheckpointError
from spectralgpt.models.building import plain_names

# Beside the weights in files of ours, so that any size can be built again.
PUBLISHED_CONFIG_KEY = "spectralgpt_config"
_WEIGHT_KEYS = ("model", "state_dict")
# What only training checkpoints of Lightning have, as last.ckpt.
_TRAINING_KEYS = ("pytorch-lightning_version", "optimizer_states")
_HEAD_BYTES = 512
_LFS_START = b"version https://git-lfs"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Numbers that training scripts note beside the weights; none of them runs anything.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    # Published files carry their command line as a Namespace, a plain record.
    argparse.Namespace,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]
# What torch.load raises on damaged bytes, beside errors of pickling.
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, MemoryError, AssertionError, struct.error, OSError),
)


def check_is_weights(path: Path) -> None:
    """Refuse what downloads and copies leave in the place of weights.

    Raises:
        CheckpointError: the file is empty, a web page or a Git LFS pointer, or cannot
            be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise CheckpointError(f"{path} is empty: download or copy it again.")
    if start.startswith(_LFS_START):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, which only says where the weights are: "
            "run `git lfs pull` in its repository."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            f"{path} is a web page, no weights: the address led to a page about the "
            "file. Download the file itself (on the Hugging Face Hub `resolve` in "
            "place of `blob` in the address)."
        )
    if start.startswith((b"{", b"[")):
        raise CheckpointError(
            f"{path} is a text (JSON), no weights: it may be a server's error message. "
            "Download the weights again."
        )


def is_safetensors(path: Path) -> bool:
    """Tell safetensors by their first bytes, whatever the file's name ends in."""
    with path.open("rb") as file:
        head = file.read(9)
    # A length, then the JSON header.
    return len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK"


def read_torch_file(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read what torch saved, on the CPU, without running any code from it.

    Args:
        path: a .pth, .pt or .ckpt file.
        mmap: leave tensors on disk until they are used.

    Raises:
        CheckpointError: the file is truncated, no checkpoint, or holds pickled code.
    """
    check_is_weights(path)
    try:
        with (
            torch.serialization.safe_globals(_HARMLESS),
            warnings.catch_warnings(),
        ):
            # torch warns of foreign pickles just before it refuses them.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mmap
            )
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        what = f"{found[1]}, pickled code" if found else "pickled code?"
        raise CheckpointError(
            f"{path} holds more than weights ({what}) or is no checkpoint, and was not "
            "loaded: pickled code is never run. Where you trust the file, save its "
            "weights alone, best as safetensors."
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint: download or copy it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path} holds a {type(checkpoint).__name__}, no weights."
        )
    return checkpoint


def read_published_file(path: Path) -> dict[str, Any]:
    """Read a published .pth file without running any code from it.

    Raises:
        CheckpointError: the file is truncated, no checkpoint, holds pickled code, or is
            the training checkpoint of a run.
    """
    checkpoint = read_torch_file(path)
    if all(key in checkpoint for key in _TRAINING_KEYS):
        raise CheckpointError(
            f"{path} is a training checkpoint, which only --resume reads: name the "
            "run's folder, which holds the model in checkpoints/model. A run of "
            "another program must export its weights first."
        )
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint.

    Args:
        checkpoint: the state dict itself, or a table that holds it under `model` or
            `state_dict`. Prefixes that compiling and parallel training put before every
            key are taken off.

    Raises:
        CheckpointError: there is no state dict.
    """
    weights: Any = checkpoint
    for key in _WEIGHT_KEYS:
        if isinstance(checkpoint.get(key), Mapping):
            weights = checkpoint[key]
            break
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(
            isinstance(name, str) and isinstance(value, Tensor)
            for name, value in weights.items()
        )
    ):
        raise CheckpointError(
            "checkpoint holds no state dict: expected parameter names with tensors, "
            f"bare or under the key {' or '.join(map(repr, _WEIGHT_KEYS))}."
        )
    return plain_names(weights)
