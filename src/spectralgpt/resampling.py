"""Bring images of one sensor into the bands of another, or of a model.

A wanted band is measured by the sensor, or is a weighted sum of narrower bands, or is
estimated: a library of reflectance spectra, each seen through the responses of both
sensors, tells how their bands go together. What cannot be had is absent. How well each
band is had is measured on spectra of the library that the fit did not see.
"""

import copy
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.errors import BandError, ShapeError
from spectralgpt.preprocessing import match_bands
from spectralgpt.sensors import Band, Sensor, gaussian_response

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Array = NDArray[Any]
"""Of 64 bits while a model is fitted, of 32 for pixels."""
Status = Literal["measured", "resampled", "estimated", "absent"]
MOST_ERROR_SHARE = 0.25
"""A band is absent whose expected error is a larger share of its spread (library)."""
_SHOWN = 3
_MOST_NAMED = 8
_LEVELS = 10_000
_COVERED = 0.99
"""Share of a response that must lie where there is something to weigh."""
_GAP_NM = 20
_SIMILAR = 2
"""A band is taken for another one that is up to so many times as wide."""
_FINE = 0.75
"""Bands so many widths of another one apart, at most, can be summed to it."""
_MOST_SUM_ERROR = 0.005
_LEAST_BANDS = 2
_MOST_FEATURES = 16
_LEAST_MEAN = 0.01
"""Reflectance; below it, differences between bands are mostly noise."""
_LANDMARKS = 512
_DECAY = 2.8
"""Of the kernel, with the mean distance over features, which are standardised."""
_RIDGE = 0.03
_JITTER = 1e-6
_PARTS = 5
_CAUTION = 2.5
"""How many times its error in the library a fit may give up for caution beyond it."""
_RAMPS = (
    *((1, 1.05), (0.95, 1), (0.9, 1), (0.9, 0.999), (0.9, 0.998), (0.9, 0.997)),
    *((0.9, 0.995), (0.9, 0.99), (0.85, 0.99), (0.8, 0.98), (0.7, 0.97), (0.5, 0.95)),
    *((0.3, 0.9), (0, 0.8)),
)
"""From which to which distance estimates fade, as quantiles of the library's own."""
_SAID = 0.9
_STEPS = 10
_PIXELS_AT_ONCE = 1 << 10
"""That their distances to the landmarks fit into a processor's cache."""


@dataclass(frozen=True)
class SpectralLibrary:
    """Reflectance spectra of the ground, with labels.

    Args:
        wavelengths_nm: (W,), ascending.
        spectra: (N, W) reflectance.
        classes: (N,) names of coarse classes, such as vegetation.
        kinds: (N,) names of finer ones.
    """

    wavelengths_nm: DoubleArray
    spectra: DoubleArray
    classes: NDArray[np.str_]
    kinds: NDArray[np.str_]

    def part(self, at: NDArray[np.intp] | BoolArray) -> "SpectralLibrary":
        """Return some of the spectra."""
        return replace(
            self,
            spectra=self.spectra[at],
            classes=self.classes[at],
            kinds=self.kinds[at],
        )

    def sense(self, bands: Sequence[Band], sensor: Sensor | None = None) -> DoubleArray:
        """Return what bands measure of the spectra, (N, C) reflectance.

        A band whose response lies beyond the library's wavelengths, or in the gaps
        between them, is NaN.

        Args:
            bands: which.
            sensor: whose measured responses to take for the bands that are its own.
        """
        weights = [self._weigh(band, sensor) for band in bands]
        return self.spectra @ np.stack(weights, axis=1)

    def _weigh(self, band: Band, sensor: Sensor | None) -> DoubleArray:
        """Return the weight of each wavelength (W,); NaN if the library has too few."""
        nm, response = _response(band, sensor)
        known = self.wavelengths_nm
        after = np.searchsorted(known, nm).clip(1, len(known) - 1)
        inside = (nm >= known[0]) & (nm <= known[-1])
        inside &= (known[after] - known[after - 1] <= _GAP_NM) | np.isin(nm, known)
        share = response[inside].sum()
        if share < _COVERED:
            return np.full(len(known), np.nan)
        return _spread(known, nm[inside], response[inside] / share)


