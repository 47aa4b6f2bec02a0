"""How a sensor's bands weigh a spectrum.

The registry knows a band's centre and full width at half maximum; the response in
between is a flat top with Gaussian-like shoulders, as filters of multispectral
instruments have. Narrow bands (below some 15 nm) come out as Gaussians, as the bands
of imaging spectrometers do.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.simulation.spectra import WAVELENGTHS_NM
from spectralgpt.errors import BandError
from spectralgpt.sensors import Band, Sensor

__all__ = ["band_response", "optical_bands", "to_bands"]

# Wider bands than this have a flat top: a super-Gaussian of the given order.
_NARROW_NM, _FLAT_TOP_ORDER = 15.0, 6.0
# An instrument without a stated width is given the step of the spectra.
_LEAST_WIDTH_NM = 5.0


def optical_bands(sensor: Sensor) -> tuple[Band, ...]:
    """Choose the bands of a sensor that the simulated spectra cover, by wavelength.

    Raises:
        BandError: the sensor has no band between 400 and 2500 nm.
    """
    low, high = float(WAVELENGTHS_NM[0]), float(WAVELENGTHS_NM[-1])
    bands = tuple(b for b in sensor.select() if low <= b.wavelength_nm <= high)
    if not bands:
        raise BandError(
            f"sensor '{sensor.name}' has no band within {low:g} to {high:g} nm, which "
            "the simulated spectra cover. Choose an optical sensor."
        )
    return bands


@lru_cache(maxsize=16)
def band_response(bands: tuple[Band, ...]) -> NDArray[np.float32]:
    """Build the matrix that takes spectra on `WAVELENGTHS_NM` to band values.

    Args:
        bands: the D bands, in the order wanted.

    Returns:
        (D, wavelengths), each row non-negative with sum 1, read-only.
    """
    rows = [_row(band) for band in bands]
    response = np.stack(rows).astype(np.float32)
    response.setflags(write=False)
    return response


def to_bands(
    spectra: NDArray[np.float64], bands: Sequence[Band]
) -> NDArray[np.float32]:
    """Weigh spectra (..., wavelengths) with the bands' responses: (..., D)."""
    values: NDArray[np.float32] = (
        spectra.astype(np.float32) @ band_response(tuple(bands)).T
    )
    return values


def _row(band: Band) -> NDArray[np.float64]:
    """Response of one band, integrated at 0.5 nm and put on the spectra's grid."""
    fine = np.arange(WAVELENGTHS_NM[0], WAVELENGTHS_NM[-1] + 0.25, 0.5)
    half_width = max(band.width_nm, _LEAST_WIDTH_NM) / 2.0
    order = 2.0 if band.width_nm < _NARROW_NM else _FLAT_TOP_ORDER
    distance = np.abs(fine - band.wavelength_nm) / half_width
    weight = np.exp(-np.log(2.0) * np.minimum(distance, 6.0) ** order)
    # Adjoint of linear interpolation: each fine sample is split over two grid points.
    position = (fine - WAVELENGTHS_NM[0]) / (WAVELENGTHS_NM[1] - WAVELENGTHS_NM[0])
    left = np.minimum(position.astype(np.int64), WAVELENGTHS_NM.size - 2)
    share = position - left
    row = np.bincount(left, weight * (1.0 - share), WAVELENGTHS_NM.size)
    row += np.bincount(left + 1, weight * share, WAVELENGTHS_NM.size)
    normalised: NDArray[np.float64] = row / row.sum()
    return normalised
