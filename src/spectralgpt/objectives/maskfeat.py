"""MaskFeat on spectra: patches are rebuilt, and their spectra are described.

Three quarters of the patches are hidden, as in MAE. Each patch, hidden or not, is then
described by the mean of each band, those of its quarters, the squashed difference of
each two bands, and random features of its spectra, which tell what it is a mixture of.
Where images are scaled by `log` the difference of two bands is a normalised ratio of
reflectance, as NDVI is: what tells plants, soils and waters apart, and what errors of
pixels hardly see, for most of their variance is brightness. So that no direction of a
spectrum counts for its variance, descriptions are whitened.

Source: Wei et al. 2022, arXiv:2112.09133 (there of gradients in place of spectra).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spectralgpt.models.cpu import Linear, in_full_precision, move
from spectralgpt.models.stems import SpectraFeatures, Whitening
from spectralgpt.models.vit import GridCodes, VisionTransformer, initialise_linears
from spectralgpt.models.vit_autoencoder import LossOn, VitAutoencoder

_LARGEST = 5.0
"""Whitened descriptions beyond it, of clouds and glint, count as this."""
_PAIRED_BANDS = 16
_SPECTRA = 128
"""Random features of spectra in a description."""
_NOISE = {"bands": 1e-3, "quarters": 1e-2, "ratios": None, "spectra": 1e-2}
"""The noise of each part's `Whitening`."""


class MaskedFeatures(VitAutoencoder):
    """Rebuilding hidden patches and describing all of them, of any number of bands.

    Its prediction is (B, N, P * P * C), as MAE's; its mask (B, N).

    Args:
        pixel_loss_weight: weight of the error of hidden pixels.
        feature_loss_weight: weight of the error of descriptions.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "maskfeat"

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
            image_size,
            num_bands,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            stem="spectra",
        )
        codes = GridCodes(image_size // patch_size, decoder_embed_dim)
        super().__init__(encoder, codes, settings, bands_last=True)
        self.pixel_loss_weight = pixel_loss_weight
        self.feature_loss_weight = feature_loss_weight
        self.pairs = _pairs(num_bands)
        quarters = 4 * num_bands if patch_size % 2 == 0 else 0
        pairs = len(self.pairs[0])
        sizes = dict(zip(_NOISE, (num_bands, quarters, pairs, _SPECTRA), strict=True))
        self.whitenings = nn.ModuleDict(
            {k: Whitening(size, _NOISE[k]) for k, size in sizes.items() if size}
        )
        self.spectra = SpectraFeatures(num_bands, _SPECTRA).requires_grad_(False)
        self.description = Linear(decoder_embed_dim, sum(sizes.values()))
        initialise_linears(self.description)

    def describe(
        self, images: Tensor, counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Describe each patch of scaled images (B, C, H, W), not whitened, in parts.

        Args:
            images: (B, C, H, W).
            counted: (B, N), whether a patch's spectra are measured.

        Returns:
            `bands` (B, N, C), means; `quarters` (B, N, 4 C) less these means, if
            patches have even sides; `ratios` (B, N, pairs); `spectra` (B, N, K).
        """
        patch = self.encoder.patch_size
        cut = self._targets(images)[:, 0].transpose(1, 2)  # (B, N, C, P * P)
        means = cut.mean(dim=-1)
        first, second = move(torch.tensor(self.pairs), images)
        parts = {
            "bands": means,
            "ratios": torch.tanh((means[..., first] - means[..., second]) / 2),
            "spectra": self.spectra(cut.mT, counted),
        }
        if patch % 2 == 0:
            quarters = cut.unflatten(-1, (2, patch // 2, 2, patch // 2)).mean((-3, -1))
            parts["quarters"] = (quarters.flatten(-2) - means[..., None]).flatten(-2)
        return parts

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
            whole = known > 0
            described = self.describe(images.float(), whole)
            parts = [
                whiten(described[name], whole)
                for name, whiten in self.whitenings.items()
            ]
            wanted = torch.cat(parts, dim=-1).clamp(-_LARGEST, _LARGEST)
        squared = (self.description(features).float() - wanted) ** 2
        error = (squared.mean(dim=-1) * known).sum() / count.clamp(min=1)
        loss = self.pixel_loss_weight * pixels + self.feature_loss_weight * error
        terms = {"pixel_loss": pixels.detach(), "feature_loss": error.detach()}
        return loss, terms

    def _known(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Return 1 for patches without an invalid pixel, else 0: (B, N)."""
        _, _, rows, columns = self._shape_of(images)
        return self._whole_places(images, valid, (rows, columns)).flatten(1)


def _pairs(num_bands: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the bands of each pair; of very many bands some of even spacing pair."""
    count = min(num_bands, _PAIRED_BANDS)
    bands = np.linspace(0, num_bands - 1, count).round().astype(int)
    first, second = np.triu_indices(count, k=1)
    return bands[first].tolist(), bands[second].tolist()


OBJECTIVE = MaskedFeatures
