import numpy as np
import pytest

from spectralgpt.metrics import psnr, spectral_angle


def test_angle_of_cases_computed_by_hand() -> None:
    first = np.array([[1.0, 1.0, 0.2, 1.0], [0.0, 0.0, 0.4, 0.0]])
    second = np.array([[0.0, 1.0, 0.1, 3.0], [2.0, 1.0, 0.2, 0.0]])
    # Orthogonal, half of a right angle, and twice multiples of each other.
    np.testing.assert_allclose(spectral_angle(first, second), [90, 45, 0, 0], atol=1e-5)


def test_angle_of_the_zero_spectrum_is_unknown() -> None:
    first, second = np.array([[0.0, 1.0], [0.0, np.nan]]), np.ones((2, 2))
    assert np.isnan(spectral_angle(first, second)).all()


def test_psnr_computed_by_hand() -> None:
    truth = np.zeros((2, 2))
    rebuilt = np.array([[0.1, 0.1], [0.5, 0.0]])
    counted = np.array([[True, True], [True, False]])
    # Errors of a tenth and of a fourth of the peak: 20 dB and 20 log10(4).
    found = psnr(truth, rebuilt, counted, [[1.0], [2.0]], axis=1)
    np.testing.assert_allclose(found, [20.0, 12.041200], atol=1e-6)
    # All three values together: the mean of 0.01, 0.01 and 0.0625.
    overall = psnr(truth, rebuilt, counted, [[1.0], [2.0]])
    assert overall == pytest.approx(-10 * np.log10(0.0825 / 3))


def test_psnr_without_error_is_infinite_and_without_pixels_unknown() -> None:
    values, counted = np.ones((2, 3)), np.array([[True] * 3, [False] * 3])
    found = psnr(values, values, counted, 1.0, axis=1)
    assert np.isposinf(found[0])
    assert np.isnan(found[1])
