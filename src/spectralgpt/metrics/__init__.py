"""Scores of predictions over the classes that occur, and of rebuilt spectra."""

from spectralgpt.metrics.classification import (
    POSITIVE_SCORES,
    Interval,
    Scores,
    Summarise,
    bootstrap_intervals,
    confusion_counts,
    multi_label_summary,
    score_multi_label,
    score_pixels,
    score_single_label,
    single_label_summary,
)
from spectralgpt.metrics.spectra import psnr, spectral_angle

__all__ = [
    "POSITIVE_SCORES",
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
