"""SimMIM: patches are hidden by a learned token, and their pixels rebuilt by one map.

What masked image models on a vision or a Swin transformer share stands here: the
encoder, how patches are hidden, and the names of the published weights.

Source: Xie et al. 2022, arXiv:2111.09886.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.swin import SwinEncoder, stages_of
from spectralgpt.models.tokens import Wavelengths
from spectralgpt.models.vit import (
    PositionKind,
    StemKind,
    VisionTransformer,
    own_bands_only,
)
from spectralgpt.models.vit_autoencoder import from_published, to_published
from spectralgpt.models.weights import load_weights

EncoderKind = Literal["vit", "swin"]
Permute = Callable[[int], Any]
_STD = 0.02
_UNIT_PX = 32  # Source: the paper.
_NO_ZERO = 1e-5  # Source: the published loss.
_EMBEDDING: dict[StemKind, str] = {
    "linear": "patch_embed.proj.",
    "pi": "patch_embed.projection.",
    "pi-tanh": "patch_embed.projection.",
}
# Computed anew wherever they are needed; published files may hold them.
_DERIVED = ("relative_position_index", "attn_mask")


class MaskedImageModel(Objective):
    """What objectives share that hide patches from a vision or a Swin transformer.

    Args:
        encoder: `vit` or `swin`.
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side of a patch, px; of `swin` that of the first stage.
        embed_dim: width; of `swin` that of the first stage where `depths` are given,
            else of the last.
        depth: blocks.
        num_heads: attention heads; of `swin` those of each stage where `depths` are
            given, else half those of the last.
        depths: blocks of each stage of `swin`; None shares out `depth`, see
            `stages_of`.
        window_size: side of a window of `swin`, tokens.
        layer_scale: first value of the factors of each branch of `vit`; None has none.
        drop_path: stochastic depth of the last block, 0..1.
        positions: of `vit`.
        stem: how patches become tokens.
    """

    encoder: VisionTransformer | SwinEncoder

    def __init__(
        self,
        encoder: EncoderKind,
        image_size: int,
        num_bands: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int | Sequence[int],
        depths: Sequence[int] | None,
        window_size: int | Sequence[int],
        layer_scale: float | None,
        drop_path: float,
        positions: PositionKind = "relative",
        stem: StemKind = "linear",
    ) -> None:
        super().__init__()
        if encoder not in get_args(EncoderKind):
            raise ConfigError(f"encoder {encoder!r}: use 'vit' or 'swin'.")
        has_stages = not isinstance(num_heads, int)
        if has_stages != (depths is not None) or (has_stages and encoder == "vit"):
            raise ConfigError(
                f"depths is {depths} and num_heads {num_heads}: give a list of both, "
                "one a stage of encoder 'swin', or of neither."
            )
        if isinstance(num_heads, int) and encoder == "vit":
            self.encoder = VisionTransformer(
                image_size,
                num_bands,
                patch_size,
                embed_dim,
                depth,
                num_heads,
                positions=positions,
                layer_scale=layer_scale,
                drop_path=drop_path,
                init="truncated",
                stem=stem,
            )
            if self.encoder.positions is not None:
                for table in self.encoder.positions.parameters():
                    if table.requires_grad:
                        nn.init.trunc_normal_(table, std=_STD, a=-_STD, b=_STD)
            return
        if isinstance(num_heads, int):
            embed_dim, depths, num_heads = stages_of(embed_dim, depth, num_heads)
        self.encoder = SwinEncoder(
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depths or (),
            num_heads,
            window_size,
            drop_path,
            stem,
        )

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

    def _as_map(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Lay tokens (B, K, D) of images out as a map (B, D, rows, columns)."""
        size = [side // self.encoder.patch_size for side in images.shape[-2:]]
        return tokens.mT.unflatten(2, size)

    def _published(self) -> dict[str, str]:
        """Return published prefixes of names, and ours."""
        return vit_names("encoder.", self.encoder.stem)

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        if isinstance(self.encoder, SwinEncoder):
            return rename(tensors, swin_names(self.encoder), back=True)
        flat = to_published(tensors, self._published(), self.encoder.patch_size)
        return _split_biases(flat)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names, strictly.

        Raises:
            CheckpointError: names or shapes do not fit; lists them.
        """
        found = {k: v for k, v in state_dict.items() if not k.endswith(_DERIVED)}
        if isinstance(self.encoder, SwinEncoder):
            load_weights(self, rename(found, swin_names(self.encoder)))
            return
        load_weights(self, from_published(_join_biases(found), self._published()))


def vit_names(prefix: str, stem: StemKind = "linear") -> dict[str, str]:
    """Return published prefixes of a masked image model on a ViT, and ours.

    Args:
        prefix: what the published names of its encoder begin with.
        stem: how its patches become tokens.
    """
    encoder = {
        "cls_token": "encoder.class_token",
        "mask_token": "mask_token",
        "pos_embed[token]": "encoder.positions.token",
        "pos_embed[places]": "encoder.positions.spatial",
        _EMBEDDING[stem]: "encoder.embedding." + ("0." if stem == "linear" else ""),
        "rel_pos_bias.relative_position_bias_table": "encoder.relative.table",
        "blocks.": "encoder.blocks.",
        "norm.": "encoder.norm.",
    }
    own = {
        "decoder.0.": "decoder.",
        "decoder_lbp.": "decoder_lbp.",
        "lm_head.": "lm_head.",
    }
    return {prefix + name: ours for name, ours in encoder.items()} | own


def swin_names(encoder: SwinEncoder) -> dict[str, str]:
    """Return published prefixes of a masked image model on a Swin, and ours."""
    names = {
        "encoder.mask_token": "mask_token",
        "encoder." + _EMBEDDING[encoder.stem]: "encoder.embedding.",
        "encoder.patch_embed.norm.": "encoder.embedding_norm.",
        "encoder.norm.": "encoder.norm.",
        "decoder.0.": "decoder.",
    }
    blocks = iter(range(encoder.depth))
    for stage, depth in enumerate(encoder.config["depths"]):
        for number in range(depth):
            ours = f"encoder.blocks.{next(blocks)}."
            if stage and not number:
                names[f"encoder.layers.{stage - 1}.downsample."] = f"{ours}merge."
            names[f"encoder.layers.{stage}.blocks.{number}."] = ours
    return names


def rename(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], back: bool = False
) -> dict[str, Tensor]:
    """Replace prefixes of names by others, the longest that fits.

    Args:
        tensors: by name; names without such a prefix stay.
        names: prefixes, and what replaces them.
        back: replace the second by the first.
    """
    table = {ours: theirs for theirs, ours in names.items()} if back else names
    found = {}
    for name, value in tensors.items():
        prefix = max((p for p in table if name.startswith(p)), key=len, default="")
        found[table.get(prefix, "") + name.removeprefix(prefix)] = value
    return found


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
    if not 0 <= mask_ratio < 1:
        raise ConfigError(f"mask_ratio is {mask_ratio}: use 0 <= mask_ratio < 1.")
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


def default_unit(image_size: int, stride: int) -> int:
    """Return 32 px where that suits an image and its patches, else a patch."""
    suits = image_size % _UNIT_PX == 0 and _UNIT_PX % stride == 0
    return _UNIT_PX if suits else stride


class SimMIM(MaskedImageModel):
    """Masked image modelling by the pixels of hidden patches.

    Its prediction is (B, C, H, W); its mask (B, rows, columns) of patches; its latent
    the encoder's map (B, D, rows, columns).

    Args:
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side of a patch, px; of `swin` that of the first stage.
        embed_dim: width; of `swin` that of the first stage where `depths` are given,
            else of the last.
        depth: blocks.
        num_heads: attention heads; of `swin` those of each stage where `depths` are
            given, else half those of the last.
        encoder: `vit` or `swin`.
        depths: blocks of each stage of `swin`; None shares out `depth`: two each, all
            others in the third, at most four stages.
        window_size: side of a window of `swin`, tokens.
        mask_patch_size: side of what is hidden as one, px; None takes 32 where image
            and patches allow it, else a patch.
        layer_scale: first value of the factors of each branch of `vit`; None has none.
        drop_path: stochastic depth of the last block, 0..1.
        published: as the published code; there is no difference to it here.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "simmim"
    default_mask_ratio = 0.6

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
        window_size: int | Sequence[int] = 6,
        mask_patch_size: int | None = None,
        layer_scale: float | None = 0.1,
        drop_path: float = 0.0,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(
            encoder,
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            depths,
            window_size,
            layer_scale,
            drop_path,
        )
        self.config = settings | plain_stages(settings, self.encoder)
        stride = self.encoder.patch_size
        self.patch_size = patch_size
        self.mask_patch_size = mask_patch_size or default_unit(image_size, stride)
        check_unit(self.mask_patch_size, patch_size, image_size)
        width = self.encoder.config["embed_dim"]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        cut = _STD if encoder == "vit" else 2.0
        nn.init.trunc_normal_(self.mask_token, std=_STD, a=-cut, b=cut)
        self.decoder = nn.Conv2d(self.encoder.embed_dim, stride**2 * num_bands, 1)

    def noise_size(self, images: Tensor) -> int:
        """Return the number of units that are hidden one by one."""
        return math.prod(unit_grid(images, self.mask_patch_size))

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        wavelengths: Wavelengths | Tensor | None = None,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        counts: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Hide patches and rebuild them; see `Objective.forward`.

        A mask (B, rows, columns) of patches, or of coarser units, may be given.
        """
        own_bands_only(wavelengths=wavelengths)
        _, _, rows, columns = self.encoder.shape_of(images)
        if mask is None:
            mask = self._choose(images, mask_ratio, self.draw(images, noise))
        mask = spread(mask.to(images), (rows, columns))
        tokens = self._encode(images, lambda x: hide(x, mask, self.mask_token))
        latent = self._as_map(tokens, images)
        prediction = F.pixel_shuffle(self.decoder(latent), self.encoder.patch_size)
        pixels = spread(mask, images.shape[-2:])[:, None]
        loss = masked_difference(images, prediction, pixels, valid, counts)
        return ObjectiveOutput(
            loss,
            {},
            prediction,
            mask,
            latent,
            None if self.training else prediction.detach(),
            None if self.training else (pixels > 0).expand_as(images),
        )

    def _choose(
        self, images: Tensor, mask_ratio: float | None, noise: Tensor
    ) -> Tensor:
        """Choose the hidden units, (B, rows, columns)."""
        grid = unit_grid(images, self.mask_patch_size)
        check_noise(noise, math.prod(grid))
        ratio = self.default_mask_ratio if mask_ratio is None else mask_ratio
        return choose_units(noise, ratio).unflatten(1, grid)

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the hidden pixels that the loss averages over; see `Objective`."""
        mask = self._choose(images, mask_ratio, noise.to(images.device))
        pixels = spread(mask, images.shape[-2:])[:, None]
        return count_masked(pixels, images, valid)[None]


def plain_stages(
    settings: Mapping[str, Any], encoder: VisionTransformer | SwinEncoder
) -> dict[str, Any]:
    """Return the settings of stages as a checkpoint holds them."""
    if not isinstance(encoder, SwinEncoder):
        return {}
    found = {"window_size": encoder.config["window_size"]}
    if settings["depths"] is not None:
        found |= {name: encoder.config[name] for name in ("depths", "num_heads")}
    return found


def check_unit(unit: int, patch_size: int, image_size: int) -> None:
    """Refuse units that are no whole number of patches, or of which images have none.

    Raises:
        ConfigError: says both sizes.
    """
    if unit < 1 or unit % patch_size or image_size % unit:
        raise ConfigError(
            f"mask_patch_size is {unit} px: use a multiple of patch_size {patch_size} "
            f"of which image_size {image_size} is one."
        )


def check_noise(noise: Tensor, count: int) -> None:
    """Refuse noise of another size than (B, count).

    Raises:
        ShapeError: says both.
    """
    if noise.ndim != 2 or noise.shape[1] != count:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}: these images need (batch, {count})."
        )


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
