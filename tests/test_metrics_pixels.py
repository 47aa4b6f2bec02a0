"""Scores of maps against torchmetrics and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_jaccard_index,
)

from spectralgpt.errors import DataError
from spectralgpt.metrics import confusion_counts, score_pixels

NAMES = ("forest", "damaged", "water")


@given(seed=st.integers(0, 2**16), pixels=st.integers(1, 200))
def test_iou_of_each_class_is_that_of_torchmetrics(seed: int, pixels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(3, (pixels,), generator=generator)
    targets = torch.randint(3, (pixels,), generator=generator)
    scores = score_pixels(confusion_counts(predicted, targets, 3), NAMES)
    expected = multiclass_jaccard_index(predicted, targets, 3, average="none")
    for entry, value in zip(scores.per_class, expected.tolist(), strict=True):
        if entry.support or entry.predicted:
            assert entry.iou == pytest.approx(value, abs=1e-6)
        else:
            assert np.isnan(entry.iou)


def test_ignored_pixels_count_nowhere() -> None:
    predicted = torch.tensor([[0, 1], [2, 1]])
    targets = torch.tensor([[0, -1], [-1, 1]])
    counts = confusion_counts(predicted, targets, 3)
    assert counts.sum() == 2
    assert score_pixels(counts, NAMES).summary["overall_accuracy"] == 1.0


def test_the_positive_class_leads_and_is_counted_by_hand() -> None:
    # 3 damaged pixels found, 1 missed, 2 false alarms among 10 of forest.
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    scores = score_pixels(counts, NAMES, positive="damaged")
    assert list(scores.summary)[:2] == ["f1", "iou"]
    assert scores.summary["precision"] == pytest.approx(3 / 5)
    assert scores.summary["recall"] == pytest.approx(3 / 4)
    assert scores.summary["f1"] == pytest.approx(6 / 9)
    assert scores.summary["iou"] == pytest.approx(3 / 6)
    # Water neither occurs nor was predicted: the mean is over two classes.
    assert scores.summary["mean_iou"] == pytest.approx((8 / 11 + 3 / 6) / 2)


def test_a_class_that_was_never_found_scores_zero() -> None:
    scores = score_pixels(np.array([[5, 0], [0, 0]]), NAMES[:2], "damaged")
    assert scores.summary["f1"] == 0.0
    assert scores.summary["iou"] == 0.0


def test_nothing_labelled_is_refused() -> None:
    with pytest.raises(DataError, match="no labelled pixel"):
        score_pixels(np.zeros((2, 2), dtype=np.int64), NAMES[:2])
