"""Scores of predictions over the classes that occur, and of rebuilt spectra."""

from spectralgpt.metrics.classification import (
    multi_label_summary,
    score_multi_label,
    score_single_label,
    single_label_summary,
)
from spectralgpt.metrics.pixels import confusion_counts, score_pixels
from spectralgpt.metrics.scores import (
    POSITIVE_SCORES,
    ClassScore,
    Interval,
    Scores,
    Summarise,
    bootstrap_intervals,
)
from spectralgpt.metrics.spectra import psnr, spectral_angle

__all__ = [
    "POSITIVE_SCORES",
    "ClassScore",
    "Interval",
    "Scores",
    "Summarise",
    "bootstrap_intervals",
    "confusion_counts",
    "multi_label_summary",
    "psnr",
    "score_multi_label",
    "score_pixels",
    "score_single_label",
    "single_label_summary",
    "spectral_angle",
]
