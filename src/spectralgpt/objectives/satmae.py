"""SatMAE: band groups have tokens of their own, told apart by fixed codes.

Source: Cong et al. 2022, arXiv:2207.08051.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from spectralgpt.models.vit import GridCodes, Groups, VisionTransformer, check_groups
from spectralgpt.models.vit_autoencoder import (
    AUTOENCODER_NAMES,
    LossOn,
    VitAutoencoder,
)

# Of ten bands of Sentinel-2: 10 m; red edge and near infrared; short-wave infrared.
_PUBLISHED_GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
_GROUP_BANDS = 4


def default_groups(num_bands: int) -> tuple[tuple[int, ...], ...]:
    """Return the published groups of ten bands, else fours of neighbours."""
    if num_bands == 10:
        return _PUBLISHED_GROUPS
    count = max(1, round(num_bands / _GROUP_BANDS))
    edges = [round(g * num_bands / count) for g in range(count + 1)]
    return tuple(tuple(range(first, last)) for first, last in pairwise(edges))


class SatMAE(VitAutoencoder):
    """The masked autoencoder of band groups.

    Its prediction is (B, C, Hp * Wp, P * P), its mask (B, G, Hp * Wp). Of series each
    date is a sample.

    Args:
        image_size: side in px of the images whose positions are made.
        num_bands: bands C.
        patch_size: side P of a patch, px.
        embed_dim: width of the encoder.
        depth: blocks of the encoder.
        num_heads: attention heads of the encoder.
        decoder_embed_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of the decoder.
        groups: bands of each group, by number; None takes those of the paper for ten
            bands, else fours of neighbours.
        group_dim: width of the encoder's code of a group; None takes a third of its
            width.
        decoder_group_dim: likewise of the decoder; None takes a quarter.
        consistent_mask: hide the same places in all groups; else each token by itself.
        normalize_targets: compare each place normalised, all groups together.
        loss_on: whether `masked` tokens count, or `all`.
        published: compare predictions, in the order of the groups, with bands in that
            of the image, as the published code does by mistake.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "satmae"

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 10,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        groups: Groups | None = None,
        group_dim: int | None = None,
        decoder_group_dim: int | None = None,
        consistent_mask: bool = False,
        normalize_targets: bool = False,
        loss_on: LossOn = "masked",
        published: bool = False,
    ) -> None:
        settings: dict[str, Any] = {
            k: v for k, v in locals().items() if k not in ("self", "__class__")
        }
        groups = check_groups(groups or default_groups(num_bands), num_bands)
        encoder = VisionTransformer(
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            groups=groups,
            group_dim=embed_dim // 3 if group_dim is None else group_dim,
            codes_token=False,
        )
        if decoder_group_dim is None:
            decoder_group_dim = decoder_embed_dim // 4
        codes = GridCodes(
            image_size // patch_size,
            decoder_embed_dim,
            groups=len(groups),
            group_dim=decoder_group_dim,
        )
        super().__init__(
            encoder,
            codes,
            decoder_depth,
            decoder_num_heads,
            normalize_targets=normalize_targets,
            loss_on=loss_on,
            consistent_mask=consistent_mask,
        )
        self.published = published
        self.config = settings | {"groups": groups}

    def _in_order(self, prediction: Tensor) -> Tensor:
        return prediction if self.published else super()._in_order(prediction)

    def _laid_out(self, prediction: Tensor) -> Tensor:
        return prediction.transpose(1, 2).flatten(2, 3)

    def _shaped(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        return mask.unflatten(1, (shape[0] * shape[1], -1))

    def _published(self) -> dict[str, str]:
        names = {
            name: ours
            for name, ours in AUTOENCODER_NAMES.items()
            if name not in ("patch_embed.proj.", "decoder_pred.")
        }
        for g in range(self.encoder.groups):
            names[f"patch_embed.{g}.proj."] = f"encoder.embedding.{g}."
            names[f"decoder_pred.{g}."] = f"predictions.{g}."
        names["channel_embed"] = "encoder.positions.group"
        names["decoder_channel_embed"] = "decoder_positions.group"
        return names


OBJECTIVE = SatMAE
