import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.masks import balanced_class_weights
from spectralgpt.data.samples import Sample, SampleSet
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.rasters import RasterFile
from spectralgpt.sensors import load_sensor
from spectralgpt.tasks.classification import (
    ClassificationTask,
    RegularizationConfig,
    to_probabilities,
)
from tests.tiny import tiny_model

NAMES = ("field", "forest", "water")


def classifier() -> ClassificationModel:
    encoder: SpectralEncoder = tiny_model().encoder
    model = ClassificationModel(encoder, 3)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def batch(task: str = "single-label", size: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    targets = torch.tensor([0, 1, 2, 1])[:size]
    if task == "multi-label":
        targets = torch.eye(3)[targets] + torch.eye(3)[(targets + 1) % 3]
    return {
        "image": torch.rand(size, 12, 32, 32, generator=generator),
        "target": targets,
        "seed": torch.arange(10, 10 + size),
    }


def task(kind: str = "single-label", **settings: object) -> ClassificationTask:
    return ClassificationTask(
        classifier(),
        NAMES,
        kind,
        RegularizationConfig(**settings),  # type: ignore
    )


def test_smoothed_loss_matches_torch() -> None:
    work, data = task(label_smoothing=0.1), batch()
    expected = F.cross_entropy(
        work.model(data["image"]), data["target"], label_smoothing=0.1
    )
    torch.testing.assert_close(work.loss(data)["loss"], expected)


def test_multi_label_loss_matches_torch() -> None:
    work, data = task("multi-label", label_smoothing=0.0), batch("multi-label")
    expected = torch.nn.MultiLabelSoftMarginLoss()(
        work.model(data["image"]), data["target"]
    )
    torch.testing.assert_close(work.loss(data)["loss"], expected)


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_mixup_mixes_targets_as_it_mixes_images(kind: str) -> None:
    work, data = task(kind, mixup=0.8, label_smoothing=0.0), batch(kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixed, weights = work._mix(data["image"])
    assert weights is not None
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    rebuilt = torch.einsum("ij,jchw->ichw", weights, data["image"])
    torch.testing.assert_close(mixed, rebuilt)


def test_a_mixed_loss_is_the_weighted_loss_of_both_labels() -> None:
    work, data = task(mixup=0.8, cutmix=1.0, label_smoothing=0.1), batch()
    loss = work.loss(data)["loss"]
    torch.testing.assert_close(work.loss(data)["loss"], loss)
    assert not torch.equal(loss, work.loss({**data, "seed": data["seed"] + 7})["loss"])


def test_augmentation_leaves_the_images_and_global_randomness_alone() -> None:
    work, data = task(mixup=0.8, erasing=1.0), batch()
    before = data["image"].clone()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    work.loss(data)
    assert torch.equal(data["image"], before)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_erasing_changes_a_rectangle_in_all_bands() -> None:
    work, data = task(erasing=1.0), batch()
    changed = (work._erase(data["image"]) != data["image"]).all(dim=1)
    assert changed.flatten(1).any(dim=1).all()
    assert not changed.all()


def test_class_weights_weigh_classes() -> None:
    data, model = batch(), classifier()
    weights = torch.tensor([1.0, 0.0, 0.0])
    work = ClassificationTask(
        model, NAMES, "single-label", RegularizationConfig(label_smoothing=0.0), weights
    )
    expected = F.cross_entropy(model(data["image"][:1]), data["target"][:1])
    # A mean over the batch, in which the other three images weigh nothing.
    torch.testing.assert_close(work.loss(data)["loss"], expected / 4)


def test_balanced_weights_give_each_class_the_same_say() -> None:
    item = RasterFile("x", load_sensor("sentinel-2-l1c"), {}, 10_000.0, 0.0)
    chips = tuple(Sample((item,), (k,)) for k in (0, 0, 0, 1))
    weights = balanced_class_weights(SampleSet(chips, NAMES, "single-label", "toy"))
    torch.testing.assert_close(torch.tensor(weights), torch.tensor([4 / 6, 2.0, 0.0]))


def test_validation_scores_all_batches_at_once() -> None:
    work, data = task(), batch()
    work.validate(data)
    work.validate({**data, "target": data["target"].flip(0)})
    predicted = work.model(data["image"]).argmax(dim=1)
    right = (predicted == data["target"]).sum() + (
        predicted == data["target"].flip(0)
    ).sum()
    assert work.metrics()["accuracy"] == pytest.approx(int(right) / 8)


def test_probabilities_are_softmax_or_sigmoid() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    single = to_probabilities(logits, "single-label")
    torch.testing.assert_close(single.sum(), torch.tensor(1.0))
    multi = to_probabilities(logits, "multi-label")
    torch.testing.assert_close(multi[0, 0], torch.tensor(0.5))


def test_outputs_must_fit_the_classes() -> None:
    with pytest.raises(ConfigError, match="3 outputs for 2 classes"):
        ClassificationTask(classifier(), NAMES[:2], "single-label")
    with pytest.raises(ConfigError, match=r"label_smoothing is .* at most 1"):
        RegularizationConfig(label_smoothing=1.5)


def test_a_model_without_classes_cannot_classify() -> None:
    with pytest.raises(CheckpointError, match="is not fine-tuned"):
        LoadedModel(tiny_model(), None).classes("model")
    with pytest.raises(CheckpointError, match="does not name its classes"):
        LoadedModel(classifier(), None).classes("model")
