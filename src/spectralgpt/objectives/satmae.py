"""SatMAE: tokens of band groups, or of several dates, are told apart by fixed codes.

Source: Cong et al. 2022, arXiv:2207.08051.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectralgpt.errors import ConfigError
from spectralgpt.models.blocks import MLP_RATIO
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.vit import GridCodes, Groups, VisionTransformer, check_groups
from spectralgpt.models.vit_autoencoder import (
    AUTOENCODER_NAMES,
    LossOn,
    VitAutoencoder,
)

# Of ten bands of Sentinel-2: 10 m; red edge and near infrared; short-wave infrared.
_PUBLISHED_GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
_GROUP_BANDS = 4
# Widths of each of year, month and hour, by the part of the model.
_PUBLISHED_DATES = {"": 128, "decoder_": 64}


def default_groups(num_bands: int) -> tuple[tuple[int, ...], ...]:
    """Return the published groups of ten bands, else fours of neighbours."""
    if num_bands == 10:
        return _PUBLISHED_GROUPS
    count = max(1, round(num_bands / _GROUP_BANDS))
    edges = [round(g * num_bands / count) for g in range(count + 1)]
    return tuple(tuple(range(first, last)) for first, last in pairwise(edges))


class SatMAE(VitAutoencoder):
    """The masked autoencoder of band groups, or of series.

    Its prediction is (B, C, Hp * Wp, P * P), its mask (B, G, Hp * Wp). With `temporal`
    it takes series (B, T, C, H, W) with their dates instead, and a token is a patch of
    all bands at one date; the prediction is then (B, T * Hp * Wp, P * P * C), by pixel
    row, pixel column, then band, and the mask (B, T * Hp * Wp).

    Args:
        groups: bands of each group, by number; None takes those of the paper for ten
            bands, else fours of neighbours.
        group_dim: width of the encoder's code of a group; None takes a third of its
            width.
        decoder_group_dim: likewise of the decoder; None takes a quarter.
        consistent_mask: hide the same places in all groups or dates (the paper's
            consistent mask, `spatial_mask` and `same_mask` of its code); else each
            token by itself.
        temporal: tokens of dates instead of band groups.
        date_dim: width of each of the encoder's codes of year, month and hour; None
            takes an eighth of its width, or what the published code has.
        decoder_date_dim: likewise of the decoder.
        mlp_ratio: hidden width of the MLPs over that of their blocks.
        normalize_targets: compare each place normalised, all groups together.
        published: compare predictions, in the order of the groups, with bands in that
            of the image, as the published code does by mistake; codes of dates are as
            wide as there, whatever the model; and a consistent mask over dates shows
            as many tokens more of the first date as an inconsistent one would.

    The others are those of `Objective`.

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
        temporal: bool = False,
        date_dim: int | None = None,
        decoder_date_dim: int | None = None,
        mlp_ratio: float = MLP_RATIO,
        normalize_targets: bool = False,
        loss_on: LossOn = "masked",
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        widths = self._code_widths(settings)
        stated = None if temporal else groups or default_groups(num_bands)
        groups = check_groups(stated, num_bands)
        encoder = VisionTransformer(
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            groups=groups,
            group_dim=widths["group_dim"],
            date_dim=widths["date_dim"],
            codes_token=False,
            mlp_ratio=mlp_ratio,
        )
        codes = GridCodes(
            image_size // patch_size,
            decoder_embed_dim,
            groups=len(groups),
            group_dim=widths["decoder_group_dim"],
            date_dim=widths["decoder_date_dim"],
        )
        settings["groups"] = None if temporal else groups
        super().__init__(encoder, codes, settings, bands_last=temporal)
        self.published = published
        self.temporal = self.takes_series = temporal

    @staticmethod
    def _code_widths(settings: Mapping[str, Any]) -> dict[str, int]:
        """Return the widths of the codes of groups and dates; 0 where there are none.

        Raises:
            ConfigError: a setting is of groups, and dates are coded, or the other way.
        """
        temporal, published = settings["temporal"], settings["published"]
        of_groups = ("groups", "group_dim", "decoder_group_dim")
        for name in of_groups if temporal else ("date_dim", "decoder_date_dim"):
            if settings[name] is not None:
                raise ConfigError(
                    f"{name} is set, but temporal is {str(temporal).lower()}: tokens "
                    "are of band groups or of dates. Leave one of them out."
                )
        found = {}
        for prefix, share in (("", 3), ("decoder_", 4)):
            width = settings[f"{prefix}embed_dim"]
            # Whatever is left for places must be a multiple of four.
            eighth = max(4, width // 32 * 4)
            part = width // share
            usual = {
                "group_dim": part - (part - width) % 4,
                "date_dim": _PUBLISHED_DATES[prefix] if published else eighth,
            }
            for name, value in usual.items():
                stated = settings[prefix + name]
                has_code = temporal == (name == "date_dim")
                found[prefix + name] = (
                    (value if stated is None else stated) if has_code else 0
                )
        return found

    def _hide(
        self, noise: Tensor, mask_ratio: float | None, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        visible, mask = super()._hide(noise, mask_ratio, shape)
        if not (self.temporal and self.published and self.consistent_mask):
            return visible, mask
        dates, units = shape[0], noise.shape[1]
        hidden = noise.argsort(dim=1)[:, visible.shape[1] // dates :]
        shown = int(dates * units * (1 - self.ratio_of(mask_ratio)))
        more = hidden[:, : shown - visible.shape[1]]
        return torch.cat([visible, more], dim=1), mask.scatter(1, more, 0.0)

    def _in_order(self, prediction: Tensor) -> Tensor:
        return prediction if self.published else super()._in_order(prediction)

    def _laid_out(self, prediction: Tensor) -> Tensor:
        if self.temporal:
            return super()._laid_out(prediction)
        return prediction.transpose(1, 2).flatten(2, 3)

    def _shaped(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        if self.temporal:
            return mask
        return mask.unflatten(1, (shape[0] * shape[1], -1))

    def _published(self) -> dict[str, str]:
        if self.temporal:
            return AUTOENCODER_NAMES
        names = dict(AUTOENCODER_NAMES)
        del names["patch_embed.proj."], names["decoder_pred."]
        for g in range(self.encoder.groups):
            names[f"patch_embed.{g}.proj."] = f"encoder.embedding.{g}."
            names[f"decoder_pred.{g}."] = f"predictions.{g}."
        names["channel_embed"] = "encoder.positions.group"
        names["decoder_channel_embed"] = "decoder_positions.group"
        return names


OBJECTIVE = SatMAE
