"""What a pretrained encoder must beat: features that learned nothing.

Band statistics, TorchGeo's random convolutional features and the same encoder with
random weights. The first two see calibrated reflectance, not the encoder's scaled
pixels: scaling each image to 0..1 would take their brightness away, and a baseline is
only worth beating at its best.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.data.labelled import LabelledDataset
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.rasters import Raster
from spectralgpt.tasks.features import Features

__all__ = [
    "band_statistics",
    "random_convolutions",
    "random_encoder",
]

_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
_RCF_FEATURES = 512
_RCF_KERNEL_PX = 3
_EMPIRICAL_IMAGES = 256
_BATCH = 32
_EPS = 1e-6


def band_statistics(
    dataset: LabelledDataset, progress: Callable[[int], None] | None = None
) -> Features:
    """Mean, standard deviation and five percentiles of each band's reflectance.

    Only valid pixels count; a band without any gives zeros.
    """
    rows = []
    for index in range(len(dataset)):
        raster = dataset.raster(index)
        rows.append(
            np.concatenate(
                [
                    _describe(pixels[valid])
                    for pixels, valid in zip(raster.pixels, raster.valid, strict=True)
                ]
            )
        )
        if progress is not None:
            progress(1)
    return _features(np.stack(rows), dataset)


def random_convolutions(
    dataset: LabelledDataset,
    train: NDArray[Any],
    *,
    seed: int,
    mode: str = "gaussian",
    num_features: int = _RCF_FEATURES,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """TorchGeo's random convolutional features of standardised reflectance.

    Args:
        dataset: all images.
        train: indices of the training images; bands are standardised on them, and the
            filters of mode `empirical` are patches of them.
        seed: draws the filters.
        mode: `gaussian` or `empirical`.
        num_features: number of features, even.
        progress: called with the number of images done.

    Source: Rolf et al. 2021, doi:10.1038/s41467-021-24638-z (MOSAIKS).
    """
    from torchgeo.models import RCF

    mean, std = _band_moments(dataset, train)
    patches: Any = _Patches(dataset, train, mean, std) if mode == "empirical" else None
    # Seed 0 means "no seed" to TorchGeo.
    model = RCF(
        in_channels=len(mean),
        features=num_features,
        kernel_size=_RCF_KERNEL_PX,
        seed=seed + 1,
        mode=mode,
        dataset=patches,
    )
    rows = []
    for batch in _standardised_batches(dataset, mean, std):
        rows.append(model(batch).numpy())
        if progress is not None:
            progress(len(batch))
    return _features(np.concatenate(rows), dataset)


def random_encoder(encoder: SpectralEncoder, seed: int) -> SpectralEncoder:
    """Build the same encoder anew with random weights."""
    # Initialisation draws from torch's global generator; fork it, so that the caller's
    # own sequence does not depend on whether baselines are computed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SpectralEncoder(**encoder.config)
    return fresh.to(next(encoder.parameters()).device).eval()


class _Patches:
    """Standardised training images, as TorchGeo's empirical mode asks for them."""

    def __init__(
        self, dataset: LabelledDataset, train: NDArray[Any], mean: Tensor, std: Tensor
    ) -> None:
        self.dataset = dataset
        self.train = train[:_EMPIRICAL_IMAGES]
        self.mean = mean
        self.std = std

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        raster = self.dataset.raster(int(self.train[index]))
        return {"image": _standardise(raster, self.mean, self.std)}


def _describe(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.size == 0:
        return np.zeros(2 + len(_PERCENTILES), dtype=np.float32)
    moments = [values.mean(), values.std()]
    described = np.array([*moments, *np.percentile(values, _PERCENTILES)])
    return described.astype(np.float32)


def _band_moments(
    dataset: LabelledDataset, train: NDArray[Any]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each band over the valid training pixels."""
    bands = len(dataset.preprocessing.bands)
    count, total, squares = np.zeros(bands), np.zeros(bands), np.zeros(bands)
    for index in train:
        raster = dataset.raster(int(index))
        pixels = np.where(raster.valid, raster.pixels, 0).astype(np.float64)
        count += raster.valid.sum(axis=(1, 2))
        total += pixels.sum(axis=(1, 2))
        squares += (pixels**2).sum(axis=(1, 2))
    mean = total / np.maximum(count, 1)
    variance = squares / np.maximum(count, 1) - mean**2
    std = np.sqrt(np.maximum(variance, 0)) + _EPS
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _standardise(raster: Raster, mean: Tensor, std: Tensor) -> Tensor:
    """Z-score reflectance (C, H, W); invalid pixels become the band's mean, 0."""
    pixels = torch.from_numpy(np.nan_to_num(raster.pixels))
    scaled = (pixels - mean[:, None, None]) / std[:, None, None]
    return scaled * torch.from_numpy(raster.valid)


def _standardised_batches(
    dataset: LabelledDataset, mean: Tensor, std: Tensor
) -> Iterator[Tensor]:
    for start in range(0, len(dataset), _BATCH):
        stop = min(start + _BATCH, len(dataset))
        yield torch.stack(
            [_standardise(dataset.raster(i), mean, std) for i in range(start, stop)]
        )


def _features(values: NDArray[np.float32], dataset: LabelledDataset) -> Features:
    labelled = dataset.labelled
    return Features(
        values.astype(np.float32), labelled.targets(), len(labelled.class_names)
    )
