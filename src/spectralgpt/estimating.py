"""Estimate bands from others, by what a library of spectra tells of them.

Plain arrays in and out: which bands they are of is decided in `resampling`. Constants
were chosen by `tools/resampling_accuracy.py`, which leaves whole classes out.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
Array = NDArray[Any]
"""Of 64 bits while a model is fitted, of 32 for pixels."""
_MOST_FEATURES = 16
_LEAST_MEAN = 0.01
"""Reflectance; below it, differences between bands are mostly noise."""
_LANDMARKS = 512
_DECAY = 2.8
"""Of the kernel, with the mean distance over features, which are standardised."""
_RIDGE = 0.03
_JITTER = 1e-6
_PARTS = 5
_MIXED = 0.1
"""Mixtures of two spectra that are learned from, too, as a share of the spectra."""
_CAUTION = 2.2
"""How many times its error in the library a fit may give up for caution beyond it."""
_CAUTION_FITTED = 1.02
"""The same where imagery of one sensor is learned from, which other imagery is like."""
_RAMPS = (
    *((1, 1.05), (0.95, 1), (0.9, 1), (0.9, 0.999), (0.9, 0.998), (0.9, 0.997)),
    *((0.9, 0.995), (0.9, 0.99), (0.85, 0.99), (0.8, 0.98), (0.7, 0.97), (0.5, 0.95)),
    *((0.3, 0.9), (0, 0.8)),
)
"""From which to which distance estimates fade, as quantiles of the library's own."""
SAID = 0.9
"""Chance that intervals hold a value."""
_STEPS = 10
_LIKE = 0.999
"""Share of unseen spectra that count as like those learned from."""
_PIXELS_AT_ONCE = 1 << 10
"""That their distances to the landmarks fit into a processor's cache."""


