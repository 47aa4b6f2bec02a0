"""Stems: what tokens are made of before any attention."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import spectralgpt
from spectralgpt.checkpoints import save_model
from spectralgpt.errors import ConfigError
from spectralgpt.models.blocks import NORM_EPS
from spectralgpt.models.stems import SPECTRA_FEATURES, SpectraFeatures, Whitening
from spectralgpt.models.swin import SwinEncoder
from spectralgpt.models.vit import VisionTransformer, cut_patches

SMALL = {
    "image_size": 16, "num_bands": 4, "patch_size": 8, "embed_dim": 16, "depth": 1,
    "num_heads": 2, "stem": "spectra",
}  # fmt: skip


def encoder(**settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SMALL | settings))  # type: ignore[arg-type]


def test_whitening_brings_weak_differences_to_the_strength_of_brightness() -> None:
    bright, between = torch.randn(4000, 1), 0.1 * torch.randn(4000, 1)
    rows = 3 + torch.cat([bright + between, bright - between], dim=1)
    whitening = Whitening(2, 1e-3).train()
    white = whitening(rows)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    found = torch.cov(white.T, correction=0)
    torch.testing.assert_close(found, torch.eye(2), atol=0.06, rtol=0)
    # Symmetric: a row keeps the sense of its features.
    assert torch.corrcoef(torch.stack([white[:, 0], rows[:, 0]]))[0, 1] > 0.5
    whitening.eval()(100 * rows)
    assert whitening.batches == 1
    whitening.train().batches.fill_(99)
    whitening(rows)
    known = whitening.matrix.clone()
    whitening(100 * rows)
    assert whitening.batches == 100
    assert torch.equal(whitening.matrix, known)
    assert not whitening.moments.any()


def test_whitening_without_noise_only_standardises() -> None:
    rows = torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.2]) + 1
    white = Whitening(3, None).train()(rows)
    wanted = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(white, wanted, atol=1e-3, rtol=0)


def test_rows_that_do_not_count_are_not_measured() -> None:
    rows, counted = torch.randn(6, 5, 3), torch.rand(6, 5) > 0.5
    one, two = Whitening(3, 1e-3).train(), Whitening(3, 1e-3).train()
    one(rows, counted)
    two(rows[counted])
    assert torch.equal(one.matrix, two.matrix)
    none = Whitening(3, 1e-3).train()
    assert torch.equal(none(rows, torch.zeros(6, 5, dtype=torch.bool)), rows)


def test_features_of_spectra_do_not_depend_on_where_pixels_lie() -> None:
    torch.manual_seed(0)
    features, spectra = SpectraFeatures(4, 32).eval(), torch.randn(2, 64, 4)
    shuffled = spectra[:, torch.randperm(64)]
    torch.testing.assert_close(features(spectra), features(shuffled))
    halves = (features(spectra[:, :32]) + features(spectra[:, 32:])) / 2
    torch.testing.assert_close(features(spectra), halves)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"groups": [[0, 3], [1, 2]]},
        {"frames_per_token": 2, "num_dates": 4, "positions": "learned"},
    ],
)
def test_tokens_of_spectra_go_with_band_groups_and_dates(
    settings: dict[str, object],
) -> None:
    series = torch.randn(2, 4, 4, 16, 16)
    images = series if settings.get("num_dates") else series[:, 0]
    found = encoder(**settings).eval()(images)
    width = 16 + SPECTRA_FEATURES
    assert found.shape[-4:] == (len(settings.get("groups", [0])), 2, 2, width)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", ["fixed", "relative"])
def test_features_of_spectra_pass_all_blocks_by(positions: str) -> None:
    model = encoder(depth=3, positions=positions).eval()
    images = torch.randn(2, 4, 16, 16)
    (embedding,) = model.embedding
    patches = cut_patches(images[:, None], 8)[:, 0, :, :, 0]  # (B, C, places, P * P)
    known = embedding.features(patches.permute(0, 2, 3, 1))
    last, before = model.forward_intermediates(images, output_fmt="NLC")
    for each in before:
        torch.testing.assert_close(each[..., 16:], known)
    passed = last[:, 0].flatten(1, 2)[..., 16:]
    torch.testing.assert_close(
        passed, F.layer_norm(known, known.shape[-1:], eps=NORM_EPS)
    )
    # Tokens see their neighbours, these features do not.
    others = images.clone()
    others[:, :, :8, :8] = 0
    changed = (model(others) - model(images))[:, 0, 1, 1].abs().amax(dim=0)
    assert not changed[16:].any()
    assert changed[:16].min() > 0


def test_absent_band_groups_leave_tokens_and_features_of_the_others() -> None:
    model = encoder(groups=[[0, 1], [2, 3]], class_token=False).eval()
    images = torch.randn(2, 4, 16, 16)
    alone = encoder(num_bands=2, class_token=False).eval()
    alone.load_state_dict(
        {
            name.replace("embedding.1", "embedding.0"): value
            for name, value in model.state_dict().items()
            if "embedding.0" not in name
        }
    )
    model.absent_groups = (0,)
    with torch.no_grad():
        found, wanted = model(images), alone(images[:, 2:])
    torch.testing.assert_close(found[:, 1], wanted[:, 0])
    # What an absent group lacks is the mean of the others.
    torch.testing.assert_close(found[:, 0], found[:, 1])


def test_what_was_measured_goes_with_the_weights(tmp_path: Path) -> None:
    learning, images = encoder().train(), torch.randn(8, 4, 16, 16) * 3 + 1
    learning(images)
    save_model(tmp_path, learning)
    again = spectralgpt.load(str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(again(images), learning.eval()(images))
        assert not torch.allclose(again(images), encoder().eval()(images), atol=1e-2)


def test_a_swin_has_no_stem_of_spectra_and_nobody_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match="use linear, pi, pi-tanh"):
        SwinEncoder(stem="spectra")
    with pytest.raises(ConfigError, match="linear, spectra, pi, pi-tanh"):
        encoder(stem="other")
