"""How a vision transformer makes tokens of patches, where a linear map is not enough.

What a patch is made of, and in which shares, is told neither by its mean spectrum nor
by a linear map of its pixels. The means of nonlinear functions of each pixel's spectrum
tell it: with enough of them, the distribution of spectra. Spectra are whitened first,
so that what tells plants, soils and waters apart is as large as brightness is.

Sources: Muandet et al. 2017, arXiv:1605.09522, on means as embeddings of distributions;
Rahimi and Recht 2007 on random features.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu import Linear, in_full_precision

StemKind = Literal["linear", "spectra", "pi", "pi-tanh"]
_STD = 0.02
_MEASURED_BATCHES = 100
"""Micro-batches that whitening is measured on, the first ones."""
_LEAST_VARIANCE = 1e-6
_NOISE = 1e-3
SPECTRA_FEATURES = 256
"""Features K of a `SpectraEmbedding`."""
_SPREAD = 1.5
"""Deviation of what random features of whitened spectra add to offsets, theirs 1."""


class Whitening(nn.Module):
    """Brings rows of features to the mean 0, and to like variance in all directions.

    It is measured on the first batches of training, and the identity before.

    Args:
        size: features K.
        noise: what is added to all variances, for the largest; None only standardises.
    """

    batches: Tensor
    centre: Tensor
    moments: Tensor
    matrix: Tensor

    _is_measured = False

    def __init__(self, size: int, noise: float | None) -> None:
        super().__init__()
        self.noise = noise
        for name, value in (
            ("batches", torch.zeros(())),
            ("centre", torch.zeros(size)),
            ("moments", torch.zeros(size, size)),
            ("matrix", torch.eye(size)),
        ):
            self.register_buffer(name, value)

    def train(self, mode: bool = True) -> "Whitening":
        """Set the mode; whether enough was measured is read anew, then no more."""
        self._is_measured = False
        super().train(mode)
        return self

    def forward(self, rows: Tensor, counted: Tensor | None = None) -> Tensor:
        """Whiten rows (..., K) to float32; those not counted (...) are not measured."""
        with in_full_precision(rows.device):
            rows = rows.float()
            if self.training and not self._is_measured:
                self._is_measured = bool(self.batches >= _MEASURED_BATCHES)
            if self.training and not self._is_measured:
                known = rows.detach().flatten(0, -2)
                self._measure(known if counted is None else known[counted.flatten()])
            return (rows - self.centre) @ self.matrix

    def _measure(self, rows: Tensor) -> None:
        """Take rows (M, K) into what whitens them, those of all processes."""
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
        matrix = torch.eye(len(spread), device=rows.device)
        if self.noise is not None:
            variances, axes = torch.linalg.eigh(covariance / spread / spread[:, None])
            floor = self.noise * variances[-1]
            # Turned back, so that no batch swaps axes of like variance.
            matrix = axes / (variances.clamp(min=0) + floor).sqrt() @ axes.T
        self.matrix.copy_(matrix / spread[:, None])
        if self.batches >= _MEASURED_BATCHES:
            self.moments.zero_()  # Nothing needs them now; zeros pack well.


class SpectraFeatures(nn.Module):
    """Means over pixels of features of their spectra, random ones at first.

    Args:
        num_bands: bands C.
        size: features K.
    """

    def __init__(self, num_bands: int, size: int) -> None:
        super().__init__()
        self.whitening = Whitening(num_bands, _NOISE)
        scale = _SPREAD / num_bands**0.5
        self.directions = nn.Parameter(torch.randn(size, num_bands) * scale)
        self.offsets = nn.Parameter(torch.randn(size))

    def forward(self, spectra: Tensor, counted: Tensor | None = None) -> Tensor:
        """Map pixels (..., P, C) to (..., K); whitening is measured on those counted.

        Args:
            spectra: (..., P, C), scaled.
            counted: (...), whether a patch is measured; None counts all.
        """
        if counted is not None:
            counted = counted[..., None].expand(spectra.shape[:-1])
        white = self.whitening(spectra, counted)
        return F.relu(F.linear(white, self.directions, self.offsets)).mean(dim=-2)


class SpectraEmbedding(nn.Module):
    """A token of a patch: a map of its pixels, and one of features of their spectra.

    These features stand beside it, since attention blurs what a patch is a mixture of.

    Args:
        num_bands: bands C.
        pixels: pixels P of a patch, those of all its dates.
        embed_dim: width D.
    """

    def __init__(self, num_bands: int, pixels: int, embed_dim: int) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.features = SpectraFeatures(num_bands, SPECTRA_FEATURES)
        self.placed = Linear(num_bands * pixels, embed_dim)
        self.mixed = Linear(SPECTRA_FEATURES, embed_dim, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (..., C * P) to tokens and features, (..., D + K)."""
        spectra = patches.unflatten(-1, (self.num_bands, -1)).mT
        features = self.features(spectra)
        token = self.placed(patches) + self.mixed(features)
        return torch.cat([token, features.to(token.dtype)], dim=-1)


class PassingNorm(nn.LayerNorm):
    """Normalises tokens (..., D + K): what blocks made of them, and what passed by."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the D values, with learned factors, and the K by themselves."""
        width = self.normalized_shape[0]
        made, passed = input[..., :width], input[..., width:]
        passed = F.layer_norm(passed, passed.shape[-1:], eps=self.eps)
        return torch.cat([super().forward(made), passed], dim=-1)


def check_stem(
    stem: str, patch_size: int, kinds: Sequence[str] = get_args(StemKind)
) -> None:
    """Refuse a way to make tokens that an encoder lacks, or not for this patch.

    Raises:
        ConfigError: says which kinds it has.
    """
    if stem not in kinds:
        raise ConfigError(f"stem {stem!r}: use {', '.join(kinds)}.")
    if stem.startswith("pi"):
        _three_factors(patch_size)


def _three_factors(patch_size: int) -> tuple[int, int, int]:
    """Part the side of a patch into three factors, none smaller than the next."""
    for a in range(1, patch_size + 1):
        for b in range(1, a + 1):
            if patch_size % (a * b) == 0 and patch_size // (a * b) <= b:
                return a, b, patch_size // (a * b)
    raise AssertionError(f"{patch_size} is a product of itself and ones")


class PiEmbedding(nn.Sequential):
    """Three convolutions that make a token of a patch, with batch norms.

    Args:
        num_bands: bands C.
        patch_size: side P of a patch, px.
        embed_dim: width D, a multiple of 4.
        stem: `pi`; `pi-tanh` has the approximate GELU of the published code.

    Raises:
        ConfigError: the width is no multiple of 4.

    Source: Sun et al. 2022, doi 10.1109/TGRS.2022.3194732, published code.
    """

    def __init__(
        self, num_bands: int, patch_size: int, embed_dim: int, stem: StemKind = "pi"
    ) -> None:
        if embed_dim % 4:
            raise ConfigError(
                f"embed_dim {embed_dim} is no multiple of 4, which stem {stem} needs."
            )
        widths = (num_bands, embed_dim // 4, embed_dim // 4, embed_dim)
        layers: list[nn.Module] = []
        for at, side in enumerate(_three_factors(patch_size)):
            convolution = nn.Conv2d(widths[at], widths[at + 1], side, side)
            nn.init.trunc_normal_(convolution.weight, std=_STD)
            layers += [convolution, nn.BatchNorm2d(widths[at + 1])]
            if at < 2:
                layers.append(nn.GELU("tanh" if stem == "pi-tanh" else "none"))
        super().__init__(*layers)
