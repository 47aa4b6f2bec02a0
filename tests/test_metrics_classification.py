import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from spectralgpt.errors import DataError
from spectralgpt.metrics import (
    bootstrap_intervals,
    score_images,
    summarise_images,
)

NAMES = ("field", "forest", "water")


def one_hot(classes: list[int]) -> torch.Tensor:
    return torch.eye(3)[classes]


def test_scores_of_a_case_counted_by_hand() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 2])
    scores = score_images(one_hot([0, 0, 1, 1, 1, 0]), truth, NAMES)
    assert scores.summary["accuracy"] == pytest.approx(4 / 6)
    assert scores.summary["macro_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores.summary["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert scores.confusion is not None
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    forest = scores.per_class[1]
    assert (forest.support, forest.predicted) == (2, 3)
    assert forest.precision == pytest.approx(2 / 3)


def test_a_class_that_does_not_occur_is_left_out_of_macro_scores() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    scores = score_images(one_hot([0, 0, 1, 1]), truth, NAMES)
    assert scores.summary["macro_accuracy"] == 1.0
    assert scores.summary["macro_f1"] == 1.0


def test_multi_label_scores_match_scikit_learn_on_the_whole_set() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(200, 3, generator=generator) > 0.6).float()
    noise = torch.rand(200, 3, generator=generator)
    probabilities = 0.4 * truth + 0.6 * noise
    scores = score_images(probabilities, truth, NAMES)
    y, p = truth.numpy(), probabilities.numpy()
    for name in ("macro", "micro"):
        expected = average_precision_score(y, p, average=name)
        assert scores.summary[f"{name}_map"] == pytest.approx(expected, abs=1e-5)
        expected = f1_score(y, p >= 0.5, average=name)
        assert scores.summary[f"{name}_f1"] == pytest.approx(expected, abs=1e-5)


def test_a_label_that_does_not_occur_is_left_out_of_map() -> None:
    truth = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    scores = score_images(truth * 0.8, truth, NAMES)
    assert scores.summary["macro_map"] == 1.0
    assert np.isnan(scores.per_class[2].average_precision)


def test_bootstrap_interval_covers_like_the_normal_approximation() -> None:
    right = torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.8

    def accuracy(times: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((times * right.numpy()).sum() / 400)}

    found = bootstrap_intervals(
        accuracy, 400, resamples=2000, generator=torch.Generator().manual_seed(0)
    )["accuracy"]
    mean = float(right.float().mean())
    half = 1.96 * (mean * (1 - mean) / 400) ** 0.5
    assert found.low == pytest.approx(mean - half, abs=0.01)
    assert found.high == pytest.approx(mean + half, abs=0.01)


@pytest.mark.parametrize("levels", [1000, 4])
@pytest.mark.parametrize("share", [0.3, 0.02])
def test_resampled_scores_are_those_of_the_images_that_were_drawn(
    levels: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(levels)
    truth = (torch.rand(100, 3, generator=generator) < share).float()
    # Few levels, so that many images share a score.
    noise = torch.randint(levels, (100, 3), generator=generator) / levels
    probabilities = 0.3 * truth + 0.7 * noise
    multi = summarise_images(probabilities, truth)
    labels = torch.randint(3, (100,), generator=generator)
    single = summarise_images(probabilities, labels)
    for _ in range(20):
        drawn = torch.randint(100, (100,), generator=generator)
        times = np.bincount(drawn.numpy(), minlength=100)
        whole = score_images(probabilities[drawn], labels[drawn], NAMES)
        assert single(times) == pytest.approx(whole.summary, abs=1e-6)
        y, p = truth[drawn].numpy(), probabilities[drawn].numpy()
        found, there = multi(times), y.any(axis=0)
        if not there.any():
            assert found == {}
            continue
        assert found["micro_map"] == pytest.approx(
            average_precision_score(y, p, average="micro"), abs=1e-6
        )
        assert found["macro_map"] == pytest.approx(
            average_precision_score(y[:, there], p[:, there], average="macro"), abs=1e-6
        )
        assert found["macro_f1"] == pytest.approx(
            f1_score(y[:, there], p[:, there] >= 0.5, average="macro"), abs=1e-6
        )


def test_few_labels_give_intervals_from_the_resamples_that_have_any() -> None:
    truth = torch.zeros(12, 3)
    truth[4, 1] = 1
    probabilities = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    summarise = summarise_images(probabilities, truth)
    found = bootstrap_intervals(
        summarise, 12, resamples=60, generator=torch.Generator().manual_seed(0)
    )
    assert set(found) == {"macro_map", "micro_map", "macro_f1", "micro_f1"}
    assert 0 <= found["macro_map"].low <= found["macro_map"].high <= 1
    assert summarise_images(probabilities, truth * 0)(np.ones(12, int)) == {}


@pytest.mark.slow
def test_a_large_test_set_is_resampled_in_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(119_825, 19, generator=generator) < 0.15).float()
    probabilities = torch.rand(119_825, 19, generator=generator)
    begun = time.process_time()
    bootstrap_intervals(
        summarise_images(probabilities, truth),
        len(truth),
        resamples=10,
        generator=generator,
    )
    assert time.process_time() - begun < 20


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit 3 classes"):
        score_images(torch.zeros(4, 2), torch.zeros(4).long(), NAMES)
    with pytest.raises(DataError, match="no predictions"):
        score_images(torch.zeros(0, 3), torch.zeros(0).long(), NAMES)
    with pytest.raises(DataError, match="any label"):
        score_images(torch.zeros(4, 3), torch.zeros(4, 3), NAMES)
