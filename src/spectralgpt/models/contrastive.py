"""What contrastive objectives share: views, features, and whole batches of processes.

Each learns that two views of an image are alike, and unlike those of other images. The
feature of an image is the mean over its patches, which is what probes take, too.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import build_config
from spectralgpt.errors import ConfigError, require
from spectralgpt.models.cpu import in_full_precision
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.views import ViewConfig, make_views, view_noise_size


class Contrastive(Objective):
    """An objective that compares views of images.

    Several processes gather the features of all their images, with gradients, and go on
    with the whole batch: they give the numbers of one.

    Args:
        encoder: what is learned. Any module will do that gives features (B, ..., D),
            which are averaged over all axes between.
        views: what of `ViewConfig` differs from `defaults`, by name.
        defaults: how far views are changed.

    Raises:
        ConfigError: a setting of views is unknown, or out of range.
    """

    default_mask_ratio = 0.0
    sees_pairs = True

    def __init__(
        self,
        encoder: nn.Module,
        views: Mapping[str, Any] | None,
        defaults: ViewConfig,
    ) -> None:
        super().__init__()
        # Others than encoders serve comparisons with published numbers.
        self.encoder = cast(Encoder, encoder)
        values = asdict(defaults) | dict(views or {})
        self.views = build_config(values, ViewConfig, "settings.views")

    def noise_size(self, images: Tensor) -> int:
        """Return how many uniform values two views of an image take."""
        return view_noise_size(images, self.views)

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
        """Make two views and compare them; see `Objective.forward`.

        The loss is the mean over these images, whatever `counts` says: micro-batches
        are of one size, and each compares its own images only.
        """
        self.ratio_of(mask_ratio)
        noise = self.draw(images, noise, torch.device("cpu"))
        return self.compare_views(*make_views(images, noise, self.views, valid))

    def check_batch(self, size: int) -> None:
        """Refuse batches of which there is nothing to tell apart."""
        if size < 2:
            raise ConfigError(
                f"objective {self.name} tells images of a batch apart, and a batch "
                "holds one: raise trainer.batch_size."
            )

    @abstractmethod
    def compare_views(self, first: Tensor, second: Tensor) -> ObjectiveOutput:
        """Measure how far views of the same images are from being alike.

        Args:
            first: (B, C, H, W), or whatever else the encoder takes.
            second: of the same images, in the same order.
        """

    def features_of(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Return the features of the images of all processes in training, (B, D)."""
        features = encoder(images)
        if features.ndim > 2:
            features = features.flatten(1, -2).mean(dim=1)
        return _gather(features) if self.training else features


def _gather(features: Tensor) -> Tensor:
    """Put the features (B, D) of all processes together, with their gradients."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return features
    if distributed.get_world_size() == 1:
        return features
    require("lightly")
    from lightly.utils.dist import gather

    return torch.cat(gather(features.contiguous()))


def similarities(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the products of all pairs over a temperature, in float32 at least.

    Args:
        first: (A, D).
        second: (B, D).
        temperature: above 0.

    Returns:
        (A, B).
    """
    with in_full_precision(first.device):
        return _exact(first) @ _exact(second).T / temperature


def unit(features: Tensor) -> Tensor:
    """Scale features (B, D) to length 1, in float32 at least."""
    return F.normalize(_exact(features), dim=1, eps=1e-12)


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def share_matched(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows (A, B) whose largest value is at the label, 0-d."""
    return (logits.argmax(dim=1) == labels).float().mean()


def build_head(
    widths: tuple[int, ...], last_scale: bool = False, last_norm: bool = True
) -> nn.Sequential:
    """Build linear maps without bias, each normalised over the batch, ReLU between.

    Args:
        widths: of what goes in, of what is between, and of what comes out.
        last_scale: whether the last normalisation scales; it never shifts.
        last_norm: whether there is one.
    """
    layers: list[nn.Module] = []
    for number, (width, next_width) in enumerate(pairwise(widths)):
        is_last = number == len(widths) - 2
        layers.append(nn.Linear(width, next_width, bias=False))
        if not is_last:
            layers += [nn.BatchNorm1d(next_width), nn.ReLU()]
        elif last_norm:
            norm = nn.BatchNorm1d(next_width, affine=last_scale)
            if last_scale:
                norm.bias.requires_grad_(False)
            layers.append(norm)
    return nn.Sequential(*layers)