class Estimator:
    """Estimates bands by a linear map of the others, and by what that misses.

    The map is interpolation over wavelength, or fitted. Misses are learned in relation
    to the mean of all bands, from the shape of spectra. Far from the library's shapes
    they fade out, and the linear map stays.

    Args:
        layers: which of the found bands to take, F, ascending in wavelength.
        nm: their centres.
        target_nm: centres of the T bands to estimate.
        values: (N, F) of the library.
        targets: (N, T) likewise.
        classes: (N,) likewise; rare ones are mixed more often.
        is_fitted: fit the map by least squares, as suits pixels of one sensor. Classes,
            such as images, are then held out whole to measure errors, and else spectra.
    """

    def __init__(
        self,
        layers: Sequence[int],
        nm: DoubleArray,
        target_nm: DoubleArray,
        values: DoubleArray,
        targets: DoubleArray,
        classes: NDArray[np.str_],
        is_fitted: bool = False,
    ) -> None:
        self.layers = list(layers)
        bins = np.array_split(np.eye(len(nm)), min(len(nm), _MOST_FEATURES))
        self._bins = np.stack([each.mean(axis=0) for each in bins], axis=1)
        self._between = interpolation_weights(nm, target_nm)
        self._shift = np.zeros(len(target_nm))
        features, misses, mean = self._learned(values, targets)
        own = np.arange(len(values))
        if is_fitted:
            own = np.unique(classes, return_inverse=True)[1]
        part = np.random.default_rng(0).permutation(own.max() + 1)[own] % _PARTS
        found, distance = np.empty_like(misses), np.empty(len(values))
        # The last part leaves nothing out: that one is kept.
        for number in range(_PARTS + 1):
            kept = part != number
            if is_fitted:
                fitted = fit_linear(values[kept], targets[kept])
                self._between, self._shift = fitted[:-1], fitted[-1]
                misses[~kept] = self._learned(values[~kept], targets[~kept])[1]
            mixed = _mix(values[kept], targets[kept], classes[kept], number)
            self._kernel = _Kernel(*self._learned(*mixed)[:2])
            if not kept.all():
                predicted = self._kernel.predict(features[~kept])
                found[~kept], distance[~kept] = predicted
        caution = _CAUTION_FITTED if is_fitted else _CAUTION
        self._ramps = _choose_ramps(found, misses, mean, distance, caution)
        errors = found * _fade(distance, self._ramps) - misses
        self.errors = errors * mean
        """(N, T) reflectance, of spectra that the fit did not see."""
        self._reach = float(np.quantile(distance, _LIKE))
        self._bounds = values.min(axis=0), values.max(axis=0)
        self._edges = np.quantile(distance, np.linspace(0, 1, _STEPS + 1)[1:])
        # By step of distance; beyond the last one it is that of plain
        # interpolation, at least.
        step = np.searchsorted(self._edges, distance).clip(max=_STEPS - 1)
        wide = [
            np.quantile(np.abs(errors[step == at]), SAID, axis=0)
            for at in range(_STEPS)
        ]
        beyond = np.quantile(np.abs(misses), SAID, axis=0)
        self._wide = np.maximum.accumulate(np.stack([*wide, beyond]), axis=0)

    def _learned(
        self, values: DoubleArray, targets: DoubleArray
    ) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
        """Return features, what interpolation misses (N, T), and the scale (N, 1)."""
        features, mean = self._features(values)
        return features, (targets - self._map(values)) / mean, mean

    def _map(self, values: Array) -> Array:
        kind = values.dtype
        return values @ self._between.astype(kind) + self._shift.astype(kind)

    def _features(self, values: Array) -> tuple[Array, Array]:
        """Return what tells shapes apart, (N, features), and the scale (N, 1)."""
        mean = values.mean(axis=1, keepdims=True).clip(_LEAST_MEAN)
        steps = np.diff(values @ self._bins.astype(values.dtype), axis=1) / mean
        bends = np.diff(steps, axis=1)
        return np.concatenate([steps, bends, np.log(mean)], axis=1), mean

    def for_targets(self, kept: Sequence[int]) -> "Estimator":
        """Return it with some of its targets alone."""
        part = copy.copy(self)
        part._between, part.errors = self._between[:, kept], self.errors[:, kept]
        part._shift = self._shift[kept]
        part._kernel = copy.copy(self._kernel)
        part._kernel.weights = self._kernel.weights[:, kept]
        part._ramps, part._wide = self._ramps[kept], self._wide[:, kept]
        return part

    def apply(
        self, pixels: FloatArray
    ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Estimate the bands of pixels.

        Args:
            pixels: (C, H, W) reflectance of the found bands.

        Returns:
            Estimates and half the widths of their intervals, (T, H, W) each; and
            whether a pixel is like what was learned from, (H, W).
        """
        values = pixels[self.layers].reshape(len(self.layers), -1).T
        shape = (self._between.shape[1], values.shape[0])
        made, wide = np.empty(shape, np.float32), np.empty(shape, np.float32)
        is_like = np.empty(len(values), np.bool_)
        for start in range(0, len(values), _PIXELS_AT_ONCE):
            at = np.s_[start : start + _PIXELS_AT_ONCE]
            made[:, at], wide[:, at], is_like[at] = self._estimate(values[at])
        size = (len(made), *pixels.shape[1:])
        return made.reshape(size), wide.reshape(size), is_like.reshape(size[1:])

    def _estimate(self, values: FloatArray) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Do what `apply` does for pixels (n, F): (T, n) twice, and (n,)."""
        features, mean = self._features(values)
        misses, distance = self._kernel.predict(features)
        misses *= _fade(distance, self._ramps)
        made = self._map(values) + misses * mean
        wide = self._wide[np.searchsorted(self._edges, distance)]
        low, high = self._bounds
        is_like = ((values >= low) & (values <= high)).all(axis=1)
        return made.T, (wide * mean).T, is_like & (distance <= self._reach)


def interpolation_weights(nm: DoubleArray, target_nm: DoubleArray) -> DoubleArray:
    """Return weights (F, T) that interpolate bands at `nm` (F,), ascending, linearly.

    Beyond the first and the last these are taken themselves.
    """
    return np.stack([np.interp(target_nm, nm, row) for row in np.eye(len(nm))])


def fit_linear(values: DoubleArray, targets: DoubleArray) -> DoubleArray:
    """Return weights (F + 1, T) from values (N, F) to targets (N, T), a constant last.

    By least squares.
    """
    with_one = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    weights: DoubleArray = np.linalg.lstsq(with_one, targets, rcond=None)[0]
    return weights


class _Kernel:
    """Ridge regression with an exponential kernel on landmarks: (N, F) to (N, T).

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


def _mix(
    values: DoubleArray, targets: DoubleArray, classes: NDArray[np.str_], seed: int
) -> tuple[DoubleArray, DoubleArray]:
    """Return spectra with mixtures of two of them, as pixels of imagery are.

    Classes are drawn by the root of their number, so that plants meet more than soil.
    """
    rng = np.random.default_rng(seed)
    _, own, counts = np.unique(classes, return_inverse=True, return_counts=True)
    chance = counts[own] ** -0.5
    pairs = (2, int(_MIXED * len(values)))
    one, other = rng.choice(len(values), pairs, p=chance / chance.sum())
    share = rng.uniform(size=(len(one), 1))
    mixed = [
        np.concatenate([each, each[one] * share + each[other] * (1 - share)])
        for each in (values, targets)
    ]
    return mixed[0], mixed[1]


def _choose_ramps(
    found: DoubleArray,
    values: DoubleArray,
    mean: DoubleArray,
    distance: DoubleArray,
    caution: float,
) -> DoubleArray:
    """Choose between which distances each target's predictions fade out, (T, 2).

    The most cautious ramp is taken that keeps the error in the library within a factor,
    the caution, of the least. Spectra unlike the library have been seen to gain from
    it: what is learned from other classes misleads there.
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
    within = np.array(errors) <= caution * least
    last = [int(np.flatnonzero(column).max(initial=0)) for column in within.T]
    return np.stack([ramps[at] for at in last])


def _fade(distance: Array, ramps: Array) -> Array:
    """Return 1 up to the first distance of a ramp, 0 from its second on, (n, T)."""
    first, last = ramps.astype(distance.dtype).T
    return ((last - distance[:, None]) / (last - first)).clip(0, 1)
