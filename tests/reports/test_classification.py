"""Confusion matrices and example predictions say what the numbers say."""

import numpy as np
import pytest

from spectralgpt.errors import ShapeError
from spectralgpt.reports.classification import plot_confusion, plot_predictions
from spectralgpt.sensors import load_sensor


def test_confusion_shows_counts_and_shares_of_the_true_class() -> None:
    figure = plot_confusion(np.array([[3, 1], [0, 0]]), ["water", "sand"])
    counts, shares = (axes.get_images()[0].get_array() for axes in figure.axes)
    np.testing.assert_array_equal(counts, [[3, 1], [0, 0]])
    np.testing.assert_allclose(shares[0], [0.75, 0.25])
    assert np.isnan(np.asarray(shares[1], dtype=float)).all()
    assert figure.axes[0].get_ylabel() == "true"
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts == ["0.75", "0.25"]


def test_confusion_that_does_not_fit_its_names_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 2\).*3 class names"):
        plot_confusion(np.zeros((2, 2), int), ["a", "b", "c"])


def test_predictions_say_right_or_wrong_in_words_too() -> None:
    bands = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04"])
    images = np.random.default_rng(0).random((3, 3, 8, 8)).astype(np.float32)
    figure = plot_predictions(
        images,
        bands,
        ["water", "sand", ""],
        ["water", "forest", "marsh"],
        [0.9, 0.6, 0.5],
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["✓ water 90%", "✗ forest 60%\ntrue: sand", "marsh 50%"]


def test_lists_of_different_length_are_refused() -> None:
    bands = load_sensor("sentinel-2-l2a").select(["B02"])
    images = np.zeros((2, 1, 8, 8), np.float32)
    with pytest.raises(ShapeError, match=r"\[2, 1, 2, 2\]"):
        plot_predictions(images, bands, ["a"], ["a", "b"], [1.0, 1.0])
