"""SimMIM: patches are hidden by a learned token, and their pixels rebuilt by one map.

What masked image models on a vision or a Swin transformer share stands here: the
encoder, how patches are hidden, and the names of the published weights.

Source: Xie et al. 2022, arXiv:2111.09886.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.stems import StemKind
from spectralgpt.models.swin import SwinEncoder, stages_of
from spectralgpt.models.vit import (
    PositionKind,
    VisionTransformer,
)
from spectralgpt.models.vit_autoencoder import (
    ENCODER_NAMES,
    from_published,
    rename,
    to_published,
)
from spectralgpt.models.weights import load_weights

EncoderKind = Literal["vit", "swin"]
_STD = 0.02
_UNIT_PX = 32  # Source: the paper.
_WINDOW_SIZE, _LAYER_SCALE = 6, 0.1
_NO_ZERO = 1e-5  # Source: the published loss.
# Published prefixes of what follows the encoder, and ours.
_HEADS = {"decoder.0.": "decoder."} | {n: n for n in ("decoder_lbp.", "lm_head.")}
# Computed anew wherever they are needed; published files may hold them.
_DERIVED = ("relative_position_index", "attn_mask")


class MaskedImageModel(Objective):
    """What objectives share that hide patches from a vision or a Swin transformer.

    Args:
        settings: of the objective, by name.
        positions: of a vision transformer.
        stem: how patches become tokens.

    These settings are common to them:
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side of a patch, px; of `swin` that of the first stage.
        embed_dim: width; of `swin` that of the first stage where `depths` are given,
            else of the last.
        depth: blocks.
        num_heads: attention heads; of `swin` those of each stage where `depths` are
            given, else half those of the last.
        encoder: `vit` or `swin`.
        depths: blocks of each stage of `swin`; None shares out `depth`, see
            `stages_of`.
        window_size: side of a window of `swin`, tokens.
        layer_scale: first value of the factors of each branch of `vit`; None has none.
        drop_path: stochastic depth of the last block, 0..1.
    """

    rebuilds = True
    encoder: VisionTransformer | SwinEncoder

    def __init__(
        self,
        settings: Mapping[str, Any],
        positions: PositionKind = "relative",
        stem: StemKind = "linear",
    ) -> None:
        super().__init__()
        kind, depths = settings.get("encoder", "vit"), settings.get("depths")
        if kind not in get_args(EncoderKind):
            raise ConfigError(f"encoder {kind!r}: use 'vit' or 'swin'.")
        width, heads = settings["embed_dim"], settings["num_heads"]
        has_stages = not isinstance(heads, int)
        if has_stages != (depths is not None) or (has_stages and kind == "vit"):
            raise ConfigError(
                f"depths is {depths} and num_heads {heads}: give a list of both, one a "
                "stage of encoder 'swin', or of neither."
            )
        other, name, usual = (
            ("swin", "window_size", _WINDOW_SIZE)
            if kind == "vit"
            else ("vit", "layer_scale", _LAYER_SCALE)
        )
        if settings.get(name) not in (None, usual):
            raise ConfigError(
                f"{name} is {settings[name]!s:.40}, but encoder {kind!r} does not have "
                f"it: leave it out, or use encoder {other!r}."
            )
        names = ("image_size", "num_bands", "patch_size", "drop_path")
        shared = {name: settings[name] for name in names} | {"stem": stem}
        self.config = dict(settings)
        if kind == "vit":
            self.encoder = VisionTransformer(
                embed_dim=width,
                depth=settings["depth"],
                num_heads=heads,
                positions=positions,
                layer_scale=settings["layer_scale"],
                init="truncated",
                **shared,
            )
            if self.encoder.positions is not None:
                for table in self.encoder.positions.parameters():
                    nn.init.trunc_normal_(table, std=_STD, a=-_STD, b=_STD)
            return
        if depths is None:
            width, depths, heads = stages_of(width, settings["depth"], heads)
        self.encoder = SwinEncoder(
            embed_dim=width,
            depths=depths,
            num_heads=heads,
            window_size=settings["window_size"],
            **shared,
        )
        # As a checkpoint holds them.
        self.config["window_size"] = self.encoder.config["window_size"]
        if has_stages:
            for name in ("depths", "num_heads"):
                self.config[name] = self.encoder.config[name]

    def _encode(
        self, images: Tensor, hide: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Encode images to normalised tokens, (B, K, D), by row, then column.

        Args:
            images: (B, C, H, W).
            hide: changes the embedded tokens (B, N, D).
        """
        encoder = self.encoder
        shape = encoder.shape_of(images)
        x = encoder.embed(images)
        x = encoder.place(x if hide is None else hide(x), shape, None)
        first = int(encoder.class_token is not None)
        tokens: Tensor = encoder.norm(encoder.run(x, shape))[:, first:]
        return tokens

    def _published(self) -> dict[str, str]:
        """Return published prefixes of names, and ours."""
        return vit_names("encoder.", self.encoder.stem)

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        if isinstance(self.encoder, SwinEncoder):
            back = {ours: theirs for theirs, ours in _swin_names(self.encoder).items()}
            return rename(tensors, back, known_only=True)
        flat = to_published(tensors, self._published(), self.encoder.patch_size)
        return _split_biases(flat)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names; see `Objective`."""
        found = {k: v for k, v in state_dict.items() if not k.endswith(_DERIVED)}
        if isinstance(self.encoder, SwinEncoder):
            load_weights(self, rename(found, _swin_names(self.encoder)))
            return
        load_weights(self, from_published(_join_biases(found), self._published()))


def vit_names(prefix: str, stem: StemKind = "linear") -> dict[str, str]:
    """Return published prefixes of a masked image model on a ViT, and ours.

    Args:
        prefix: what the published names of its encoder begin with.
        stem: how its patches become tokens.
    """
    names = ENCODER_NAMES | {
        "mask_token": "mask_token",
        "rel_pos_bias.relative_position_bias_table": "encoder.relative.table",
    }
    if stem != "linear":
        del names["patch_embed.proj."]
        names["patch_embed.projection."] = "encoder.embedding."
    return {prefix + theirs: ours for theirs, ours in names.items()} | _HEADS


def _swin_names(encoder: SwinEncoder) -> dict[str, str]:
    """Return published prefixes of a masked image model on a Swin, and ours."""
    embedding = "proj" if encoder.stem == "linear" else "projection"
    names = _HEADS | {
        "encoder.mask_token": "mask_token",
        f"encoder.patch_embed.{embedding}.": "encoder.embedding.",
        "encoder.patch_embed.norm.": "encoder.embedding_norm.",
        "encoder.norm.": "encoder.norm.",
    }
    blocks = iter(range(encoder.depth))
    for stage, depth in enumerate(encoder.config["depths"]):
        for number in range(depth):
            ours = f"encoder.blocks.{next(blocks)}."
            if stage and not number:
                names[f"encoder.layers.{stage - 1}.downsample."] = f"{ours}merge."
            names[f"encoder.layers.{stage}.blocks.{number}."] = ours
    return names


def _split_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give queries and values their published biases; keys have none."""
    found = {}
    for name, value in tensors.items():
        if name.endswith("attn.qkv.bias"):
            q, _, v = value.chunk(3)
            found[name.replace("qkv.bias", "q_bias")] = q
            found[name.replace("qkv.bias", "v_bias")] = v
        else:
            found[name] = value
    return found


