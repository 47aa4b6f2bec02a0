import numpy as np
import pytest

from spectralgpt.rasters import Window
from spectralgpt.reports.rebuilt_bands import plot_bands, spread_bands
from spectralgpt.reports.rebuilt_maps import plot_marked_spectra, plot_score_maps
from spectralgpt.reports.reconstructions import Reconstruction, varied_pixels
from spectralgpt.scenes.rebuilt_scores import WindowScores, score_window
from spectralgpt.scenes.reconstruction import RebuiltWindow
from spectralgpt.sensors import load_sensor


@pytest.fixture
def example() -> tuple[Reconstruction, WindowScores]:
    """Twelve bands, the upper half hidden, the first row invalid."""
    bands = load_sensor("sentinel-2-l2a").select()
    pixels = np.random.default_rng(0).uniform(0, 1, (len(bands), 16, 16))
    pixels = pixels.astype(np.float32)
    masked, valid = np.zeros(pixels.shape, bool), np.ones(pixels.shape, bool)
    masked[:, :8], valid[:, 0] = True, False
    rebuilt = pixels + np.float32(0.1)
    found = RebuiltWindow(
        pixels,
        rebuilt,
        rebuilt,
        masked,
        valid,
        bands,
        Window(0, 0, 16, 16),
        8,
        0,
        False,
    )
    shown = Reconstruction(
        pixels, rebuilt, masked, bands, "example", "reflectance", valid
    )
    return shown, score_window(found)


def test_sheets_hold_bands_spread_over_the_spectrum() -> None:
    assert spread_bands(12) == [list(range(12))]
    (sheet,) = spread_bands(224)
    assert (len(sheet), sheet[0], sheet[-1]) == (24, 0, 223)
    assert set(np.diff(sheet)) <= {9, 10}
    sheets = spread_bands(50, show_all=True)
    assert [len(sheet) for sheet in sheets] == [24, 24, 2]
    assert [band for sheet in sheets for band in sheet] == list(range(50))


def test_each_band_is_a_strip_named_by_band_and_wavelength(
    example: tuple[Reconstruction, WindowScores],
) -> None:
    shown, scores = example
    figure = plot_bands(shown, scores.bands, [0, 3, 11], highest=0.2)
    strips = [axes for axes in figure.axes if axes.get_images()]
    titles = [axes.get_title(loc="left") for axes in strips[:3]]
    assert [title.split()[:3] for title in titles] == [
        ["B01", "443", "nm"],
        ["B04", "665", "nm"],
        ["B12", "2190", "nm"],
    ]
    picture = np.asarray(strips[0].get_images()[0].get_array())
    panels = [picture[:, start : start + 16] for start in (0, 17, 34, 51)]
    for panel in panels:
        assert (panel[0] == 1).all()  # invalid
    # Hidden pixels have the tint of no grey value; visible ones are the input.
    assert (panels[1][1:8, :, 2] > panels[1][1:8, :, 0]).all()
    np.testing.assert_array_equal(panels[1][8:], panels[0][8:])
    np.testing.assert_array_equal(panels[2][8:], panels[0][8:])
    # One error everywhere it was hidden is one colour; nothing is drawn elsewhere.
    assert np.ptp(panels[3][1:8], axis=(0, 1)).max() < 0.01
    np.testing.assert_allclose(panels[3][8:], 0.85)


def test_maps_leave_blank_what_has_no_score(
    example: tuple[Reconstruction, WindowScores],
) -> None:
    shown, scores = example
    figure = plot_score_maps(shown, scores)
    angle, ratio = (
        np.ma.filled(axes.get_images()[0].get_array(), np.nan)
        for axes in figure.axes[1:3]
    )
    assert np.isnan(angle[0]).all()
    assert np.isnan(angle[8:]).all()
    assert np.isfinite(angle[1:8]).all()
    assert np.isnan(ratio[1]).all()
    assert {"degrees", "dB"} <= {axes.get_ylabel() for axes in figure.axes}
    figure.canvas.draw()


def test_pixels_are_marked_and_their_spectra_drawn(
    example: tuple[Reconstruction, WindowScores],
) -> None:
    shown, _ = example
    figure = plot_marked_spectra(shown, [(3, 5), (12, 15)], ["here", "there"])
    picture, *spectra = figure.axes
    assert [text.get_text() for text in picture.texts] == ["1", "2"]
    assert [tuple(line.get_xydata()[0]) for line in picture.lines] == [(5, 3), (15, 12)]
    assert [axes.get_title(loc="left") for axes in spectra] == ["1   here", "2   there"]
    assert spectra[0].get_ylabel() == "reflectance"
    np.testing.assert_array_equal(
        spectra[0].get_lines()[0].get_ydata(), shown.image[:, 3, 5]
    )
    figure.canvas.draw()


def test_pixels_without_data_are_not_picked(
    example: tuple[Reconstruction, WindowScores],
) -> None:
    shown, _ = example
    shown.image[:, 0] = 0
    assert all(row > 0 for row, _ in varied_pixels(shown))
