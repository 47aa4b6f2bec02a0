"""What a score is, and how sure it is. Nothing here knows models or files."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "POSITIVE_SCORES",
    "ClassScore",
    "Interval",
    "Scores",
    "Summarise",
    "bootstrap_intervals",
]

Summarise = Callable[[NDArray[np.int64]], dict[str, float]]
"""Takes how often each of N images counts, (N,); gives scores by name."""

POSITIVE_SCORES = ("f1", "iou", "precision", "recall")
"""Scores of a summary that are about one class, which `Scores.positive` names."""


@dataclass(frozen=True)
class ClassScore:
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
        summary: score name -> value, 0..1.
        per_class: one entry a class, in the order of the class names.
        confusion: (C, C) counts, rows are truth, columns are prediction; None for
            multi-label tasks.
        positive: the class that precision, recall, F1 and IoU of the summary are about;
            None if the summary has no such scores.
    """

    summary: dict[str, float]
    per_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64] | None = None
    positive: str | None = None


@dataclass(frozen=True)
class Interval:
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
