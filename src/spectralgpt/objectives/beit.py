"""BEiT: patches are hidden in blocks, and their visual tokens are what is learned.

The tokens come from a tokeniser that was trained before, on the imagery: objective
`tokenizer`. It is stored with the model, and stays as it is.

Source: Bao et al. 2021, arXiv:2106.08254.
"""

import copy
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import fit_arguments
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.models.cpu import move
from spectralgpt.models.objective import ObjectiveOutput
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.vit import PositionKind, VisionTransformer
from spectralgpt.objectives.simmim import (
    MaskedImageModel,
    hide,
    spread,
    vit_names,
)
from spectralgpt.objectives.tokenizer import SEEDS, Tokenizer

_STD = 0.02
_TRIES = 10
_LONGEST_SIDE_SHARE = 0.3
# The smallest block of the paper: 16 of 14 x 14 patches; at least so many.
_SMALLEST_SHARE, _SMALLEST = 16 / 196, 4
_SHORTEST_SIDE = 3
_NO_TOKENS = (
    "objective beit needs visual tokens, and has no tokeniser: train one first with "
    "`spectralgpt pretrain --objective tokenizer`, and name its checkpoint in "
    "model.start_from; recipe pretrain_beit does both."
)


def draw_block_mask(
    rows: int,
    columns: int,
    count: int,
    min_patches: int = 16,
    max_patches: int | None = None,
    aspect: float = _LONGEST_SIDE_SHARE,
    rng: Any = random,
) -> np.ndarray:
    """Hide blocks of patches until so many are hidden, or no block fits.

    Args:
        rows: of patches.
        columns: of patches.
        count: patches to hide.
        min_patches: of a block.
        max_patches: that a block may add; None takes `count`.
        aspect: least share of a block's sides, 0..1.
        rng: has `uniform` and `randint` of Python's `random`, such as `Random(0)`.

    Returns:
        bool (rows, columns), true where hidden.
    """
    mask = np.zeros((rows, columns), dtype=np.bool_)
    while (hidden := int(mask.sum())) < count:
        most = min(count - hidden, max_patches or count)
        if not _add_block(mask, min_patches, most, aspect, rng):
            break
    return mask


