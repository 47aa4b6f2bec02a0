"""The classification report shows the scores it was given."""

from pathlib import Path

import numpy as np
import torch

from spectralgpt.metrics import Interval, score_multi_label, score_single_label
from spectralgpt.reports.results import Examples, write_classification_report
from spectralgpt.sensors import load_sensor

NAMES = ["water", "forest & field"]


def test_single_label_report_has_scores_confusion_classes_and_examples(
    tmp_path: Path,
) -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    scores = score_single_label(probabilities, torch.tensor([0, 1, 1, 1]), NAMES)
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
    scores = score_multi_label(probabilities, targets, NAMES)
    page = write_classification_report(tmp_path, "t", {"test": scores}).read_text()
    assert "average precision" in page
    assert "<figure>" not in page
    assert "What is taken for what" not in page
