"""Pictures of reconstructions show as hidden what was hidden, and nothing else."""

import numpy as np
import pytest

from spectralgpt.errors import ShapeError
from spectralgpt.reports.composites import Composite, Stretch
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    error_picture,
    plot_reconstruction,
    plot_spectra,
    visible_picture,
)
from spectralgpt.sensors import load_sensor

BANDS = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04", "B08"])
RGB = Composite("true colour", (2, 1, 0), ("B04", "B03", "B02"))
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
    picture = visible_picture(example_, RGB, UNIT)
    np.testing.assert_array_equal(picture[:8, :8], 0.5)
    expected = np.moveaxis(example_.image[[2, 1, 0]], 0, -1)
    np.testing.assert_allclose(picture[:, 8:], expected[:, 8:])


def test_partly_hidden_pixels_keep_the_visible_band_only() -> None:
    example_ = example()
    picture = visible_picture(example_, RGB, UNIT)
    np.testing.assert_allclose(picture[8:, :8, 0], example_.image[2, 8:, :8])
    np.testing.assert_array_equal(picture[8:, :8, 1:], 0.5)


def test_error_counts_hidden_bands_only() -> None:
    error = error_picture(example(), RGB)
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
    true, rebuilt = lines["measured"], lines["rebuilt"]
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
