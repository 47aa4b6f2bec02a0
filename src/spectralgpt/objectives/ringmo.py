"""RingMo: part of the pixels of chosen units is hidden, so that small things stay seen.

The encoder gets images whose hidden pixels are 0, through three convolutions a patch;
there is no mask token. One map rebuilds the pixels, another may rebuild their texture.

Source: Sun et al. 2022, doi 10.1109/TGRS.2022.3194732, and its published code.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.errors import ShapeError
from spectralgpt.models.objective import ObjectiveOutput
from spectralgpt.objectives.simmim import (
    EncoderKind,
    PixelModel,
    choose_units,
    masked_difference,
    unit_grid,
)

_UNIT_PX = 32  # Source: the published code.
_POINTS, _RADIUS = 8, 2
_MOST_CHANGES, _UNEVEN = 2, 9.0
# What MindSpore calls the parts of batch and layer norms, and what torch does.
_NORM_PARTS = {
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "gamma": "weight",
    "beta": "bias",
}
_NORM = re.compile(r"norm\d?$|projection\.[147]$")
_COUNTED = "num_batches_tracked"


def draw_pimask(
    image_size: int,
    mask_patch_size: int = _UNIT_PX,
    mask_ratio: float = 0.6,
    inside_ratio: float = 0.6,
    rng: Any = np.random,
) -> np.ndarray:
    """Draw a mask as the published code does.

    Args:
        image_size: side of the image, px.
        mask_patch_size: side of a unit, px.
        mask_ratio: share of the units in which pixels are hidden.
        inside_ratio: share of their pixels that are hidden.
        rng: has numpy's `permutation`, such as `numpy.random.RandomState(0)`.

    Returns:
        uint8 (1, image_size, image_size), 1 where hidden.
    """
    unit, side = mask_patch_size, image_size // mask_patch_size
    chosen = rng.permutation(side * side)[: math.ceil(side * side * mask_ratio)]
    inside = math.ceil(unit * unit * inside_ratio)
    mask = np.zeros((side * side, unit * unit), dtype=np.uint8)
    for number in np.sort(chosen):
        mask[number, rng.permutation(unit * unit)[:inside]] = 1
    cut = mask.reshape(side, side, unit, unit)
    return cut.transpose(0, 2, 1, 3).reshape(1, image_size, image_size)


def local_binary_pattern(images: Tensor) -> Tensor:
    """Describe the texture around each pixel by how it compares with 8 points near it.

    Args:
        images: (..., H, W); beyond their edge is 0.

    Returns:
        float64 of that shape: of points at a distance of 2 pixels, how many are at
        least as large as the pixel, 0..8, where they change at most twice between one
        side and the other; else 9.

    Source: Ojala et al. 2002, doi 10.1109/TPAMI.2002.1017623, as scikit-image has it.
    """
    margin = _RADIUS + 1
    padded = F.pad(images.double(), (margin,) * 4)
    H, W = images.shape[-2:]
    larger = []
    for point in range(_POINTS):
        angle = 2 * math.pi * point / _POINTS
        down = round(-_RADIUS * math.sin(angle), 5)
        on = round(_RADIUS * math.cos(angle), 5)
        top, left = math.floor(down), math.floor(on)
        y, x = down - top, on - left
        corners = [
            padded[..., margin + r : margin + r + H, margin + c : margin + c + W]
            for r in (top, math.ceil(down))
            for c in (left, math.ceil(on))
        ]
        above = (1 - x) * corners[0] + x * corners[1]
        below = (1 - x) * corners[2] + x * corners[3]
        larger.append((1 - y) * above + y * below >= images.double())
    signs = torch.stack(larger).double()
    changes = signs.diff(dim=0).abs().sum(dim=0)
    even: Tensor = signs.sum(dim=0)
    return torch.where(changes <= _MOST_CHANGES, even, _UNEVEN)


class RingMo(PixelModel):
    """Masked image modelling by the pixels that are hidden within units.

    For its output see `PixelModel`; its mask is (B, 1, H, W).

    Args:
        mask_patch_size: side of a unit, px; None takes 32 where patches and larger
            images allow it, else a patch.
        inside_ratio: share of the pixels of a chosen unit that are hidden; the mask
            ratio is that of chosen units.
        use_lbp: rebuild the local binary pattern of each band as well.
        published: predict the pixels of a patch by row, column, then band, and
            approximate the GELU of the embedding by a hyperbolic tangent, as the
            published code does.

    The others are those of `MaskedImageModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "ringmo"

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
        inside_ratio: float = 0.6,
        use_lbp: bool = False,
        layer_scale: float | None = 0.1,
        drop_path: float = 0.0,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_range("above 0 and at most 1", {"inside_ratio": inside_ratio})
        super().__init__(settings, 1, "pi-tanh" if published else "pi")
        self.inside_ratio, self.published = inside_ratio, published
        self.decoder_lbp = self._map_to_pixels() if use_lbp else None

    def noise_size(self, images: Tensor) -> int:
        """Return the number of units, and of pixels within them."""
        rows, columns = unit_grid(images, self.mask_patch_size)
        return rows * columns * (1 + self.mask_patch_size**2)

    def forward(
        self, images: Tensor, *inputs: Any, lbp: Tensor | None = None, **others: Any
    ) -> ObjectiveOutput:
        """Hide pixels and rebuild them; see `Objective.forward`.

        A mask (B, 1, H, W) and the texture (B, C, H, W) may be given.
        """
        out = super().forward(images, *inputs, **others)
        if self.decoder_lbp is None:
            return out
        assert out.mask is not None
        texture = local_binary_pattern(images) if lbp is None else lbp
        found = self._lay_out(self.decoder_lbp(out.latent))
        valid, counts = others.get("valid"), others.get("counts")
        error = masked_difference(texture.to(images), found, out.mask, valid, counts)
        terms = {"pixel_loss": out.loss, "texture_loss": error}
        return replace(out, loss=out.loss + error, terms=terms)

    def _choose(
        self, images: Tensor, mask_ratio: float | None, noise: Tensor
    ) -> Tensor:
        unit = self.mask_patch_size
        rows, columns = unit_grid(images, unit)
        of_units, inside = noise.split([rows * columns, rows * columns * unit**2], 1)
        chosen = choose_units(of_units, self.ratio_of(mask_ratio))  # (B, units)
        hidden = choose_units(inside.reshape(-1, unit**2), self.inside_ratio)
        cut = hidden.view(-1, rows, columns, unit, unit) * chosen.view(
            -1, rows, columns, 1, 1
        )
        return cut.transpose(2, 3).reshape(-1, 1, rows * unit, columns * unit)

    def _fit(self, mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        if mask.shape != (len(images), 1, *images.shape[-2:]):
            raise ShapeError(
                f"mask has shape {tuple(mask.shape)}: these images need (batch, 1, "
                f"{images.shape[-2]}, {images.shape[-1]})."
            )
        return mask, mask

    def _encode_visible(self, images: Tensor, mask: Tensor) -> Tensor:
        return self._encode(images * (1 - mask))

    def _lay_out(self, values: Tensor) -> Tensor:
        if self.published:
            by_pixel = values.unflatten(1, (self.encoder.patch_size**2, -1))
            values = by_pixel.transpose(1, 2).flatten(1, 2)
        return super()._lay_out(values)

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        theirs = {ours: name for name, ours in _NORM_PARTS.items()}
        found = {}
        for name, value in super().published_names(tensors).items():
            stem, _, part = name.rpartition(".")
            if part != _COUNTED:
                part = theirs.get(part, part) if _NORM.search(stem) else part
                found[_decoder(f"{stem}.{part}", back=True)] = value
        return found

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names; see `Objective`."""
        counted = {n: v for n, v in self.state_dict().items() if n.endswith(_COUNTED)}
        found = super().published_names(counted)
        for name, value in state_dict.items():
            stem, _, part = name.rpartition(".")
            found[_decoder(f"{stem}.{_NORM_PARTS.get(part, part)}")] = value
        super().load_published_state_dict(found)


def _decoder(name: str, back: bool = False) -> str:
    """Name the decoder as SimMIM does, which has it within a sequence."""
    theirs, simmim = "decoder.", "decoder.0."
    if back:
        theirs, simmim = simmim, theirs
    return simmim + name.removeprefix(theirs) if name.startswith(theirs) else name


OBJECTIVE = RingMo
