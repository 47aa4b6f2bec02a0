"""Scores of predictions, over classes that occur, with bootstrap intervals."""

from spectralgpt.metrics.classification import score_multi_label, score_single_label
from spectralgpt.metrics.pixels import confusion_counts, score_pixels
from spectralgpt.metrics.scores import (
    ClassScore,
    Interval,
    Scores,
    bootstrap_intervals,
)

__all__ = [
    "ClassScore",
    "Interval",
    "Scores",
    "bootstrap_intervals",
    "confusion_counts",
    "score_multi_label",
    "score_pixels",
    "score_single_label",
]
