"""Published checkpoints: their files, their key names, their models.

Files are read by torch, which runs no code from them. The published code keeps query,
key and value apart, embeds tokens with a 3D convolution and calls the spectrum time.
The numbers are the same; this module renames, stacks and reshapes, there and back, bit
for bit. Each published model has one table of prefixes.
"""

import argparse
import logging
import math
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectralgpt.building import Model, build_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.objective import Objective
from spectralgpt.models.weights import (
    load_weights,
    plain_names,
    split_qkv,
    stack_qkv,
)
from spectralgpt.objectives.satmae import default_groups
from spectralgpt.weights import check_is_weights

_log = logging.getLogger(__name__)

# Beside the weights in files of ours, so that any size can be built again.
PUBLISHED_CONFIG_KEY = "spectralgpt_config"
_WEIGHT_KEYS = ("model", "state_dict")
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

# Heads cannot be read from shapes; these are the published widths.
_HEADS = {768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16}
_CHANGE_CLASSES = 2

_ENCODER = {
    "pos_embed": "encoder.positions.joint",
    "pos_embed_spatial": "encoder.positions.spatial",
    "pos_embed_temporal": "encoder.positions.spectral",
    "patch_embed.proj.": "encoder.embedding.",
    "blocks.": "encoder.blocks.",
    "norm.": "encoder.norm.",
}
_AUTOENCODER = _ENCODER | {
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed_spatial": "decoder.positions.spatial",
    "decoder_pos_embed_temporal": "decoder.positions.spectral",
    "decoder_embed.": "decoder.embedding.",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    "decoder_pred.": "decoder.prediction.",
}
_CLASSIFIER = _ENCODER | {"head.": "head."}
# Segmentation and change detection share one decoder, in their code two copies.
_DENSE = _ENCODER | {
    "fc.0.": "fusion.",
    "conv0.": "head.levels.0.",
    "conv1.": "head.levels.1.",
    "conv2.": "head.levels.2.",
    "conv3.": "head.levels.3.",
    "decoder.PPMHead.psp_modules.0.1.": "head.pooling.branches.0.",
    "decoder.PPMHead.psp_modules.1.1.": "head.pooling.branches.1.",
    "decoder.PPMHead.psp_modules.2.1.": "head.pooling.branches.2.",
    "decoder.PPMHead.psp_modules.3.1.": "head.pooling.branches.3.",
    "decoder.PPMHead.final.": "head.pooling.final.",
    "decoder.conv_x1.": "head.top.",
    "decoder.Conv_fuse1.": "head.laterals.0.",
    "decoder.Conv_fuse2.": "head.laterals.1.",
    "decoder.Conv_fuse3.": "head.laterals.2.",
    "decoder.Conv_fuse1_.": "head.outputs.0.",
    "decoder.Conv_fuse2_.": "head.outputs.1.",
    "decoder.Conv_fuse3_.": "head.outputs.2.",
    "decoder.fuse_all.": "head.fuse.",
    "cls_seg.0.": "head.classifier.",
}
_CONVOLUTION = "patch_embed.proj.weight"
_GROUP = "patch_embed.{}.proj.weight"
_Infer = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Any]]


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
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
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


def _weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's state dict: itself, or under `model` or `state_dict`.

    Prefixes that compiling and parallel training put before every key are taken off.
    """
    tables = (checkpoint.get(key) for key in _WEIGHT_KEYS)
    weights: Mapping[str, Any] = next(
        (table for table in tables if isinstance(table, Mapping)), checkpoint
    )
    if not weights or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in weights.items()
    ):
        raise CheckpointError(
            "checkpoint holds no state dict: expected parameter names with tensors, "
            f"bare or under the key {' or '.join(map(repr, _WEIGHT_KEYS))}."
        )
    return plain_names(weights)


def load_published_state_dict(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load published weights into a model of the same shape, strictly.

    Args:
        model: an `Objective`, `ClassificationModel`, `SegmentationModel`, `ChangeModel`
            or `SpectralEncoder`.
        state_dict: published names; or a whole checkpoint with a `model` or
            `state_dict` entry.

    Raises:
        CheckpointError: lists every missing, unexpected or differently shaped key.
    """
    _load(model, _weights_of(state_dict), assign=False)


