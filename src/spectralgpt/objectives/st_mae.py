"""ST-MAE: dates are time; tubelets of several dates are hidden one by one.

Source: Feichtenhofer et al. 2022, arXiv:2205.09113.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError
from spectralgpt.models.blocks import initialise_linear
from spectralgpt.models.cpu import move
from spectralgpt.models.objective import ObjectiveOutput
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.vit import (
    GridCodes,
    VisionTransformer,
    cut_patches,
    fill_tubelets,
)
from spectralgpt.models.vit_autoencoder import (
    AUTOENCODER_NAMES,
    LossOn,
    VitAutoencoder,
)
from spectralgpt.models.weights import plain_names, split_qkv, stack_qkv

_STD = 0.02
_CONVOLUTION = "patch_embed.proj.weight"


class STMAE(VitAutoencoder):
    """The masked autoencoder of series: a token is a patch of neighbouring dates.

    Images are (B, T, C, H, W), by date; of fewer dates than `num_frames` the first
    places in time are used, and the last date is repeated where a tubelet is not full.
    Its prediction is (B, N, u * P * P * C), by date, pixel row, pixel column, then
    band, of u predicted dates a tubelet; its mask (B, N).

    Args:
        num_frames: most dates T, whose places in time are learned.
        t_patch: dates of a tubelet; `num_frames` is a multiple.
        pred_t_dim: how many of `num_frames` dates are predicted, spread over all of
            them, as many a tubelet; None predicts all.
        sep_pos_embed: learn places and times apart; else one table of both.
        class_token: whether there is one.
        published: as the published code: the decoder's class token starts at zero, and
            images may be (B, C, T, H, W) where T is not C.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "st-mae"
    default_mask_ratio = 0.9
    takes_series = True

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        num_frames: int = 4,
        t_patch: int = 2,
        pred_t_dim: int | None = None,
        sep_pos_embed: bool = True,
        class_token: bool = True,
        normalize_targets: bool = False,
        loss_on: LossOn = "masked",
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        predicted = _frames_per_prediction(num_frames, t_patch, pred_t_dim)
        encoder = VisionTransformer(
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            frames_per_token=t_patch,
            num_dates=num_frames,
            positions="learned",
            joint_positions=not sep_pos_embed,
            codes_token=class_token,
            class_token=class_token,
        )
        codes = GridCodes(
            image_size // patch_size,
            decoder_embed_dim,
            learned=True,
            frames=num_frames // t_patch,
            joint=not sep_pos_embed,
            codes_token=class_token,
        )
        super().__init__(encoder, codes, settings, predicted, bands_last=True)
        self.published = published
        if class_token:
            self.decoder_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
            if not published:
                nn.init.normal_(self.decoder_token, std=_STD)
        for name, part in self.named_modules():
            if name.endswith(".attn.qkv") and isinstance(part, nn.Linear):
                initialise_linear(part, parts=3)

    def forward(self, images: Tensor, *inputs: Any, **others: Any) -> ObjectiveOutput:
        """Hide tubelets and rebuild them; see `Objective.forward`.

        What the encoder is shown has no class token in `latent`.
        """
        out = super().forward(self._by_date(images), *inputs, **others)
        assert out.latent is not None
        first = int(self.encoder.class_token is not None)
        return replace(out, latent=out.latent[:, first:])

    def _shape_of(self, images: Tensor) -> tuple[int, int, int, int]:
        return super()._shape_of(self._by_date(images))

    def _by_date(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), or published or our series: (B, T, C, H, W)."""
        bands = self.encoder.num_bands
        if images.ndim == 5 and self.published and images.shape[2] != bands:
            return images.transpose(1, 2) if images.shape[1] == bands else images
        return images

    def _decoder_token(self, token: Tensor) -> Tensor:
        if not token.shape[1]:
            return token
        return self.decoder_token.to(token.dtype).expand_as(token)

    def _predicted(self, tubelets: int) -> list[int]:
        """Return which dates of whole tubelets are predicted."""
        last = tubelets * self.encoder.frames_per_token - 1
        count = tubelets * self.frames_per_prediction
        return [last * i // max(1, count - 1) for i in range(count)]

    def _targets(self, images: Tensor) -> Tensor:
        series = self._by_date(images) if images.ndim == 5 else images[:, None]
        t = self.encoder.frames_per_token
        series = fill_tubelets(series, t)
        dates = self._predicted(series.shape[1] // t)
        chosen = torch.stack([series[:, date] for date in dates], dim=1)
        P, u = self.encoder.patch_size, self.frames_per_prediction
        return cut_patches(chosen, P, u).flatten(4)

    def _at_dates(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Show each date by the nearest one that is predicted."""
        known = self._predicted(predicted.shape[1] // self.frames_per_prediction)
        dates = images.shape[1] if images.ndim == 5 else 1
        nearest = [
            min(range(len(known)), key=lambda i: abs(known[i] - date))
            for date in range(dates)
        ]
        return predicted[:, nearest].reshape(images.shape)

    def _pixels_of(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        """Spread a mask over pixels; dates that are not predicted count as shown."""
        pixels = super()._pixels_of(mask, shape)
        known = torch.zeros(pixels.shape[1])
        known[self._predicted(shape[0])] = 1
        return pixels * move(known, mask)[:, None, None, None]

    def _published(self) -> dict[str, str]:
        has_token = self.encoder.class_token is not None
        names = {k: v for k, v in AUTOENCODER_NAMES.items() if "pos_embed" not in k}
        if has_token:
            names["decoder_cls_token"] = "decoder_token"
        for theirs, ours in (
            ("pos_embed", "encoder.positions."),
            ("decoder_pos_embed", "decoder_positions."),
        ):
            if self.config["sep_pos_embed"]:
                names[f"{theirs}_spatial"] = ours + "spatial"
                names[f"{theirs}_temporal"] = ours + "temporal"
                names[f"{theirs}_class"] = ours + "token"
            elif has_token:
                names[f"{theirs}[token]"] = ours + "token"
                names[f"{theirs}[places]"] = ours + "spatial"
            else:
                names[theirs] = ours + "spatial"
        return names

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        found = split_qkv(super().published_names(tensors))
        if _CONVOLUTION in found:
            size = (-1, self.encoder.frames_per_token)
            found[_CONVOLUTION] = found[_CONVOLUTION].unflatten(1, size)
        return found

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names; see `Objective`."""
        super().load_published_state_dict(stack_qkv(plain_names(state_dict)))


def _frames_per_prediction(
    num_frames: int, t_patch: int, pred_t_dim: int | None
) -> int:
    """Return how many dates each tubelet predicts.

    Raises:
        ConfigError: tubelets or predicted dates do not divide the dates.
    """
    if num_frames % t_patch:
        raise ConfigError(
            f"num_frames {num_frames} is no multiple of t_patch {t_patch}."
        )
    count = num_frames if pred_t_dim is None else pred_t_dim
    tubelets = num_frames // t_patch
    if count % tubelets or count > num_frames:
        raise ConfigError(
            f"pred_t_dim {count} must be a multiple of the {tubelets} tubelets, at "
            f"most num_frames {num_frames}."
        )
    return count // tubelets


OBJECTIVE = STMAE
