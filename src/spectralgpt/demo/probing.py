"""Frozen features of labelled cells: how well simple classifiers tell classes apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.demo.imagery import Imagery
from spectralgpt.demo.labels import CellLabels
from spectralgpt.metrics import Scores, score_single_label
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.scenes.embedding import embed_scene
from spectralgpt.tasks.baselines import random_encoder
from spectralgpt.tasks.features import Features, predict_knn, predict_linear

__all__ = ["NEIGHBOURS", "Compared", "compare", "embed_cells", "map_classes"]

NEIGHBOURS = 5


@dataclass(frozen=True)
class Compared:
    """Scores of one kind of features.

    Args:
        name: of the features.
        knn: scores of nearest neighbours, one entry a seed.
        probe: scores of the linear probe, one entry a seed.
    """

    name: str
    knn: tuple[Scores, ...]
    probe: tuple[Scores, ...]


def embed_cells(
    encoder: SpectralEncoder,
    contract: Preprocessing,
    imagery: Imagery,
    overlap: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed the cells of the mapped scene: (rows, columns, D).

    Each strip is embedded for itself, so that none sees pixels of another.
    """
    parts = [
        embed_scene(
            encoder,
            contract,
            strip.item,
            overlap=overlap,
            window=strip.window,
            progress=progress,
        ).values
        for strip in imagery.strips
    ]
    return np.concatenate(parts)


def mean_spectra(pixels: NDArray[np.float32], cell_px: int) -> NDArray[np.float32]:
    """Average reflectance (C, H, W) over cells: (rows, columns, C)."""
    C, height, width = pixels.shape
    blocks = pixels.reshape(C, height // cell_px, cell_px, width // cell_px, cell_px)
    means: NDArray[np.float32] = np.nanmean(blocks, axis=(2, 4))
    return np.ascontiguousarray(np.moveaxis(means, 0, -1))


def compare(
    encoder: SpectralEncoder,
    contract: Preprocessing,
    imagery: Imagery,
    labels: CellLabels,
    pixels: NDArray[np.float32],
    seeds: Sequence[int],
) -> tuple[Compared, ...]:
    """Score pretrained embeddings, random encoders and mean spectra on one split.

    Args:
        encoder: pretrained.
        contract: of the encoder.
        imagery: the scene.
        labels: its labelled cells.
        pixels: the scene in reflectance, (C, H, W).
        seeds: one random encoder each.
    """
    contenders = {
        "pretrained encoder": [embed_cells(encoder, contract, imagery)],
        "same encoder, random weights": [
            embed_cells(random_encoder(encoder, seed), contract, imagery)
            for seed in seeds
        ],
        "mean spectrum of the cell": [mean_spectra(pixels, encoder.patch_size)],
    }
    return tuple(
        Compared(
            name,
            tuple(_score(labels, cells, "knn") for cells in runs),
            tuple(_score(labels, cells, "probe") for cells in runs),
        )
        for name, runs in contenders.items()
    )


def map_classes(labels: CellLabels, cells: NDArray[np.float32]) -> NDArray[np.int64]:
    """Classify every cell of the scene with the linear probe: (rows, columns)."""
    rows, columns, width = cells.shape
    unknown = torch.zeros(rows * columns, dtype=torch.long)
    everything = Features(cells.reshape(-1, width), unknown, len(labels.class_names))
    train, val = _features(labels, cells, "train"), _features(labels, cells, "val")
    best = predict_linear(train, val, everything).argmax(dim=1)
    return best.numpy().reshape(rows, columns)


def _score(labels: CellLabels, cells: NDArray[np.float32], method: str) -> Scores:
    train, val, test = (
        _features(labels, cells, split) for split in ("train", "val", "test")
    )
    if method == "knn":
        probabilities = predict_knn(train, test, NEIGHBOURS)
    else:
        probabilities = predict_linear(train, val, test)
    return score_single_label(probabilities, test.targets, labels.class_names)


def _features(labels: CellLabels, cells: NDArray[np.float32], split: str) -> Features:
    chosen = labels.split == split
    return Features(
        cells[chosen],
        torch.from_numpy(labels.classes[chosen]),
        len(labels.class_names),
    )
