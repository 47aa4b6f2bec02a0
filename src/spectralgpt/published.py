"""The published SpectralGPT checkpoints: their key names, file format and shapes.

The published code keeps query, key and value apart, embeds tokens with a 3D
convolution and calls the spectrum time. The numbers are the same; this module renames,
stacks and reshapes, so that conversion there and back is bit-identical.
"""

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import CheckpointError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder

__all__ = [
    "PUBLISHED_CONFIG_KEY",
    "build_published_model",
    "from_published",
    "load_published_state_dict",
    "read_published_file",
    "to_published",
]

_NAMES = {
    "mask_token": "decoder.mask_token",
    "pos_embed": "encoder.positions.joint",
    "pos_embed_spatial": "encoder.positions.spatial",
    "pos_embed_temporal": "encoder.positions.spectral",
    "decoder_pos_embed_spatial": "decoder.positions.spatial",
    "decoder_pos_embed_temporal": "decoder.positions.spectral",
}
_PREFIXES = {
    "patch_embed.proj.": "encoder.embedding.",
    "blocks.": "encoder.blocks.",
    "norm.": "encoder.norm.",
    "decoder_embed.": "decoder.embedding.",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    "decoder_pred.": "decoder.prediction.",
    "head.": "head.",
}
_QKV = re.compile(r"(.*\.attn\.)([qkv])(\.(?:weight|bias))")
_FUSED = re.compile(r"(.*\.attn\.)qkv(\.(?:weight|bias))")
_CONVOLUTION = "patch_embed.proj.weight"
# Heads cannot be read from shapes; these are the published widths.
_HEADS = {768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16}
PUBLISHED_CONFIG_KEY = "spectralgpt_config"
_MAX_LISTED = 8


def _our_name(key: str) -> str:
    if key in _NAMES:
        return _NAMES[key]
    for prefix, ours in _PREFIXES.items():
        if key.startswith(prefix):
            return ours + key.removeprefix(prefix)
    raise CheckpointError(f"key {key!r} is not one of a published SpectralGPT model.")


def _published_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        if name == ours:
            return theirs
    for theirs, ours in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"parameter {name!r} has no place in the published format.")


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict to our names; also serves for gradients.

    Args:
        state_dict: published names.

    Returns:
        Our names, as in `MaskedAutoencoder` and `ClassificationModel`.

    Raises:
        CheckpointError: a key is unknown, or one of q, k, v is missing.
    """
    ours: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        matched = _QKV.fullmatch(key)
        if matched is None:
            value = tensor.flatten(1) if key == _CONVOLUTION else tensor
            ours[_our_name(key)] = value
        elif matched[2] == "q":
            parts = [matched[1] + part + matched[3] for part in "qkv"]
            missing = [part for part in parts if part not in state_dict]
            if missing:
                raise CheckpointError(f"checkpoint lacks {', '.join(missing)}.")
            stacked = torch.cat([state_dict[part] for part in parts])
            ours[_our_name(f"{matched[1]}qkv{matched[3]}")] = stacked
        elif f"{matched[1]}q{matched[3]}" not in state_dict:
            raise CheckpointError(f"checkpoint has {key} but no query beside it.")
    return ours


def to_published(
    state_dict: Mapping[str, Tensor], patch_size: int, bands_per_token: int
) -> dict[str, Tensor]:
    """Rename our state dict to the published names; the inverse of `from_published`.

    Args:
        state_dict: our names.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.

    Raises:
        CheckpointError: a parameter has no published counterpart.
    """
    published: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        key = _published_name(name)
        fused = _FUSED.fullmatch(key)
        if key == _CONVOLUTION:
            shape = (len(tensor), 1, bands_per_token, patch_size, patch_size)
            published[key] = tensor.reshape(shape)
        elif fused:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                published[fused[1] + part + fused[2]] = chunk.clone()
        else:
            published[key] = tensor
    return published


def load_published_state_dict(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load published weights into a model of the same shape, strictly.

    Args:
        model: `MaskedAutoencoder`, `ClassificationModel` or `SpectralEncoder`.
        state_dict: published names; a whole checkpoint with a `model` entry also goes.

    Raises:
        CheckpointError: lists every missing, unexpected or differently shaped key.
    """
    _load(model, state_dict, assign=False)


