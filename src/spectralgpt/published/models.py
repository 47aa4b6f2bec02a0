"""Building the model that a published checkpoint was saved from."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import CheckpointError
from spectralgpt.models.building import Model, build_model, load_weights
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.published.files import PUBLISHED_CONFIG_KEY, weights_of
from spectralgpt.published.names import CONVOLUTION, from_published

__all__ = ["build_published_model", "load_published_state_dict"]

_log = logging.getLogger(__name__)

# Heads cannot be read from shapes; these are the published widths.
_HEADS = {768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16}
_CHANGE_CLASSES = 2


def load_published_state_dict(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load published weights into a model of the same shape, strictly.

    Args:
        model: `MaskedAutoencoder`, `ClassificationModel`, `SegmentationModel`,
            `ChangeModel` or `SpectralEncoder`.
        state_dict: published names; a whole checkpoint with a `model` or `state_dict`
            entry also goes.

    Raises:
        CheckpointError: lists every missing, unexpected or differently shaped key.
    """
    _load(model, weights_of(state_dict), assign=False)


def _load(model: nn.Module, weights: Mapping[str, Tensor], assign: bool) -> None:
    ours = from_published(weights)
    if isinstance(model, SpectralEncoder):
        ours = {name.removeprefix("encoder."): value for name, value in ours.items()}
    load_weights(model, ours, assign)


def build_published_model(checkpoint: Mapping[str, Any]) -> Model:
    """Build the model that a published checkpoint was saved from, and load it.

    Which of the models it is follows from the keys. Segmentation and change detection
    have the same ones: a map of two classes is taken for change detection, as
    published. Load another one by `load_published_state_dict`.

    Args:
        checkpoint: from `read_published_file`.

    Raises:
        CheckpointError: keys or shapes are not those of a published model.
    """
    weights = weights_of(checkpoint)
    config = checkpoint.get(PUBLISHED_CONFIG_KEY) or _infer_config(weights)
    if not isinstance(config, dict):
        raise CheckpointError(f"{PUBLISHED_CONFIG_KEY} in the checkpoint is no table.")
    # Without storage: random weights would be drawn only to be replaced.
    with torch.device("meta"):
        model = build_model(config)
    _load(model, weights, assign=True)
    return model.requires_grad_()


def _infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read kind and sizes from the keys and shapes of a published state dict."""
    encoder = _infer_encoder(weights)
    if "decoder_embed.weight" in weights:
        width = _shape(weights, "decoder_embed.weight", 2)[0]
        return {
            "kind": "autoencoder",
            **encoder,
            "decoder_embed_dim": width,
            "decoder_depth": _count_blocks(weights, "decoder_blocks."),
            "decoder_num_heads": _heads_of(width, _DECODER_HEADS, "decoder width"),
        }
    if "cls_seg.0.weight" in weights:
        return _infer_dense(weights) | {"encoder": encoder}
    if "head.weight" not in weights:
        raise CheckpointError(
            "checkpoint has neither a decoder (decoder_embed.weight) nor a head "
            "(head.weight, cls_seg.0.weight): load it into a SpectralEncoder with "
            "load_published_state_dict."
        )
    classes = _shape(weights, "head.weight", 2)[0]
    own = {"num_classes": classes, "skip_first_token": True}
    return {"kind": "classifier", "encoder": encoder, **own}


def _heads_of(width: int, known: Mapping[int, int], what: str) -> int:
    if width not in known:
        raise CheckpointError(
            f"{what} {width} is none of the published {', '.join(map(str, known))}, so "
            "the number of heads is in doubt, and another one gives other numbers. In "
            "Python, build the model with the heads that it was trained with and use "
            "load_published_state_dict."
        )
    return known[width]


def _infer_dense(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    num_classes, channels, _, _ = _shape(weights, "cls_seg.0.weight", 4)
    is_change = num_classes == _CHANGE_CLASSES
    kind = "change-detector" if is_change else "segmenter"
    _log.info("%d classes: taken for a published %s", num_classes, kind)
    return {
        "kind": kind,
        "num_classes": num_classes,
        "head": "upernet",
        "head_channels": channels,
        "apply_norm": False,
    }


def _infer_encoder(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    shape = _shape(weights, CONVOLUTION, 5)
    embed_dim, _, bands_per_token, patch_size, _ = shape
    num_heads = _heads_of(embed_dim, _HEADS, "width")
    if "pos_embed_spatial" in weights and "pos_embed_temporal" in weights:
        kind = "separable"
        positions = _shape(weights, "pos_embed_spatial", 3)[1]
        groups = _shape(weights, "pos_embed_temporal", 3)[1]
    elif "pos_embed" in weights:
        # One joint table does not say its band groups; all published sizes have four.
        kind, groups = "joint", 4
        positions = _shape(weights, "pos_embed", 3)[1] // groups
    else:
        raise CheckpointError("checkpoint has no position tables (pos_embed...).")
    config: dict[str, Any] = {
        "image_size": math.isqrt(positions) * patch_size,
        "num_bands": groups * bands_per_token,
        "patch_size": patch_size,
        "bands_per_token": bands_per_token,
        "embed_dim": embed_dim,
        "depth": _count_blocks(weights, "blocks."),
        "num_heads": num_heads,
    }
    # Autoencoders have separable tables only, and no such setting.
    return config | ({"positions": kind} if kind == "joint" else {})


def _shape(weights: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    found = tuple(weights[key].shape) if key in weights else None
    if found is None or len(found) != ndim or 0 in found:
        raise CheckpointError(
            f"{key} has shape {found}, needs {ndim} axes: this is not a published "
            "SpectralGPT model."
        )
    return found


def _count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    indices = {key.split(".")[1] for key in weights if key.startswith(prefix)}
    return len(indices)
