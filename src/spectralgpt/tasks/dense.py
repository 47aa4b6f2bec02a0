"""Maps as a task: for every pixel a class, of one date or of a change, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.losses import cross_entropy_sums, dice_areas, dice_loss, sum_weights
from spectralgpt.metrics import confusion_counts, score_pixels, score_values, value_sums
from spectralgpt.models.heads import RegressionModel
from spectralgpt.models.weights import check_output
from spectralgpt.tasks import Batch, Gather, mirrors, own_sums, seeded

HELD_OUT_LOSS = "loss"
"""Name of the cross-entropy among the held-out scores; lower is better."""
NUMBERS_METRIC = "rmse"
"""The held-out score of numbers by which weights are chosen; lower is better."""
ValueLoss = Literal["mse", "l1", "huber"]
_COMPARE: dict[str, Any] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


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
        check_range("at least 0", self, "dice_weight", section="loss.")
        within = "at least 0 and at most 1"
        check_range(within, self, "label_smoothing", section="loss.")


class DenseTask:
    """Loss and metrics of a map.

    Batches hold `image`, as the model takes it, `target` (B, H, W) class indices, and
    `seed` (B,).

    Args:
        model: images (B, C, H, W), or (B, 2, C, H, W) of two dates, to logits
            (B, K, H, W).
        class_names: K names.
        positive: the class that scores are about; None if all count alike.
        loss: how the map is compared.
        class_weights: (K,) weights, or None.
        metric: the held-out score by which weights are chosen; None takes the leading
            one.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        positive: str | None,
        loss: DenseLossConfig | None = None,
        class_weights: Tensor | None = None,
        metric: str | None = None,
    ) -> None:
        self.model = model
        self.class_names = tuple(class_names)
        self.positive = positive
        self.loss_config = loss or DenseLossConfig()
        self.class_weights = class_weights
        self.metric = metric or leading_metric(positive)
        self._reset()

    def sums(self, batch: Batch) -> Tensor:
        """Sum up what the loss averages over; for Dice, the model runs.

        Returns:
            (2,): micro-batches and weights of labelled pixels; with Dice also the
            areas of `dice_areas`, (2 + 3 * K,).
        """
        if self.loss_config.dice_weight:
            return self._sums_of(batch, self._logits(batch))
        return self._sums_of(batch, None)

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give the loss over labelled pixels and its terms, 0-d each.

        Args:
            batch: a micro-batch.
            gather: gives the sums of its whole step. Dice is then that of the step, of
                which this batch's share has the gradient; cross-entropy is its share,
                times the number of micro-batches: their mean is that of one batch.
        """
        logits, config = self._logits(batch), self.loss_config
        own = self._sums_of(batch, logits if config.dice_weight else None)
        whole = gather(own.detach())
        parts, weight = whole[0], whole[1]
        summed, _ = cross_entropy_sums(
            logits, batch["target"], self.class_weights, config.label_smoothing
        )
        terms = {"cross_entropy": summed / torch.where(weight > 0, weight, 1) * parts}
        if config.dice_weight:
            areas = whole[2:] + parts * (own - own.detach())[2:]
            terms["dice"] = dice_loss(areas.unflatten(0, (3, -1)))
        loss = terms["cross_entropy"] + config.dice_weight * terms.get("dice", 0.0)
        return {"loss": loss, **terms}

    def validate(self, batch: Batch) -> None:
        """Add the counts and the loss of one held-out batch."""
        targets = batch["target"]
        with torch.inference_mode():
            logits = check_output(self.model(batch["image"]))
        found = confusion_counts(logits.argmax(dim=1), targets, len(self.class_names))
        self._counts += found
        sums = torch.stack(cross_entropy_sums(logits, targets, self.class_weights))
        self._loss_sums += sums.double().cpu().numpy()

    def metrics(self) -> dict[str, float]:
        """Give scores and cross-entropy over all held-out pixels, and reset."""
        counts, (summed, weight) = self._counts, self._loss_sums
        self._reset()
        scores = score_pixels(counts, self.class_names, self.positive).summary
        return {**scores, HELD_OUT_LOSS: float(summed / max(weight, 1e-12))}

    def _logits(self, batch: Batch) -> Tensor:
        with seeded(int(batch["seed"][0]), batch["image"].device):
            # Stochastic depth and dropout draw.
            logits: Tensor = self.model(batch["image"])
        return logits

    def _sums_of(self, batch: Batch, logits: Tensor | None) -> Tensor:
        weight = sum_weights(batch["target"], self.class_weights)
        sums = torch.stack([torch.ones_like(weight), weight])
        if logits is None:
            return sums
        return torch.cat([sums, dice_areas(logits, batch["target"]).flatten()])

    def _reset(self) -> None:
        classes = len(self.class_names)
        self._counts = np.zeros((classes, classes), dtype=np.int64)
        self._loss_sums = np.zeros(2)


class RegressionTask:
    """Loss and metrics of a map of numbers.

    Batches are those of `DenseTask`, with `target` (B, H, W) in the target's unit, NaN
    where it is not known. Errors are divided by the deviation of the training targets,
    which the model keeps, so that a learning rate serves all units.

    Args:
        model: gives (B, 1, H, W), in the target's unit.
        name: of the target.
        loss: `mse` (L2), `l1`, or `huber`, squared up to an error of one deviation.
    """

    metric = NUMBERS_METRIC

    def __init__(
        self, model: RegressionModel, name: str, loss: ValueLoss = "mse"
    ) -> None:
        self.model = model
        self.class_names = (name,)
        self.value_loss = loss
        self._sums = np.zeros((1, 6))

    def sums(self, batch: Batch) -> Tensor:
        """Count micro-batches and pixels with a target, (2,)."""
        known = batch["target"].isfinite().sum().float()
        return torch.stack([torch.ones_like(known), known])

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give the 0-d loss over pixels with a target; see `DenseTask.loss`."""
        with seeded(int(batch["seed"][0]), batch["image"].device):
            predicted = self.model(batch["image"])[:, 0]
        parts, count = gather(self.sums(batch))
        targets = batch["target"]
        known = targets.isfinite()
        error = torch.where(known, predicted - targets.nan_to_num(), 0)
        error = error / self.model.target_std
        zero = torch.zeros_like(error)
        summed = _COMPARE[self.value_loss](error, zero, reduction="sum")
        return {"loss": summed / count.clamp(min=1) * parts}

    def validate(self, batch: Batch) -> None:
        """Add the sums of one held-out batch."""
        with torch.inference_mode():
            predicted = check_output(self.model(batch["image"]))[:, 0]
        centre = float(self.model.target_mean)
        self._sums += value_sums(predicted, batch["target"], centre=centre)

    def metrics(self) -> dict[str, float]:
        """Give the scores over all held-out pixels, and reset."""
        scores = score_values(self._sums).summary
        self._sums = np.zeros((1, 6))
        return scores


def leading_metric(positive: str | None) -> str:
    """Name the score by which models are chosen."""
    return "mean_iou" if positive is None else "f1"


def predict_map(model: nn.Module, flips: bool, images: Tensor) -> Tensor:
    """Map prepared images on any device.

    Args:
        model: images (B, ..., H, W) to logits (B, K, H, W), or a `RegressionModel`.
        flips: average over the image and its three mirror images.
        images: (B, C, H, W), or (B, 2, C, H, W) of two dates.

    Returns:
        Class probabilities (B, K, H, W), or numbers (B, 1, H, W) in their unit.
    """
    images = images.to(next(model.parameters()).device)
    has_classes = not isinstance(model, RegressionModel)
    with torch.inference_mode():
        found = [model(images.flip(axes)).float() for axes in mirrors(flips)]
        views = [
            (each.softmax(dim=1) if has_classes else each).flip(axes)
            for each, axes in zip(found, mirrors(flips), strict=True)
        ]
    return check_output(torch.stack(views).mean(dim=0))
