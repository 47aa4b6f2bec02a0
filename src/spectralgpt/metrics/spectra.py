"""Scores of rebuilt spectra: the angle between spectra, and signal over error."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
