"""The contract between pixels and weights: bands, unit and scaling.

A `Preprocessing` is stored in every checkpoint. Training and prediction both turn
rasters into model input through `Preprocessing.prepare`, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    SpectralGPTError,
    UnitError,
)
from spectralgpt.rasters import Assumed, Raster, Stated
from spectralgpt.sensors import Band, find_sensor, match_bands

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Scaling = Literal["image-minmax", "fixed-range", "z-score", "log", "two-std-uint8"]
RANGE_EPS = 1e-10  # Source: the published fMoW reader; guards constant bands.
LOG_SHIFT = 0.01
"""Reflectance that is added before the logarithm: noise of dark water stays small."""
LOG_STDS = 4.65
"""Standard deviations between the percentiles `low` and `high` of a normal law."""
UINT8_LEVELS = 255
_SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
_LARGEST = 1e6
_KEPT = ("bands", "unit", "offset", "quantification", "nodata")
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


def image_limits(pixels: FloatArray, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return each band's lowest and highest valid value, (C, 1, 1) each.

    Both are 0 in a band without a valid pixel.
    """
    if valid.all():
        return pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True)
    low = np.where(valid, pixels, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(valid, pixels, -np.inf).max(axis=(1, 2), keepdims=True)
    empty = low > high
    return np.where(empty, 0, low), np.where(empty, 0, high)


def _log_of(reflectance: FloatArray) -> FloatArray:
    """Return the logarithm that `log` scales by."""
    return np.log(np.maximum(reflectance, 0) + np.float32(LOG_SHIFT))


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become model input; stored with the weights.

    Attributes:
        sensor: name of the sensor the weights were trained on.
        bands: the bands in the order the model takes them.
        scaling: a `Scaling`.
        statistics: band statistics in reflectance; `image-minmax` needs none.
        image_size: side in px of the images the model was trained on.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.
        offset_rule: how reflectance was computed from digital numbers, in words.
        unit: what `bands` hold before scaling.
        others: the same for each further sensor that the weights were trained on.
        stated: what was stated of the images of a fine-tuning, where their files did
            not say it; images like them are taken to be the same.
        seen: reflectance of those images by band, to tell what lies far from it.

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
    others: tuple["Preprocessing", ...] = ()
    stated: Stated = field(default_factory=Stated)
    seen: BandStatistics | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "bands_per_token"):
            value = getattr(self, name)
            # Counts come from checkpoints as well, where they may be anything.
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"preprocessing: {name} is {value!r:.40}; it must be a whole "
                    "number, at least 1."
                )
        if not self.bands:
            raise ConfigError("preprocessing without bands: name at least one.")
        if self.scaling not in _SCALINGS:
            raise ConfigError(
                f"scaling {self.scaling!r} is unknown: use {', '.join(_SCALINGS)}."
            )
        if self.unit != "reflectance":
            raise ConfigError(f"unit {self.unit!r}: only 'reflectance' is supported.")
        if self.scaling != "image-minmax":
            if self.statistics is None:
                raise ConfigError(f"scaling {self.scaling!r} needs band statistics.")
            for name in ("mean", "std", "low", "high"):
                if not np.isfinite(self.statistics.column(name, self.bands)).all():
                    raise ConfigError(f"band statistics: {name} is not finite.")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in model order."""
        return tuple(band.name for band in self.bands)

    @property
    def wavelengths_nm(self) -> tuple[float, ...]:
        """Centre wavelengths of the bands in model order, nm."""
        return tuple(band.wavelength_nm for band in self.bands)

    @property
    def band_rows(self) -> tuple[tuple[float, float, float], ...]:
        """Centre (nm), width (nm) and ground sampling distance (m) of each band."""
        return tuple(band.row for band in self.bands)

    @property
    def assumed(self) -> Assumed:
        """What is so where files do not say: the sensor, and what was stated."""
        return replace(self.unstated, **(self.stated.facts | {"sensor": self.sensor}))

    @property
    def unstated(self) -> Assumed:
        """The same of images that are not like those that it was trained on."""
        return Assumed(
            sensor=self.sensor,
            model_bands=self.bands,
            bands_per_token=self.bands_per_token,
        )

    def trained_on(self, stated: Stated, seen: BandStatistics) -> "Preprocessing":
        """Return the contract of a model that was fine-tuned on images.

        Args:
            stated: what was stated of them.
            seen: their reflectance.
        """
        kept = Stated.of({n: v for n, v in stated.facts.items() if n in _KEPT})
        rule = _rule_of(kept, self.offset_rule)
        return replace(self, stated=kept, seen=seen, offset_rule=rule)

    def match(self, bands: Sequence[Band]) -> list[int]:
        """Return where each band of the contract is in `bands`; see `match_bands`."""
        return [i for i in match_bands(self.bands, bands) if i is not None]

    def prepare(
        self, raster: Raster, allow_missing: bool = False, is_checked: bool = False
    ) -> tuple[FloatArray, BoolArray]:
        """Turn a raster into model input.

        Bands are chosen and ordered by name or wavelength, and scaled; pixels without
        data are set to the mean of the others in their band.

        Args:
            raster: reflectance.
            allow_missing: take a raster that lacks bands; they are invalid everywhere,
                and set to the mean of the bands that are there.
            is_checked: its values were checked already, as `read_raster` does.

        Returns:
            images (C, H, W) scaled, and valid (C, H, W).

        Raises:
            BandError: a band of the contract is missing.
            UnitError: the values cannot be reflectance.
            DataError: the raster has no valid pixel.
        """
        if not is_checked:
            raster.check_reflectance()
        pixels, valid = self._arrange(raster, allow_missing)
        if not valid.any():
            raise DataError(f"{raster.name} has no valid pixel in any band: skip it.")
        scaled = self._scale(pixels, valid)
        if valid.all():
            # Nothing to fill, which most windows of a scene have.
            return scaled.astype(np.float32, copy=False), valid
        count = valid.sum(axis=(1, 2), keepdims=True)
        total = np.where(valid, scaled, 0).sum(axis=(1, 2), keepdims=True)
        fill = total / np.maximum(count, 1)
        if allow_missing:
            fill = np.where(count > 0, fill, fill[count > 0].mean())
        return np.where(valid, scaled, fill).astype(np.float32), valid

    def _arrange(
        self, raster: Raster, allow_missing: bool
    ) -> tuple[FloatArray, BoolArray]:
        """Return reflectance and validity (C, H, W) in the contract's order."""
        try:
            found = match_bands(self.bands, raster.bands, allow_missing)
        except BandError as error:
            raise BandError(f"{raster.name}: {error}") from error
        there = [i for i, index in enumerate(found) if index is not None]
        order = [index for index in found if index is not None]
        same = list(range(len(raster.bands)))
        if found == same and raster.valid.all():
            return raster.pixels, raster.valid
        shape = (len(self.bands), *raster.pixels.shape[1:])
        pixels, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        valid[there] = raster.valid[order]
        if valid.all():
            return raster.pixels[order], valid
        # Invalid pixels may be NaN, which would spread through the arithmetic.
        pixels[there] = np.where(valid[there], raster.pixels[order], np.float32(0))
        return pixels, valid

    def _scale(self, pixels: FloatArray, valid: BoolArray) -> FloatArray:
        """Scale reflectance (C, H, W).

        By `image-minmax` a constant band becomes 0. Beyond the ends of `fixed-range`
        values go on; `two-std-uint8` clips them. By `log` the ratio of two bands, which
        shade and slope leave alone, becomes a difference; below 0 is taken for 0.

        Source: published SpectralGPT pretraining readers (`image-minmax`) and
        BigEarthNet fine-tuning reader (`two-std-uint8`, kept to reproduce it).
        """
        if self.scaling == "image-minmax":
            low, high = image_limits(pixels, valid)
            scaled = pixels - low
            scaled /= high - low + RANGE_EPS
            return scaled.astype(np.float32, copy=False)
        taken, span = self.affine()
        if self.scaling == "log":
            pixels = _log_of(pixels)
        shared = (pixels - taken) / span
        if self.scaling != "two-std-uint8":
            return shared.astype(np.float32, copy=False)
        levels = np.clip(shared * UINT8_LEVELS, 0, UINT8_LEVELS).astype(np.uint8)
        return (levels / np.float32(UINT8_LEVELS)).astype(np.float32)

    def affine(self) -> tuple[FloatArray, FloatArray]:
        """Return what a scaling by statistics takes off, and what it divides by.

        By `log` that is of logarithms. Both are (C, 1, 1); `image-minmax` has none.
        """
        if self.scaling in ("log", "fixed-range"):
            low, high = self._statistic("low"), self._statistic("high")
            if self.scaling == "fixed-range":
                return low, np.maximum(high - low, RANGE_EPS)
            low, high = _log_of(low), _log_of(high)
            spread = np.maximum(high - low, RANGE_EPS) / LOG_STDS
            return np.asarray((low + high) / 2, np.float32), spread.astype(np.float32)
        mean, std = self._statistic("mean"), self._statistic("std")
        if self.scaling == "z-score":
            return mean, np.maximum(std, RANGE_EPS)
        return mean - 2 * std, 4 * std

    def _statistic(self, name: str) -> FloatArray:
        """Return a statistic of the bands, (C, 1, 1)."""
        assert self.statistics is not None
        return self.statistics.column(name, self.bands)

    def restore(self, scaled: FloatArray, raster: Raster) -> FloatArray:
        """Turn scaled values back into reflectance; undoes `prepare`.

        What `two-std-uint8` clipped or rounded stays so, as does what `log` raised.

        Args:
            scaled: (C, H, W), of the model or from `prepare`.
            raster: what they were scaled from.

        Raises:
            BandError: a band of the contract is missing.
        """
        known = self._arrange(raster, allow_missing=False)
        if self.scaling == "image-minmax":
            low, high = image_limits(*known)
            return (low + scaled * (high - low)).astype(np.float32)
        taken, span = self.affine()
        restored = taken + scaled * span
        if self.scaling == "log":
            restored = np.exp(restored) - LOG_SHIFT
        return restored.astype(np.float32, copy=False)

    def rescaling_to(self, other: "Preprocessing") -> tuple[FloatArray, FloatArray]:
        """Return what brings images of this scaling into another's.

        Args:
            other: of the same bands.

        Returns:
            Factors (C,), and what is added after them, (C,).

        Raises:
            ConfigError: one scales each image for itself, or rounds, and the other does
                not.
        """
        fixed = ("fixed-range", "z-score")
        if self.scaling in fixed and other.scaling in fixed:
            (low, span), (other_low, other_span) = self.affine(), other.affine()
            factor, shift = span / other_span, (low - other_low) / other_span
            return factor.ravel().astype(np.float32), shift.ravel().astype(np.float32)
        if (self.scaling, self.statistics) == (other.scaling, other.statistics):
            ones = np.ones(len(self.bands), np.float32)
            return ones, np.zeros_like(ones)
        raise ConfigError(
            f"its images are scaled by {other.scaling}, these by {self.scaling}, and "
            "one cannot be made of the other: set data.scaling to "
            f"{other.scaling}."
        )

    def for_images(
        self, image_size: int | None = None, bands: Sequence[Band] | None = None
    ) -> "Preprocessing":
        """Return the contract for another image size or other bands.

        Bands of one of the other sensors take that sensor's scaling.
        """
        chosen = self if bands is None else self.for_bands(bands)
        return replace(
            chosen,
            image_size=image_size or chosen.image_size,
            bands=tuple(bands) if bands is not None else chosen.bands,
        )

    def for_sensor(self, sensor: str) -> "Preprocessing":
        """Return the contract at one of the sensors that the weights were trained on.

        Raises:
            ConfigError: they were not trained on it; names those they were.
        """
        for contract in (self, *self.others):
            if contract.sensor == sensor:
                return self._with_first(contract)
        raise ConfigError(
            f"the weights were not trained on sensor {sensor!r} (trained on: "
            f"{', '.join(self.sensors)}). Name one of these."
        )

    @property
    def sensors(self) -> tuple[str, ...]:
        """All sensors that the weights were trained on, the model's own first."""
        return (self.sensor, *(other.sensor for other in self.others))

    def for_bands(self, bands: Sequence[Band]) -> "Preprocessing":
        """Return the first contract that knows all of the bands; itself if none."""
        for contract in (self, *self.others):
            if contract.knows(bands):
                return self._with_first(contract)
        return self

    def knows(self, bands: Sequence[Band]) -> bool:
        """Tell whether all of the bands, by name and wavelength, are its own."""
        own = {(band.name, band.wavelength_nm) for band in self.bands}
        return own >= {(band.name, band.wavelength_nm) for band in bands}

    def _with_first(self, contract: "Preprocessing") -> "Preprocessing":
        """Return one of the contracts with the rest of them as its others."""
        if contract is self:
            return self
        rest = tuple(other for other in self.others if other is not contract)
        return replace(contract, others=(replace(self, others=()), *rest))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(replace(self, others=()))
        values["others"] = [other.to_dict() for other in self.others]
        values["stated"] = self.stated.facts
        # As checkpoints without them have always been.
        late = ("others", "stated", "seen")
        return {k: v for k, v in values.items() if v or k not in late}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Build from `to_dict`'s values.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        if not isinstance(values, Mapping):
            raise ConfigError("preprocessing is no table of settings.")
        missing = [key for key in _FORMAT_KEYS if key not in values]
        if missing:
            raise ConfigError(f"preprocessing lacks {', '.join(missing)}.")
        try:
            bands = tuple(Band(**band) for band in values["bands"])
            statistics = values["statistics"]
            if statistics is not None:
                statistics = BandStatistics(**statistics)
            seen = values.get("seen")
            others = tuple(cls.from_dict(other) for other in values.get("others", ()))
            return cls(
                **{
                    **values,
                    "bands": bands,
                    "statistics": statistics,
                    "others": others,
                    "stated": _read_stated(values.get("stated", {})),
                    "seen": None if seen is None else BandStatistics(**seen),
                }
            )
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SpectralGPTError):
                raise
            raise ConfigError(f"preprocessing cannot be read: {error}.") from error


