"""MoCo: a view finds the other one of its image by the keys of a slower encoder.

Versions 1 and 2 look among the keys of many batches before, kept in a queue; version 3
among those of the batch.

Sources: He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297; Chen et
al. 2021, arXiv:2104.02057.
"""

import copy
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.errors import ConfigError
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
from spectralgpt.models.vit_autoencoder import (
    ENCODER_NAMES,
    from_published,
    to_published,
)
from spectralgpt.models.weights import load_weights

Version = Literal["v1", "v2", "v3"]
Heads = Literal["vit", "resnet"]

_NUMBERS = ("dim", "hidden_dim", "queue_size", "momentum", "temperature")
_DEFAULTS: dict[str, dict[str, float]] = {
    "v1": {"dim": 128, "queue_size": 65_536, "momentum": 0.999, "temperature": 0.07},
    "v2": {"dim": 128, "queue_size": 65_536, "momentum": 0.999, "temperature": 0.2},
    "v3": {"dim": 256, "hidden_dim": 4096, "momentum": 0.99, "temperature": 0.2},
}
# Views of version 3 differ: the first ones are all blurred, few of the second ones.
_VIEWS = {
    "v1": ViewConfig(min_scale=0.2, blur_share=(0.0, 0.0)),
    "v2": ViewConfig(min_scale=0.2, blur_share=(0.5, 0.5)),
    "v3": ViewConfig(min_scale=0.08, blur_share=(1.0, 0.1)),
}
# What published weights call encoder, its head and the slower ones.
_PUBLISHED_NAMES = {
    "v1": ("encoder_q", "encoder_k", "fc"),
    "v2": ("encoder_q", "encoder_k", "fc"),
    "v3": ("base_encoder", "momentum_encoder", "head"),
}


def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Give the error in finding the key of each query among all keys, 0-d.

    It is the mean cross-entropy times twice the temperature, which keeps gradients of
    one size at any temperature.

    Args:
        q: (B, D), queries.
        k: (B, D), keys, in the same order.
        temperature: above 0.

    Source: arXiv:2104.02057, algorithm 1.
    """
    logits = similarities(unit(q), unit(k), temperature)
    return 2 * temperature * F.cross_entropy(logits, _places(q))


def _queue_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the similarities of queries with their own key, then with others'.

    Args:
        q: (B, D), queries.
        k: (B, D), keys, in the same order.
        queue: (D, K), keys of length 1.
        temperature: above 0.

    Returns:
        (B, 1 + K); the first is the right one.

    Source: arXiv:1911.05722, algorithm 1.
    """
    q = unit(q)
    own = (q * unit(k)).sum(dim=1, keepdim=True) / temperature
    return torch.cat([own, similarities(q, queue.T, temperature)], dim=1)


def momentum_at(done: float, momentum: float) -> float:
    """Return the momentum of version 3 when a share of the training is done, 0..1.

    It rises to 1 by half a cosine.
    """
    return 1 - (1 - momentum) * (1 + math.cos(math.pi * done)) / 2


