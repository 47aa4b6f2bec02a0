"""Scores of predictions over the classes that occur, and of rebuilt spectra."""

from spectralgpt.metrics.classification import score_multi_label, score_single_label
from spectralgpt.metrics.pixels import confusion_counts, score_pixels
from spectralgpt.metrics.scores import (
    POSITIVE_SCORES,
    ClassScore,
    Interval,
    Scores,
    bootstrap_intervals,
)
from spectralgpt.metrics.spectra import psnr, spectral_angle

__all__ = [
    "POSITIVE_SCORES",
    "ClassScore",
    "Interval",
    "Scores",
    "bootstrap_intervals",
    "confusion_counts",
    "psnr",
    "score_multi_label",
    "score_pixels",
    "score_single_label",
    "spectral_angle",
]