@functools.cache
def load_library() -> SpectralLibrary:
    """Return the library that comes with the package: see `spectra/README.md`."""
    content = (files("spectralgpt") / "spectra" / "library.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as table:
        return SpectralLibrary(
            table["wavelengths_nm"].astype(float),
            np.cumsum(table["steps"], axis=1) / _LEVELS,
            table["names_2"][table["level_2"]],
            table["names_3"][table["level_3"]],
        )


def _response(band: Band, sensor: Sensor | None) -> tuple[DoubleArray, DoubleArray]:
    if sensor is not None and band in sensor.bands:
        return sensor.response(band.name)
    return gaussian_response(band)


def _spread(known: DoubleArray, nm: DoubleArray, response: DoubleArray) -> DoubleArray:
    """Return weights (W,) of known wavelengths, interpolating a response's between."""
    after = np.searchsorted(known, nm).clip(1, len(known) - 1)
    share = (nm - known[after - 1]) / (known[after] - known[after - 1])
    weights = np.zeros(len(known))
    np.add.at(weights, after - 1, response * (1 - share))
    np.add.at(weights, after, response * share)
    return weights


@dataclass(frozen=True)
class BandSource:
    """How one wanted band is had.

    Args:
        band: that is wanted.
        status: `measured`, `resampled` (a sum of narrower bands), `estimated` or
            `absent`.
        sources: the found bands that it is made of; none if absent.
        error: expected error, reflectance (root mean square over the library); NaN
            where the library tells nothing.
        interval: half the width of the interval that holds the band's value with 90 %
            probability, over the whole library; NaN likewise.
        reason: why it is absent, for people.
    """

    band: Band
    status: Status
    sources: tuple[Band, ...]
    error: float
    interval: float
    reason: str = ""

    def __str__(self) -> str:
        band = f"{self.band.name} ({self.band.wavelength_nm:g} nm)"
        if self.status == "absent":
            return f"{band}: absent, {self.reason}"
        shown = ", ".join(source.name for source in self.sources[:_SHOWN])
        if len(self.sources) > _SHOWN:
            shown = f"{len(self.sources)} bands, {shown} ..."
        error = "error unknown" if np.isnan(self.error) else f"+-{self.error:.4f}"
        return f"{band}: {self.status} from {shown}, {error}"


@dataclass(frozen=True)
class Resampling:
    """How the bands of an image become those that are wanted; see `fit_resampling`.

    Args:
        found: bands of the image, C.
        sources: how each of the wanted bands is had, D.
        weights: (D, C) of the bands that are measured or resampled, 0 for the others.
        estimator: what estimates bands, None if none are; in the order of `sources`.
    """

    found: tuple[Band, ...]
    sources: tuple[BandSource, ...]
    weights: FloatArray
    estimator: "_Estimator | None"

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are wanted."""
        return tuple(source.band for source in self.sources)

    @property
    def used(self) -> tuple[Band, ...]:
        """The found bands that any wanted one is made of."""
        used = {band for source in self.sources for band in source.sources}
        return tuple(band for band in self.found if band in used)

    def positions(self, status: Status) -> list[int]:
        """Return which of the wanted bands have a status."""
        return [at for at, s in enumerate(self.sources) if s.status == status]

    def apply(
        self, pixels: FloatArray, valid: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Bring pixels into the wanted bands.

        A pixel is valid in a band where it is in all bands that this one is made of;
        absent bands are invalid everywhere. Invalid pixels are 0.

        Args:
            pixels: (C, H, W) reflectance in the order of `found`.
            valid: (C, H, W).

        Returns:
            pixels and valid, (D, H, W) each.

        Raises:
            ShapeError: the arrays are of other bands.
        """
        known = self._known(pixels, valid)
        clean = np.where(valid, pixels, np.float32(0))
        made = np.tensordot(self.weights, clean, axes=1).astype(np.float32)
        if self.estimator is not None:
            made[self.positions("estimated")] = self.estimator.apply(clean)[0]
        return np.where(known, made, np.float32(0)), known

    def interval(self, pixels: FloatArray, valid: BoolArray) -> FloatArray:
        """Return half the widths of the intervals that hold each value, (D, H, W).

        With 90 % probability, as far as a pixel is like the library; it widens with the
        distance from there. NaN where nothing is known. See `apply` for the arguments.
        """
        known = self._known(pixels, valid)
        wide = np.array([source.interval for source in self.sources], np.float32)
        wide = np.broadcast_to(wide[:, None, None], known.shape).copy()
        if self.estimator is not None:
            clean = np.where(valid, pixels, np.float32(0))
            wide[self.positions("estimated")] = self.estimator.apply(clean)[1]
        return np.where(known, wide, np.float32("nan"))

    def _known(self, pixels: FloatArray, valid: BoolArray) -> BoolArray:
        if pixels.shape != valid.shape or len(pixels) != len(self.found):
            raise ShapeError(
                f"pixels {pixels.shape} and valid {valid.shape} must both be (bands, "
                f"rows, columns) of {len(self.found)} bands."
            )
        known = np.zeros((len(self.sources), *valid.shape[1:]), np.bool_)
        for at, source in enumerate(self.sources):
            if source.sources:
                layers = [self.found.index(band) for band in source.sources]
                known[at] = valid[layers].all(axis=0)
        return known


def fit_resampling(
    found: Sequence[Band],
    wanted: Sequence[Band],
    *,
    sensor: Sensor | None = None,
    wanted_sensor: Sensor | None = None,
    most_error_share: float = MOST_ERROR_SHARE,
    library: SpectralLibrary | None = None,
) -> Resampling:
    """Find out how each wanted band can be had from those that an image has.

    The first of these that holds: a found band is the same (see `match_bands`) and much
    as wide; narrower bands cover its response, and are summed by it; a found band is
    the same; it is estimated from all bands; it is absent. Each takes seconds at most,
    and what was fitted on the whole library is kept.

    Args:
        found: bands of the image.
        wanted: bands to bring it to.
        sensor: whose measured responses the found bands have; Gaussians without.
        wanted_sensor: the same for the wanted bands.
        most_error_share: a band is absent whose expected error is a larger share of its
            standard deviation in the library.
        library: spectra to learn from; those that come with the package if None.

    Raises:
        BandError: not one of the bands can be had, or there are none.
    """
    if library is None:
        keys = [
            () if each is None else each.responses for each in (sensor, wanted_sensor)
        ]
        return _fit_cached(
            tuple(found), tuple(wanted), sensor, wanted_sensor, most_error_share, *keys
        )
    return _fit(
        tuple(found), tuple(wanted), sensor, wanted_sensor, most_error_share, library
    )


@functools.lru_cache
def _fit_cached(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    sensor: Sensor | None,
    wanted_sensor: Sensor | None,
    most_error_share: float,
    *_curves: object,
) -> Resampling:
    """Fit on the package's library; sensors that differ in curves alone are equal."""
    library = load_library()
    return _fit(found, wanted, sensor, wanted_sensor, most_error_share, library)


def _fit(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    sensor: Sensor | None,
    wanted_sensor: Sensor | None,
    most_error_share: float,
    library: SpectralLibrary,
) -> Resampling:
    if not found or not wanted:
        raise BandError("resampling needs bands that are found and bands to make.")
    seen = library.sense(found, sensor)
    target = library.sense(wanted, wanted_sensor)
    weights = np.zeros((len(wanted), len(found)))
    sources: list[BandSource | None] = []
    matches = match_bands(wanted, found, allow_missing=True)
    for at, (band, match) in enumerate(zip(wanted, matches, strict=True)):
        made = _take_or_sum(band, match, found, _response(band, wanted_sensor))
        for status, own in made:
            error = seen[:, own > 0] @ own[own > 0] - target[:, at]
            if status == "resampled" and _rmse(error) > _MOST_SUM_ERROR:
                continue
            weights[at] = own
            parts = tuple(found[i] for i in np.flatnonzero(own))
            sources.append(
                BandSource(band, status, parts, _rmse(error), _half_width(error))
            )
            break
        else:
            sources.append(None)
    missing = [at for at, source in enumerate(sources) if source is None]
    estimator, estimated = _estimate(
        found, wanted, missing, seen, target, most_error_share
    )
    made_of = [source or estimated[at] for at, source in enumerate(sources)]
    if all(source.status == "absent" for source in made_of):
        raise BandError(
            f"none of the bands {_names(wanted)} can be had from {_names(found)}: "
            f"{made_of[0].reason}. Use images with more bands."
        )
    return Resampling(found, tuple(made_of), weights.astype(np.float32), estimator)


def _take_or_sum(
    band: Band,
    match: int | None,
    found: tuple[Band, ...],
    response: tuple[DoubleArray, DoubleArray],
) -> list[tuple[Status, DoubleArray]]:
    """List how a band can be had without the library, best first: weights (C,)."""
    ways: list[tuple[Status, DoubleArray]] = []
    if match is not None:
        ratio = found[match].width_nm / band.width_nm
        ways.append(("measured", np.eye(len(found))[match]))
        if 1 / _SIMILAR <= ratio <= _SIMILAR:
            return ways
    weights = _sum_narrow(band, found, *response)
    return ways if weights is None else [("resampled", weights), *ways]


def _sum_narrow(
    band: Band, found: tuple[Band, ...], nm: DoubleArray, response: DoubleArray
) -> DoubleArray | None:
    """Return weights (C,) of narrower bands that add up to a band, None if they do not.

    Between the centres of two bands, the spectrum is taken to be straight.
    """
    narrow = [i for i, other in enumerate(found) if other.width_nm < band.width_nm]
    centres, first = np.unique(
        [found[i].wavelength_nm for i in narrow], return_index=True
    )
    if len(centres) < _LEAST_BANDS:
        return None
    after = np.searchsorted(centres, nm).clip(1, len(centres) - 1)
    inside = (nm >= centres[0]) & (nm <= centres[-1])
    inside &= centres[after] - centres[after - 1] <= _FINE * band.width_nm
    share = response[inside].sum()
    if share < _COVERED:
        return None
    weights = np.zeros(len(found))
    at = np.array(narrow)[first]
    weights[at] = _spread(centres, nm[inside], response[inside] / share)
    return weights


def _estimate(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    missing: list[int],
    seen: DoubleArray,
    target: DoubleArray,
    most_error_share: float,
) -> "tuple[_Estimator | None, dict[int, BandSource]]":
    """Fit what estimates the missing bands; say by position how each is had."""
    usable = [i for i in range(len(found)) if np.isfinite(seen[:, i]).all()]
    usable.sort(key=lambda i: found[i].wavelength_nm)
    parts = tuple(found[i] for i in usable)
    known = [at for at in missing if np.isfinite(target[:, at]).all()]
    nothing = float("nan")
    sources = {
        at: BandSource(
            wanted[at], "absent", (), nothing, nothing, "outside of the known spectra"
        )
        for at in missing
    }
    if len(usable) < _LEAST_BANDS:
        reason = (
            f"estimating it needs at least {_LEAST_BANDS} bands, from 400 to 2450 nm"
        )
        return None, {at: replace(s, reason=reason) for at, s in sources.items()}
    if not known:
        return None, sources
    estimator = _Estimator(
        usable,
        np.array([band.wavelength_nm for band in parts]),
        np.array([wanted[at].wavelength_nm for at in known]),
        seen[:, usable],
        target[:, known],
    )
    errors = estimator.errors
    kept = []
    for column, at in enumerate(known):
        error, wide = _rmse(errors[:, column]), _half_width(errors[:, column])
        spread = float(target[:, at].std())
        if error <= most_error_share * spread:
            kept.append(column)
            sources[at] = BandSource(wanted[at], "estimated", parts, error, wide)
        else:
            reason = (
                f"an estimate would be off by {error:.4f}, over "
                f"{most_error_share:.0%} of its spread ({spread:.4f})"
            )
            sources[at] = BandSource(wanted[at], "absent", (), error, wide, reason)
    return (estimator.for_targets(kept) if kept else None), sources


class _Estimator:
    """Estimates bands by linear interpolation over wavelength, and by what that misses.

    Misses are learned in relation to the mean of all bands, from the shape of spectra.
    Far from the library's shapes they fade out, and the interpolation stays.

    Args:
        layers: which of the found bands to take, F, ascending in wavelength.
        nm: their centres.
        target_nm: centres of the T bands to estimate.
        values: (N, F) of the library.
        targets: (N, T) likewise.
    """

    def __init__(
        self,
        layers: Sequence[int],
        nm: DoubleArray,
        target_nm: DoubleArray,
        values: DoubleArray,
        targets: DoubleArray,
    ) -> None:
        self.layers = list(layers)
        bins = np.array_split(np.eye(len(nm)), min(len(nm), _MOST_FEATURES))
        self._bins = np.stack([each.mean(axis=0) for each in bins], axis=1)
        self._between = np.stack([np.interp(target_nm, nm, e) for e in np.eye(len(nm))])
        features, mean = self._features(values)
        misses = (targets - values @ self._between) / mean
        self._kernel = _Kernel(features, misses)
        found, distance = _predict_unseen(features, misses)
        self._ramps = _choose_ramps(found, misses, mean, distance)
        errors = found * _fade(distance, self._ramps) - misses
        self.errors = errors * mean
        """(N, T) reflectance, of spectra that the fit did not see."""
        self._edges = np.quantile(distance, np.linspace(0, 1, _STEPS + 1)[1:])
        self._wide = self._widths(errors, misses, distance)

    def _features(self, values: Array) -> tuple[Array, Array]:
        """Return what tells shapes apart, (N, features), and the scale (N, 1)."""
        mean = values.mean(axis=1, keepdims=True).clip(_LEAST_MEAN)
        steps = np.diff(values @ self._bins.astype(values.dtype), axis=1) / mean
        return np.concatenate([steps, np.log(mean)], axis=1), mean

    def _widths(
        self, errors: DoubleArray, misses: DoubleArray, distance: DoubleArray
    ) -> DoubleArray:
        """Return half widths of intervals by step of distance, (steps + 1, T).

        Beyond the last step it is that of plain interpolation, at least.
        """
        step = np.searchsorted(self._edges, distance).clip(max=_STEPS - 1)
        wide = [
            np.quantile(np.abs(errors[step == at]), _SAID, axis=0)
            for at in range(_STEPS)
        ]
        beyond = np.quantile(np.abs(misses), _SAID, axis=0)
        return np.maximum.accumulate(np.stack([*wide, beyond]), axis=0)

    def for_targets(self, kept: Sequence[int]) -> "_Estimator":
        """Return it with some of its targets alone."""
        part = copy.copy(self)
        part._between, part.errors = self._between[:, kept], self.errors[:, kept]
        part._kernel = copy.copy(self._kernel)
        part._kernel.weights = self._kernel.weights[:, kept]
        part._ramps, part._wide = self._ramps[kept], self._wide[:, kept]
        return part

    def apply(self, pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return estimates and half the widths of their intervals, (T, H, W) each.

        Args:
            pixels: (C, H, W) reflectance of the found bands.
        """
        values = pixels[self.layers].reshape(len(self.layers), -1).T
        shape = (self._between.shape[1], values.shape[0])
        made, wide = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for start in range(0, len(values), _PIXELS_AT_ONCE):
            at = np.s_[start : start + _PIXELS_AT_ONCE]
            made[:, at], wide[:, at] = self._estimate(values[at])
        size = (len(made), *pixels.shape[1:])
        return made.reshape(size), wide.reshape(size)

    def _estimate(self, values: FloatArray) -> tuple[Array, Array]:
        """Return estimates and half widths (T, n) of pixels (n, F)."""
        features, mean = self._features(values)
        misses, distance = self._kernel.predict(features)
        misses *= _fade(distance, self._ramps)
        made = values @ self._between.astype(np.float32) + misses * mean
        wide = self._wide[np.searchsorted(self._edges, distance)]
        return made.T, (wide * mean).T


class _Kernel:
    """Ridge regression with an exponential kernel on landmarks.

    Args:
        features: (N, F).
        values: (N, T) to predict.

    Source: Williams and Seeger 2001, Using the Nystroem Method to Speed Up Kernel
    Machines; landmarks by farthest-point sampling (Gonzalez 1985).
    """

    def __init__(self, features: DoubleArray, values: DoubleArray) -> None:
        self._mean, self._std = features.mean(axis=0), features.std(axis=0) + _JITTER
        scaled = (features - self._mean) / self._std
        self._landmarks = scaled[_spread_out(scaled, min(_LANDMARKS, len(scaled)))]
        known, own = (self._kernel(self._far(at)) for at in (scaled, self._landmarks))
        jitter = _JITTER * np.eye(len(own))
        products = known.T @ known + _RIDGE * own + jitter
        self.weights = np.linalg.solve(products, known.T @ values)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return predictions (n, T), and distances to the nearest landmark (n,)."""
        kind = features.dtype
        scaled = (features - self._mean.astype(kind)) / self._std.astype(kind)
        far = self._far(scaled)
        return self._kernel(far) @ self.weights.astype(kind), far.min(axis=1)

    def _far(self, scaled: Array) -> Array:
        """Return mean distances over features to the landmarks, (n, landmarks)."""
        columns = torch.from_numpy(scaled / scaled.shape[1])
        theirs = torch.from_numpy(self._landmarks.T / scaled.shape[1])
        theirs = theirs.to(columns.dtype).contiguous()
        far = (columns[:, :1] - theirs[0]).abs_()
        step = torch.empty_like(far)
        for at in range(1, len(theirs)):
            torch.sub(columns[:, at : at + 1], theirs[at], out=step)
            far += step.abs_()
        return far.numpy()

    @staticmethod
    def _kernel(far: Array) -> Array:
        return torch.from_numpy(far).mul(-_DECAY).exp_().numpy()


def _spread_out(points: DoubleArray, count: int) -> NDArray[np.intp]:
    """Choose points, each as far as can be from those chosen before."""
    far = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    chosen = [int(far.argmax())]
    far = np.full(len(points), np.inf)
    for _ in range(count - 1):
        latest = points[chosen[-1]]
        far = np.minimum(far, ((points - latest) ** 2).sum(axis=1))
        chosen.append(int(far.argmax()))
    return np.array(chosen)


def _predict_unseen(
    features: DoubleArray, values: DoubleArray
) -> tuple[DoubleArray, DoubleArray]:
    """Return predictions (N, T) and distances (N,), each fitted on other spectra."""
    part = np.random.default_rng(0).permutation(len(features)) % _PARTS
    found, distance = np.empty_like(values), np.empty(len(features))
    for number in range(_PARTS):
        out = part == number
        kernel = _Kernel(features[~out], values[~out])
        found[out], distance[out] = kernel.predict(features[out])
    return found, distance


def _choose_ramps(
    found: DoubleArray, values: DoubleArray, mean: DoubleArray, distance: DoubleArray
) -> DoubleArray:
    """Choose between which distances each target's predictions fade out, (T, 2).

    The most cautious ramp is taken that keeps the error in the library within a factor
    of the least. Spectra unlike the library have been seen to gain from it: what is
    learned from other classes misleads there.
    """
    ramps = [
        np.array([np.quantile(distance, min(q, 1)) * max(q, 1) for q in each])
        for each in _RAMPS
    ]
    errors = []
    for ramp in ramps:
        ramped = found * _fade(distance, ramp[None]) - values
        errors.append(np.sqrt(((ramped * mean) ** 2).mean(axis=0)))
    least = np.sqrt((((found - values) * mean) ** 2).mean(axis=0))
    within = np.array(errors) <= _CAUTION * least
    last = [int(np.flatnonzero(column).max(initial=0)) for column in within.T]
    return np.stack([ramps[at] for at in last])


def _fade(distance: Array, ramps: Array) -> Array:
    """Return 1 up to the first distance of a ramp, 0 from its second on, (n, T)."""
    first, last = ramps.astype(distance.dtype).T
    return ((last - distance[:, None]) / (last - first)).clip(0, 1)


def _rmse(errors: DoubleArray) -> float:
    return float(np.sqrt((errors**2).mean()))


def _half_width(errors: DoubleArray) -> float:
    return float(np.quantile(np.abs(errors), _SAID))


def _names(bands: Sequence[Band]) -> str:
    shown = ", ".join(band.name for band in bands[:_MOST_NAMED])
    return shown + (", ..." if len(bands) > _MOST_NAMED else "")
