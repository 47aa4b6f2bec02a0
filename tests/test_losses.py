from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.losses import (
    IGNORE,
    balanced_class_weights,
    cross_entropy_sums,
    dice_areas,
    dice_loss,
)


def pixel_cross_entropy(logits: torch.Tensor, *more: Any) -> torch.Tensor:
    summed, total = cross_entropy_sums(logits, *more)
    return summed / torch.where(total > 0, total, 1)


def soft_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return dice_loss(dice_areas(logits, target))


def random_map(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 5, 6, generator=generator, requires_grad=True)
    target = torch.randint(-1, classes, (2, 5, 6), generator=generator)
    return logits, target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 4.0])])
def test_cross_entropy_equals_torch(
    weights: torch.Tensor | None, smoothing: float
) -> None:
    logits, target = random_map()
    wanted = F.cross_entropy(
        logits, target, weights, ignore_index=IGNORE, label_smoothing=smoothing
    )
    found = pixel_cross_entropy(logits, target, weights, smoothing)
    torch.testing.assert_close(found, wanted)


def test_unlabelled_pixels_count_nowhere() -> None:
    logits, target = random_map()
    loss = pixel_cross_entropy(logits, target) + soft_dice(logits, target)
    loss.backward()
    assert logits.grad is not None
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    assert ignored.any()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].abs().min() > 0


@pytest.mark.parametrize("loss", [pixel_cross_entropy, soft_dice])
def test_map_without_labels_is_no_loss(loss: object) -> None:
    logits, target = random_map()
    found = loss(logits, torch.full_like(target, IGNORE))  # type: ignore[operator]
    found.backward()
    assert found == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_by_hand() -> None:
    # Class 1 on 3 of 4 pixels, predicted on 2 of them and on the one it is not.
    target = torch.tensor([[[1, 1, 1, 0]]])
    predicted = torch.tensor([[[1, 1, 0, 1]]])
    logits = 100.0 * F.one_hot(predicted, 2).movedim(-1, 1)
    of_0 = (2 * 0 + 1) / (1 + 1 + 1)
    of_1 = (2 * 2 + 1) / (3 + 3 + 1)
    wanted = 1 - (of_0 + of_1) / 2
    assert soft_dice(logits, target).item() == pytest.approx(wanted)


def test_dice_of_a_perfect_map_is_zero_whatever_classes_occur() -> None:
    target = torch.tensor([[[2, 2, 0, IGNORE]]])
    logits = 100.0 * F.one_hot(target.clamp(min=0), 5).movedim(-1, 1)
    assert soft_dice(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_shapes_are_checked() -> None:
    logits, target = random_map()
    with pytest.raises(ShapeError, match=r"do not fit a target of \(2, 5\)"):
        soft_dice(logits, target[..., 0])
    with pytest.raises(ShapeError, match="3 class weights for 4 classes"):
        pixel_cross_entropy(logits, target, torch.ones(3))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balanced_weights_have_mean_one_over_the_pixels(power: float) -> None:
    counts = np.array([900, 90, 0, 10])
    weights = np.array(balanced_class_weights(counts.tolist(), power))
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(10**power)


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1]])
def test_counts_that_give_no_weights_are_refused(counts: list[int]) -> None:
    with pytest.raises(ConfigError, match="give no class weights"):
        balanced_class_weights(counts)


def test_power_is_checked() -> None:
    with pytest.raises(ConfigError, match="power of the class weights is 2"):
        balanced_class_weights([1, 2], 2)
