"""Classification as a task: one class per image, or any number of labels.

Mixing and erasing are timm's. They act on whole batches and, as stochastic depth does,
draw from the seed of the batch's first sample, so that a resumed run repeats them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spectralgpt.config import check_range
from spectralgpt.data.samples import LABEL_TASKS, MULTI_LABEL
from spectralgpt.errors import ConfigError, require
from spectralgpt.metrics import score_images
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.weights import check_output
from spectralgpt.tasks import Batch, Gather, own_sums, seeded

MultiLabelLoss = Literal["soft-margin", "bce"]


@dataclass(frozen=True)
class RegularizationConfig:
    """What keeps a fine-tuned model from learning its images by heart.

    Args:
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of cutmix, 0 for none; with mixup, each batch gets one of the two.
        label_smoothing: share of a target that is spread over all classes, 0..1.
        erasing: share of images in which a rectangle is replaced by noise, 0..1.
        class_weights: none, or balanced (rare classes weigh more).
        multi_label_loss: soft-margin, or bce; they are the same but for class weights,
            which count for both outcomes of a label or only for its presence.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.1
    erasing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    multi_label_loss: MultiLabelLoss = "soft-margin"

    def __post_init__(self) -> None:
        """Check the ranges."""
        within, section = "at least 0 and at most 1", "regularization."
        check_range(within, self, "label_smoothing", "erasing", section=section)
        check_range("at least 0", self, "mixup", "cutmix", section=section)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


class ClassificationTask:
    """Loss and metrics of a classifier.

    Batches hold `image` (B, C, H, W) float, `seed` (B,), and `target`: (B,) class
    indices, or (B, classes) of 0 and 1 for several labels.

    Args:
        model: the classifier.
        class_names: names in the order of its outputs.
        task: "single-label" or "multi-label".
        regularization: mixing, smoothing, erasing, weights.
        class_weights: (classes,) weights, or None.

    Raises:
        ConfigError: the model has another number of outputs, or the task is unknown.
    """

    def __init__(
        self,
        model: ClassificationModel,
        class_names: Sequence[str],
        task: str,
        regularization: RegularizationConfig | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        if task not in LABEL_TASKS:
            raise ConfigError(
                f"Unknown task '{task}' (known: {', '.join(LABEL_TASKS)})."
            )
        if model.num_classes != len(class_names):
            raise ConfigError(
                f"The model has {model.num_classes} outputs for {len(class_names)} "
                "classes."
            )
        self.model = model
        self.class_names = tuple(class_names)
        self.task = task
        self.regularization = regularization or RegularizationConfig()
        self.class_weights = class_weights
        self.metric = "macro_map" if task == MULTI_LABEL else "accuracy"
        """The held-out score by which weights are chosen."""
        self._probabilities: list[Tensor] = []
        self._held_out_targets: list[Tensor] = []

    def sums(self, batch: Batch) -> Tensor:
        """Count the images, (1,): every mean of the loss is over them."""
        return batch["image"].new_full((1,), len(batch["image"]))

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give the 0-d loss on erased, mixed images and softened targets.

        Micro-batches have equally many images, so `gather` is not needed.
        """
        with seeded(int(batch["seed"][0]), batch["image"].device):
            images = self._erase(batch["image"])
            images, weights = self._mix(images)
            # Stochastic depth draws as well.
            logits = self.model(images)
        targets = self._soften(batch["target"])
        if weights is not None:
            targets = weights @ targets
        return {"loss": self._criterion(logits, targets)}

    def predict(self, images: Tensor) -> Tensor:
        """Give class probabilities (B, classes) of prepared images."""
        with torch.inference_mode():
            return check_output(to_probabilities(self.model(images), self.task))

    def validate(self, batch: Batch) -> None:
        """Add the predictions of one held-out batch."""
        self._probabilities.append(self.predict(batch["image"]).float().cpu())
        self._held_out_targets.append(batch["target"].cpu())

    def metrics(self) -> dict[str, float]:
        """Give the scores over all held-out batches at once, and reset."""
        probabilities = torch.cat(self._probabilities)
        targets = torch.cat(self._held_out_targets)
        self._probabilities, self._held_out_targets = [], []
        return score_images(probabilities, targets, self.class_names).summary

    def _erase(self, images: Tensor) -> Tensor:
        if not self.regularization.erasing:
            return images
        require("timm")
        from timm.data.random_erasing import RandomErasing

        erase: Any = RandomErasing(  # type: ignore[no-untyped-call]
            probability=self.regularization.erasing, mode="pixel", device=images.device
        )
        erased: Tensor = erase(images.clone())
        return erased

    def _mix(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mix each image with its partner; row i of (B, B) says what image i is of."""
        if not self.regularization.mixes:
            return images, None
        require("timm")
        from timm.data.mixup import Mixup

        # With every image a class of its own, timm's soft targets are the mixing
        # weights, and serve single- and multi-label targets alike.
        mix: Any = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=self.regularization.mixup,
            cutmix_alpha=self.regularization.cutmix,
            label_smoothing=0.0,
            num_classes=len(images),
        )
        members = torch.arange(len(images), device=images.device)
        mixed, weights = mix(images.clone(), members)
        return mixed, weights

    def _soften(self, targets: Tensor) -> Tensor:
        """Turn targets into soft ones, (B, classes)."""
        smoothing = self.regularization.label_smoothing
        if self.task == MULTI_LABEL:
            return targets.float() * (1 - smoothing) + smoothing / 2
        classes = len(self.class_names)
        one_hot = F.one_hot(targets, classes).float()
        return one_hot * (1 - smoothing) + smoothing / classes

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = self.class_weights
        if weights is not None:
            weights = weights.to(logits.device, non_blocking=True)
        if self.task != MULTI_LABEL:
            return F.cross_entropy(logits, targets, weight=weights)
        if self.regularization.multi_label_loss == "bce":
            return F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=weights
            )
        return F.multilabel_soft_margin_loss(logits, targets, weight=weights)


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn logits (B, K) into probabilities: softmax, or one sigmoid a label."""
    return logits.sigmoid() if task == MULTI_LABEL else logits.softmax(dim=-1)
