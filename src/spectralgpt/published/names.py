"""Key names of the published weights, and the way there and back, bit for bit.

The published code keeps query, key and value apart, embeds tokens with a 3D
convolution and calls the spectrum time. The numbers are the same; this module renames,
stacks and reshapes. Each published model has one table of prefixes.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from spectralgpt.errors import CheckpointError

__all__ = ["CONVOLUTION", "from_published", "to_published"]

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
_QKV = re.compile(r"(.*\.attn\.)([qkv])(\.(?:weight|bias))")
_FUSED = re.compile(r"(.*\.attn\.)qkv(\.(?:weight|bias))")
CONVOLUTION = "patch_embed.proj.weight"


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
    keys = {name: _rename(name, backwards) for name in names}
    for name, key in keys.items():
        if key is None:
            raise CheckpointError(
                f"parameter {name!r} has no place in the published format."
            )
    return {name: key for name, key in keys.items() if key is not None}


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict to our names; also serves for gradients.

    Args:
        state_dict: published names.

    Returns:
        Our names, as in `MaskedAutoencoder`, `ClassificationModel`, `SegmentationModel`
        and `ChangeModel`.

    Raises:
        CheckpointError: a key is unknown, or one of q, k, v is missing or of another
            shape.
    """
    ours: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        matched = _QKV.fullmatch(key)
        if matched is None:
            is_cube = key == CONVOLUTION and tensor.ndim == 5
            value = tensor.flatten(1) if is_cube else tensor
            ours[_our_name(key)] = value
        elif matched[2] == "q":
            parts = [matched[1] + part + matched[3] for part in "qkv"]
            missing = [part for part in parts if part not in state_dict]
            if missing:
                raise CheckpointError(f"checkpoint lacks {', '.join(missing)}.")
            if len({state_dict[part].shape for part in parts}) > 1:
                raise CheckpointError(f"{', '.join(parts)} differ in shape.")
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
    for name, key in _published_names(state_dict).items():
        tensor = state_dict[name]
        fused = _FUSED.fullmatch(key)
        if key == CONVOLUTION:
            shape = (len(tensor), 1, bands_per_token, patch_size, patch_size)
            published[key] = tensor.reshape(shape)
        elif fused:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                published[fused[1] + part + fused[2]] = chunk.clone()
        else:
            published[key] = tensor
    return published
