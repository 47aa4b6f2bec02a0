"""A linear probe from a handful of labelled cells, scored on ground it never saw."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.checkpoints import write_atomically
from spectralgpt.errors import CheckpointError, ConfigError, DataError
from spectralgpt.files import parse_json

__all__ = [
    "FEATURES",
    "BlockScores",
    "Features",
    "Probe",
    "ProbeFacts",
    "blocks_of",
    "fit_probe",
    "load_probe",
    "save_probe",
    "score_by_blocks",
]

Features = Literal["embedding", "reflectance", "both"]
FEATURES: tuple[Features, ...] = ("embedding", "reflectance", "both")
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
_STRENGTHS = tuple(float(c) for c in np.logspace(-3, 2, 6))
_DEFAULT_STRENGTH = 1.0
_MAX_ITERATIONS = 1000
_INNER_FOLDS = 3
_EPS = 1e-6
_KEY = "probe"


@dataclass(frozen=True)
class ProbeFacts:
    """What a probe is of, stored with its weights.

    Args:
        class_names: K names.
        colours: one a class, such as "#0072B2".
        features: `embedding`, `reflectance` (of the bands), or `both`.
        encoder: fingerprint of the encoder.
        cell_px: side of the cells it was fitted on, px of the scene.
        bands: whose reflectance it takes; empty without.
        version: of the package.
    """

    class_names: tuple[str, ...]
    colours: tuple[str, ...]
    features: Features
    encoder: str
    cell_px: int
    bands: tuple[str, ...]
    version: str = __version__


@dataclass(frozen=True)
class Probe:
    """Logistic regression on standardised features.

    Args:
        mean: (D,) of the labelled cells.
        scale: (D,) of the labelled cells.
        weight: (K, D).
        bias: (K,).
    """

    mean: FloatArray
    scale: FloatArray
    weight: FloatArray
    bias: FloatArray

    def probabilities(self, values: FloatArray) -> FloatArray:
        """Return the probabilities (..., K) of features (..., D)."""
        logits = (values - self.mean) / self.scale @ self.weight.T + self.bias
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        return shares.astype(np.float32, copy=False)


@dataclass(frozen=True)
class BlockScores:
    """How well blocks of ground that were held out are told.

    Args:
        confusion: (K, K) cells, the labelled class by row, the one predicted by column.
        blocks: that hold labels.
        block_m: side of a block, m.
        folds: times that the probe was fitted.
        labels: points and polygons.
        label_accuracy: share told right where each of these weighs alike, however many
            cells it has.
    """

    confusion: IntArray
    blocks: int
    block_m: float
    folds: int
    labels: int
    label_accuracy: float

    @property
    def accuracy(self) -> float:
        """Share of the labelled cells that are told right."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def recalls(self) -> NDArray[np.float64]:
        """(K,) shares of each class's cells that are told right."""
        return np.diagonal(self.confusion) / self.confusion.sum(axis=1)

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes, so that one with many cells does not lead."""
        return float(self.recalls.mean())


def blocks_of(centres: NDArray[np.float64], block: float) -> IntArray:
    """Number the square blocks of ground that labels lie in.

    Args:
        centres: (N, 2) x and y.
        block: side of a block, in the same unit.

    Returns:
        (N,), 0 to blocks - 1.
    """
    corners = np.floor(centres / block).astype(np.int64)
    return np.unique(corners, axis=0, return_inverse=True)[1].ravel()


def fit_probe(
    values: FloatArray, classes: IntArray, shapes: IntArray, groups: IntArray
) -> Probe:
    """Fit logistic regression; classes weigh alike, and in each its labels.

    The strength of the penalty is the one with the least log loss on held-out groups.

    Args:
        values: (N, D) features.
        classes: (N,) of 0 to K - 1; each must occur.
        shapes: (N,) the point or polygon of each cell.
        groups: (N,) blocks of ground.

    Raises:
        DataError: there is one class only.
    """
    if len(np.unique(classes)) < 2:
        raise DataError("labels of one class only: label places of at least two.")
    mean, scale = values.mean(axis=0), values.std(axis=0) + np.float32(_EPS)
    x = (values - mean) / scale
    weights = _weights(classes, shapes)
    model = _fit(x, classes, weights, _choose_strength(x, classes, weights, groups))
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes share one line
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return Probe(mean, scale, weight.astype(np.float32), bias.astype(np.float32))


def score_by_blocks(
    values: FloatArray,
    classes: IntArray,
    shapes: IntArray,
    centres: NDArray[np.float64],
    block_m: float,
    folds: int = 5,
) -> BlockScores:
    """Score probes on blocks of ground that each did not see.

    All cells of a polygon lie in the block of its centre. The penalty is chosen anew in
    each fold, on its training blocks.

    Args:
        values: (N, D) features of labelled cells.
        classes: (N,) of 0 to K - 1.
        shapes: (N,) the point or polygon of each cell.
        centres: (shapes, 2) of points and polygons, m.
        block_m: side of a block, m.
        folds: at most; fewer where there are fewer blocks.

    Raises:
        ConfigError: the blocks are not positive.
        DataError: all labels lie in one block.
    """
    from sklearn.model_selection import GroupKFold

    if not block_m > 0:
        raise ConfigError(f"blocks of {block_m} m: give a length above 0.")
    groups = blocks_of(centres, block_m)[shapes]
    count = int(groups.max()) + 1
    if count < 2:
        raise DataError(
            f"all labels lie in one block of {block_m:g} m: label more places, or take "
            "smaller blocks."
        )
    folds = min(folds, count)
    kinds = int(classes.max()) + 1
    predicted = np.zeros(len(classes), np.int64)
    for train, test in GroupKFold(folds).split(values, classes, groups):
        if len(np.unique(classes[train])) < 2:
            predicted[test] = classes[train][0]
        else:
            seen, known = np.unique(classes[train], return_inverse=True)
            probe = fit_probe(values[train], known, shapes[train], groups[train])
            predicted[test] = seen[probe.probabilities(values[test]).argmax(axis=-1)]
    confusion = np.zeros((kinds, kinds), np.int64)
    np.add.at(confusion, (classes, predicted), 1)
    labels, index, cells = np.unique(shapes, return_inverse=True, return_counts=True)
    right = np.bincount(index, predicted == classes) / cells
    return BlockScores(
        confusion, count, block_m, folds, len(labels), float(right.mean())
    )


def _weights(classes: IntArray, shapes: IntArray) -> NDArray[np.float64]:
    """Weigh cells so that classes add up alike, and so do the labels of a class."""
    _, shape, cells = np.unique(shapes, return_inverse=True, return_counts=True)
    weights = 1 / cells[shape]
    totals = np.bincount(classes, weights)
    found: NDArray[np.float64] = weights / totals[classes]
    return found * len(classes) / len(totals)


def _choose_strength(
    x: FloatArray,
    classes: IntArray,
    weights: NDArray[np.float64],
    groups: IntArray,
) -> float:
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold

    kinds = np.unique(classes)
    folds = min(_INNER_FOLDS, len(np.unique(groups)))
    if folds < 2:
        return _DEFAULT_STRENGTH
    parts = [
        (train, test)
        for train, test in GroupKFold(folds).split(x, classes, groups)
        if np.array_equal(np.unique(classes[train]), kinds)
    ]
    if not parts:
        return _DEFAULT_STRENGTH

    def fit(train: IntArray, strength: float) -> Any:
        return _fit(x[train], classes[train], weights[train], strength)

    def loss(strength: float) -> float:
        return float(
            np.mean(
                [
                    log_loss(
                        classes[test],
                        fit(train, strength).predict_proba(x[test]),
                        labels=kinds,
                        sample_weight=weights[test],
                    )
                    for train, test in parts
                ]
            )
        )

    return min(_STRENGTHS, key=loss)


def _fit(
    x: FloatArray, classes: IntArray, weights: NDArray[np.float64], strength: float
) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # A weak penalty may not settle; its log loss then decides as for the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, classes, weights)


def save_probe(path: Path, probe: Probe, facts: ProbeFacts) -> Path:
    """Write weights and facts as safetensors.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    weights = {field.name: getattr(probe, field.name) for field in fields(Probe)}
    weights = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    metadata = {_KEY: json.dumps(asdict(facts))}
    write_atomically(path, lambda to: save_file(weights, to, metadata))
    return path


