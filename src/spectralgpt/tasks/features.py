"""Frozen features, and how much a simple classifier learns from them.

The same three steps serve the pretrained encoder and every baseline: features of each
image, a linear probe or nearest neighbours on the training features, scores for the
rest. No weights of the encoder change.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from spectralgpt.data.labelled import LabelledDataset
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.building import check_output
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.threads import start_worker

__all__ = [
    "Features",
    "extract_features",
    "predict_knn",
    "predict_linear",
    "predict_ridge",
    "prepared_batches",
]

logger = logging.getLogger(__name__)

# Inverse strength of the L2 penalty; one is chosen on val.
_STRENGTHS = tuple(float(c) for c in np.logspace(-4, 2, 7))
_MAX_ITERATIONS = 1000
# Penalties of ridge regression; one is chosen by leave-one-out on train.
_PENALTIES = tuple(float(a) for a in np.logspace(-1, 5, 13))
_EPS = 1e-8


@dataclass(frozen=True)
class Features:
    """Features of images and their targets.

    Args:
        values: (N, D) float32.
        targets: (N,) class indices, or (N, classes) of 0 and 1.
        num_classes: number of classes.
    """

    values: NDArray[np.float32]
    targets: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        """Check that there are as many features as targets, all of them finite."""
        if len(self.values) != len(self.targets):
            raise DataError(
                f"{len(self.values)} features, {len(self.targets)} targets."
            )
        if not np.isfinite(self.values).all():
            raise DataError("Some features are NaN or infinite.")

    @property
    def is_multi_label(self) -> bool:
        """Whether an image can have several classes."""
        return self.targets.ndim > 1

    def take(self, indices: NDArray[Any]) -> "Features":
        """Return the features of some images."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Features(self.values[indices], self.targets[chosen], self.num_classes)


def extract_features(
    encoder: SpectralEncoder,
    dataset: LabelledDataset,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Encode every image to the means of its normalised tokens, one a band group.

    Args:
        encoder: left in evaluation mode; its device is used.
        dataset: images prepared as the encoder expects them.
        batch_size: images encoded at once.
        num_workers: processes that read images; 0 reads in this one.
        progress: called with the number of images done in each batch.
    """
    device = next(encoder.parameters()).device
    encoder.eval()
    rows = []
    with torch.inference_mode():
        for images in prepared_batches(dataset, batch_size, num_workers):
            pooled = encoder.pooled_by_group(images.to(device)).float().cpu()
            rows.append(check_output(pooled))
            if progress is not None:
                progress(len(images))
    values = torch.cat(rows).numpy()
    return Features(values, *_targets(dataset))


def prepared_batches(
    dataset: LabelledDataset, batch_size: int, num_workers: int = 0
) -> Iterator[Tensor]:
    """Yield prepared images (B, C, H, W) in the order of the data set."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=start_worker,
    )
    for batch in loader:
        yield batch["image"]


def predict_linear(train: Features, val: Features, other: Features) -> Tensor:
    """Fit logistic regression on standardised features and predict.

    The L2 penalty is the one with the least log loss on `val`. A class that never, or
    always, occurs in `train` keeps a probability near 0, or 1.

    Returns:
        (N, classes) probabilities for `other`.
    """
    mean, scale = _standardiser(train.values)
    x_train, x_val, x_other = ((f.values - mean) / scale for f in (train, val, other))
    best: tuple[float, Any] | None = None
    for strength in _STRENGTHS:
        models = _fit(x_train, train, strength)
        loss = _log_loss(_predict(models, x_val, train), val.targets)
        if best is None or loss < best[0]:
            best = (loss, models)
    assert best is not None
    return _predict(best[1], x_other, train)