def _add_block(
    mask: np.ndarray, min_patches: int, most: int, aspect: float, rng: Any
) -> bool:
    """Hide one block more, in place; False if none of ten fits."""
    rows, columns = mask.shape
    for _ in range(_TRIES):
        area = rng.uniform(min_patches, most)
        ratio = math.exp(rng.uniform(math.log(aspect), math.log(1 / aspect)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if high >= rows or wide >= columns:
            continue
        top, left = rng.randint(0, rows - high), rng.randint(0, columns - wide)
        block = mask[top : top + high, left : left + wide]
        if 0 < block.size - int(block.sum()) <= most:
            block[:] = True
            return True
    return False


def _smallest(cells: int) -> int:
    """Return the patches of the smallest block of so many."""
    return max(_SMALLEST, round(_SMALLEST_SHARE * cells))


class BEiT(MaskedImageModel):
    """Masked image modelling by visual tokens.

    Its prediction is (M, tokens), logits of the M hidden patches of all images; its
    mask (B, rows, columns); its latent (B, N, D), of all patches.

    Args:
        vocab_size: visual tokens that there are.
        min_mask_patches: patches of the smallest block; None takes a twelfth of the
            image, 16 of 14 x 14, at least 4.
        max_mask_patches: most that a block adds; None sets no limit.
        positions: `relative`, or `learned`, absolute ones.
        tokenizer: settings of the tokeniser; None has none yet.

    The others are those of `MaskedImageModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "beit"
    rebuilds = False  # It predicts visual tokens.
    default_mask_ratio = 75 / 196
    starts_after = ("tokenizer",)
    encoder: VisionTransformer

    def __init__(
        self,
        image_size: int = 224,
        num_bands: int = 12,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        vocab_size: int = 8192,
        min_mask_patches: int | None = None,
        max_mask_patches: int | None = None,
        positions: PositionKind = "relative",
        layer_scale: float | None = 0.1,
        drop_path: float = 0.0,
        tokenizer: Mapping[str, Any] | None = None,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(settings, positions)
        check_settings(settings)
        if image_size // patch_size < _SHORTEST_SIDE:
            raise ConfigError(
                f"image_size {image_size} has {image_size // patch_size} patches a "
                f"side: blocks need at least {_SHORTEST_SIDE}. Use a smaller "
                "patch_size."
            )
        least = min_mask_patches or _smallest((image_size // patch_size) ** 2)
        if max_mask_patches is not None and max_mask_patches < least:
            raise ConfigError(
                f"max_mask_patches is {max_mask_patches}, but the smallest block has "
                f"{least} patches: raise it, or set min_mask_patches to at most that."
            )
        self.vocab_size = vocab_size
        self.min_mask_patches = min_mask_patches
        self.max_mask_patches = max_mask_patches
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.lm_head = nn.Linear(embed_dim, vocab_size)
        for weight in (self.mask_token, self.lm_head.weight):
            nn.init.trunc_normal_(weight, std=_STD, a=-_STD, b=_STD)
        nn.init.zeros_(self.lm_head.bias)
        self.tokenizer: Tokenizer | None = None
        if tokenizer is not None:
            self._take(Tokenizer(**fit_arguments(Tokenizer, tokenizer, "tokenizer")))

    def _take(self, tokenizer: Tokenizer) -> None:
        """Take tokens from a tokeniser, which learns no more."""
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.config = self.config | {"tokenizer": tokenizer.config}

    def train(self, mode: bool = True) -> "BEiT":
        """Set the mode of all but the tokeniser, whose codes would move."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    def start_from(self, other: nn.Module, name: str) -> None:
        """Take a tokeniser's tokens, or another BEiT's weights; see `Objective`."""
        if isinstance(other, Tokenizer):
            for ours, theirs in (
                ("vocab_size", other.vocab_size),
                ("patch_size", other.encoder.patch_size),
                ("num_bands", other.encoder.num_bands),
            ):
                if self.config[ours] != theirs:
                    raise CheckpointError(
                        f"{name} is a tokeniser of {ours} {theirs}, but {ours} is "
                        f"{self.config[ours]} here: set it to that."
                    )
            self._take(copy.deepcopy(other))
            return
        if isinstance(other, BEiT) and other.tokenizer is not None:
            self._take(copy.deepcopy(other.tokenizer))
        super().start_from(other, name)

    def check_ready(self) -> None:
        """Refuse to train without tokens; see `Objective`."""
        if self.tokenizer is None:
            raise ConfigError(_NO_TOKENS)

    def noise_size(self, images: Tensor) -> int:
        """Return 2: they seed the blocks of an image."""
        return 2

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
        tokens: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Hide patches and guess their tokens; see `Objective.forward`.

        A mask and tokens may be given, each (B, rows, columns) or (B, N).
        """
        _, _, *grid = self.encoder.shape_of(images)
        if tokens is None:
            self.check_ready()
            assert self.tokenizer is not None
            tokens = self.tokenizer.tokenize(images)
        if mask is None:
            mask = self._choose(images, mask_ratio, noise)
        mask = _on_grid(mask, grid, "mask").bool()
        # Found where the mask was drawn: no GPU is waited for.
        hidden, mask = move(mask.flatten().nonzero()[:, 0], images), move(mask, images)
        tokens = _on_grid(tokens, grid, "tokens").to(images.device).flatten()
        latent = self._encode(images, lambda x: hide(x, mask, self.mask_token))
        logits = self.lm_head(latent.flatten(0, 1)[hidden])  # (M, tokens)
        wanted = tokens[hidden]
        known = self._known(images, valid).flatten()[hidden]
        count = known.sum() if counts is None else counts[0]
        errors = F.cross_entropy(logits.float(), wanted, reduction="none")
        hits = ((logits.argmax(dim=1) == wanted) * known).sum()
        return ObjectiveOutput(
            (errors * known).sum() / count.clamp(min=1),
            {"accuracy": hits / count.clamp(min=1)},
            logits,
            mask.float(),
            latent,
        )

    def _choose(
        self, images: Tensor, mask_ratio: float | None, noise: Tensor | None
    ) -> Tensor:
        """Choose the hidden patches on the processor, bool (B, rows, columns)."""
        noise = self.draw(images, noise, torch.device("cpu"))
        ratio = self.ratio_of(mask_ratio)
        _, _, rows, columns = self.encoder.shape_of(images)
        cells = rows * columns
        least, count = self.min_mask_patches, round(ratio * cells)
        if count < (least or 1):
            raise ConfigError(
                f"a mask ratio of {ratio:g} hides {count} of {cells} patches, fewer "
                f"than the smallest block has, {least or 1}: raise masking.ratio, or "
                "lower settings.min_mask_patches."
            )
        masks = [
            draw_block_mask(
                rows,
                columns,
                count,
                least or _smallest(cells),
                self.max_mask_patches,
                rng=random.Random(int(first * SEEDS) * SEEDS + int(second * SEEDS)),
            )
            for first, second in noise.tolist()
        ]
        return torch.from_numpy(np.stack(masks))

    def _known(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Return 1 for patches that hold any valid pixel, else 0: (B, N)."""
        _, _, rows, columns = self.encoder.shape_of(images)
        if valid is None:
            return images.new_ones(len(images), rows * columns)
        any_band = valid.any(dim=1, keepdim=True).to(images)
        return F.max_pool2d(any_band, self.encoder.patch_size).flatten(1)

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the hidden patches that the loss averages over; see `Objective`."""
        mask = self._choose(images, mask_ratio, noise)
        known = self._known(images, valid)
        return (move(mask, images).flatten(1) * known).sum()[None]

    def _published(self) -> dict[str, str]:
        return vit_names("", self.encoder.stem)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over; see `Objective`. The tokeniser has no published form."""
        kept = self.tokenizer
        self.tokenizer = None
        try:
            super().load_published_state_dict(state_dict)
        finally:
            self.tokenizer = kept


def _on_grid(values: Tensor, grid: list[int], what: str) -> Tensor:
    """Return values (B, N) or (B, rows, columns) as (B, rows, columns)."""
    if values.ndim == 2:
        if values.shape[1] != math.prod(grid):
            raise ShapeError(
                f"{what} has shape {tuple(values.shape)}: these images need (batch, "
                f"{math.prod(grid)})."
            )
        values = values.unflatten(1, grid)
    return spread(values, grid, what)


OBJECTIVE = BEiT