def _join_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `_split_biases`; a bias of keys changes nothing, and is zero."""
    found = {n: v for n, v in tensors.items() if not n.endswith((".q_bias", ".v_bias"))}
    for name, q in tensors.items():
        v = tensors.get(name.replace("q_bias", "v_bias"))
        if name.endswith(".q_bias") and v is not None:
            bias = torch.cat([q, torch.zeros_like(q), v])
            found[name.replace("q_bias", "qkv.bias")] = bias
    return found


def choose_units(noise: Tensor, mask_ratio: float) -> Tensor:
    """Hide the units of smallest noise, the next whole number above their share.

    Args:
        noise: (B, units).
        mask_ratio: share of hidden units, 0 <= ratio < 1.

    Returns:
        float (B, units), 1 where hidden.
    """
    count = math.ceil(noise.shape[1] * mask_ratio)
    chosen = noise.argsort(dim=1)[:, :count]
    return torch.zeros_like(noise).scatter(1, chosen, 1.0)


def draw_mask(
    image_size: int,
    mask_patch_size: int = _UNIT_PX,
    patch_size: int = 4,
    mask_ratio: float = 0.6,
    rng: Any = np.random,
) -> np.ndarray:
    """Draw a mask as the published code does.

    Args:
        image_size: side of the image, px.
        mask_patch_size: side of a unit that is hidden as one, px.
        patch_size: side of a patch of the model, px.
        mask_ratio: share of hidden units.
        rng: has numpy's `permutation`, such as `numpy.random.RandomState(0)`.

    Returns:
        uint8 (patches, patches), 1 where hidden.
    """
    side = image_size // mask_patch_size
    mask = np.zeros(side * side, dtype=np.uint8)
    mask[rng.permutation(side * side)[: math.ceil(side * side * mask_ratio)]] = 1
    scale = mask_patch_size // patch_size
    return mask.reshape(side, side).repeat(scale, axis=0).repeat(scale, axis=1)


def spread(mask: Tensor, size: Sequence[int], what: str = "mask") -> Tensor:
    """Repeat a mask (B, rows, columns) to a finer grid.

    Raises:
        ShapeError: the grid is no multiple of the mask's.
    """
    rows, columns = mask.shape[-2:]
    if mask.ndim != 3 or size[0] % rows or size[1] % columns:
        raise ShapeError(
            f"{what} has shape {tuple(mask.shape)}: these images need (batch, rows, "
            f"columns), of which {size[0]} and {size[1]} are multiples."
        )
    mask = mask.repeat_interleave(size[0] // rows, dim=-2)
    return mask.repeat_interleave(size[1] // columns, dim=-1)


def unit_grid(images: Tensor, unit: int) -> tuple[int, int]:
    """Return the rows and columns of units of images.

    Raises:
        ShapeError: they are no whole number.
    """
    rows, columns = images.shape[-2:]
    if rows % unit or columns % unit:
        raise ShapeError(
            f"images of {rows} x {columns} px are no multiple of the {unit} px that "
            "are hidden as one (mask_patch_size): crop them, or use another."
        )
    return rows // unit, columns // unit


class PixelModel(MaskedImageModel):
    """What objectives share that rebuild the pixels that they hide, by one map.

    Their prediction is (B, C, H, W), their latent the encoder's map (B, D, rows,
    columns).

    Args:
        settings: see `MaskedImageModel`, and `mask_patch_size`: side of what is hidden
            as one, px; None takes 32 where patches and larger images allow it, else a
            patch.
        unit_of: side in px of which that is a multiple.
        stem: how patches become tokens.

    Raises:
        ConfigError: a setting is out of range.
    """

    default_mask_ratio = 0.6

    def __init__(
        self, settings: Mapping[str, Any], unit_of: int, stem: StemKind = "linear"
    ) -> None:
        super().__init__(settings, stem=stem)
        stride, image_size = self.encoder.patch_size, settings["image_size"]
        coarse = stride if _UNIT_PX % stride else _UNIT_PX
        # An image of one unit would be hidden whole.
        suits = image_size > coarse and image_size % coarse == 0
        usual = coarse if suits else settings["patch_size"]
        unit = settings["mask_patch_size"] or usual
        if unit < 1 or unit % unit_of or image_size % unit:
            raise ConfigError(
                f"mask_patch_size is {unit} px: use a multiple of patch_size {unit_of} "
                f"of which image_size {image_size} is one."
            )
        self.mask_patch_size = unit
        self.decoder = self._map_to_pixels()

    def _map_to_pixels(self) -> nn.Conv2d:
        """Return a map from features to the pixels of their patches."""
        values = self.encoder.patch_size**2 * self.encoder.num_bands
        return nn.Conv2d(self.encoder.embed_dim, values, 1)

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        counts: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Hide pixels, maybe by a given mask, and rebuild; see `Objective.forward`."""
        if mask is None:
            mask = self._choose(images, mask_ratio, self.draw(images, noise))
        mask, pixels = self._fit(mask.to(images), images)
        tokens = self._encode_visible(images, mask)
        latent = tokens.mT.unflatten(2, self.encoder.own_grid(images))
        prediction = self._lay_out(self.decoder(latent))
        loss = masked_difference(images, prediction, pixels, valid, counts)
        shown: tuple[Tensor, Tensor] | tuple[()] = ()
        if not self.training:
            shown = prediction.detach(), (pixels > 0).expand_as(images)
        return ObjectiveOutput(loss, {}, prediction, mask, latent, *shown)

    @abstractmethod
    def _choose(
        self, images: Tensor, mask_ratio: float | None, noise: Tensor
    ) -> Tensor:
        """Choose what is hidden by noise that fits."""

    @abstractmethod
    def _fit(self, mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mask as the output holds it, and of pixels (B, 1, H, W)."""

    @abstractmethod
    def _encode_visible(self, images: Tensor, mask: Tensor) -> Tensor:
        """Encode what a mask leaves of images to tokens, (B, K, D)."""

    def _lay_out(self, values: Tensor) -> Tensor:
        """Lay out the pixels of patches (B, values, rows, columns) as images."""
        return F.pixel_shuffle(values, self.encoder.patch_size)

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the hidden pixels that the loss averages over; see `Objective`."""
        mask = self._choose(images, mask_ratio, self.draw(images, noise))
        return count_masked(self._fit(mask, images)[1], images, valid)[None]


class SimMIM(PixelModel):
    """Masked image modelling by the pixels of hidden patches.

    For its output see `PixelModel`; its mask is (B, rows, columns) of patches, and may
    be given by coarser units.

    Args:
        mask_patch_size: side of what is hidden as one, px; None takes 32 where patches
            and larger images allow it, else a patch.

    The others are those of `MaskedImageModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "simmim"

    def __init__(
        self,
        image_size: int = 192,
        num_bands: int = 12,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int | Sequence[int] = 12,
        encoder: EncoderKind = "vit",
        depths: Sequence[int] | None = None,
        window_size: int | Sequence[int] = _WINDOW_SIZE,
        mask_patch_size: int | None = None,
        layer_scale: float | None = _LAYER_SCALE,
        drop_path: float = 0.0,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(settings, patch_size)
        width = self.encoder.config["embed_dim"]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        cut = _STD if encoder == "vit" else 2.0
        nn.init.trunc_normal_(self.mask_token, std=_STD, a=-cut, b=cut)

    def noise_size(self, images: Tensor) -> int:
        """Return the number of units that are hidden one by one."""
        return math.prod(unit_grid(images, self.mask_patch_size))

    def _choose(
        self, images: Tensor, mask_ratio: float | None, noise: Tensor
    ) -> Tensor:
        grid, ratio = unit_grid(images, self.mask_patch_size), self.ratio_of(mask_ratio)
        units = math.prod(grid)
        if math.ceil(units * ratio) == units:
            raise ConfigError(
                f"a mask ratio of {ratio:g} hides all {units} units of "
                f"{self.mask_patch_size} px: lower masking.ratio, or set "
                "settings.mask_patch_size to less."
            )
        return choose_units(noise, ratio).unflatten(1, grid)

    def _fit(self, mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        _, _, *grid = self.encoder.shape_of(images)
        mask = spread(mask, grid)
        return mask, spread(mask, images.shape[-2:])[:, None]

    def _encode_visible(self, images: Tensor, mask: Tensor) -> Tensor:
        return self._encode(images, lambda x: hide(x, mask, self.mask_token))


def hide(x: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Put a token in the place of those tokens (B, N, D) whose mask (B, ...) is 1."""
    at = mask.flatten(1)[..., None].to(x.dtype)
    return x * (1 - at) + token.to(x.dtype) * at


def masked_difference(
    images: Tensor,
    prediction: Tensor,
    mask: Tensor,
    valid: Tensor | None,
    counts: Tensor | None,
) -> Tensor:
    """Average the absolute error over hidden pixels and bands.

    Args:
        images: (B, C, H, W).
        prediction: likewise.
        mask: (B, 1, H, W), 1 where hidden.
        valid: bool, shaped as the images; None if all are.
        counts: see `Objective.forward`.
    """
    error = (images - prediction).abs() * mask
    if valid is not None:
        error = torch.where(valid, error, 0.0)
    count = count_masked(mask, images, valid) if counts is None else counts[0]
    return error.sum() / (count + _NO_ZERO) / images.shape[1]


def count_masked(mask: Tensor, images: Tensor, valid: Tensor | None) -> Tensor:
    """Count hidden, valid pixels, each band's as its share of a pixel: 0-d."""
    if valid is None:
        return mask.sum().to(images)
    return (mask * valid).sum() / images.shape[1]


OBJECTIVE = SimMIM
