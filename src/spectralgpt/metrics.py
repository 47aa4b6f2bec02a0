"""Scores of classes, of images and of pixels, of numbers, and how sure they are.

Each kind of score of images is a function of how often each image counts: once each for
a test set, as often as it was drawn for a resampled one. What does not depend on that,
such as the ranking of the images, is worked out once. Counts and sums over the pixels
of single places add up, so that a bootstrap resamples whole places: neighbouring pixels
say little that is new. Nothing here knows models or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spectralgpt.errors import DataError

Summarise = Callable[[NDArray[np.int64]], dict[str, float]]
"""Takes how often each of N images counts, (N,); gives scores by name."""

_THRESHOLD = 0.5
"""Probability from which a label counts as predicted."""

POSITIVE_SCORES = ("f1", "iou", "precision", "recall")
"""Scores of a summary that are about one class, which `Scores.positive` names."""


@dataclass(frozen=True)
class _ClassScore:
    """How well one class was found.

    Args:
        name: class name.
        support: images, or pixels, that truly have the class.
        predicted: images, or pixels, for which the class was predicted.
        precision: share of `predicted` that is right, 0..1; 0 where none was predicted.
        recall: share of `support` that was found, 0..1; 0 where there is none.
        f1: harmonic mean of precision and recall, 0..1.
        average_precision: area under precision over recall, 0..1; NaN where the class
            does not occur, and for single-label tasks.
        iou: intersection over union, 0..1; NaN where the class neither occurs nor was
            predicted, and where whole images are classified.
    """

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float
    average_precision: float = float("nan")
    iou: float = float("nan")


@dataclass(frozen=True)
class Scores:
    """The scores of one set of predictions.

    Args:
        summary: score name -> value, 0..1; of numbers in the target's unit, but for R2.
        per_class: one entry per class, in the order of the class names.
        confusion: (C, C) counts, rows are truth, columns are prediction; None for
            multi-label tasks.
        positive: the class that precision, recall, F1 and IoU of the summary are about;
            None if the summary has no such scores.
        per_range: of numbers, for each range of the truth its limits `least` and
            `below`, `pixels`, `rmse` and `bias`; NaN where there is no pixel.
    """

    summary: dict[str, float]
    per_class: tuple[_ClassScore, ...]
    confusion: NDArray[np.int64] | None = None
    positive: str | None = None
    per_range: tuple[dict[str, float], ...] = ()


class Interval(NamedTuple):
    """A percentile interval of a score; `level` is its nominal coverage, 0..1."""

    low: float
    high: float
    level: float


def bootstrap_intervals(
    summarise: Summarise,
    num_images: int,
    *,
    resamples: int = 500,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Interval]:
    """Percentile bootstrap over images.

    Args:
        summarise: gives the scores, or none where nothing can be scored.
        num_images: N.
        resamples: number of resampled test sets.
        level: coverage of the interval, 0..1.
        generator: source of randomness.

    Returns:
        The interval of each score over the resamples that have it.

    Source: Efron 1979, percentile method.
    """
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        indices = torch.randint(num_images, (num_images,), generator=generator)
        times = np.bincount(indices.numpy(), minlength=num_images)
        for name, value in summarise(times).items():
            drawn.setdefault(name, []).append(value)
    tail = (1.0 - level) / 2
    return {
        name: Interval(
            float(np.quantile(values, tail)),
            float(np.quantile(values, 1 - tail)),
            level,
        )
        for name, values in drawn.items()
    }


def score_images(
    probabilities: Tensor, targets: Tensor, class_names: Sequence[str]
) -> Scores:
    """Score one class per image, or any number of them, over the whole set at once.

    Macro scores are means over the classes that occur in `targets`: a class that the
    test set lacks cannot be found and would only count as zero. Average precision is no
    mean over batches: the ranking is over all images. From a probability of one half
    one of several classes counts as predicted, for F1.

    Args:
        probabilities: (N, C), any monotone class score; of several classes 0..1.
        targets: (N,) class indices, or (N, C) of 0 and 1.
        class_names: C names.

    Raises:
        DataError: nothing to score, no class occurs, or the shapes do not fit.
    """
    if len(probabilities) == 0:
        raise DataError("There are no predictions to score.")
    shape = (len(probabilities), len(class_names))
    if probabilities.shape != shape or targets.shape not in (shape[:1], shape):
        raise DataError(
            f"Predictions {tuple(probabilities.shape)} and targets "
            f"{tuple(targets.shape)} do not fit {len(class_names)} classes."
        )
    if targets.ndim == 1:
        pairs = _pairs(probabilities, targets)
        confusion = _confusion(pairs, len(class_names), None).astype(np.int64)
        per_class = _per_class(
            class_names,
            found=np.diag(confusion),
            support=confusion.sum(axis=1),
            predicted=confusion.sum(axis=0),
        )
        return Scores(_summarise_confusion(confusion), per_class, confusion)
    truth, predicted = targets.numpy() > 0, probabilities.numpy() >= _THRESHOLD
    if not truth.any():
        raise DataError("No image of the scored split has any label.")
    once = np.ones(len(truth), np.int64)
    rankings = _rankings(probabilities, truth)
    per_class = _per_class(
        class_names,
        found=(predicted & truth).sum(axis=0),
        support=truth.sum(axis=0),
        predicted=predicted.sum(axis=0),
        average_precision=np.array([ranking(once) for ranking in rankings]),
    )
    return Scores(summarise_images(probabilities, targets)(once), per_class)


def summarise_images(probabilities: Tensor, targets: Tensor) -> Summarise:
    """Return a function that gives the summary of `score_images` for resampled images.

    It takes how often each image counts, (N,), and returns {} where no image that
    counts has any of several labels. Ranking is done once, here.

    Args:
        probabilities: (N, C).
        targets: (N,), or (N, C).
    """
    if targets.ndim == 1:
        pairs, classes = _pairs(probabilities, targets), probabilities.shape[1]
        return lambda times: _summarise_confusion(_confusion(pairs, classes, times))
    truth, predicted = targets.numpy() > 0, probabilities.numpy() >= _THRESHOLD
    rankings = _rankings(probabilities, truth)
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
    """Average precision of scores (M,), for images that count several times or not.

    Equal scores are one threshold, as in scikit-learn and torchmetrics. So many entries
    in a row belong to one image.
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


