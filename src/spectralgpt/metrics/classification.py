"""Scores of single- and multi-label classification.

Each kind of score is a function of how often each image counts: once each for a test
set, as often as it was drawn for a resampled one. What does not depend on that, such as
the ranking of the images, is worked out once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.errors import DataError
from spectralgpt.metrics.scores import ClassScore, Scores, Summarise

__all__ = [
    "multi_label_summary",
    "score_multi_label",
    "score_single_label",
    "single_label_summary",
]

_THRESHOLD = 0.5
"""Probability from which a label counts as predicted."""


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
    _check(probabilities, targets, class_names, target_dims=1)
    pairs, classes = _pairs(probabilities, targets), len(class_names)
    confusion = _confusion(pairs, classes, None).astype(np.int64)
    per_class = _per_class(
        class_names,
        found=np.diag(confusion),
        support=confusion.sum(axis=1),
        predicted=confusion.sum(axis=0),
    )
    return Scores(_summarise_confusion(confusion), per_class, confusion)


def single_label_summary(probabilities: Tensor, targets: Tensor) -> Summarise:
    """Return what gives the summary of `score_single_label` for images that recur.

    Args:
        probabilities: (N, C).
        targets: (N,).
    """
    pairs, classes = _pairs(probabilities, targets), probabilities.shape[1]
    return lambda times: _summarise_confusion(_confusion(pairs, classes, times))


def score_multi_label(
    probabilities: Tensor, targets: Tensor, class_names: Sequence[str]
) -> Scores:
    """Score any number of classes an image, over the whole data set at once.

    Average precision is no mean over batches: the ranking is over all images. The macro
    mean is over the classes that occur in `targets`. From a probability of one half a
    class counts as predicted, for F1.

    Args:
        probabilities: (N, C), 0..1.
        targets: (N, C), 0 or 1.
        class_names: C names.

    Raises:
        DataError: nothing to score, no class occurs, or the shapes do not fit.
    """
    _check(probabilities, targets, class_names, target_dims=2)
    truth, predicted = targets.numpy() > 0, probabilities.numpy() >= _THRESHOLD
    if not truth.any():
        raise DataError("No image of the scored split has any label.")
    once = np.ones(len(truth), np.int64)
    per_class = _per_class(
        class_names,
        found=(predicted & truth).sum(axis=0),
        support=truth.sum(axis=0),
        predicted=predicted.sum(axis=0),
        average_precision=np.array(
            [_Ranking(p, t)(once) for p, t in _columns(probabilities, truth)]
        ),
    )
    return Scores(multi_label_summary(probabilities, targets)(once), per_class)


def multi_label_summary(probabilities: Tensor, targets: Tensor) -> Summarise:
    """Return what gives the summary of `score_multi_label` for images that recur.

    It ranks once, so that a resample costs one pass. Where no image that counts has a
    label, there is nothing to summarise: it gives nothing.

    Args:
        probabilities: (N, C).
        targets: (N, C).
    """
    truth, predicted = targets.numpy() > 0, probabilities.numpy() >= _THRESHOLD
    rankings = [_Ranking(p, t) for p, t in _columns(probabilities, truth)]
    together = _Ranking(probabilities.numpy().ravel(), truth.ravel(), truth.shape[1])
    # Of float32, which counts whole numbers up to 2**24 and is multiplied fast.
    parts = (predicted & truth, truth, predicted)
    found, support, said = (part.astype(np.float32) for part in parts)

    def summarise(times: NDArray[np.int64]) -> dict[str, float]:
        weights = times.astype(np.float32)
        hits, has = weights @ found, weights @ support
        total = has + weights @ said
        occurs = has > 0
        if not occurs.any():
            return {}
        f1 = 2 * hits / np.maximum(total, 1)
        precisions = [
            r(times) for r, there in zip(rankings, occurs, strict=True) if there
        ]
        return {
            "macro_map": float(np.mean(precisions)),
            "micro_map": together(times),
            "macro_f1": float(f1[occurs].mean()),
            "micro_f1": float(2 * hits.sum() / total.sum()),
        }

    return summarise


class _Ranking:
    """Average precision of one ranking, for images that count several times or not.

    Equal scores are one threshold, as in scikit-learn and torchmetrics.

    Args:
        scores: (M,), higher is more likely.
        truth: (M,) bool.
        each: entries in a row that belong to one image.
    """

    def __init__(
        self, scores: NDArray[np.float32], truth: NDArray[np.bool_], each: int = 1
    ) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, hits = scores[order], truth[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        where = np.flatnonzero(hits)
        # For each true entry the last one of its score, among all and among the true.
        last = ends[np.searchsorted(ends, where)]
        self._image_of = (order // each).astype(np.int32)
        self._true_of = self._image_of[where]
        self._last = last
        self._last_true = np.searchsorted(where, last, side="right") - 1

    def __call__(self, times: NDArray[np.int64]) -> float:
        """Return it for images that count so often, (N,); NaN if none is true."""
        counts = times.astype(np.int32)
        ranked = np.cumsum(counts[self._image_of])[self._last]
        weights = counts[self._true_of]
        true = np.cumsum(weights)
        if not len(true) or not true[-1]:
            return float("nan")
        precision = true[self._last_true] / np.maximum(ranked, 1)
        return float((weights * precision).sum() / true[-1])


def _columns(
    probabilities: Tensor, truth: NDArray[np.bool_]
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    return list(zip(probabilities.numpy().T, truth.T, strict=True))


def _pairs(probabilities: Tensor, targets: Tensor) -> NDArray[np.int64]:
    """Number the pair of true and predicted class of each image."""
    pairs = targets * probabilities.shape[1] + probabilities.argmax(dim=1)
    found: NDArray[np.int64] = pairs.numpy()
    return found


def _confusion(
    pairs: NDArray[np.int64], classes: int, times: NDArray[np.int64] | None
) -> NDArray[Any]:
    """Count pairs, (C, C); each as often as its image counts."""
    counts = np.bincount(pairs, weights=times, minlength=classes**2)
    return counts.reshape(classes, classes)


def _summarise_confusion(confusion: NDArray[Any]) -> dict[str, float]:
    found, support = np.diag(confusion), confusion.sum(axis=1)
    occurs = support > 0
    f1 = 2 * found / np.maximum(support + confusion.sum(axis=0), 1)
    return {
        "accuracy": float(found.sum() / support.sum()),
        "macro_accuracy": float((found[occurs] / support[occurs]).mean()),
        "macro_f1": float(f1[occurs].mean()),
    }


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
