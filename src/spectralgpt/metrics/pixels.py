"""Scores of maps, from counts of true and predicted classes.

Counts of single places add up, so that a bootstrap resamples whole places: neighbouring
pixels say little that is new.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError
from spectralgpt.metrics.scores import POSITIVE_SCORES, ClassScore, Scores

__all__ = ["confusion_counts", "score_pixels"]


def confusion_counts(
    predicted: Tensor, targets: Tensor, num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        predicted: class indices, any shape.
        targets: class indices of the same shape; negative where a pixel counts nowhere.
        num_classes: K.

    Returns:
        (K, K).
    """
    counted = targets >= 0
    pairs = targets[counted].long() * num_classes + predicted[counted].long()
    counts = torch.bincount(pairs.flatten(), minlength=num_classes**2)
    found: NDArray[np.int64] = counts.reshape(num_classes, num_classes).cpu().numpy()
    return found


def score_pixels(
    counts: NDArray[np.int64], class_names: Sequence[str], positive: str | None = None
) -> Scores:
    """Score a map from its counts.

    Means over classes take those that occur or were predicted: a class that is neither
    can be neither found nor missed.

    Args:
        counts: (K, K), rows are truth, columns are prediction.
        class_names: K names.
        positive: the class whose own precision, recall, F1 and IoU lead the summary,
            such as "changed"; None where all classes count alike.

    Raises:
        DataError: no labelled pixel.
    """
    if not counts.any():
        raise DataError("There is no labelled pixel to score.")
    per_class = tuple(
        _class_score(counts, index, name) for index, name in enumerate(class_names)
    )
    known = [entry for entry in per_class if entry.support or entry.predicted]
    occurring = [entry for entry in per_class if entry.support]
    summary = {
        "overall_accuracy": float(np.trace(counts) / counts.sum()),
        "mean_iou": float(np.mean([entry.iou for entry in known])),
        "macro_accuracy": float(np.mean([entry.recall for entry in occurring])),
        "macro_f1": float(np.mean([entry.f1 for entry in known])),
    }
    if positive is not None:
        own = per_class[list(class_names).index(positive)]
        leading = {name: getattr(own, name) for name in POSITIVE_SCORES}
        leading = {k: 0.0 if np.isnan(v) else v for k, v in leading.items()}
        summary = leading | summary
    return Scores(summary, per_class, counts, positive)


def _class_score(counts: NDArray[np.int64], index: int, name: str) -> ClassScore:
    found = int(counts[index, index])
    support = int(counts[index].sum())
    predicted = int(counts[:, index].sum())
    union = support + predicted - found
    return ClassScore(
        name=name,
        support=support,
        predicted=predicted,
        precision=found / max(predicted, 1),
        recall=found / max(support, 1),
        f1=2 * found / max(support + predicted, 1),
        iou=found / union if union else float("nan"),
    )