def _rankings(probabilities: Tensor, truth: NDArray[np.bool_]) -> list[_Ranking]:
    columns = zip(probabilities.numpy().T, truth.T, strict=True)
    return [_Ranking(scores, true) for scores, true in columns]


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
    found, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    union = support + predicted - found
    iou = np.where(union > 0, found / np.maximum(union, 1), np.nan)
    per_class = _per_class(class_names, found, support, predicted, iou=iou)
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


def value_sums(
    predicted: Tensor, targets: Tensor, edges: Sequence[float] = (), centre: float = 0.0
) -> NDArray[np.float64]:
    """Sum up what `score_values` needs; sums over several batches add up.

    Args:
        predicted: numbers, any shape.
        targets: the same shape, NaN where a pixel counts nowhere.
        edges: rising limits between ranges of the target.
        centre: taken off the targets, for the digits of their squares.

    Returns:
        (len(edges) + 1, 6): pixels; sums of target and of its square; of predicted less
        target, of the square and of the absolute value of that.
    """
    known = targets.isfinite()
    truth = targets[known].double().cpu().numpy()
    error = predicted[known].double().cpu().numpy() - truth
    ranges = np.digitize(truth, edges)
    truth = truth - centre
    parts = (np.ones_like(truth), truth, truth**2, error, error**2, np.abs(error))
    count = len(edges) + 1
    return np.stack([np.bincount(ranges, part, count) for part in parts], axis=1)


def score_values(sums: NDArray[np.float64], edges: Sequence[float] = ()) -> Scores:
    """Score numbers from their sums: RMSE, MAE, R2 and bias over all pixels.

    R2 = 1 - squared errors / squared distances of the targets from their mean; it is
    left out where all targets are equal.

    Args:
        sums: from `value_sums`.
        edges: the same as there.

    Raises:
        DataError: no pixel has a target.
    """
    count, total, squares, error, squared, absolute = sums.sum(axis=0).tolist()
    if not count:
        raise DataError("There is no pixel with a number to score.")
    summary = {"rmse": (squared / count) ** 0.5, "mae": absolute / count}
    spread = squares - total**2 / count
    if spread > np.finfo(np.float64).eps * squares * count:
        summary["r2"] = 1 - squared / spread
    summary["bias"] = error / count
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse, bias = np.sqrt(sums[:, 4] / sums[:, 0]), sums[:, 3] / sums[:, 0]
    names = ("least", "below", "pixels", "rmse", "bias")
    columns = ((-np.inf, *edges), (*edges, np.inf), sums[:, 0], rmse, bias)
    rows = zip(*columns, strict=True)
    per_range = (dict(zip(names, map(float, row), strict=True)) for row in rows)
    return Scores(summary, (), per_range=tuple(per_range))


def _per_class(
    class_names: Sequence[str],
    found: NDArray[Any],
    support: NDArray[Any],
    predicted: NDArray[Any],
    **more: NDArray[np.float64],
) -> tuple[_ClassScore, ...]:
    """Score each class from its counts; `more` are scores that stand beside, (C,)."""
    ratios = {
        "precision": found / np.maximum(predicted, 1),
        "recall": found / np.maximum(support, 1),
        "f1": 2 * found / np.maximum(predicted + support, 1),
        **more,
    }
    return tuple(
        _ClassScore(
            name,
            int(support[i]),
            int(predicted[i]),
            **{score: float(values[i]) for score, values in ratios.items()},
        )
        for i, name in enumerate(class_names)
    )


def spectral_angle(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return the angle between spectra, degrees.

    The angle sees the shape of a spectrum, not its brightness: spectra that are
    multiples of each other lie 0 degrees apart.

    Args:
        first: (C, ...), spectra along the first axis.
        second: the same shape.

    Returns:
        The shape without its first axis, 0..180; NaN where a spectrum is all zero or
        not finite.

    Source: Kruse et al. 1993, Remote Sensing of Environment 44, 145-163.
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (first, second))
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (one * other).sum(axis=0) / lengths
    angle: NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angle


def psnr(
    truth: ArrayLike,
    rebuilt: ArrayLike,
    counted: ArrayLike,
    peak: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio, 10 log10(peak² / mean squared error), dB.

    Args:
        truth: any shape.
        rebuilt: the same shape.
        counted: bool of the same shape, true where the error counts.
        peak: the largest signal; broadcasts against `truth`, such as (C, 1, 1).
        axis: axes that the mean is over; None takes all.

    Returns:
        The shape without `axis`: NaN where nothing counts, infinite without any error.
    """
    used = np.asarray(counted, dtype=bool)
    difference = np.asarray(rebuilt, np.float64) - np.asarray(truth, np.float64)
    relative = np.divide(
        difference, np.asarray(peak), out=np.zeros_like(difference), where=used
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (relative**2).sum(axis=axis) / used.sum(axis=axis)
        ratio: NDArray[np.float64] = -10 * np.log10(error)
    return ratio