def _load(model: nn.Module, weights: Mapping[str, Tensor], assign: bool) -> None:
    if isinstance(model, Objective) and not isinstance(model, MaskedAutoencoder):
        model.load_published_state_dict(weights)
        return
    ours = _from_published(weights)
    if isinstance(model, SpectralEncoder):
        ours = {name.removeprefix("encoder."): value for name, value in ours.items()}
    load_weights(model, ours, assign)


def build_published_model(
    checkpoint: Mapping[str, Any], stated: Mapping[str, Any] | None = None
) -> Model:
    """Build the model that a published checkpoint was saved from, and load it.

    Which of the models it is follows from keys and shapes: SpectralGPT's, or an
    autoencoder of MAE, SatMAE or ST-MAE. Segmentation and change detection
    have the same ones: a map of two classes is taken for change detection, as
    published. Load another one by `load_published_state_dict`.

    Args:
        checkpoint: from `read_torch_file`.
        stated: what shapes do not say: `num_heads` and `decoder_num_heads` of the
            attention, as far as they are other than published; `groups`, the numbers of
            the bands of each group of a SatMAE other than the paper's; `num_frames`,
            the dates of an ST-MAE whose places and times share a table.

    Raises:
        CheckpointError: keys or shapes are not those of a published model, or leave
            something in doubt.
        ConfigError: something is stated that the checkpoint says itself.
    """
    weights = _weights_of(checkpoint)
    own = checkpoint.get(PUBLISHED_CONFIG_KEY)
    if own and stated:
        raise ConfigError(f"the checkpoint says itself: leave out {min(stated)}.")
    config = own or _infer_config(weights, stated or {})
    if not isinstance(config, dict):
        raise CheckpointError(f"{PUBLISHED_CONFIG_KEY} in the checkpoint is no table.")
    # Without storage: random weights would be drawn only to be replaced.
    with torch.device("meta"):
        model = build_model(config)
    _load(model, weights, assign=True)
    return model.requires_grad_()


def _infer_config(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """Read kind and sizes from the keys and shapes of a published state dict."""
    infer = _infer_family(weights)
    for name, kinds in _STATED.items():
        if name in stated and infer not in kinds:
            raise ConfigError(f"the checkpoint has no {name}: leave it out.")
    if infer is not None:
        return infer(weights, stated)
    heads = stated
    encoder = _infer_encoder(weights, heads)
    if "decoder_embed.weight" in weights:
        width = _shape(weights, "decoder_embed.weight", 2)[0]
        return {
            "kind": "autoencoder",
            **encoder,
            "decoder_embed_dim": width,
            "decoder_depth": _count_blocks(weights, "decoder_blocks."),
            "decoder_num_heads": _heads_of(width, _DECODER_HEADS, heads, "decoder_"),
        }
    if "decoder_num_heads" in heads:
        raise ConfigError("the checkpoint has no decoder: leave out decoder_num_heads.")
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


def _infer_family(weights: Mapping[str, Tensor]) -> _Infer | None:
    """Return what reads an autoencoder of the family; None of SpectralGPT's models."""
    if "decoder_embed.weight" not in weights:
        return None
    if _GROUP.format(0) in weights:
        return _infer_satmae
    axes = weights[_CONVOLUTION].ndim if _CONVOLUTION in weights else 0
    if axes == 4:
        return _infer_mae
    # SpectralGPT takes the spectrum for time: one channel, and no class token.
    is_video = axes == 5 and weights[_CONVOLUTION].shape[1] > 1
    return _infer_st_mae if is_video or "cls_token" in weights else None


def _infer_sizes(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any], first: Sequence[int]
) -> dict[str, Any]:
    """Read what all autoencoders of the family have.

    Args:
        weights: published names.
        stated: heads, as far as they are.
        first: width and, last, patch size, as the first convolution has them.
    """
    width = _shape(weights, "decoder_embed.weight", 2)[0]
    return {
        "patch_size": first[-1],
        "embed_dim": first[0],
        "depth": _count_blocks(weights, "blocks."),
        "num_heads": _heads_of(first[0], _HEADS, stated),
        "decoder_embed_dim": width,
        "decoder_depth": _count_blocks(weights, "decoder_blocks."),
        "decoder_num_heads": _heads_of(width, _DECODER_HEADS, stated, "decoder_"),
    }


