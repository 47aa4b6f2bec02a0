"""A random forest on single pixels: what a map must beat to be worth a network.

It sees calibrated reflectance of one pixel and nothing of its surroundings; for change,
both dates and their difference.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.data.dense import DenseDataset
from spectralgpt.data.dense.geometry import Patch
from spectralgpt.errors import DataError
from spectralgpt.metrics import confusion_counts, score_pixels
from spectralgpt.tasks.dense import leading_metric

__all__ = ["fit_better_forest", "fit_pixel_forest", "map_pixels"]

logger = logging.getLogger(__name__)

_TREES = 200
_MOST_PIXELS = 100_000
_LEAST_LEAF = 3


def fit_pixel_forest(
    train: DenseDataset,
    val: DenseDataset,
    seed: int,
    positive: str | None,
    num_jobs: int = 1,
) -> Any:
    """Fit forests with and without class weights; keep the better one on val.

    Args:
        train: learnt from: up to 100,000 of its labelled pixels, drawn at random.
        val: chooses.
        seed: of the draw and the trees.
        positive: the class that val is scored on; None takes all alike.
        num_jobs: processor cores.

    Returns:
        A fitted `sklearn.ensemble.RandomForestClassifier`.

    Raises:
        DataError: the training pixels are of fewer than two classes.
    """
    features, targets = _labelled_pixels(train, seed)
    if len(np.unique(targets)) < 2:
        raise DataError(f"{train.dense.source}: train has pixels of one class only.")
    return fit_better_forest(
        features,
        targets,
        lambda forest: _score(forest, val, positive),
        n_estimators=_TREES,
        random_state=seed,
        n_jobs=num_jobs,
    )


def fit_better_forest(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    score: Callable[[Any], float],
    **options: Any,
) -> Any:
    """Fit forests with and without class weights; return the one that scores higher.

    Args:
        features: (N, features) of single pixels.
        targets: (N,) classes.
        score: of a fitted forest.
        **options: of `sklearn.ensemble.RandomForestClassifier`.
    """
    from sklearn.ensemble import RandomForestClassifier

    forests = [
        RandomForestClassifier(
            min_samples_leaf=_LEAST_LEAF, class_weight=weights, **options
        ).fit(features, targets)
        for weights in (None, "balanced_subsample")
    ]
    return max(forests, key=score)


def map_pixels(
    forest: Any, dataset: DenseDataset
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Map every chip.

    Yields:
        The chip's number, its map and its labels, both (H, W) class indices.
    """
    for number in range(len(dataset.dense.chips)):
        patch = dataset.chip(number)
        predicted = forest.predict(_features(patch)).reshape(patch.target.shape)
        yield number, torch.from_numpy(predicted), torch.from_numpy(patch.target)


def _score(forest: Any, val: DenseDataset, positive: str | None) -> float:
    dense = val.dense
    counts = np.zeros((dense.num_classes, dense.num_classes), dtype=np.int64)
    for _, predicted, target in map_pixels(forest, val):
        counts += confusion_counts(predicted, target, dense.num_classes)
    if positive is not None and not counts[dense.class_names.index(positive)].any():
        logger.warning(
            "split val has no pixel of class %r: the forest is chosen by its mean IoU.",
            positive,
        )
        positive = None
    scores = score_pixels(counts, dense.class_names, positive)
    return scores.summary[leading_metric(positive)]


def _labelled_pixels(
    dataset: DenseDataset, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw labelled pixels, from each chip in proportion to how many it has."""
    patches = [dataset.chip(number) for number in range(len(dataset.dense.chips))]
    total = sum(int((patch.target >= 0).sum()) for patch in patches)
    share = min(1.0, _MOST_PIXELS / max(total, 1))
    rng = np.random.default_rng(seed)
    features, targets = [], []
    for patch in patches:
        target = patch.target.reshape(-1)
        chosen = (target >= 0) & (rng.random(target.size) < share)
        features.append(_features(patch)[chosen])
        targets.append(target[chosen])
    return np.concatenate(features), np.concatenate(targets)


def _features(patch: Patch) -> NDArray[np.float32]:
    """Reflectance of every pixel, (H * W, features); 0 where there is none."""
    dates = [
        np.where(raster.valid, raster.pixels, 0).reshape(len(raster.bands), -1).T
        for raster in patch.rasters
    ]
    if len(dates) == 2:
        dates.append(dates[1] - dates[0])
    return np.concatenate(dates, axis=1).astype(np.float32)