def _places(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


class MomentumContrast(Contrastive):
    """Two encoders, the second of which follows the first slowly, and their heads.

    Batch statistics of the slower encoder come from its own images, in all versions:
    they belong to its own weights.

    Args:
        encoder: what is learned, see `Contrastive`.
        width: of its features.
        version: v1, v2 or v3; for this and the numbers see `MoCo`.
        heads: those of v3 for a `vit`, or a `resnet`.
        views: what of `ViewConfig` differs from the paper's, by name.

    Raises:
        ConfigError: a setting is out of range, or not of this version.
    """

    name = "moco"
    queue: Tensor
    queue_ptr: Tensor
    keys_seen: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        version: Version = "v3",
        dim: int | None = None,
        hidden_dim: int | None = None,
        queue_size: int | None = None,
        momentum: float | None = None,
        temperature: float | None = None,
        heads: Heads = "vit",
        views: Mapping[str, Any] | None = None,
    ) -> None:
        stated = {name: value for name, value in locals().items() if name in _NUMBERS}
        if version not in _DEFAULTS:
            raise ConfigError(f"version is {version!r}: use v1, v2 or v3.")
        super().__init__(encoder, views, _VIEWS[version])
        numbers = _with_defaults(version, stated)
        self.version, self.heads = version, heads
        self.momentum, self.temperature = numbers["momentum"], numbers["temperature"]
        size = int(numbers["dim"])
        self.predictor: nn.Module | None = None
        self.projector: nn.Module
        if version == "v3":
            within = int(numbers["hidden_dim"])
            is_vit = heads == "vit"
            between = (within, within) if is_vit else (within,)
            self.projector = build_head((width, *between, size))
            self.predictor = build_head((size, within, size), last_norm=is_vit)
        else:
            last = nn.Linear(width, size)
            self.projector = last
            if version == "v2":
                self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
            queue = torch.randn(size, int(numbers["queue_size"]))
            self.register_buffer("queue", F.normalize(queue, dim=0))
            self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
            # Keys that have come; the others are random, and easily told apart.
            self.register_buffer("keys_seen", torch.zeros(1, dtype=torch.long))
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def check_batch(self, size: int) -> None:
        """Refuse batches that the queue cannot take, or that hold one image."""
        if self.version == "v3":
            super().check_batch(size)
            return
        slots = self.queue.shape[1]
        if slots % size:
            raise ConfigError(
                f"queue_size is {slots}, no multiple of the {size} images that all "
                "processes have in a micro-batch: change one of them."
            )

    @torch.no_grad()
    def begin_step(self, done: float = 0.0) -> None:
        """Let the slower encoder follow by one step; see `Objective`."""
        m = self.momentum
        if self.version == "v3":
            m = momentum_at(done, m)
        own = chain(self.encoder.parameters(), self.projector.parameters())
        slower = chain(
            self.momentum_encoder.parameters(), self.momentum_projector.parameters()
        )
        for parameter, key in zip(own, slower, strict=True):
            key.mul_(m).add_(parameter, alpha=1 - m)

    def queries(self, images: Tensor) -> Tensor:
        """Return what looks for keys, (B, dim), of any length."""
        x: Tensor = self.projector(self.features_of(self.encoder, images))
        return x if self.predictor is None else self.predictor(x)

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Return the keys of images, (B, dim), of any length, without gradient."""
        features = self.features_of(self.momentum_encoder, images)
        found: Tensor = self.momentum_projector(features)
        return found

    def compare_views(self, first: Tensor, second: Tensor) -> ObjectiveOutput:
        """Find keys by queries; see `Contrastive`.

        In training the keys of v1 and v2 then go into the queue.
        """
        if self.version == "v3":
            return self._compare_both_ways(first, second)
        q, k = self.queries(first), self.keys(second)
        if self.training:
            self.check_batch(len(k))
        # The queue changes before the gradients are taken.
        logits = _queue_logits(q, k, self.queue.clone(), self.temperature)
        labels = torch.zeros_like(_places(q))
        filled = (self.keys_seen[0] / self.queue.shape[1]).clamp(max=1)
        terms = {
            "matched": share_matched(logits.detach(), labels),
            "queue_filled": filled,
        }
        if self.training:
            self._enqueue(unit(k))
        loss = F.cross_entropy(logits, labels)
        return ObjectiveOutput(loss, terms, prediction=logits, latent=q)

    def _compare_both_ways(self, first: Tensor, second: Tensor) -> ObjectiveOutput:
        q1, q2 = self.queries(first), self.queries(second)
        k1, k2 = self.keys(first), self.keys(second)
        if self.training:
            self.check_batch(len(k1))
        loss = contrast(q1, k2, self.temperature) + contrast(q2, k1, self.temperature)
        found = similarities(unit(q1.detach()), unit(k2), self.temperature)
        terms = {"matched": share_matched(found, _places(q1))}
        return ObjectiveOutput(loss, terms, prediction=found, latent=q1)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        slots = self.queue.shape[1]
        places = (self.queue_ptr + _places(keys)) % slots
        self.queue[:, places] = keys.T
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % slots)
        self.keys_seen += len(keys)

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form."""
        patch_size = getattr(self.encoder, "patch_size", 1)
        return to_published(tensors, self._published(), patch_size)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names; see `Objective`."""
        found = from_published(state_dict, self._published())
        if self.version != "v3":
            # What is published was trained: its queue is full.
            found["keys_seen"] = torch.full((1,), self.queue.shape[1])
        load_weights(self, found)

    def _published(self) -> dict[str, str]:
        """Return published prefixes of names, and ours."""
        fast, slow, head = _PUBLISHED_NAMES[self.version]
        if self.heads == "resnet":
            head = "fc"
        names = {name: name for name in ("queue", "predictor.")}
        is_vit = isinstance(self.encoder, VisionTransformer)
        within = ENCODER_NAMES if is_vit else {"": "encoder."}
        for theirs, ours in ((fast, ""), (slow, "momentum_")):
            names[f"{theirs}.{head}."] = f"{ours}projector."
            for name, own in within.items():
                names[f"{theirs}.{name}"] = ours + own
        return names


def _with_defaults(
    version: Version, stated: Mapping[str, float | None]
) -> dict[str, float]:
    """Return the numbers of a version, those that are stated or the paper's."""
    numbers = {k: v for k, v in stated.items() if v is not None}
    for name in numbers:
        if name not in _DEFAULTS[version]:
            raise ConfigError(f"{name} is set, but MoCo {version} does not have it.")
    found = {**_DEFAULTS[version], **numbers}
    check_settings(found)
    check_range("at most 1", found, "momentum")
    return found


class MoCo(MomentumContrast):
    """Momentum contrast of a vision transformer, for any number of bands.

    Args:
        version: v1 and v2 look among the keys of many batches, v3 among the batch's.
        dim: width of what is compared; None takes 128, of v3 256.
        hidden_dim: width within the heads of v3; None takes 4,096.
        queue_size: keys in the queue of v1 and v2, a multiple of the batch; None takes
            65,536.
        momentum: share of the slower weights that a step keeps, 0..1; in v3 it rises to
            1 from here. None takes 0.999, of v3 0.99.
        temperature: of the softmax; None takes 0.2, of v1 0.07.
        freeze_patches: keep the patch map as drawn, which makes v3 stable; None does so
            in v3.
        views: what of `ViewConfig` differs from the paper's, by name.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range, or not of this version.
    """

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        version: Version = "v3",
        dim: int | None = None,
        hidden_dim: int | None = None,
        queue_size: int | None = None,
        momentum: float | None = None,
        temperature: float | None = None,
        freeze_patches: bool | None = None,
        views: Mapping[str, Any] | None = None,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        encoder = VisionTransformer(
            image_size, num_bands, patch_size, embed_dim, depth, num_heads
        )
        numbers = {name: settings[name] for name in _NUMBERS}
        super().__init__(encoder, embed_dim, version, views=views, **numbers)
        if freeze_patches or (freeze_patches is None and version == "v3"):
            encoder.embedding.requires_grad_(False)
        self.config = settings


OBJECTIVE = MoCo
