"""Reports of scores, confusion and predictions say what the numbers say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.errors import ShapeError
from spectralgpt.metrics import Interval, score_images
from spectralgpt.reports.score_reports import (
    Examples,
    _plot_predictions,
    plot_confusion,
    write_classification_report,
)
from spectralgpt.sensors import load_sensor

NAMES = ["water", "forest & field"]


def test_single_label_report_has_scores_confusion_classes_and_examples(
    tmp_path: Path,
) -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    scores = score_images(probabilities, torch.tensor([0, 1, 1, 1]), NAMES)
    (tmp_path / "metrics.csv").write_text("step,epoch,loss\n1,1,0.5\n2,2,0.4\n")
    bands = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04"])
    images = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    examples = Examples(images, bands, NAMES, NAMES, [0.9, 0.6])
    report = write_classification_report(
        tmp_path,
        "A test",
        {"test": scores},
        intervals={"accuracy": Interval(0.31, 0.99, 0.95)},
        examples=examples,
    )
    page = report.read_text()
    assert page.count("<figure>") == 3
    assert "75.0%" in page
    assert "0.7500" in page
    assert "0.3100" in page
    assert "95% interval" in page
    assert "forest &amp; field" in page


def test_multi_label_report_has_average_precision_and_no_confusion(
    tmp_path: Path,
) -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    scores = score_images(probabilities, targets, NAMES)
    page = write_classification_report(tmp_path, "t", {"test": scores}).read_text()
    assert "average precision" in page
    assert "<figure>" not in page
    assert "What is taken for what" not in page


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
    examples = Examples(
        images,
        bands,
        ["water", "sand", ""],
        ["water", "forest", "marsh"],
        [0.9, 0.6, 0.5],
    )
    figure = _plot_predictions(examples)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["✓ water 90%", "✗ forest 60%\ntrue: sand", "marsh 50%"]


def test_lists_of_different_length_are_refused() -> None:
    bands = load_sensor("sentinel-2-l2a").select(["B02"])
    images = np.zeros((2, 1, 8, 8), np.float32)
    with pytest.raises(ShapeError, match=r"\[2, 1, 2, 2\]"):
        Examples(images, bands, ["a"], ["a", "b"], [1.0, 1.0])
