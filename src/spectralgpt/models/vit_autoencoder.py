"""Masked autoencoders on the plain vision transformer, and their published names.

Tokens of smallest noise are encoded, in that order; a light transformer gets them with
a mask token in the place of all others, and predicts the pixels of every token, with a
map of its own for each band group.

Source: He et al. 2021, arXiv:2111.06377, and what was built on it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.losses import denormalize_tokens, normalize_tokens
from spectralgpt.models.blocks import MLP_RATIO, NORM_EPS, build_blocks
from spectralgpt.models.cpu import Linear
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.vit import (
    GridCodes,
    VisionTransformer,
    cut_patches,
    initialise_linears,
)
from spectralgpt.models.weights import load_weights, plain_names

LossOn = Literal["masked", "all"]
_STD = 0.02
_TOKEN, _PLACES = "[token]", "[places]"
_CONVOLUTION = re.compile(
    r"(?:\w*encoder(?:_[qk])?\.)?patch_embed\.(?:\d+\.)?proj\.weight"
)
ENCODER_NAMES = {
    "cls_token": "encoder.class_token",
    "pos_embed[token]": "encoder.positions.token",
    "pos_embed[places]": "encoder.positions.spatial",
    "patch_embed.proj.": "encoder.embedding.0.",
    "blocks.": "encoder.blocks.",
    "norm.": "encoder.norm.",
}
"""Published prefixes of vision transformers, and ours."""
AUTOENCODER_NAMES = ENCODER_NAMES | {
    "mask_token": "mask_token",
    "decoder_embed.": "decoder_embedding.",
    "decoder_pos_embed[token]": "decoder_positions.token",
    "decoder_pos_embed[places]": "decoder_positions.spatial",
    "decoder_blocks.": "decoder_blocks.",
    "decoder_norm.": "decoder_norm.",
    "decoder_pred.": "predictions.0.",
}
"""Published prefixes of masked autoencoders, and ours."""


class VitAutoencoder(Objective):
    """What masked autoencoders on a `VisionTransformer` share.

    Args:
        encoder: what is learned.
        decoder_codes: positions of the decoder.
        settings: of the objective, by name.
        frames_per_prediction: dates that a token's prediction covers.
        bands_last: predictions are (B, N, values), by date, pixel row, pixel column,
            then band; the published maps give them so, ours bands first.
    """

    rebuilds = True
    encoder: VisionTransformer

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder_codes: GridCodes,
        settings: Mapping[str, Any],
        frames_per_prediction: int = 1,
        bands_last: bool = False,
    ) -> None:
        super().__init__()
        self.loss_on = settings["loss_on"]
        if self.loss_on not in get_args(LossOn):
            raise ConfigError(f"loss_on {self.loss_on!r}: use 'masked' or 'all'.")
        self.encoder, self.config = encoder, dict(settings)
        self.normalize_targets = settings["normalize_targets"]
        # Hide the same places in all band groups and dates.
        self.consistent_mask = settings.get("consistent_mask", False)
        self.bands_last = bands_last
        self.frames_per_prediction = frames_per_prediction
        width = decoder_codes.embed_dim
        # What passes the blocks by is no part of what the decoder sees.
        own = encoder.config["embed_dim"]
        self.decoder_embedding = Linear(own, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_positions = decoder_codes
        self.decoder_blocks = build_blocks(
            width,
            settings["decoder_depth"],
            settings["decoder_num_heads"],
            mlp_ratio=settings.get("mlp_ratio", MLP_RATIO),
        )
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        size = frames_per_prediction * encoder.patch_size**2
        self.predictions = nn.ModuleList(
            Linear(width, len(group) * size) for group in encoder.band_groups
        )
        nn.init.normal_(self.mask_token, std=_STD)
        for part in (self.decoder_embedding, self.decoder_blocks, self.predictions):
            initialise_linears(part)

    def noise_size(self, images: Tensor) -> int:
        """Return the number of units that are hidden one by one."""
        T, G, rows, columns = self._shape_of(images)
        return rows * columns * (1 if self.consistent_mask else T * G)

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Hide tokens and rebuild them; see `Objective.forward`."""
        shape = self._shape_of(images)
        noise = self.draw(images, noise)
        visible, mask = self._hide(noise, mask_ratio, shape)
        x = self.encoder.place(self.encoder.embed(images), shape, dates)
        x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
        latent: Tensor = self.encoder.norm(self.encoder.run(x))
        features = self._decode(latent, visible, shape, dates)
        prediction = self._predict(features, shape)
        loss, terms = self._losses(images, features, prediction, mask, valid, counts)
        rebuilt = hidden = None
        if not self.training:
            rebuilt = self._rebuild(images, prediction.detach())
            count = images.shape[1] if images.ndim == 5 else 1
            pixels = self._pixels_of(mask, shape)[:, :count]
            hidden = pixels.reshape(images.shape) > 0
        shown = self._laid_out(prediction), self._shaped(mask, shape)
        return ObjectiveOutput(loss, terms, *shown, latent, rebuilt, hidden)

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the tokens that the loss averages over; see `Objective`."""
        shape = self._shape_of(images)
        _, mask = self._hide(self.draw(images, noise), mask_ratio, shape)
        weights = None if valid is None else self._targets(valid.float())
        return self._counted(mask, weights).sum()[None]

    def _shape_of(self, images: Tensor) -> tuple[int, int, int, int]:
        """Return T, G, Hp, Wp of the tokens of images."""
        if images.ndim == 5 and not self.takes_series:
            raise ShapeError(
                f"objective {self.name} takes single dates, and these are series: use "
                "st-mae, spectralgpt, or satmae with temporal: true."
            )
        return self.encoder.shape_of(images)

    def _hide(
        self, noise: Tensor, mask_ratio: float | None, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Choose the visible tokens, (B, K), and the mask, (B, N), 1 where hidden."""
        ratio = self.ratio_of(mask_ratio)
        T, G, rows, columns = shape
        outer = T * G if self.consistent_mask else 1
        units = T * G * rows * columns // outer
        # The published code truncates the float product; 0.9 of 100 leaves 9 visible.
        kept = noise.argsort(dim=1)[:, : max(1, int(units * (1 - ratio)))]
        starts = torch.arange(outer, device=noise.device) * units
        visible = (kept[:, None] + starts[:, None]).flatten(1)
        mask = torch.ones(len(noise), outer * units, device=noise.device)
        return visible, mask.scatter(1, visible, 0.0)

    def _decode(
        self,
        latent: Tensor,
        visible: Tensor,
        shape: Sequence[int],
        dates: Tensor | None,
    ) -> Tensor:
        """Give features of all tokens, (B, N, decoder width)."""
        known = self.decoder_embedding(
            latent[..., : self.decoder_embedding.in_features]
        )
        first = int(self.encoder.class_token is not None)
        token, known = known[:, :first], known[:, first:]
        index = visible[..., None].expand_as(known)
        T, G, rows, columns = shape
        size = (len(known), T * G * rows * columns, known.shape[-1])
        x = self.mask_token.to(known.dtype).expand(size).scatter(1, index, known)
        x = x + self.decoder_positions(shape, dates)
        token = self._decoder_token(token)
        code = self.decoder_positions.of_token()
        if token.shape[1]:
            x = torch.cat([token if code is None else token + code, x], dim=1)
        x = self.decoder_norm(self.decoder_blocks(x))
        return x[:, token.shape[1] :]

    def _decoder_token(self, token: Tensor) -> Tensor:
        """Return the class token that the decoder sees, (B, 1 or 0, width)."""
        return token

    def _predict(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Map features to pixels, (B, T, C, places, values), bands by group."""
        T, G, rows, columns = shape
        by_group = x.unflatten(1, (T, G, rows * columns))
        parts = [
            head(by_group[:, :, g]).unflatten(-1, (len(group), -1)).movedim(-2, 2)
            for g, (head, group) in enumerate(
                zip(self.predictions, self.encoder.band_groups, strict=True)
            )
        ]
        return self._in_order(torch.cat(parts, dim=2))

    def _in_order(self, prediction: Tensor) -> Tensor:
        """Bring bands from the order of the groups into that of the images."""
        order = [band for group in self.encoder.band_groups for band in group]
        if order == sorted(order):
            return prediction
        back = sorted(range(len(order)), key=order.__getitem__)
        return prediction[:, :, back]

    def _targets(self, images: Tensor) -> Tensor:
        """Cut images into what is predicted, (B, T, C, places, values)."""
        series = images if images.ndim == 5 else images[:, None]
        return cut_patches(series, self.encoder.patch_size).flatten(4)

    def _counted(self, mask: Tensor, weights: Tensor | None) -> Tensor:
        """Return 1 for the tokens that the loss averages over, (B, N)."""
        counted = torch.ones_like(mask) if self.loss_on == "all" else mask
        if weights is None:
            return counted
        return counted * (self._by_token(weights, torch.sum) > 0)

    def _by_token(self, values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
        """Reduce (B, T, C, places, values) over each token's own: (B, N)."""
        parts = [
            reduce(values[:, :, bands], dim=(2, 4)) for bands in self.encoder.band_index
        ]
        return torch.stack(parts, dim=2).flatten(1)

    def _losses(
        self,
        images: Tensor,
        features: Tensor,
        prediction: Tensor,
        mask: Tensor,
        valid: Tensor | None,
        counts: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the loss, 0-d, and what it is the sum of, if it is of several terms.

        Args:
            images: as in a forward pass; so are the last two.
            features: (B, N, decoder width), which the prediction is made of.
            prediction: (B, T, C, places, values).
            mask: (B, N), 1 where hidden.
            valid: false where a pixel counts nowhere.
            counts: what terms are divided by.
        """
        return self._compare(images, prediction, mask, valid, counts), {}

    def _compare(
        self,
        images: Tensor,
        prediction: Tensor,
        mask: Tensor,
        valid: Tensor | None,
        counts: Tensor | None,
    ) -> Tensor:
        """Give the loss of a prediction (B, T, C, places, values), 0-d."""
        target = self._targets(images)
        weights = None if valid is None else self._targets(valid.float())
        if self.normalize_targets:
            target = _over_bands(normalize_tokens, target)
        squared = (prediction - target) ** 2
        if weights is None:
            error = self._by_token(squared, torch.mean)
        else:
            known = self._by_token(weights, torch.sum).clamp(min=1)
            error = self._by_token(squared * weights, torch.sum) / known
        counted = self._counted(mask, weights)
        count = counted.sum() if counts is None else counts[0]
        return (error * counted).sum() / count.clamp(min=1)

    def _rebuild(self, images: Tensor, prediction: Tensor) -> Tensor:
        """Return a prediction as images, in their scale.

        Of normalised targets, mean and variance of each patch are the image's own.
        """
        if self.normalize_targets:
            own = self._targets(images)
            prediction = _over_bands(denormalize_tokens, prediction, own)
        P, (rows, columns) = self.encoder.patch_size, images.shape[-2:]
        cut = prediction.unflatten(-1, (-1, P, P))
        cut = cut.unflatten(3, (rows // P, columns // P))  # (B, T, C, Hp, Wp, t, P, P)
        series = cut.permute(0, 1, 5, 2, 3, 6, 4, 7).flatten(1, 2)
        return self._at_dates(series.flatten(3, 4).flatten(4), images)

    def token_means(self, images: Tensor) -> Tensor | None:
        """Return each token's own mean, see `Objective`."""
        if not self.normalize_targets:
            return None
        # A prediction of 0 is the mean.
        return self._rebuild(images, torch.zeros_like(self._targets(images)))

    def _at_dates(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Return the dates of images from those predicted, (B, dates, C, H, W)."""
        return predicted.reshape(images.shape)

    def _pixels_of(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        """Spread a mask (B, N) over pixels, (B, T, C, H, W) of whole tubelets."""
        T, G, rows, columns = shape
        of_band = {
            band: g
            for g, group in enumerate(self.encoder.band_groups)
            for band in group
        }
        pixels = mask.view(-1, T, G, rows, columns)[
            :, :, [of_band[b] for b in sorted(of_band)]
        ]
        for axis in (-2, -1):
            pixels = pixels.repeat_interleave(self.encoder.patch_size, dim=axis)
        return pixels.repeat_interleave(self.encoder.frames_per_token, dim=1)

    def _laid_out(self, prediction: Tensor) -> Tensor:
        """Return a prediction (B, T, C, places, values) as the output holds it."""
        if not self.bands_last:
            return prediction
        return prediction.permute(0, 1, 3, 4, 2).flatten(3).flatten(1, 2)

    def _shaped(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the mask (B, N) as the output holds it."""
        return mask

    def _published(self) -> dict[str, str]:
        """Return published prefixes of names, and ours."""
        return AUTOENCODER_NAMES

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        found = to_published(tensors, self._published(), self.encoder.patch_size)
        return self._swap_rows(found, (self.encoder.num_bands, -1))

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names; see `Objective`."""
        own = self._swap_rows(plain_names(state_dict), (-1, self.encoder.num_bands))
        load_weights(self, from_published(own, self._published()))

    def _swap_rows(
        self, tensors: Mapping[str, Tensor], parts: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Swap both parts of the rows of the last map, where bands come last there."""
        found = dict(tensors)
        for name in ("decoder_pred.weight", "decoder_pred.bias"):
            fits = name in found and len(found[name]) % self.encoder.num_bands == 0
            if self.bands_last and fits:
                rows = found[name].unflatten(0, parts)
                found[name] = rows.transpose(0, 1).flatten(0, 1)
        return found


def _over_bands(scale: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Scale the values (B, T, C, places, values) of all bands of a place together."""
    last = [each.movedim(2, -2) for each in values]  # (B, T, places, C, values)
    scaled = scale(*(each.flatten(-2) for each in last))
    return scaled.reshape(last[0].shape).movedim(-2, 2)


def to_published(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], patch_size: int
) -> dict[str, Tensor]:
    """Rename tensors of a model on a `VisionTransformer` as the published code does.

    Args:
        tensors: by our names; weights or their gradients, all or some.
        names: published prefixes, and ours; a table of positions has one for the class
            token's row, `[token]`, and one for the others, `[places]`.
        patch_size: side P of a patch, which convolutions of the published code show.

    Returns:
        Tensors by published names, in published shapes.
    """
    found = rename(tensors, {ours: theirs for theirs, ours in names.items()}, True)
    for name in [name for name in found if name.endswith(_TOKEN)]:
        whole = name.removesuffix(_TOKEN)
        found[whole] = torch.cat([found.pop(name), found.pop(whole + _PLACES)], dim=1)
    for name, value in found.items():
        if _CONVOLUTION.fullmatch(name):
            found[name] = value.unflatten(1, (-1, patch_size, patch_size))
    return found


def from_published(
    state_dict: Mapping[str, Tensor], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Undo `to_published`; names that are not in the table stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in plain_names(state_dict).items():
        if name + _TOKEN in names:
            found[name + _TOKEN], found[name + _PLACES] = value[:, :1], value[:, 1:]
        else:
            found[name] = value.flatten(1) if _CONVOLUTION.fullmatch(name) else value
    return rename(found, names)


def rename(
    tensors: Mapping[str, Tensor], prefixes: Mapping[str, str], known_only: bool = False
) -> dict[str, Tensor]:
    """Replace prefixes of names, of each the longest and so most precise one that fits.

    Args:
        tensors: by name.
        prefixes: and what replaces them.
        known_only: leave out names without such a prefix, which else stay.
    """
    found = {}
    for name, value in tensors.items():
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        prefix = max(fitting, key=len, default="")
        if fitting or not known_only:
            found[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    return found
