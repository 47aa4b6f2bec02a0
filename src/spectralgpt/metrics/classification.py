"""Scores of single- and multi-label classification.

The counting is torchmetrics'. This module only decides which scores are reported, and
over which classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError
from spectralgpt.metrics.scores import ClassScore, Scores

__all__ = ["score_multi_label", "score_single_label"]


def score_single_label(
    probabilities: Tensor, targets: Tensor, class_names: Sequence[str]
) -> Scores:
    """Score one class an image.

    Macro scores are means over the classes that occur in `targets`: a class that the
    test set lacks cannot be found and would only count as zero.

    Args:
        probabilities: (N, C), any monotone class score.
        targets: (N,) class indices.
        class_names: C names.

    Raises:
        DataError: nothing to score, or the shapes do not fit.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    _check(probabilities, targets, class_names, target_dims=1)
    num_classes = len(class_names)
    predicted = probabilities.argmax(dim=1)
    confusion = multiclass_confusion_matrix(
        predicted, targets, num_classes=num_classes
    ).numpy()
    per_class = _per_class(
        class_names,
        found=np.diag(confusion),
        support=confusion.sum(axis=1),
        predicted=confusion.sum(axis=0),
    )
    occurring = [entry for entry in per_class if entry.support]
    summary = {
        "accuracy": _accuracy(predicted, targets, num_classes),
        "macro_accuracy": float(np.mean([entry.recall for entry in occurring])),
        "macro_f1": float(np.mean([entry.f1 for entry in occurring])),
    }
    return Scores(summary, per_class, confusion)


def score_multi_label(
    probabilities: Tensor,
    targets: Tensor,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> Scores:
    """Score any number of classes an image, over the whole data set at once.

    Average precision is no mean over batches: the ranking is over all images. The macro
    mean is over the classes that occur in `targets`.

    Args:
        probabilities: (N, C), 0..1.
        targets: (N, C), 0 or 1.
        class_names: C names.
        threshold: probability from which a class counts as predicted, for F1.

    Raises:
        DataError: nothing to score, no class occurs, or the shapes do not fit.
    """
    _check(probabilities, targets, class_names, target_dims=2)
    truth = targets.long()
    occurs = truth.any(dim=0)
    if not occurs.any():
        raise DataError("No image of the scored split has any label.")
    predicted = probabilities >= threshold
    average_precision = _average_precision(probabilities, truth, occurs)
    per_class = _per_class(
        class_names,
        found=(predicted & truth.bool()).sum(dim=0).numpy(),
        support=truth.sum(dim=0).numpy(),
        predicted=predicted.sum(dim=0).numpy(),
        average_precision=average_precision,
    )
    summary = {
        "macro_map": float(np.nanmean(average_precision)),
        "micro_map": _micro_average_precision(probabilities, truth),
        "macro_f1": float(np.mean([c.f1 for c in per_class if c.support])),
        "micro_f1": _micro_f1(predicted, truth),
    }
    return Scores(summary, per_class)


def _check(
    probabilities: Tensor, targets: Tensor, class_names: Sequence[str], target_dims: int
) -> None:
    if len(probabilities) == 0:
        raise DataError("There are no predictions to score.")
    fits = (
        probabilities.ndim == 2
        and targets.ndim == target_dims
        and len(targets) == len(probabilities)
        and probabilities.shape[1] == len(class_names)
        and (target_dims == 1 or targets.shape == probabilities.shape)
    )
    if not fits:
        raise DataError(
            f"Predictions {tuple(probabilities.shape)} and targets "
            f"{tuple(targets.shape)} do not fit {len(class_names)} classes."
        )


def _accuracy(predicted: Tensor, targets: Tensor, num_classes: int) -> float:
    from torchmetrics.functional.classification import multiclass_accuracy

    return float(
        multiclass_accuracy(
            predicted, targets, num_classes=num_classes, average="micro"
        )
    )


def _average_precision(
    probabilities: Tensor, truth: Tensor, occurs: Tensor
) -> NDArray[np.float64]:
    from torchmetrics.functional.classification import binary_average_precision

    values = np.full(probabilities.shape[1], np.nan)
    for index in occurs.nonzero().flatten().tolist():
        values[index] = float(
            binary_average_precision(probabilities[:, index], truth[:, index])
        )
    return values


def _micro_average_precision(probabilities: Tensor, truth: Tensor) -> float:
    from torchmetrics.functional.classification import binary_average_precision

    return float(binary_average_precision(probabilities.flatten(), truth.flatten()))


def _micro_f1(predicted: Tensor, truth: Tensor) -> float:
    from torchmetrics.functional.classification import binary_f1_score

    return float(binary_f1_score(predicted.long().flatten(), truth.flatten()))


def _per_class(
    class_names: Sequence[str],
    found: NDArray[Any],
    support: NDArray[Any],
    predicted: NDArray[Any],
    average_precision: NDArray[np.float64] | None = None,
) -> tuple[ClassScore, ...]:
    precision = found / np.maximum(predicted, 1)
    recall = found / np.maximum(support, 1)
    f1 = 2 * found / np.maximum(predicted + support, 1)
    if average_precision is None:
        average_precision = np.full(len(class_names), np.nan)
    return tuple(
        ClassScore(
            name=name,
            support=int(support[i]),
            predicted=int(predicted[i]),
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            average_precision=float(average_precision[i]),
        )
        for i, name in enumerate(class_names)
    )
