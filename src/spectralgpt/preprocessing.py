"""The contract between pixels and weights: bands, unit and scaling.

A `Preprocessing` is stored in every checkpoint. Training and prediction both turn
rasters into model input through `Preprocessing.prepare`, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import BandError, ConfigError, DataError
from spectralgpt.rasters import Raster, check_reflectance
from spectralgpt.sensors import Band, load_sensor

__all__ = [
    "SCALINGS",
    "BandStatistics",
    "Preprocessing",
    "Scaling",
    "match_bands",
    "scale_fixed_range",
    "scale_image_minmax",
    "scale_two_std_uint8",
    "scale_z_score",
    "sensor_preprocessing",
]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Scaling = Literal["image-minmax", "fixed-range", "z-score", "two-std-uint8"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

_MINMAX_EPS = 1e-10  # Source: the published fMoW reader; guards constant bands.
_UINT8_LEVELS = 255
_FORMAT_KEYS = ("sensor", "bands", "scaling", "statistics", "image_size", "patch_size")


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of each band in reflectance, keyed by band name.

    Attributes:
        mean: mean.
        std: standard deviation.
        low: first percentile.
        high: ninety-ninth percentile.
        source: the data they were measured on.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    source: str = ""

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
    if valid is None:
        valid = np.ones(pixels.shape, dtype=bool)
    low = np.where(valid, pixels, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(valid, pixels, -np.inf).max(axis=(1, 2), keepdims=True)
    empty = low > high
    low, high = np.where(empty, 0, low), np.where(empty, 0, high)
    scaled = (pixels - low) / (high - low + _MINMAX_EPS)
    return scaled.astype(np.float32)


def scale_fixed_range(
    pixels: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Map low..high, (C, 1, 1) each, to 0..1; values beyond stay beyond."""
    return ((pixels - low) / np.maximum(high - low, _MINMAX_EPS)).astype(np.float32)


