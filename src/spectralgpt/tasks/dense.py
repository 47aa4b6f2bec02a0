"""Maps as a task: a class for every pixel, of one date or of the change between two."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectralgpt.data.dense import CHANGE
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.losses import pixel_cross_entropy, soft_dice
from spectralgpt.metrics import Scores, confusion_counts, score_pixels
from spectralgpt.models.segmentation import DenseModel
from spectralgpt.tasks.seeding import seeded

__all__ = [
    "DenseLossConfig",
    "DenseTask",
    "check_mapper",
    "flipped_probabilities",
    "leading_metric",
    "predict_map",
    "score_map",
]


@dataclass(frozen=True)
class DenseLossConfig:
    """How a map is compared with the labels.

    Args:
        class_weights: none, or balanced (pixels of rare classes weigh more).
        dice_weight: weight of the Dice term beside cross-entropy, at least 0.
        label_smoothing: share of a target that is spread over all classes, 0..1.
    """

    class_weights: Literal["none", "balanced"] = "none"
    dice_weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.dice_weight < 0:
            raise ConfigError(
                f"loss.dice_weight must be at least 0 (found: {self.dice_weight})."
            )
        if not 0 <= self.label_smoothing <= 1:
            raise ConfigError(
                f"loss.label_smoothing must be in 0..1 (found: {self.label_smoothing})."
            )


class DenseTask:
    """Loss and metrics of a map; batches hold `image`, `target` and `seed`.

    Args:
        model: images (B, C, H, W), or (B, 2, C, H, W) of two dates, to logits
            (B, K, H, W).
        class_names: K names.
        task: "segmentation" or "change".
        loss: how the map is compared.
        class_weights: (K,) weights, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        task: str,
        loss: DenseLossConfig | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model = model
        self.class_names = tuple(class_names)
        self.task = task
        self.loss_config = loss or DenseLossConfig()
        self.class_weights = class_weights
        self._counts = self._no_counts()

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Give the loss over labelled pixels."""
        with seeded(int(batch["seed"][0]), batch["image"].device):
            # Stochastic depth and dropout draw.
            logits = self.model(batch["image"])
        config, targets = self.loss_config, batch["target"]
        terms = {
            "cross_entropy": pixel_cross_entropy(
                logits, targets, self.class_weights, config.label_smoothing
            )
        }
        if config.dice_weight:
            terms["dice"] = soft_dice(logits, targets)
        loss = terms["cross_entropy"] + config.dice_weight * terms.get("dice", 0.0)
        return {"loss": loss, **terms}

    def validate(self, batch: dict[str, Any]) -> None:
        """Add the counts of one held-out batch."""
        with torch.inference_mode():
            predicted = self.model(batch["image"]).argmax(dim=1)
        classes = len(self.class_names)
        self._counts += confusion_counts(predicted, batch["target"], classes)

    def metrics(self) -> dict[str, float]:
        """Give the scores over all held-out pixels at once, and reset."""
        counts, self._counts = self._counts, self._no_counts()
        return score_map(counts, self.class_names, self.task).summary

    def _no_counts(self) -> NDArray[np.int64]:
        classes = len(self.class_names)
        return np.zeros((classes, classes), dtype=np.int64)


def check_mapper(
    model: nn.Module, extra: Mapping[str, Any], name: str
) -> tuple[tuple[str, ...], str]:
    """Return class names and task of a model that makes maps.

    Args:
        model: any loaded model.
        extra: what its checkpoint says of it.
        name: what it is called in messages.

    Raises:
        CheckpointError: it makes none, or does not say what its classes are.
    """
    if not isinstance(model, DenseModel):
        raise CheckpointError(
            f"{name} makes no maps: run `spectralgpt finetune segmentation` or "
            "`finetune change` first."
        )
    names, task = extra.get("class_names"), extra.get("task")
    if not names or not task:
        raise CheckpointError(
            f"{name} makes maps, but does not name their classes. Fine-tune with this "
            "package to get a model that does."
        )
    return tuple(names), str(task)


def score_map(
    counts: NDArray[np.int64], class_names: Sequence[str], task: str
) -> Scores:
    """Score counts (K, K) of true and predicted classes; see `score_pixels`."""
    return score_pixels(counts, class_names, _positive_class(task, class_names))


def leading_metric(task: str, class_names: Sequence[str]) -> str:
    """Name the score by which checkpoints are chosen."""
    return "mean_iou" if _positive_class(task, class_names) is None else "f1"


def flipped_probabilities(
    predict: Callable[[Tensor], Tensor], images: Tensor, flips: bool
) -> Tensor:
    """Give class probabilities (B, K, H, W), over flipped copies if asked for.

    Args:
        predict: images (B, ..., H, W) to logits (B, K, H, W).
        images: prepared images.
        flips: average over the image and its three mirror images.
    """
    with torch.inference_mode():
        views = [
            _flip(predict(_flip(images, axes)).float().softmax(dim=1), axes)
            for axes in _mirrors(flips)
        ]
    return torch.stack(views).mean(dim=0)


def predict_map(model: nn.Module, flips: bool, images: Tensor) -> Tensor:
    """Give class probabilities of images on any device; see `flipped_probabilities`."""
    device = next(model.parameters()).device
    return flipped_probabilities(model, images.to(device), flips)


def _positive_class(task: str, class_names: Sequence[str]) -> int | None:
    """Return the class that scores are about: the second of two, else none.

    A map of two classes says where something is: change, damage, water.
    """
    return 1 if task == CHANGE or len(class_names) == 2 else None


def _mirrors(flips: bool) -> Iterator[tuple[int, ...]]:
    yield ()
    if flips:
        yield from ((-1,), (-2,), (-2, -1))


def _flip(images: Tensor, axes: tuple[int, ...]) -> Tensor:
    return images.flip(axes) if axes else images