def _side(places: int, patch_size: int) -> int:
    return math.isqrt(places) * patch_size


def _infer_mae(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """Read MAE, or SatMAE of dates, whose codes of places are narrower."""
    first = _shape(weights, _CONVOLUTION, 4)
    _, places, width = _shape(weights, "pos_embed", 3)
    config = {
        **_infer_sizes(weights, stated, first),
        "num_bands": first[1],
        "image_size": _side(places - 1, first[-1]),
    }
    if width == first[0]:
        return {"kind": "mae", **config}
    decoder = config["decoder_embed_dim"]
    hidden = _shape(weights, "blocks.0.mlp.fc1.weight", 2)[0]
    return {
        "kind": "satmae",
        **config,
        "temporal": True,
        "date_dim": (first[0] - width) // 3,
        "decoder_date_dim": (decoder - _shape(weights, "decoder_pos_embed", 3)[2]) // 3,
        "mlp_ratio": hidden / first[0],
    }


def _infer_satmae(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any]
) -> dict[str, Any]:
    names = [
        name for name in map(_GROUP.format, range(len(weights))) if name in weights
    ]
    shapes = [_shape(weights, name, 4) for name in names]
    sizes, num_bands = [shape[1] for shape in shapes], sum(shape[1] for shape in shapes)
    groups = stated.get("groups") or default_groups(num_bands)
    if not stated.get("groups") and sizes != [4, 4, 2]:
        raise CheckpointError(
            f"its band groups hold {', '.join(map(str, sizes))} bands, but it does not "
            "say which: convert it with --groups and the numbers of the bands of each "
            "group, in the order of the image's bands, such as [[0, 1], [2, 3, 4]]."
        )
    if [len(group) for group in groups] != sizes:
        raise CheckpointError(
            f"groups {[list(group) for group in groups]} are stated, but its band "
            f"groups hold {', '.join(map(str, sizes))} bands."
        )
    places = _shape(weights, "pos_embed", 3)[1]
    return {
        "kind": "satmae",
        **_infer_sizes(weights, stated, shapes[0]),
        "num_bands": num_bands,
        "image_size": _side(places - 1, shapes[0][-1]),
        "groups": groups,
        "group_dim": _shape(weights, "channel_embed", 3)[2],
        "decoder_group_dim": _shape(weights, "decoder_channel_embed", 3)[2],
    }