def predict_ridge(train: Features, other: Features) -> Tensor:
    """Fit ridge regression to labels of -1 and 1 and predict.

    With more features than a few for each image it is the steadier linear probe: its
    penalty is chosen by leave-one-out on `train`, in closed form.

    Returns:
        (N, classes) scores for `other`, 0..1: the fitted labels, clipped, and of one
        class an image scaled to sum to 1. They rank classes and images, but are no
        calibrated probabilities.

    Source: Rifkin and Klautau 2004, JMLR 5, regularised least-squares classification.
    """
    from sklearn.linear_model import RidgeCV

    mean, scale = _standardiser(train.values)
    labels = 2 * _one_hot(train).numpy() - 1
    model = RidgeCV(alphas=_PENALTIES).fit((train.values - mean) / scale, labels)
    fitted = torch.from_numpy(model.predict((other.values - mean) / scale)).float()
    if train.is_multi_label:
        return ((fitted + 1) / 2).clamp(0, 1)
    scores = ((fitted + 1) / 2).clamp(min=_EPS)
    return scores / scores.sum(dim=1, keepdim=True)


def predict_knn(train: Features, other: Features, k: int = 20) -> Tensor:
    """Average the labels of the k nearest training images, by cosine similarity.

    Features are standardised on `train` first, so that no feature counts only for its
    unit; each neighbour weighs exp(similarity / 0.07).

    Returns:
        (N, classes) probabilities for `other`.

    Raises:
        ConfigError: k is not positive.

    Source: Wu et al. 2018, arXiv:1805.01978, section 3.4 (weighting and temperature).
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1 (found: {k}).")
    temperature = 0.07
    mean, scale = _standardiser(train.values)
    x_train, x_other = (_unit((f.values - mean) / scale) for f in (train, other))
    labels = _one_hot(train)
    rows = []
    # One block of rows at a time: the full matrix of 27,000 x 16,000 would be 1.7 GB.
    for block in torch.from_numpy(x_other).split(1024):
        similarity = block @ torch.from_numpy(x_train).T
        top = similarity.topk(min(k, len(x_train)), dim=1)
        weights = (top.values / temperature).softmax(dim=1)
        rows.append((weights.unsqueeze(-1) * labels[top.indices]).sum(dim=1))
    return torch.cat(rows)


def _targets(dataset: LabelledDataset) -> tuple[Tensor, int]:
    labelled = dataset.labelled
    return labelled.targets(), len(labelled.class_names)


def _one_hot(features: Features) -> Tensor:
    if features.is_multi_label:
        return features.targets.float()
    return torch.nn.functional.one_hot(features.targets, features.num_classes).float()


def _standardiser(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature, constant features guarded."""
    return values.mean(axis=0), values.std(axis=0) + np.float32(_EPS)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (values / np.maximum(norm, _EPS)).astype(np.float32)
    return unit


def _fit(x: NDArray[np.float32], train: Features, strength: float) -> Sequence[Any]:
    """Fit one model, or one a label for multi-label; a float is a constant label."""
    from sklearn.linear_model import LogisticRegression

    def fit(targets: NDArray[Any]) -> Any:
        model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)
        return model.fit(x, targets)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not train.is_multi_label:
            if len(train.targets.unique()) < 2:
                raise DataError("The training split has images of one class only.")
            models = [fit(train.targets.numpy())]
        else:
            columns = train.targets.long().numpy().T
            models = [fit(c) if 0 < c.sum() < len(c) else float(c[0]) for c in columns]
    if caught:
        logger.debug("linear probe, C %g: %s", strength, caught[0].message)
    return models


def _predict(models: Sequence[Any], x: NDArray[np.float32], train: Features) -> Tensor:
    probabilities = np.zeros((len(x), train.num_classes), dtype=np.float32)
    if not train.is_multi_label:
        probabilities[:, models[0].classes_] = models[0].predict_proba(x)
    else:
        for column, model in enumerate(models):
            constant = isinstance(model, float)
            probabilities[:, column] = (
                model if constant else model.predict_proba(x)[:, 1]
            )
    return torch.from_numpy(probabilities)


def _log_loss(probabilities: Tensor, targets: Tensor) -> float:
    clipped = probabilities.clamp(1e-6, 1 - 1e-6)
    if targets.ndim > 1:
        return float(torch.nn.functional.binary_cross_entropy(clipped, targets))
    return float(torch.nn.functional.nll_loss(clipped.log(), targets))
