"""Pictures of reconstructions show as hidden what was hidden, and nothing else."""

import numpy as np
import pytest

from spectralgpt.errors import ShapeError
from spectralgpt.rasters import Window
from spectralgpt.reports.reconstructions import (
    _error_picture,
    _plot_bands,
    _plot_marked_spectra,
    _plot_score_maps,
    _spread_bands,
    _varied_pixels,
    _visible_picture,
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.reports.style import Stretch
from spectralgpt.scenes.reconstruction import (
    RebuiltWindow,
    Reconstruction,
    WindowScores,
    score_window,
)
from spectralgpt.sensors import load_sensor

BANDS = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04", "B08"])
RGB = (2, 1, 0)
UNIT = Stretch(np.zeros(4, np.float32), np.ones(4, np.float32))


def example() -> Reconstruction:
    """Hide B02 and B03 on the left, and all bands in the upper left corner."""
    generator = np.random.default_rng(0)
    image = generator.uniform(0.1, 0.4, (4, 16, 16)).astype(np.float32)
    masked = np.zeros(image.shape, dtype=bool)
    masked[:2, :, :8] = True
    masked[2:, :8, :8] = True
    return Reconstruction(image, image + np.float32(0.25), masked, BANDS, "example")


def test_hidden_pixels_are_grey_and_visible_ones_are_the_input() -> None:
    example_ = example()
    picture = _visible_picture(example_, RGB, UNIT)
    np.testing.assert_array_equal(picture[:8, :8], 0.5)
    expected = np.moveaxis(example_.image[[2, 1, 0]], 0, -1)
    np.testing.assert_allclose(picture[:, 8:], expected[:, 8:])


def test_partly_hidden_pixels_keep_the_visible_band_only() -> None:
    example_ = example()
    picture = _visible_picture(example_, RGB, UNIT)
    np.testing.assert_allclose(picture[8:, :8, 0], example_.image[2, 8:, :8])
    np.testing.assert_array_equal(picture[8:, :8, 1:], 0.5)


def test_error_counts_hidden_bands_only() -> None:
    error = _error_picture(example(), RGB)
    assert np.isnan(error[:, 8:]).all()
    np.testing.assert_allclose(error[:, :8], 0.25, atol=1e-6)


def test_pasted_image_keeps_visible_pixels() -> None:
    example_ = example()
    np.testing.assert_array_equal(
        example_.pasted[~example_.is_masked], example_.image[~example_.is_masked]
    )
    np.testing.assert_array_equal(
        example_.pasted[example_.is_masked], example_.rebuilt[example_.is_masked]
    )


def test_figure_shows_input_and_rebuilt_with_one_stretch() -> None:
    example_ = example()
    figure = plot_reconstruction(example_, UNIT)
    # True and false colour, one band; four panels each, and the colour bar.
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 12
    shown = [panel.get_images()[0].get_array() for panel in panels[:3]]
    expected = np.moveaxis(example_.image[[2, 1, 0]], 0, -1)
    np.testing.assert_allclose(shown[0], expected)
    np.testing.assert_array_equal(shown[1][:8, :8], 0.5)
    np.testing.assert_allclose(shown[2][:8, :8], expected[:8, :8] + 0.25, atol=1e-6)
    np.testing.assert_allclose(shown[2][:, 8:], expected[:, 8:])


def test_image_without_hidden_pixels_can_be_drawn() -> None:
    example_ = example()
    nothing = np.zeros_like(example_.is_masked)
    whole = Reconstruction(example_.image, example_.rebuilt, nothing, BANDS, "whole")
    plot_reconstruction(whole).canvas.draw()


def test_spectra_are_drawn_over_wavelength_and_mark_hidden_bands() -> None:
    example_ = example()
    figure = plot_spectra(example_, [(12, 2)])
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    true, rebuilt = lines["input"], lines["rebuilt"]
    np.testing.assert_array_equal(
        true.get_xdata(), [band.wavelength_nm for band in BANDS]
    )
    np.testing.assert_array_equal(true.get_ydata(), example_.image[:, 12, 2])
    np.testing.assert_array_equal(np.isnan(rebuilt.get_ydata()), [0, 0, 1, 1])
    assert "(nm)" in figure.axes[0].get_xlabel()


def test_spectra_pick_dark_and_bright_pixels() -> None:
    figure = plot_spectra(example())
    means = [np.mean(axes.get_lines()[0].get_ydata()) for axes in figure.axes[:4]]
    assert means == sorted(means)
    assert means[-1] > means[0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    image = np.zeros((4, 8, 8), np.float32)
    with pytest.raises(ShapeError, match="found shapes"):
        Reconstruction(image, image[:3], image > 0, BANDS, "x")
    with pytest.raises(ShapeError, match="3 bands are named"):
        Reconstruction(image, image, image > 0, BANDS[:3], "x")


@pytest.fixture
def window() -> tuple[Reconstruction, WindowScores]:
    """Twelve bands, the upper half hidden, the first row invalid."""
    bands = load_sensor("sentinel-2-l2a").select()
    pixels = np.random.default_rng(0).uniform(0, 1, (len(bands), 16, 16))
    pixels = pixels.astype(np.float32)
    masked, valid = np.zeros(pixels.shape, bool), np.ones(pixels.shape, bool)
    masked[:, :8], valid[:, 0] = True, False
    rebuilt = pixels + np.float32(0.1)
    shown = RebuiltWindow(
        pixels,
        rebuilt,
        masked,
        bands,
        "example",
        "reflectance",
        valid,
        guess=rebuilt,
        window=Window(0, 0, 16, 16),
        patch_size=8,
        error=0,
        guess_error=0,
        filler="band_mean",
        is_told=False,
    )
    return shown, score_window(shown)


def test_sheets_hold_bands_spread_over_the_spectrum() -> None:
    assert _spread_bands(12) == [list(range(12))]
    (sheet,) = _spread_bands(224)
    assert (len(sheet), sheet[0], sheet[-1]) == (24, 0, 223)
    assert set(np.diff(sheet)) <= {9, 10}
    sheets = _spread_bands(50, show_all=True)
    assert [len(sheet) for sheet in sheets] == [24, 24, 2]
    assert [band for sheet in sheets for band in sheet] == list(range(50))


def test_each_band_is_a_strip_named_by_band_and_wavelength(
    window: tuple[Reconstruction, WindowScores],
) -> None:
    shown, scores = window
    figure = _plot_bands(shown, scores.bands, [0, 3, 11], highest=0.2)
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
    window: tuple[Reconstruction, WindowScores],
) -> None:
    shown, scores = window
    figure = _plot_score_maps(shown, scores)
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
    window: tuple[Reconstruction, WindowScores],
) -> None:
    shown, _ = window
    figure = _plot_marked_spectra(shown, [(3, 5), (12, 15)], ["here", "there"])
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
    window: tuple[Reconstruction, WindowScores],
) -> None:
    shown, _ = window
    shown.image[:, 0] = 0
    assert all(row > 0 for row, _ in _varied_pixels(shown))
