"""A library of reflectance spectra of the ground, and what bands measure of them.

The spectra are data, in `spectra/`, each with its source.
"""

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from spectralgpt.sensors import Band, Sensor, gaussian_response

DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
COVERED = 0.99
"""Share of a response that must lie where there is something to weigh."""
_LEVELS = 10_000
_GAP_NM = 20


@dataclass(frozen=True, eq=False)
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
        nm, response = response_of(band, sensor)
        known = self.wavelengths_nm
        after = np.searchsorted(known, nm).clip(1, len(known) - 1)
        inside = (nm >= known[0]) & (nm <= known[-1])
        inside &= (known[after] - known[after - 1] <= _GAP_NM) | np.isin(nm, known)
        share = response[inside].sum()
        if share < COVERED:
            return np.full(len(known), np.nan)
        return spread_response(known, nm[inside], response[inside] / share)


@functools.cache
def load_library() -> SpectralLibrary:
    """Return the library that comes with the package: see `spectra/README.md`."""
    content = (files("spectralgpt") / "spectra" / "library.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as table:
        # Second differences of (W, M) by bytes, with signs in the last bit.
        low, high = table["bends"].astype(np.int64)
        folded = low + (high << 8)
        bends = (folded >> 1) ^ -(folded & 1)
        return SpectralLibrary(
            table["wavelengths_nm"].astype(float),
            np.ascontiguousarray(bends.cumsum(axis=0).cumsum(axis=0).T) / _LEVELS,
            table["names_2"][table["level_2"]],
            table["names_3"][table["level_3"]],
        )


def response_of(band: Band, sensor: Sensor | None) -> tuple[DoubleArray, DoubleArray]:
    """Return a band's measured response if it is one of the sensor's, else a Gaussian.

    See `Sensor.response`.
    """
    if sensor is not None and band in sensor.bands:
        return sensor.response(band.name)
    return gaussian_response(band)


def spread_response(
    known: DoubleArray, nm: DoubleArray, response: DoubleArray
) -> DoubleArray:
    """Return weights (W,) of known wavelengths, interpolating a response's between."""
    after = np.searchsorted(known, nm).clip(1, len(known) - 1)
    share = (nm - known[after - 1]) / (known[after] - known[after - 1])
    weights = np.zeros(len(known))
    np.add.at(weights, after - 1, response * (1 - share))
    np.add.at(weights, after, response * share)
    return weights