# What the wrong kind of value raises where a probe is put together.
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError)


def load_probe(path: Path) -> tuple[Probe, ProbeFacts]:
    """Read what `save_probe` wrote.

    Raises:
        CheckpointError: the file is missing, broken, or holds no probe.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no probe at {path}.")
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        values: dict[str, Any] = parse_json(metadata[_KEY], _KEY)
        lists = {
            name: tuple(value)
            for name, value in values.items()
            if isinstance(value, list)
        }
        facts = ProbeFacts(**(values | lists))
        probe = Probe(**weights)
        _check_shapes(probe, facts)
    except (
        SafetensorError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path} is no probe that `spectralgpt probe` made ({error})."
        ) from None
    return probe, facts


def _check_shapes(probe: Probe, facts: ProbeFacts) -> None:
    classes, width = len(facts.class_names), len(probe.mean)
    wanted: Sequence[tuple[int, ...]] = [(width,), (classes, width), (classes,)]
    found = [probe.scale.shape, probe.weight.shape, probe.bias.shape]
    if found != wanted or facts.features not in FEATURES:
        raise ValueError(f"shapes {found}, features {facts.features!r}")
    if not all(np.isfinite(part).all() for part in (probe.mean, probe.scale)) or not (
        np.isfinite(probe.weight).all() and np.isfinite(probe.bias).all()
    ):
        raise ValueError("its weights are not finite")