def scale_z_score(pixels: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    """Subtract the mean and divide by the standard deviation, (C, 1, 1) each."""
    return ((pixels - mean) / np.maximum(std, _MINMAX_EPS)).astype(np.float32)


def scale_two_std_uint8(
    pixels: FloatArray, mean: FloatArray, std: FloatArray
) -> FloatArray:
    """Map mean - 2 std .. mean + 2 std to 0..1 in 8-bit steps, clipped.

    Source: published BigEarthNet fine-tuning reader; kept to reproduce it.
    """
    shared = (pixels - (mean - 2 * std)) / (4 * std) * _UINT8_LEVELS
    levels = np.clip(shared, 0, _UINT8_LEVELS).astype(np.uint8)
    return (levels / np.float32(_UINT8_LEVELS)).astype(np.float32)


def match_bands(wanted: Sequence[Band], found: Sequence[Band]) -> list[int]:
    """Find each wanted band among the found ones, by name or by wavelength.

    A band of the same name whose centre agrees is taken. Otherwise the nearest centre
    is, if it lies within half the width of the narrower of both bands. No band is used
    twice.

    Returns:
        For each wanted band its index in `found`.

    Raises:
        BandError: a wanted band is missing; names it and what was found.
    """
    indices: dict[int, int] = {}
    for position, band in enumerate(wanted):
        for index, other in enumerate(found):
            if other.name == band.name and _agree(band, other):
                indices[position] = index
    for position, band in enumerate(wanted):
        free = [i for i in range(len(found)) if i not in indices.values()]
        near = [i for i in free if _agree(band, found[i])]
        if position not in indices and near:
            indices[position] = min(
                near, key=lambda i: abs(found[i].wavelength_nm - band.wavelength_nm)
            )
    missing = [band for i, band in enumerate(wanted) if i not in indices]
    if missing:
        names = ", ".join(f"{b.name} ({b.wavelength_nm:g} nm)" for b in missing)
        have = ", ".join(f"{b.name} ({b.wavelength_nm:g} nm)" for b in found)
        raise BandError(
            f"missing band {names}; found {have or 'none'}. Add the band, or load the "
            "model for the bands that you have."
        )
    return [indices[position] for position in range(len(wanted))]


def _agree(band: Band, other: Band) -> bool:
    tolerance_nm = min(band.width_nm, other.width_nm) / 2
    return abs(band.wavelength_nm - other.wavelength_nm) <= tolerance_nm


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become model input; stored with the weights.

    Attributes:
        sensor: name of the sensor the weights were trained on.
        bands: the bands in the order the model takes them.
        scaling: one of `SCALINGS`.
        statistics: band statistics in reflectance; `image-minmax` needs none.
        image_size: side in px of the images the model was trained on.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.
        offset_rule: how reflectance was computed from digital numbers, in words.
        unit: what `bands` hold before scaling.

    Raises:
        ConfigError: no bands, an unknown scaling or unit, or statistics are missing.
    """

    sensor: str
    bands: tuple[Band, ...]
    scaling: Scaling = "image-minmax"
    statistics: BandStatistics | None = None
    image_size: int = 96
    patch_size: int = 8
    bands_per_token: int = 3
    offset_rule: str = ""
    unit: str = "reflectance"

    def __post_init__(self) -> None:
        if not self.bands:
            raise ConfigError("preprocessing without bands: name at least one.")
        if self.scaling not in SCALINGS:
            raise ConfigError(
                f"scaling {self.scaling!r} is unknown: use {', '.join(SCALINGS)}."
            )
        if self.unit != "reflectance":
            raise ConfigError(f"unit {self.unit!r}: only 'reflectance' is supported.")
        if self.scaling != "image-minmax":
            if self.statistics is None:
                raise ConfigError(f"scaling {self.scaling!r} needs band statistics.")
            self.statistics.column("mean", self.bands)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in model order."""
        return tuple(band.name for band in self.bands)

    @property
    def wavelengths_nm(self) -> tuple[float, ...]:
        """Centre wavelengths of the bands in model order, nm."""
        return tuple(band.wavelength_nm for band in self.bands)

    def match(self, bands: Sequence[Band]) -> list[int]:
        """Return where each band of the contract is in `bands`; see `match_bands`."""
        return match_bands(self.bands, bands)

    def prepare(self, raster: Raster) -> tuple[FloatArray, BoolArray]:
        """Turn a raster into model input.

        Bands are chosen and ordered by name or wavelength, and scaled; pixels without
        data are set to the mean of the others in their band.

        Returns:
            images (C, H, W) scaled, and valid (C, H, W).

        Raises:
            BandError: a band of the contract is missing.
            UnitError: the values cannot be reflectance.
            DataError: the raster has no valid pixel.
        """
        check_reflectance(raster)
        try:
            order = self.match(raster.bands)
        except BandError as error:
            raise BandError(f"{raster.name}: {error}") from error
        valid = raster.valid[order]
        if not valid.any():
            raise DataError(f"{raster.name} has no valid pixel in any band: skip it.")
        # Invalid pixels may be NaN, which would spread through the arithmetic.
        pixels = np.where(valid, raster.pixels[order], np.float32(0))
        scaled = self._scale(pixels, valid)
        count = valid.sum(axis=(1, 2), keepdims=True)
        total = np.where(valid, scaled, 0).sum(axis=(1, 2), keepdims=True)
        fill = total / np.maximum(count, 1)
        return np.where(valid, scaled, fill).astype(np.float32), valid

    def _scale(self, pixels: FloatArray, valid: BoolArray) -> FloatArray:
        if self.scaling == "image-minmax" or self.statistics is None:
            return scale_image_minmax(pixels, valid)
        first, second, scale = {
            "fixed-range": ("low", "high", scale_fixed_range),
            "z-score": ("mean", "std", scale_z_score),
            "two-std-uint8": ("mean", "std", scale_two_std_uint8),
        }[self.scaling]
        return scale(
            pixels,
            self.statistics.column(first, self.bands),
            self.statistics.column(second, self.bands),
        )

    def for_images(
        self, image_size: int | None = None, bands: Sequence[Band] | None = None
    ) -> "Preprocessing":
        """Return the contract for another image size or other bands."""
        return replace(
            self,
            image_size=image_size or self.image_size,
            bands=tuple(bands) if bands is not None else self.bands,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Build from `to_dict`'s values.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        missing = [key for key in _FORMAT_KEYS if key not in values]
        if missing:
            raise ConfigError(f"preprocessing lacks {', '.join(missing)}.")
        try:
            bands = tuple(Band(**band) for band in values["bands"])
            statistics = values["statistics"]
            if statistics is not None:
                statistics = BandStatistics(**statistics)
            return cls(**{**values, "bands": bands, "statistics": statistics})
        except TypeError as error:
            raise ConfigError(f"preprocessing cannot be read: {error}.") from error


def sensor_preprocessing(
    sensor: str,
    names: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    **settings: Any,
) -> Preprocessing:
    """Return the contract for bands of a known sensor, ordered by wavelength.

    Args:
        sensor: name of a known sensor.
        names: bands to use; None for all.
        exclude: bands to leave out.
        **settings: other fields of `Preprocessing`.
    """
    known = load_sensor(sensor)
    rule = "reflectance as stated in the description of the data"
    if known.quantification is not None:
        rule = f"reflectance = (DN + offset) / {known.quantification:g}"
    return Preprocessing(
        known.name, known.select(names, exclude), offset_rule=rule, **settings
    )