def _read_stated(facts: Any) -> Stated:
    """Read the facts that a checkpoint keeps; it names no path and no expression."""
    if not isinstance(facts, Mapping) or not set(facts) <= set(_KEPT):
        raise ConfigError(f"preprocessing: stated facts cannot be {facts!r:.80}.")
    try:
        return Stated.of(facts)
    except UnitError as error:
        raise ConfigError(f"preprocessing: {error}") from None


def _rule_of(stated: Stated, usual: str) -> str:
    """Say how reflectance is computed from what is stated; else as it is usually."""
    if stated.unit == "reflectance":
        return "the files hold reflectance"
    offset = "offset" if stated.offset == "auto" else f"{stated.offset:g}"
    if stated.quantification != "auto":
        return f"reflectance = (DN + {offset}) / {stated.quantification:g}"
    return usual.replace("DN + offset", f"DN + {offset}")


def sensor_preprocessing(
    sensor: str,
    names: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    **settings: Any,
) -> Preprocessing:
    """Return the contract for bands of a known sensor, ordered by wavelength.

    Args:
        sensor: name of a known sensor, or the path of a YAML file that describes one.
        names: bands to use; None for all.
        exclude: bands to leave out.
        **settings: other fields of `Preprocessing`.
    """
    known = find_sensor(sensor)
    rule = "reflectance as stated in the description of the data"
    if known.quantification is not None:
        rule = f"reflectance = (DN + offset) / {known.quantification:g}"
    return Preprocessing(
        known.name, known.select(names, exclude), offset_rule=rule, **settings
    )
