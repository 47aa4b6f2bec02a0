"""How reflectance is scaled for a model: pure functions, and the statistics they need.

Which of them applies to a model is part of its `Preprocessing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import BandError, ConfigError
from spectralgpt.sensors import Band

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Scaling = Literal["image-minmax", "fixed-range", "z-score", "two-std-uint8"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

RANGE_EPS = 1e-10  # Source: the published fMoW reader; guards constant bands.
UINT8_LEVELS = 255
_LARGEST = 1e6


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of each band in reflectance, keyed by band name.

    Attributes:
        mean: mean.
        std: standard deviation.
        low: first percentile.
        high: ninety-ninth percentile.
        source: the data they were measured on.

    Raises:
        ConfigError: a table holds something else than numbers in reflectance.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "low", "high"):
            table = getattr(self, name)
            values = list(table.values()) if isinstance(table, Mapping) else [None]
            for value in values:
                # NaN stands for a band without a valid pixel.
                if not isinstance(value, int | float) or abs(value) > _LARGEST:
                    raise ConfigError(
                        f"band statistics: {name} must be a table of numbers in "
                        f"reflectance, found {value!r:.40}."
                    )

    def column(self, name: str, bands: Sequence[Band]) -> FloatArray:
        """Return one statistic for each band as an array (C, 1, 1).

        Raises:
            BandError: a band has no statistics.
        """
        table: Mapping[str, float] = getattr(self, name)
        missing = [band.name for band in bands if band.name not in table]
        if missing:
            raise BandError(
                f"no statistics for band {', '.join(missing)} (have: "
                f"{', '.join(table)}): measure them on data with these bands."
            )
        values = [table[band.name] for band in bands]
        return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


def scale_image_minmax(
    pixels: FloatArray, valid: BoolArray | None = None
) -> FloatArray:
    """Scale each band of an image (C, H, W) to 0..1 by its own valid extremes.

    A constant band becomes 0.

    Source: published SpectralGPT pretraining readers.
    """
    low, high = image_limits(pixels, valid)
    scaled = pixels - low
    scaled /= high - low + RANGE_EPS
    return scaled.astype(np.float32, copy=False)


def image_limits(
    pixels: FloatArray, valid: BoolArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return each band's lowest and highest valid value, (C, 1, 1) each.

    Both are 0 in a band without a valid pixel.
    """
    if valid is None or valid.all():
        axes = (1, 2)
        return pixels.min(axes, keepdims=True), pixels.max(axes, keepdims=True)
    low = np.where(valid, pixels, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(valid, pixels, -np.inf).max(axis=(1, 2), keepdims=True)
    empty = low > high
    return np.where(empty, 0, low), np.where(empty, 0, high)


def scale_fixed_range(
    pixels: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Map low..high, (C, 1, 1) each, to 0..1; values beyond stay beyond."""
    return ((pixels - low) / np.maximum(high - low, RANGE_EPS)).astype(np.float32)


def scale_z_score(pixels: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    """Subtract the mean and divide by the standard deviation, (C, 1, 1) each."""
    return ((pixels - mean) / np.maximum(std, RANGE_EPS)).astype(np.float32)


def scale_two_std_uint8(
    pixels: FloatArray, mean: FloatArray, std: FloatArray
) -> FloatArray:
    """Map mean - 2 std .. mean + 2 std to 0..1 in 8-bit steps, clipped.

    Source: published BigEarthNet fine-tuning reader; kept to reproduce it.
    """
    shared = (pixels - (mean - 2 * std)) / (4 * std) * UINT8_LEVELS
    levels = np.clip(shared, 0, UINT8_LEVELS).astype(np.uint8)
    return (levels / np.float32(UINT8_LEVELS)).astype(np.float32)


def scaling_limits(
    scaling: Scaling,
    statistics: BandStatistics | None,
    bands: Sequence[Band],
    pixels: FloatArray,
    valid: BoolArray,
) -> tuple[FloatArray, FloatArray]:
    """Return the reflectance that becomes 0 and 1, (C, 1, 1) each.

    Args:
        scaling: which.
        statistics: of the bands; None for `image-minmax`.
        bands: the C bands.
        pixels: (C, H, W), reflectance; asked by `image-minmax` only.
        valid: (C, H, W).
    """
    if scaling == "image-minmax" or statistics is None:
        return image_limits(pixels, valid)
    if scaling == "fixed-range":
        return statistics.column("low", bands), statistics.column("high", bands)
    mean, std = (statistics.column(name, bands) for name in ("mean", "std"))
    if scaling == "z-score":
        return mean, mean + std
    return mean - 2 * std, mean + 2 * std
