"""Training steps on a GPU that is not there: nothing is misplaced, and nothing waits.

What still waits, and is not of a step's path: a run reads its loss and the norm of its
gradients once a step, after all work is queued, since a step that is not finite is not
made; and held-out scores are read once a batch.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectralgpt import objectives
from spectralgpt.building import add_windows
from spectralgpt.data.samples import LABEL_TASKS
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.models.objective import Objective
from spectralgpt.models.stems import Whitening
from spectralgpt.objectives.beit import BEiT
from spectralgpt.objectives.maskfeat import MaskedFeatures
from spectralgpt.tasks import READ, Batch, Task
from spectralgpt.tasks.classification import ClassificationTask, RegularizationConfig
from spectralgpt.tasks.dense import DenseLossConfig, DenseTask, RegressionTask
from spectralgpt.tasks.pretraining import PretrainingTask
from tests.fake_device import GPU, WaitedError, fake_device, to_gpu
from tests.tiny import tiny_encoder, tiny_model

SIZE, BANDS, IMAGES = 16, 12, 4
SMALL: dict[str, Any] = {
    "image_size": SIZE,
    "num_bands": BANDS,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "vocab_size": 64,
}
WITHIN = [(nm, 30.0, 10.0) for nm in (490.0, 560.0, 665.0, 740.0, 842.0, 865.0)]
BEYOND = [(nm, 30.0, 30.0) for nm in (560.0, 665.0, 865.0, 9000.0, 10_000.0, 11_000.0)]
SERIES = ("spectralgpt", "st-mae")


def build(name: str, **settings: Any) -> Objective:
    """Build a small objective that is ready to learn."""
    known = objectives.settings_of(name)
    small = {each: value for each, value in SMALL.items() if each in known}
    model = objectives.build(name, **(small | settings))
    if isinstance(model, BEiT):
        model.start_from(build("tokenizer"), "a tokeniser")
    if model.has_teacher:
        teacher = tiny_encoder(SIZE)
        model.learn_from(teacher, torch.ones(BANDS), torch.zeros(BANDS))
        with fake_device():
            to_gpu(teacher)
        teacher.to = lambda device: teacher  # type: ignore  # It is there.
    for each in model.modules():
        if isinstance(each, Whitening):
            each.batches.fill_(1000)  # All is measured.
    return model


def batch(is_whole: bool = True, dates: int | None = None, **more: Tensor) -> Batch:
    series = () if dates is None else (dates,)
    shape = (IMAGES, *series, BANDS, SIZE, SIZE)
    valid = torch.ones(shape, dtype=torch.bool)
    if not is_whole:
        valid[0, ..., :6, :, :] = False  # Whole band groups.
        valid[1, ..., 3:9] = False
    return {
        "images": torch.rand(shape),
        "valid": valid,
        "seed": torch.arange(4),
        **more,
    }


def move(found: Batch) -> Batch:
    """Move a batch as `TrainingModule` does."""
    return {
        name: value if name in READ else value.to(GPU, non_blocking=True)
        for name, value in found.items()
    }


def check_step(task: Task, found: Batch) -> None:
    """Take the loss of a batch, as a part of a step, without a wait."""
    with fake_device():
        to_gpu(task.model)
        terms = task.loss(move(found), lambda own: own * 2)
        assert {term.device for term in terms.values()} == {GPU}


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("name", sorted(set(objectives.names()) - {"tokenizer"}))
def test_no_pretraining_step_waits(name: str, is_whole: bool) -> None:
    task = PretrainingTask(build(name))
    if isinstance(task.model, MaskedFeatures):
        task.loss(batch())  # Reads once that enough was measured.
    check_step(task, batch(is_whole))
    if name in SERIES:
        days = torch.arange(IMAGES * 2.0).reshape(IMAGES, 2)
        more = {"date_embedding": True} if name == "spectralgpt" else {}
        task = PretrainingTask(build(name, **more))
        check_step(task, batch(is_whole, 2, days=days))


def test_a_tokeniser_waits_for_the_library_of_its_codes_alone() -> None:
    """Whether any code stands for nothing is read by vector-quantize-pytorch."""
    with pytest.raises(WaitedError):
        check_step(PretrainingTask(build("tokenizer")), batch())


def test_masked_features_wait_while_they_measure_and_once_after() -> None:
    model = build("maskfeat").train()
    task = PretrainingTask(model)
    with fake_device():
        to_gpu(model)
        found = move(batch())
        with pytest.raises(WaitedError):
            task.loss(found)


def test_reading_a_gpu_is_found() -> None:
    """What the others rely on: a batch whose mask was moved is found out."""
    found = batch(is_whole=False)
    task = PretrainingTask(tiny_model(SIZE))
    with fake_device():
        to_gpu(task.model)
        found = move(found) | {"valid": found["valid"].to(GPU, non_blocking=True)}
        with pytest.raises(WaitedError):
            task.loss(found)


def test_a_tensor_in_the_wrong_place_is_found() -> None:
    with fake_device():
        model = to_gpu(nn.Linear(4, 4))
        with pytest.raises(RuntimeError, match="device"):
            model(torch.rand(2, 4))


def encoder(kind: str) -> Encoder:
    """Build a small encoder."""
    if kind == "conv":
        return build("tokenizer").encoder
    if kind == "swin":
        return build("simmim", encoder="swin", depths=[1, 1], num_heads=[1, 2]).encoder
    if kind == "vit":
        return build("mae").encoder
    found = tiny_encoder(SIZE)
    if kind == "bands":
        found.add_spectral_tokenizer([(nm, 30.0, 10.0) for nm in range(400, 1000, 50)])
    return add_windows(found, 2) if kind == "windows" else found


KINDS = ("ours", "bands", "windows", "vit", "swin", "conv")


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_no_encoder_waits(kind: str, trains: bool) -> None:
    model = encoder(kind).train(trains)
    with fake_device(), torch.set_grad_enabled(trains):
        to_gpu(model)
        for size in (SIZE, 2 * SIZE):  # Positions are resized.
            found = model(torch.rand(3, BANDS, size, size).to(GPU, non_blocking=True))
            assert found.device == GPU
        if isinstance(model, SpectralEncoder):
            others = torch.rand(3, len(WITHIN), SIZE, SIZE).to(GPU, non_blocking=True)
            assert model(others, WITHIN).device == GPU
            if kind == "ours":
                # The direction in which positions go on is read from the weights.
                with pytest.raises(WaitedError):
                    model(others, BEYOND)


def labelled(target: Tensor, dates: int | None = None) -> Batch:
    images = batch(dates=dates)
    return {"image": images["images"], "target": target, "seed": images["seed"]}


@pytest.mark.parametrize("kind", ["ours", "windows", "swin"])
@pytest.mark.parametrize("label_task", LABEL_TASKS)
def test_no_classification_step_waits(kind: str, label_task: str) -> None:
    task = ClassificationTask(
        ClassificationModel(encoder(kind), 3),
        ("field", "forest", "water"),
        label_task,
        RegularizationConfig(mixup=0.8, cutmix=1.0),
        torch.ones(3),
    )
    is_single = label_task == "single-label"
    target = torch.tensor([0, 1, 2, 1]) if is_single else torch.ones(IMAGES, 3)
    check_step(task, labelled(target))


def test_erasing_waits_for_nothing() -> None:
    """Rectangles are timm's, drawn by Python: nothing is read of the images."""
    task = ClassificationTask(
        ClassificationModel(encoder("ours"), 2),
        ("field", "water"),
        "single-label",
        RegularizationConfig(erasing=1.0),
    )
    check_step(task, labelled(torch.tensor([0, 1, 1, 0])))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bands", {}),
        ("vit", {}),
        ("ours", {"head": "fpn", "pixel_detail": True, "multilevel": True}),
        ("ours", {"head": "linear"}),
    ],
)
def test_no_dense_step_waits(kind: str, more: dict[str, Any]) -> None:
    classes = torch.randint(-1, 3, (IMAGES, SIZE, SIZE))
    for build_dense, dates in ((SegmentationModel, None), (ChangeModel, 2)):
        task = DenseTask(
            build_dense(encoder(kind), 3, **more),
            ("field", "forest", "water"),
            None,
            DenseLossConfig(dice_weight=1.0, label_smoothing=0.1),
            torch.ones(3),
        )
        check_step(task, labelled(classes, dates))


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_no_regression_step_waits(loss: Any) -> None:
    heights = torch.rand(IMAGES, SIZE, SIZE)
    heights[0, :5] = torch.nan
    task = RegressionTask(RegressionModel(encoder("ours"), 1), "height", loss)
    check_step(task, labelled(heights))
