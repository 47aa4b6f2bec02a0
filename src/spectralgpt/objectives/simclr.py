"""SimCLR: a view finds the other one of its image among all of the batch.

Source: Chen et al. 2020, arXiv:2002.05709, and arXiv:2006.10029 for the head.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.errors import ShapeError
from spectralgpt.models.contrastive import (
    Contrastive,
    build_head,
    share_matched,
    similarities,
    unit,
)
from spectralgpt.models.objective import ObjectiveOutput
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.views import ViewConfig
from spectralgpt.models.vit import VisionTransformer

# Source: colour distortion of strength 1 in the paper.
_VIEWS = ViewConfig(min_scale=0.08, brightness=0.8, contrast=0.8)
_HEAD_LAYERS = 3


def nt_xent(
    hidden: Tensor,
    temperature: float = 0.1,
    normalize: bool = True,
    published: bool = False,
) -> Tensor:
    """Give the normalised, temperature-scaled cross-entropy of pairs of views, 0-d.

    Args:
        hidden: (2B, D), all first views, then all second ones.
        temperature: above 0.
        normalize: compare directions only.
        published: twice the paper's mean over all views, as the published code.

    Raises:
        ShapeError: the number of views is odd.
    """
    logits, labels = _pair_logits(hidden, temperature, normalize)
    loss = F.cross_entropy(logits, labels)
    return 2 * loss if published else loss


def _pair_logits(
    hidden: Tensor, temperature: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Return the similarities of views (2B, 2B), and where each one's other view is."""
    if hidden.ndim != 2 or len(hidden) % 2:
        raise ShapeError(
            f"views have shape {tuple(hidden.shape)}: give (2 * batch, width), the "
            "first views stacked on the second."
        )
    if normalize:
        hidden = unit(hidden)
    logits = similarities(hidden, hidden, temperature)
    itself = torch.eye(len(hidden), dtype=torch.bool, device=hidden.device)
    labels = torch.arange(len(hidden), device=hidden.device).roll(len(hidden) // 2)
    return logits.masked_fill(itself, -torch.inf), labels


class SimCLR(Contrastive):
    """Contrastive learning within the batch, for any number of bands.

    Args:
        dim: width of what is compared.
        hidden_dim: width within the head; None takes that of the encoder.
        temperature: of the softmax, above 0.
        views: what of `ViewConfig` differs from the paper's, by name.
        published: twice the paper's loss, as the published code.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "simclr"

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        dim: int = 128,
        hidden_dim: int | None = None,
        temperature: float = 0.1,
        views: Mapping[str, Any] | None = None,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        encoder = VisionTransformer(
            image_size, num_bands, patch_size, embed_dim, depth, num_heads
        )
        super().__init__(encoder, views, _VIEWS)
        self.temperature, self.published = temperature, published
        within = (hidden_dim or embed_dim,) * (_HEAD_LAYERS - 1)
        self.projector = build_head((embed_dim, *within, dim), last_scale=True)
        self.config = settings

    def compare_views(self, first: Tensor, second: Tensor) -> ObjectiveOutput:
        """Compare all views with each other; see `Contrastive`."""
        parts = [self.features_of(self.encoder, view) for view in (first, second)]
        if self.training:
            self.check_batch(len(parts[0]))
        hidden = self.projector(torch.cat(parts))
        logits, labels = _pair_logits(hidden, self.temperature, True)
        loss = F.cross_entropy(logits, labels) * (2 if self.published else 1)
        terms = {"matched": share_matched(logits.detach(), labels)}
        return ObjectiveOutput(loss, terms, latent=hidden)


OBJECTIVE = SimCLR
