"""MaskFeat on spectra: patches are rebuilt, and their spectra are described.

Three quarters of the patches are hidden, as in MAE. Each patch, hidden or not, is then
described by the mean and deviation of each band, the means of its quarters, and the
squashed difference of each two bands. Where images are scaled by `log` that difference
is a normalised ratio of reflectance, as NDVI is: what tells plants, soils and water
apart, and what errors of pixels hardly see, for most of their variance is brightness.
So that no direction of a spectrum counts for its variance, descriptions are whitened.

Source: Wei et al. 2022, arXiv:2112.09133 (there of gradients in place of spectra).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed

from spectralgpt.models.cpu import Linear, in_full_precision, move
from spectralgpt.models.vit import GridCodes, VisionTransformer, initialise_linears
from spectralgpt.models.vit_autoencoder import LossOn, VitAutoencoder

_LARGEST = 5.0
"""Whitened descriptions beyond it, of clouds and glint, count as this."""
_PAIRED_BANDS = 16
_MEASURED_BATCHES = 100
"""Micro-batches that whitening is measured on, the first ones."""
_NOISE = (1e-3, 1e-2)
"""What is added to variances of bands, and of quarters, for the largest of them."""
_LEAST_VARIANCE = 1e-6


class MaskedFeatures(VitAutoencoder):
    """Rebuilding hidden patches and describing all of them, of any number of bands.

    Its prediction is (B, N, P * P * C), as MAE's; its mask (B, N).

    Args:
        pixel_loss_weight: weight of the error of hidden pixels. At 1 it takes over, and
            features of bark-beetle cells are no better than random ones.
        feature_loss_weight: weight of the error of descriptions.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "maskfeat"
    batches: Tensor
    centre: Tensor
    moments: Tensor
    whitening: Tensor

    _is_measured = False

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        normalize_targets: bool = False,
        loss_on: LossOn = "masked",
        pixel_loss_weight: float = 0.2,
        feature_loss_weight: float = 1.0,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        encoder = VisionTransformer(
            image_size, num_bands, patch_size, embed_dim, depth, num_heads
        )
        codes = GridCodes(image_size // patch_size, decoder_embed_dim)
        super().__init__(encoder, codes, settings, bands_last=True)
        self.pixel_loss_weight = pixel_loss_weight
        self.feature_loss_weight = feature_loss_weight
        self.pairs = _pairs(num_bands)
        quarters = 4 * num_bands if patch_size % 2 == 0 else 0
        # Bands, quarters and pairs; the last are not whitened but standardised.
        self._sizes = 2 * num_bands, quarters, len(self.pairs[0])
        size = sum(self._sizes)
        self.description = Linear(decoder_embed_dim, size)
        initialise_linears(self.description)
        for name, value in (
            ("batches", torch.zeros(())),
            ("centre", torch.zeros(size)),
            ("moments", torch.zeros(size, size)),
            ("whitening", torch.eye(size)),
        ):
            self.register_buffer(name, value)

    def train(self, mode: bool = True) -> "MaskedFeatures":
        """Set the mode; whether enough was measured is read anew, then no more."""
        self._is_measured = False
        super().train(mode)
        return self

    def describe(self, images: Tensor) -> Tensor:
        """Describe each patch of scaled images (B, C, H, W), not whitened: (B, N, K).

        K is 2 C for means and deviations, 4 C for quarters, and the number of pairs.
        """
        patch = self.encoder.patch_size
        cut = self._targets(images)[:, 0].transpose(1, 2)  # (B, N, C, P * P)
        means = cut.mean(dim=-1)
        parts = [means, cut.std(dim=-1, correction=0)]
        if patch % 2 == 0:
            quarters = cut.unflatten(-1, (2, patch // 2, 2, patch // 2)).mean((-3, -1))
            parts.append((quarters.flatten(-2) - means[..., None]).flatten(-2))
        first, second = move(torch.tensor(self.pairs), images)
        parts.append(torch.tanh((means[..., first] - means[..., second]) / 2))
        return torch.cat(parts, dim=-1)

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the tokens of both terms; see `Objective`."""
        hidden = super().count_targets(images, mask_ratio, noise, valid)
        return torch.cat([hidden, self._known(images, valid).sum()[None]])

    def _losses(
        self,
        images: Tensor,
        features: Tensor,
        prediction: Tensor,
        mask: Tensor,
        valid: Tensor | None,
        counts: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh the errors of pixels and of descriptions."""
        pixels = self._compare(images, prediction, mask, valid, counts)
        known = self._known(images, valid)
        count = known.sum() if counts is None else counts[1]
        with torch.no_grad(), in_full_precision(images.device):
            described = self.describe(images.float())
            if self.training and not self._is_measured:
                self._is_measured = bool(self.batches >= _MEASURED_BATCHES)
            if self.training and not self._is_measured:
                self._measure(described[known > 0])
            wanted = (described - self.centre) @ self.whitening
            wanted = wanted.clamp(-_LARGEST, _LARGEST)
        squared = (self.description(features).float() - wanted) ** 2
        error = (squared.mean(dim=-1) * known).sum() / count.clamp(min=1)
        loss = self.pixel_loss_weight * pixels + self.feature_loss_weight * error
        terms = {"pixel_loss": pixels.detach(), "feature_loss": error.detach()}
        return loss, terms

    def _measure(self, rows: Tensor) -> None:
        """Take descriptions (M, K) into what whitens them, those of all processes."""
        count = rows.new_tensor([float(len(rows))])
        sums, products = rows.sum(dim=0), rows.T @ rows
        if distributed.is_available() and distributed.is_initialized():
            for each in (count, sums, products):
                distributed.all_reduce(each)
        if not count:
            return
        self.batches += 1
        share = 1 / self.batches
        self.centre.lerp_(sums / count, share)
        self.moments.lerp_(products / count, share)
        covariance = self.moments - self.centre[:, None] * self.centre
        spread = covariance.diagonal().clamp(min=_LEAST_VARIANCE).sqrt()
        bands, quarters, pairs = (covariance / spread / spread[:, None]).split(
            self._sizes
        )
        first, second, _ = self._sizes
        blocks = [
            _whiten(bands[:, :first], _NOISE[0]),
            _whiten(quarters[:, first : first + second], _NOISE[1]),
            torch.eye(len(pairs), device=pairs.device),
        ]
        self.whitening.copy_(torch.block_diag(*blocks) / spread[:, None])

    def _known(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Return 1 for patches without an invalid pixel, else 0: (B, N)."""
        _, _, rows, columns = self._shape_of(images)
        return self._whole_places(images, valid, (rows, columns)).flatten(1)


def _whiten(correlation: Tensor, noise: float) -> Tensor:
    """Return what makes features of a correlation (K, K) independent, (K, K)."""
    if not len(correlation):
        return correlation
    variances, directions = torch.linalg.eigh(correlation)
    return directions / (variances.clamp(min=0) + noise * variances[-1]).sqrt()


def _pairs(num_bands: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the bands of each pair; of very many bands some of even spacing pair."""
    count = min(num_bands, _PAIRED_BANDS)
    bands = np.linspace(0, num_bands - 1, count).round().astype(int)
    first, second = np.triu_indices(count, k=1)
    return bands[first].tolist(), bands[second].tolist()


OBJECTIVE = MaskedFeatures