def _load(model: nn.Module, state_dict: Mapping[str, Any], assign: bool) -> None:
    ours = from_published(_weights_of(state_dict))
    if isinstance(model, SpectralEncoder):
        ours = {name.removeprefix("encoder."): value for name, value in ours.items()}
    _check_fit(model.state_dict(), ours)
    model.load_state_dict(ours, assign=assign)


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, needs {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if problems:
        listed = "; ".join(problems[:_MAX_LISTED])
        more = len(problems) - _MAX_LISTED
        rest = f"; and {more} more" if more > 0 else ""
        raise CheckpointError(f"weights do not fit the model: {listed}{rest}.")


def _weights_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    weights = checkpoint.get("model", checkpoint)
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise CheckpointError(
            "checkpoint holds no state dict: expected parameter names with tensors, "
            "bare or under the key 'model'."
        )
    return weights


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


def build_published_model(
    checkpoint: Mapping[str, Any],
) -> MaskedAutoencoder | ClassificationModel:
    """Build the model that a published checkpoint was saved from, and load it.

    Args:
        checkpoint: from `read_published_file`.

    Raises:
        CheckpointError: keys or shapes are not those of a published model.
    """
    weights = _weights_of(checkpoint)
    config = checkpoint.get(PUBLISHED_CONFIG_KEY) or _infer_config(weights)
    if not isinstance(config, dict):
        raise CheckpointError(f"{PUBLISHED_CONFIG_KEY} in the checkpoint is no table.")
    model: MaskedAutoencoder | ClassificationModel
    try:
        # Without storage: random weights would be drawn only to be replaced.
        with torch.device("meta"):
            if "head.weight" in weights:
                encoder = SpectralEncoder(**config)
                classes = len(weights["head.weight"])
                model = ClassificationModel(encoder, classes, skip_first_token=True)
            else:
                model = MaskedAutoencoder(**config)
    except TypeError as error:
        raise CheckpointError(
            f"{PUBLISHED_CONFIG_KEY} does not fit: {error}."
        ) from error
    _load(model, weights, assign=True)
    return model.requires_grad_()


def _infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read sizes from the shapes of a published state dict."""
    if _CONVOLUTION not in weights or weights[_CONVOLUTION].ndim != 5:
        raise CheckpointError(
            f"checkpoint has no 3D convolution {_CONVOLUTION!r}: this is not a "
            "published SpectralGPT model."
        )
    embed_dim, _, bands_per_token, patch_size, _ = weights[_CONVOLUTION].shape
    if embed_dim not in _HEADS:
        raise CheckpointError(
            f"width {embed_dim} is none of the published "
            f"{', '.join(map(str, _HEADS))}, so the number of heads is in doubt: build "
            "the model and use load_published_state_dict."
        )
    config: dict[str, Any] = {
        "patch_size": patch_size,
        "bands_per_token": bands_per_token,
        "embed_dim": embed_dim,
        "depth": _count_blocks(weights, "blocks."),
        "num_heads": _HEADS[embed_dim],
    }
    if "pos_embed_spatial" in weights and "pos_embed_temporal" in weights:
        positions = weights["pos_embed_spatial"].shape[1]
        groups = weights["pos_embed_temporal"].shape[1]
    elif "pos_embed" in weights:
        # One joint table does not say its band groups; all published sizes have four.
        groups = 4
        positions = weights["pos_embed"].shape[1] // groups
        config["positions"] = "joint"
    else:
        raise CheckpointError("checkpoint has no position tables (pos_embed...).")
    config["image_size"] = math.isqrt(positions) * patch_size
    config["num_bands"] = groups * bands_per_token
    if "decoder_embed.weight" in weights:
        width = len(weights["decoder_embed.weight"])
        config["decoder_embed_dim"] = width
        config["decoder_depth"] = _count_blocks(weights, "decoder_blocks.")
        config["decoder_num_heads"] = _DECODER_HEADS.get(width, 16)
    return config


def _count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    indices = {key.split(".")[1] for key in weights if key.startswith(prefix)}
    return len(indices)
