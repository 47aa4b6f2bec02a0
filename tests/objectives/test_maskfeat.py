"""Masked features of spectra: what patches are described by, and what counts."""

import numpy as np
import pytest
import torch

from spectralgpt import objectives
from spectralgpt.objectives.maskfeat import MaskedFeatures

SMALL = {
    "image_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 4,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 4,
}  # fmt: skip


def model(num_bands: int = 3, **settings: object) -> MaskedFeatures:
    torch.manual_seed(0)
    built = objectives.build("maskfeat", num_bands=num_bands, **SMALL, **settings)
    assert isinstance(built, MaskedFeatures)
    return built


def test_a_patch_is_described_by_bands_quarters_ratios_and_spectra() -> None:
    images, describing = torch.rand(2, 3, 16, 16), model().eval()
    found = {k: v[1, 6].numpy() for k, v in describing.describe(images).items()}
    patch = images[1, :, 4:8, 8:12].numpy()  # row 1, column 2
    means = patch.mean((1, 2))
    quarters = patch.reshape(3, 2, 2, 2, 2).mean((2, 4)) - means[:, None, None]
    ratios = [np.tanh((means[a] - means[b]) / 2) for a, b in ((0, 1), (0, 2), (1, 2))]
    directions = describing.spectra.directions.detach().numpy()
    offsets = describing.spectra.offsets.detach().numpy()
    lit = np.maximum(patch.reshape(3, 16).T @ directions.T + offsets, 0)
    wanted = {
        "bands": means,
        "quarters": quarters.ravel(),
        "ratios": ratios,
        "spectra": lit.mean(axis=0),
    }
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_shade_changes_no_ratio() -> None:
    images = torch.rand(1, 3, 16, 16)
    both = (model().describe(x)["ratios"] for x in (images, images - 0.7))
    torch.testing.assert_close(*both)


def test_spectra_tell_mixtures_of_the_same_mean_apart() -> None:
    half = torch.tensor([1.0, -1.0]).repeat(8, 1).flatten().view(1, 1, 4, 4)
    mixed = half.expand(1, 3, 4, 4).repeat(1, 1, 4, 4)
    found = model().describe(torch.cat([mixed, torch.zeros_like(mixed)]))
    torch.testing.assert_close(found["ratios"][0], found["ratios"][1])
    assert (found["spectra"][0] - found["spectra"][1]).abs().mean() > 0.1


def test_descriptions_are_whitened_by_the_first_batches_and_no_others() -> None:
    learning = model().train()
    bright = torch.rand(8, 1, 1, 1)  # Shared by all bands: most of the variance.
    images = bright + 0.5 * torch.rand(8, 3, 16, 16)
    learning(images)
    learning.eval()
    described = learning.describe(images)
    white = {k: learning.whitenings[k](v).flatten(0, 1) for k, v in described.items()}
    covariance = {k: torch.cov(v.T, correction=0) for k, v in white.items()}
    torch.testing.assert_close(covariance["ratios"].diagonal(), torch.ones(3))
    pixels = images.movedim(1, -1).flatten(0, -2)
    features = learning.encoder.embedding[0].features
    seen = torch.cov(features.whitening(pixels).T, correction=0)
    for rows, found in (
        (described["bands"].flatten(0, 1), covariance["bands"]),
        (pixels, seen),
    ):
        # All variances are 1, but for the noise added to them.
        before = torch.linalg.eigvalsh(torch.corrcoef(rows.T))
        left = before / (before + 1e-3 * before[-1])
        torch.testing.assert_close(
            torch.linalg.eigvalsh(found), left, atol=1e-3, rtol=0
        )
        assert left.min() > 0.5
    learning.train()
    whitening = learning.whitenings["bands"]
    whitening.batches.fill_(100)
    known = whitening.matrix.clone()
    learning(torch.rand(8, 3, 16, 16))
    assert torch.equal(whitening.matrix, known)


def test_the_loss_is_that_of_hidden_pixels_and_of_all_descriptions() -> None:
    images, noise = torch.rand(3, 3, 16, 16), torch.rand(3, 16)
    plain = model(pixel_loss_weight=1.0).eval()
    out = plain(images, noise=noise)
    assert out.rebuilt is not None
    assert out.hidden is not None
    squared = (out.rebuilt - images)[out.hidden] ** 2
    torch.testing.assert_close(out.terms["pixel_loss"], squared.mean())
    torch.testing.assert_close(
        out.loss.detach(), out.terms["pixel_loss"] + out.terms["feature_loss"]
    )
    weighed = model(pixel_loss_weight=0.0, feature_loss_weight=2.0).eval()
    torch.testing.assert_close(
        weighed(images, noise=noise).loss.detach(), 2 * out.terms["feature_loss"]
    )
    changed = images.masked_fill(~out.hidden, 0.9)
    assert (
        plain(changed, noise=noise).terms["feature_loss"] != out.terms["feature_loss"]
    )


def test_parts_of_a_batch_add_up_and_invalid_patches_do_not_count() -> None:
    images, noise = torch.rand(4, 3, 16, 16), torch.rand(4, 16)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[:2, :, :7] = False
    whole = model().eval()
    counts = whole.count_targets(images, None, noise, valid)
    assert counts.tolist()[1] == 2 * 8 + 2 * 16
    together = whole(images, noise=noise, valid=valid)
    parts = [
        whole(images[s], noise=noise[s], valid=valid[s], counts=counts).loss
        for s in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), together.loss)
    other = images.masked_fill(~valid, 5.0)
    kept = torch.zeros_like(noise)
    # All visible patches are whole ones.
    kept[:, :8] = 1 + noise[:, :8]
    one, two = (whole(x, noise=kept, valid=valid).loss for x in (images, other))
    torch.testing.assert_close(one, two)


def test_very_many_bands_pair_some_of_them() -> None:
    assert len(model(40).pairs[0]) == 16 * 15 // 2
    assert max(model(40).pairs[1]) == 39


@pytest.mark.parametrize("name", ["pixel_loss_weight", "feature_loss_weight"])
def test_weights_below_0_are_refused(name: str) -> None:
    from spectralgpt.errors import ConfigError

    with pytest.raises(ConfigError, match=name):
        model(**{name: -1.0})