def _infer_st_mae(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any]
) -> dict[str, Any]:
    first = _shape(weights, _CONVOLUTION, 5)
    _, num_bands, t_patch, P, _ = first
    has_token = "cls_token" in weights
    is_separate = "pos_embed_spatial" in weights
    if is_separate:
        times = _shape(weights, "pos_embed_temporal", 3)[1]
        places = _shape(weights, "pos_embed_spatial", 3)[1]
    elif "num_frames" not in stated:
        raise CheckpointError(
            "its places and times share a table, which does not say how many dates "
            "there are: convert it with --num-frames N."
        )
    else:
        times = max(1, stated["num_frames"] // t_patch)
        places = (_shape(weights, "pos_embed", 3)[1] - has_token) // times
    rows = _shape(weights, "decoder_pred.weight", 2)[0]
    return {
        "kind": "st-mae",
        **_infer_sizes(weights, stated, first),
        "num_bands": num_bands,
        "image_size": _side(places, P),
        "num_frames": times * t_patch,
        "t_patch": t_patch,
        "pred_t_dim": times * (rows // (num_bands * P**2)),
        "sep_pos_embed": is_separate,
        "class_token": has_token,
    }


# What shapes may not say, and of which checkpoints.
_STATED: dict[str, tuple[_Infer, ...]] = {
    "groups": (_infer_satmae,),
    "num_frames": (_infer_st_mae,),
}


def _heads_of(
    width: int, known: Mapping[int, int], stated: Mapping[str, Any], part: str = ""
) -> int:
    name = f"{part}num_heads"
    if name not in stated and width not in known:
        raise CheckpointError(
            f"{part.replace('_', ' ')}width {width} is none of the published "
            f"{', '.join(map(str, known))}, so the number of heads is in doubt, and "
            "another one gives other numbers. Convert it first, with the number that "
            f"it was trained with: spectralgpt convert --{name.replace('_', '-')} N."
        )
    return int(stated[name]) if name in stated else known[width]


def _infer_dense(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    num_classes, channels, _, _ = _shape(weights, "cls_seg.0.weight", 4)
    kind = "change-detector" if num_classes == _CHANGE_CLASSES else "segmenter"
    _log.info("%d classes: taken for a published %s", num_classes, kind)
    return {
        "kind": kind,
        "num_classes": num_classes,
        "head": "upernet",
        "head_channels": channels,
        "apply_norm": False,
    }


def _infer_encoder(
    weights: Mapping[str, Tensor], heads: Mapping[str, int]
) -> dict[str, Any]:
    shape = _shape(weights, _CONVOLUTION, 5)
    embed_dim, _, bands_per_token, patch_size, _ = shape
    num_heads = _heads_of(embed_dim, _HEADS, heads)
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
    return len({key.split(".")[1] for key in weights if key.startswith(prefix)})


def _rename(key: str, table: Mapping[str, str]) -> str | None:
    """Replace what the table knows: a whole name, or a prefix that ends in a dot."""
    for old, new in table.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            return new + key.removeprefix(old)
    return None


def _our_name(key: str) -> str:
    name = _rename(key, _AUTOENCODER | _CLASSIFIER | _DENSE)
    if name is None:
        raise CheckpointError(
            f"key {key!r} is not one of a published SpectralGPT model."
        )
    return name


def _published_names(names: Collection[str]) -> dict[str, str]:
    """Return the published key of each of our names."""
    table = _DENSE if "fusion.weight" in names else _AUTOENCODER | _CLASSIFIER
    backwards = {ours: theirs for theirs, ours in table.items()}
    keys = {}
    for name in names:
        key = _rename(name, backwards)
        if key is None:
            raise CheckpointError(
                f"parameter {name!r} has no place in the published format."
            )
        keys[name] = key
    return keys


def _from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict to our names; also serves for gradients."""
    ours: dict[str, Tensor] = {}
    for key, tensor in stack_qkv(state_dict).items():
        is_cube = key == _CONVOLUTION and tensor.ndim == 5
        ours[_our_name(key)] = tensor.flatten(1) if is_cube else tensor
    return ours


def to_published(
    state_dict: Mapping[str, Tensor], patch_size: int, bands_per_token: int
) -> dict[str, Tensor]:
    """Rename our state dict to the published names; the inverse of `_from_published`.

    Args:
        state_dict: our names.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.

    Raises:
        CheckpointError: a parameter has no published counterpart.
    """
    published: dict[str, Tensor] = {}
    for name, key in _published_names(state_dict).items():
        tensor = state_dict[name]
        if key == _CONVOLUTION:
            shape = (len(tensor), 1, bands_per_token, patch_size, patch_size)
            tensor = tensor.reshape(shape)
        published[key] = tensor
    return split_qkv(published)
