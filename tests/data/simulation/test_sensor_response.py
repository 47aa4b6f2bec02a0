from dataclasses import replace

import numpy as np
import pytest

from spectralgpt.data.simulation.sensor_response import (
    band_response,
    optical_bands,
    to_bands,
)
from spectralgpt.data.simulation.spectra import WAVELENGTHS_NM
from spectralgpt.errors import BandError
from spectralgpt.sensors import Band, list_sensors, load_sensor


@pytest.mark.parametrize("name", list_sensors())
def test_a_flat_spectrum_stays_flat_in_every_sensor(name: str) -> None:
    bands = optical_bands(load_sensor(name))
    values = to_bands(np.full_like(WAVELENGTHS_NM, 0.37), bands)
    assert values == pytest.approx(0.37, abs=1e-5)


@pytest.mark.parametrize("name", list_sensors())
def test_a_band_measures_a_slope_at_its_centre(name: str) -> None:
    bands = optical_bands(load_sensor(name))
    inner = [b for b in bands if 450 < b.wavelength_nm < 2400]
    centres = to_bands(WAVELENGTHS_NM, inner)
    assert centres == pytest.approx([b.wavelength_nm for b in inner], abs=1.0)


def test_response_reaches_half_at_half_the_width() -> None:
    response = band_response((Band("wide", 1000.0, 100.0, 10.0),))[0]
    top = response[WAVELENGTHS_NM == 1000.0][0]
    assert response[WAVELENGTHS_NM == 950.0][0] == pytest.approx(top / 2, rel=0.1)
    assert response[WAVELENGTHS_NM == 975.0][0] == pytest.approx(top, rel=0.02)


def test_a_sensor_without_optical_bands_is_refused() -> None:
    sensor = load_sensor("sentinel-2-l2a")
    thermal = replace(sensor, bands=(Band("B10", 10_900.0, 600.0, 100.0),))
    with pytest.raises(BandError, match="no band within 400 to 2500 nm"):
        optical_bands(thermal)
