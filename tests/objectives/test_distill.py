"""Distillation: whose features are learned, where, and in which scale."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spectralgpt import objectives
from spectralgpt.building import build_model, model_config
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.vit import VisionTransformer
from spectralgpt.objectives.distill import Distillation
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    Scaling,
    sensor_preprocessing,
)

SMALL: dict[str, Any] = {
    "image_size": 32,
    "num_bands": 6,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}
ONES, ZEROS = torch.ones(6), torch.zeros(6)
BANDS = ("B02", "B03", "B04")


def student(**settings: Any) -> Distillation:
    torch.manual_seed(0)
    model = objectives.build("distill", **SMALL | settings)
    assert isinstance(model, Distillation)
    return model


def teacher(**settings: Any) -> SpectralEncoder:
    torch.manual_seed(1)
    return SpectralEncoder(**SMALL | {"embed_dim": 24, "num_heads": 3} | settings)


def taught(other: Encoder | None = None) -> Distillation:
    model = student()
    model.learn_from(other or teacher(), ONES, ZEROS)
    return model


def contract(scaling: Scaling, shift: float = 0.0) -> Preprocessing:
    tables = [
        {name: base + 0.01 * i + shift for i, name in enumerate(BANDS)}
        for base in (0.1, 0.05, 0.02, 0.4)
    ]
    statistics = None if scaling == "image-minmax" else BandStatistics(*tables, "test")
    return sensor_preprocessing(
        "sentinel-2-l2a", BANDS, scaling=scaling, statistics=statistics
    )


def test_the_loss_is_of_each_token_where_teacher_and_student_have_the_same() -> None:
    model, images = taught(), torch.rand(2, 6, 32, 32)
    out = model(images)
    with torch.no_grad():
        wanted = F.layer_norm(teacher()(images), (24,))
        found = model.projection(model.encoder(images))
    loss = F.smooth_l1_loss(found, wanted, beta=2.0)
    assert out.prediction.shape == (2, 2, 4, 4, 24)
    torch.testing.assert_close(out.loss, loss)
    wanted_cosine = F.cosine_similarity(found, wanted, dim=-1).mean()
    torch.testing.assert_close(out.terms["cosine"], wanted_cosine)


def test_means_are_compared_where_groups_and_patches_differ() -> None:
    other = VisionTransformer(32, 6, 16, 24, 1, 3)
    images = torch.rand(2, 6, 32, 32)
    out = taught(other)(images)
    assert out.prediction.shape == (2, 1, 2, 2, 24)
    finer = teacher(patch_size=4, bands_per_token=2)
    model = taught(finer)
    with torch.no_grad():
        by_token = finer(images)  # (2, 3, 8, 8, 24)
    means = by_token.mean(1).unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    with torch.no_grad():
        found = model.projection(model.encoder(images).mean(1))
    loss = F.smooth_l1_loss(found, F.layer_norm(means, (24,)), beta=2.0)
    torch.testing.assert_close(model(images).loss, loss)


def test_the_student_learns_the_features_and_the_teacher_stays() -> None:
    model, source = taught(), teacher()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(2)
    images = torch.rand(4, 6, 32, 32)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = model(images)
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < losses[0] / 3
    assert out.terms["cosine"] > 0.8
    before, after = source.state_dict(), model._teacher[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_places_with_an_invalid_pixel_count_nothing() -> None:
    model, images = taught(), torch.rand(2, 6, 32, 32)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[:, 3, 5, 20] = False  # In the first row, third column of patches.
    changed = images.clone()
    counts = model.count_targets(images, None, torch.empty(2, 0), valid)
    assert counts.tolist() == [30.0]
    out = model(changed, valid=valid)
    errors = F.smooth_l1_loss(
        out.prediction,
        F.layer_norm(teacher()(images), (24,)).detach(),
        beta=2.0,
        reduction="none",
    ).mean((1, 4))
    errors[:, 0, 2] = 0
    torch.testing.assert_close(out.loss, errors.sum() / 30)


def test_parts_of_a_batch_give_the_loss_of_all() -> None:
    model, images = taught(), torch.rand(4, 6, 32, 32)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, :, :8] = False
    no_noise = torch.empty(4, 0)
    counts = model.count_targets(images, None, no_noise, valid)
    parts = [
        model(images[rows], valid=valid[rows], counts=counts).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), model(images, valid=valid).loss)


def test_images_are_brought_into_the_scale_of_the_teacher() -> None:
    model, source = student(), teacher()
    factor, shift = torch.rand(6) + 0.5, torch.rand(6)
    model.learn_from(source, factor, shift)
    images = torch.rand(1, 6, 32, 32)
    scaled = images * factor[:, None, None] + shift[:, None, None]
    with torch.no_grad():
        wanted = F.layer_norm(source(scaled), (24,))
        found = model.projection(model.encoder(images))
    loss = F.smooth_l1_loss(found, wanted, beta=2.0)
    torch.testing.assert_close(model(images).loss, loss)


@pytest.mark.parametrize("wanted", ["fixed-range", "z-score"])
@pytest.mark.parametrize("own", ["fixed-range", "z-score"])
def test_one_fixed_scale_is_brought_to_another(own: Scaling, wanted: Scaling) -> None:
    ours, theirs = contract(own), contract(wanted, shift=0.03)
    pixels = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    valid = np.ones(pixels.shape, np.bool_)
    factor, shift = ours.rescaling_to(theirs)
    moved = ours._scale(pixels, valid) * factor[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(
        moved, theirs._scale(pixels, valid), rtol=2e-5, atol=1e-5
    )


def test_a_scale_of_each_image_is_not_made_of_a_fixed_one() -> None:
    factor, shift = contract("image-minmax").rescaling_to(contract("image-minmax"))
    assert factor.tolist() == [1, 1, 1]
    assert shift.tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match=r"set data\.scaling to image-minmax"):
        contract("z-score").rescaling_to(contract("image-minmax"))


def test_the_teacher_is_not_stored_but_told_from_others() -> None:
    model = taught()
    state = model.state_dict()
    count = sum(value.numel() for value in state.values())
    student_only = sum(value.numel() for value in student().state_dict().values())
    assert count == student_only + 16 * 24 + 24
    kept = build_model(model_config(model))
    kept.load_state_dict(state)
    images = torch.rand(1, 6, 32, 32)
    torch.testing.assert_close(kept.encoder(images), model.encoder(images))
    taught().load_state_dict(state)
    other = teacher()
    with torch.no_grad():
        other.norm.bias.add_(1e-3)
    with pytest.raises(CheckpointError, match="another teacher"):
        taught(other).load_state_dict(state)
    fresh = taught(other)
    fresh.start_from(kept, "runs/first")
    assert torch.equal(fresh.projection.weight, model.projection.weight)
    assert not torch.equal(fresh.mark, state["mark"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="--teacher MODEL"):
        student()(torch.rand(1, 6, 32, 32))
    with pytest.raises(ConfigError, match="beta"):
        student(beta=0.0)
    with pytest.raises(ConfigError, match="24: leave it out"):
        student(teacher_dim=20).learn_from(teacher(), ONES, ZEROS)
    odd = VisionTransformer(36, 6, 12, 24, 1, 3)
    with pytest.raises(ConfigError, match="do not divide images of 32"):
        student().learn_from(odd, ONES, ZEROS)
    with pytest.raises(ConfigError, match="learns from no teacher"):
        objectives.build("simclr", **SMALL).learn_from(teacher(), ONES, ZEROS)
