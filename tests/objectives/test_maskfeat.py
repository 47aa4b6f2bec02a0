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


def test_a_patch_is_described_by_means_deviations_quarters_and_ratios() -> None:
    images = torch.rand(2, 3, 16, 16)
    found = model().describe(images)
    assert found.shape == (2, 16, 3 + 3 + 12 + 3)
    patch = images[1, :, 4:8, 8:12].numpy()  # row 1, column 2
    means = patch.mean((1, 2))
    quarters = patch.reshape(3, 2, 2, 2, 2).mean((2, 4)) - means[:, None, None]
    ratios = [np.tanh((means[a] - means[b]) / 2) for a, b in ((0, 1), (0, 2), (1, 2))]
    wanted = np.concatenate([means, patch.std((1, 2)), quarters.ravel(), ratios])
    np.testing.assert_allclose(found[1, 6].numpy(), wanted, atol=1e-5)


def test_shade_changes_no_ratio() -> None:
    images = torch.rand(1, 3, 16, 16)
    both = (model().describe(x)[..., 18:] for x in (images, images - 0.7))
    torch.testing.assert_close(*both)


def test_descriptions_are_whitened_by_the_first_batches_and_no_others() -> None:
    learning = model().train()
    bright = torch.rand(8, 1, 1, 1)  # Shared by all bands: most of the variance.
    images = bright + 0.5 * torch.rand(8, 3, 16, 16)
    learning(images)
    rows = (learning.describe(images) - learning.centre) @ learning.whitening
    covariance = torch.cov(rows.flatten(0, 1).T, correction=0)
    torch.testing.assert_close(covariance.diagonal()[-3:], torch.ones(3))
    bands = covariance[:6, :6]
    apart = bands - torch.diag(bands.diagonal())
    assert apart.abs().max() < 1e-3
    assert bands.diagonal().min() > 0.5
    learning.batches.fill_(100)
    known = learning.whitening.clone()
    learning(torch.rand(8, 3, 16, 16))
    assert torch.equal(learning.whitening, known)


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
