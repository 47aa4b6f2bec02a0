"""What can be told from frozen features by a simple classifier, and how well.

`Features` of whole images, of the pretrained encoder or of a baseline, are told apart
by a linear probe or nearest neighbours, with a split of their own to choose the
penalty. A `Probe` learns from a handful of labelled cells of a raster of embeddings:
what of a cell it looks at, and how, is chosen by blocks of ground among those that it
learns from. It is scored on ground that it never saw, and is kept to map more. No
weights of the encoder change.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt import __version__
from spectralgpt.config import check_range
from spectralgpt.errors import CheckpointError, DataError, require
from spectralgpt.files import parse_json, write_file

CellFeatures = Literal["embedding", "reflectance", "both"]
ProbeHead = Literal["linear", "ridge", "knn", "forest"]
HEADS: tuple[ProbeHead, ...] = get_args(ProbeHead)
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
# Inverse strengths of the L2 penalty; one is chosen by what was not learnt from.
_STRENGTHS = tuple(float(c) for c in np.logspace(-4, 2, 7))
_CELL_STRENGTHS = tuple(float(c) for c in np.logspace(-3, 2, 6))
_DEFAULT_STRENGTH = 1.0
# What is tried of each head of a probe: the strength as above, the penalty of ridge,
# neighbours, trees.
_SETTINGS: dict[ProbeHead, tuple[float, ...]] = {
    "linear": _CELL_STRENGTHS,
    "ridge": tuple(float(a) for a in np.logspace(-1, 5, 7)),
    "knn": (5.0, 20.0),
    "forest": (50.0,),
}
_TEMPERATURE = 0.07
_MOST_SETTING = 1e6
_MAX_ITERATIONS = 1000
_INNER_FOLDS = 3
# Penalties of ridge regression; one is chosen by leave-one-out on train.
_PENALTIES = tuple(float(a) for a in np.logspace(-1, 5, 13))
_EPS = 1e-8
_LEAST_SPREAD = 1e-6
_KEY = "probe"
_TREES = 300


@dataclass(frozen=True)
class Features:
    """Features of images and their targets.

    Args:
        values: (N, D) float32.
        targets: (N,) class indices, or (N, classes) of 0 and 1.
        num_classes: number of classes.
    """

    values: FloatArray
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

    def beside(self, other: "Features") -> "Features":
        """Return these with other features of the same images beside them."""
        values = np.concatenate([self.values, other.values], axis=1)
        return Features(values, self.targets, self.num_classes)

    def take(self, indices: NDArray[Any]) -> "Features":
        """Return the features of some images, by their `indices` (M,)."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Features(self.values[indices], self.targets[chosen], self.num_classes)


def predict_linear(train: Features, val: Features, other: Features) -> Tensor:
    """Fit logistic regression on standardised features and predict.

    The L2 penalty is the one with the least log loss on `val`. A class that never, or
    always, occurs in `train` keeps a probability near 0, or 1.

    Args:
        train: what is fitted.
        val: chooses the penalty.
        other: what is predicted; its targets are not looked at.

    Returns:
        (N, classes) probabilities for `other`.
    """
    mean, scale = _standardiser(train.values, _EPS)
    x_train, x_val, x_other = ((f.values - mean) / scale for f in (train, val, other))
    best: tuple[float, Any] | None = None
    for strength in _STRENGTHS:
        models = _fit_labels(x_train, train, strength)
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
        class per image scaled to sum to 1. They rank classes and images, but are no
        calibrated probabilities.

    Source: Rifkin and Klautau 2004, JMLR 5, regularised least-squares classification.
    """
    require("sklearn")
    from sklearn.linear_model import RidgeCV

    mean, scale = _standardiser(train.values, _EPS)
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

    Args:
        train: the neighbours.
        other: what is predicted; its targets are not looked at.
        k: neighbours that count, at most all of `train`.

    Returns:
        (N, classes) probabilities for `other`.

    Raises:
        ConfigError: k is not positive.

    Source: Wu et al. 2018, arXiv:1805.01978, section 3.4 (weighting and temperature).
    """
    check_range("at least 1", {"k": k})
    mean, scale = _standardiser(train.values, _EPS)
    x_train, x_other = (_unit((f.values - mean) / scale) for f in (train, other))
    return _vote(x_train, _one_hot(train), x_other, k)


def _vote(examples: FloatArray, labels: Tensor, others: FloatArray, k: int) -> Tensor:
    """Average the labels (N, K) of the k nearest examples (N, D), all of length 1."""
    rows = [torch.zeros(0, labels.shape[1])]
    # One block of rows at a time: the full matrix of 27,000 x 16,000 would be 1.7 GB.
    for block in torch.from_numpy(others).split(1024):
        similarity = block @ torch.from_numpy(examples).T
        top = similarity.topk(min(k, len(examples)), dim=1)
        weights = (top.values / _TEMPERATURE).softmax(dim=1)
        rows.append((weights.unsqueeze(-1) * labels[top.indices]).sum(dim=1))
    return torch.cat(rows)


def predict_forest(train: Features, other: Features, seed: int = 0) -> Tensor:
    """Fit a random forest to labels of 0 and 1 and predict.

    The squared error of such labels is what splits of a classifier minimise, too.

    Returns:
        (N, classes) probabilities for `other`.
    """
    require("sklearn")
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        _TREES, max_features="sqrt", random_state=seed, n_jobs=1
    )
    forest.fit(train.values, _one_hot(train).numpy())
    found = forest.predict(other.values).reshape(len(other.values), -1)
    return torch.from_numpy(found).float()


def _one_hot(features: Features) -> Tensor:
    if features.is_multi_label:
        return features.targets.float()
    return torch.nn.functional.one_hot(features.targets, features.num_classes).float()


def _standardiser(values: FloatArray, least: float) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each feature, constant features guarded."""
    return values.mean(axis=0), values.std(axis=0) + np.float32(least)


def _unit(values: FloatArray) -> FloatArray:
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit: FloatArray = (values / np.maximum(norm, _EPS)).astype(np.float32)
    return unit


def _fit(
    x: FloatArray,
    targets: NDArray[Any],
    strength: float,
    weights: NDArray[np.float64] | None = None,
) -> Any:
    """Fit logistic regression of features (N, D); `strength` is C of scikit-learn."""
    require("sklearn")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # A weak penalty may not settle; its log loss then decides as for the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, targets, weights)


def _fit_labels(x: FloatArray, train: Features, strength: float) -> Sequence[Any]:
    """Fit one model, or one per label for multi-label; a float is a constant label."""
    if not train.is_multi_label:
        if len(train.targets.unique()) < 2:
            raise DataError("The training split has images of one class only.")
        return [_fit(x, train.targets.numpy(), strength)]
    columns = train.targets.long().numpy().T
    return [
        _fit(x, column, strength)
        if 0 < column.sum() < len(column)
        else float(column[0])
        for column in columns
    ]


def _predict(models: Sequence[Any], x: FloatArray, train: Features) -> Tensor:
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


@dataclass(frozen=True)
class Probe:
    """A simple classifier of standardised features.

    Args:
        mean: (D,) of the labelled cells.
        scale: (D,) of the labelled cells.
        tables: what the head learned. `linear` and `ridge`: weight (K, D), bias (K,).
            `knn`: examples (N, D) of length 1, labels (N, K). `forest`: of every node
            feature, threshold, left and right (-1 in leaves), shares (nodes, K); and
            roots (trees,).
        head: logistic regression, least squares, nearest neighbours or random forest.
        setting: strength (the inverse penalty), penalty, neighbours or trees.
        class_names: K names; like all below, none until it is said what the probe is
            of, which is stored with its weights.
        colours: one per class, such as "#0072B2".
        features: `embedding`, `reflectance` (of the bands), or `both`.
        encoder: fingerprint of the encoder.
        cell_px: side of the cells it was fitted on, px of the scene.
        bands: names of the layers of reflectance that it takes; empty without.
        version: of the package.
    """

    mean: FloatArray
    scale: FloatArray
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    head: ProbeHead = "linear"
    setting: float = _DEFAULT_STRENGTH
    class_names: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    features: CellFeatures = "embedding"
    encoder: str = ""
    cell_px: int = 0
    bands: tuple[str, ...] = ()
    version: str = __version__

    def probabilities(self, values: FloatArray) -> FloatArray:
        """Return the probabilities (..., K) of features (..., D).

        Those of `ridge` and `knn` rank classes, but are not calibrated.
        """
        x, tables = (values - self.mean) / self.scale, self.tables
        if self.head == "linear":
            logits = x @ tables["weight"].T + tables["bias"]
            scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        elif self.head == "ridge":
            scores = np.clip(x @ tables["weight"].T + tables["bias"], _EPS, 1)
        else:
            flat = x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
            if self.head == "knn":
                labels = torch.from_numpy(tables["labels"])
                k = int(self.setting)
                scores = _vote(tables["examples"], labels, _unit(flat), k).numpy()
            else:
                scores = _descend(tables, flat)
            scores = scores.reshape(*x.shape[:-1], -1)
        shares = scores / scores.sum(axis=-1, keepdims=True)
        return shares.astype(np.float32, copy=False)

    def __str__(self) -> str:
        """Say what it looks at, and how."""
        setting = f"{self.setting:g}"
        how = {
            "linear": f"logistic regression of strength {setting}",
            "ridge": f"ridge regression of penalty {setting}",
            "knn": f"{setting} nearest neighbours",
            "forest": f"a random forest of {setting} trees",
        }[self.head]
        what = {"both": "embedding and reflectance"}.get(self.features, self.features)
        return f"{how} on {what}"


def _descend(tables: Mapping[str, NDArray[Any]], x: FloatArray) -> FloatArray:
    """Average the shares (N, K) of the leaves that rows (N, D) fall into."""
    rows = np.arange(len(x))
    total = np.zeros((len(x), tables["shares"].shape[1]), np.float32)
    for root in tables["roots"]:
        at = np.full(len(x), root)
        while (inner := tables["left"][at] >= 0).any():
            is_low = x[rows, tables["feature"][at]] <= tables["threshold"][at]
            below = np.where(is_low, tables["left"][at], tables["right"][at])
            at = np.where(inner, below, at)
        total += tables["shares"][at]
    return total


@dataclass(frozen=True)
class BlockScores:
    """How well classes are predicted on held-out blocks of ground.

    Args:
        confusion: (K, K) cells, the labelled class by row, the one predicted by column.
        blocks: that hold labels.
        block_m: side of a block, m.
        folds: times that the probe was fitted.
        labels: points and polygons.
        label_accuracy: share predicted right where each point or polygon weighs alike,
            however many cells it has.
        chosen: what was fitted in each fold, in words.
    """

    confusion: IntArray
    blocks: int
    block_m: float
    folds: int
    labels: int
    label_accuracy: float
    chosen: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the labelled cells that are predicted right."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def recalls(self) -> NDArray[np.float64]:
        """(K,) shares of each class's cells that are predicted right."""
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


class _Choice(NamedTuple):
    """What a probe looks at, how, and the setting of that."""

    features: CellFeatures
    head: ProbeHead
    setting: float


_EMBEDDING: Mapping[CellFeatures, slice] = {"embedding": slice(None)}


def fit_probe(
    values: FloatArray,
    classes: IntArray,
    shapes: IntArray,
    groups: IntArray,
    parts: Mapping[CellFeatures, slice] = _EMBEDDING,
    heads: Sequence[ProbeHead] = ("linear",),
) -> Probe:
    """Fit a probe; classes weigh alike, and in each its labels.

    Of all parts, heads and their settings it takes the one whose probabilities have the
    least squared error on held-out groups.

    Args:
        values: (N, D) features.
        classes: (N,) of 0 to K - 1; each must occur.
        shapes: (N,) the point or polygon of each cell.
        groups: (N,) blocks of ground.
        parts: which of the D may be taken, the first where nothing can be held out.
        heads: what may be fitted, the same.

    Raises:
        DataError: there is one class only.
    """
    if len(np.unique(classes)) < 2:
        raise DataError("labels of one class only: label places of at least two.")
    weights = _weights(classes, shapes)
    choice = _choose(values, classes, weights, groups, parts, heads)
    return _fit_choice(choice, values[:, parts[choice.features]], classes, weights)


def _choose(
    values: FloatArray,
    classes: IntArray,
    weights: NDArray[np.float64],
    groups: IntArray,
    parts: Mapping[CellFeatures, slice],
    heads: Sequence[ProbeHead],
) -> _Choice:
    """Choose by groups that are held out in turn; see `fit_probe`."""
    # A forest is slow, and a floor: beside other heads it looks at reflectance alone.
    is_floor = len(heads) > 1 and "reflectance" in parts
    choices = [
        _Choice(part, head, setting)
        for part in parts
        for head in heads
        if head != "forest" or part == "reflectance" or not is_floor
        for setting in _SETTINGS[head]
    ]
    folds = list(_folds(classes, groups)) if len(choices) > 1 else []
    if not folds:
        settings = _SETTINGS[heads[0]]
        usual = _DEFAULT_STRENGTH if heads[0] == "linear" else settings[0]
        return _Choice(next(iter(parts)), heads[0], usual)
    truth = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]

    def error(choice: _Choice) -> float:
        x, total = values[:, parts[choice.features]], 0.0
        for train, test in folds:
            probe = _fit_choice(choice, x[train], classes[train], weights[train])
            missed = (probe.probabilities(x[test]) - truth[test]) ** 2
            total += float(weights[test] @ missed.sum(axis=1))
        return total

    return min(choices, key=error)


def _folds(classes: IntArray, groups: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Hold out groups in turn, where the others have all classes."""
    require("sklearn")
    from sklearn.model_selection import GroupKFold

    folds, kinds = min(_INNER_FOLDS, len(np.unique(groups))), np.unique(classes)
    if folds < 2:
        return
    for train, test in GroupKFold(folds).split(classes, classes, groups):
        if np.array_equal(np.unique(classes[train]), kinds):
            yield train, test


def _fit_choice(
    choice: _Choice,
    values: FloatArray,
    classes: IntArray,
    weights: NDArray[np.float64],
) -> Probe:
    require("sklearn")
    from sklearn.linear_model import Ridge

    mean, scale = _standardiser(values, _LEAST_SPREAD)
    x = (values - mean) / scale
    labels = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]
    tables: dict[str, NDArray[Any]]
    if choice.head == "forest":
        tables = _grow_forest(x, classes, weights, int(choice.setting))
    elif choice.head == "knn":
        weighed = (labels * weights[:, None]).astype(np.float32)
        tables = {"examples": _unit(x), "labels": weighed}
    else:
        if choice.head == "ridge":
            model: Any = Ridge(choice.setting).fit(x, labels, weights)
        else:
            model = _fit(x, classes, choice.setting, weights)
        weight, bias = (
            each.astype(np.float32) for each in (model.coef_, model.intercept_)
        )
        if len(weight) == 1:  # two classes share one line
            weight = np.concatenate([np.zeros_like(weight), weight])
            bias = np.concatenate([np.zeros_like(bias), bias])
        tables = {"weight": weight, "bias": bias}
    return Probe(
        mean, scale, tables, choice.head, choice.setting, features=choice.features
    )


def _grow_forest(
    x: FloatArray, classes: IntArray, weights: NDArray[np.float64], trees: int
) -> dict[str, NDArray[Any]]:
    """Fit a random forest; returns its nodes, tree after tree, see `Probe`."""
    require("sklearn")
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(trees, random_state=0).fit(x, classes, weights)
    grown = [each.tree_ for each in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in grown)])[:-1]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in grown])

    def below(name: str) -> NDArray[np.int64]:
        first = np.repeat(roots, [tree.node_count for tree in grown])
        return np.where(joined(name) < 0, -1, joined(name) + first)

    shares = joined("value")[:, 0]
    return {
        "feature": joined("feature").clip(min=0).astype(np.int64),
        "threshold": joined("threshold"),
        "left": below("children_left"),
        "right": below("children_right"),
        "shares": (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32),
        "roots": roots.astype(np.int64),
    }


def score_by_blocks(
    values: FloatArray,
    classes: IntArray,
    shapes: IntArray,
    centres: NDArray[np.float64],
    block_m: float,
    parts: Mapping[CellFeatures, slice] = _EMBEDDING,
    heads: Sequence[ProbeHead] = ("linear",),
    folds: int = 5,
) -> BlockScores:
    """Score probes on blocks of ground that each did not see.

    All cells of a polygon lie in the block of its centre. What is fitted is chosen anew
    in each fold, on its training blocks alone; see `fit_probe`.

    Args:
        values: (N, D) features of labelled cells.
        classes: (N,) of 0 to K - 1.
        shapes: (N,) the point or polygon of each cell.
        centres: (shapes, 2) of points and polygons, m.
        block_m: side of a block, m.
        parts: which of the features may be taken.
        heads: what may be fitted.
        folds: at most; fewer where there are fewer blocks.

    Raises:
        ConfigError: the blocks are not positive.
        DataError: all labels lie in one block.
    """
    require("sklearn")
    from sklearn.model_selection import GroupKFold

    check_range("above 0", {"block_m": block_m})
    groups = blocks_of(centres, block_m)[shapes]
    # Some blocks may hold only labels whose cells were all left out.
    count = len(np.unique(groups))
    if count < 2:
        raise DataError(
            f"all labels lie in one block of {block_m:g} m: label more places, or take "
            "smaller blocks."
        )
    folds = min(folds, count)
    kinds = int(classes.max()) + 1
    predicted, chosen = np.zeros(len(classes), np.int64), []
    for train, test in GroupKFold(folds).split(values, classes, groups):
        if len(np.unique(classes[train])) < 2:
            predicted[test] = classes[train][0]
        else:
            seen, known = np.unique(classes[train], return_inverse=True)
            learned = (values[train], known, shapes[train], groups[train])
            probe = fit_probe(*learned, parts, heads)
            chosen.append(str(probe))
            found = probe.probabilities(values[test][:, parts[probe.features]])
            predicted[test] = seen[found.argmax(axis=-1)]
    confusion = np.zeros((kinds, kinds), np.int64)
    np.add.at(confusion, (classes, predicted), 1)
    labels, index, cells = np.unique(shapes, return_inverse=True, return_counts=True)
    right = np.bincount(index, predicted == classes) / cells
    return BlockScores(
        confusion,
        count,
        block_m,
        folds,
        len(labels),
        float(right.mean()),
        tuple(chosen),
    )


def _weights(classes: IntArray, shapes: IntArray) -> NDArray[np.float64]:
    """Weigh cells so that classes add up alike, and so do the labels of a class."""
    _, shape, cells = np.unique(shapes, return_inverse=True, return_counts=True)
    weights = 1 / cells[shape]
    totals = np.bincount(classes, weights)
    found: NDArray[np.float64] = weights / totals[classes]
    return found * len(classes) / len(totals)


# Probes of earlier versions are linear, and do not say so.
_KNOWN = {"mean", "scale", "tables", "head", "setting", "version"}
_FACTS = {each.name for each in fields(Probe)} - _KNOWN
_TABLES: dict[ProbeHead, dict[str, str]] = {
    "linear": {"weight": "KD", "bias": "K"},
    "ridge": {"weight": "KD", "bias": "K"},
    "knn": {"examples": "ND", "labels": "NK"},
    "forest": {
        **dict.fromkeys(("feature", "threshold", "left", "right"), "N"),
        "shares": "NK",
        "roots": "T",
    },
}
"""What each head has learned, and its axes: classes K, features D, and its own."""


def save_probe(path: Path, probe: Probe) -> Path:
    """Write weights, and what they are of, as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    values = {each.name: getattr(probe, each.name) for each in fields(Probe)}
    tables = {name: values.pop(name) for name in ("mean", "scale")}
    tables |= values.pop("tables")
    weights = {name: np.ascontiguousarray(table) for name, table in tables.items()}
    metadata = {_KEY: json.dumps(values)}
    write_file(path, lambda to: save_file(weights, to, metadata))
    return path


# What the wrong kind of value raises where a probe is put together.
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError)


def load_probe(path: Path) -> Probe:
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
        if missing := _FACTS - values.keys():
            raise LookupError(f"no {', '.join(sorted(missing))}")
        mean, scale = (weights.pop(name) for name in ("mean", "scale"))
        probe = Probe(mean, scale, weights, **(values | lists))
        _check_shapes(probe)
    except (SafetensorError, OSError, *_DAMAGE) as error:
        raise CheckpointError(
            f"{path} is no probe that `spectralgpt probe` made ({error})."
        ) from None
    return probe


def _check_shapes(probe: Probe) -> None:
    """Refuse tables that are not those of a probe's head."""
    tables, wanted = probe.tables, _TABLES[probe.head]
    if probe.features not in get_args(CellFeatures) or tables.keys() != wanted.keys():
        raise ValueError(f"features {probe.features!r}, tables {', '.join(tables)}")
    sizes = {"K": len(probe.class_names), "D": len(probe.mean)}
    axes = {"mean": "D", "scale": "D"} | wanted
    for name, table in {"mean": probe.mean, "scale": probe.scale, **tables}.items():
        shape = tuple(
            sizes.setdefault(axis, length)
            for axis, length in zip(axes[name], table.shape, strict=True)
        )
        if table.shape != shape or not table.size:
            raise ValueError(f"{name} of shape {table.shape}")
        if not np.isfinite(table).all():
            raise ValueError(f"{name} is not finite")
    if not 1 <= probe.setting <= _MOST_SETTING and probe.head == "knn":
        raise ValueError(f"{probe.setting} neighbours")
    if probe.head == "forest":
        _check_forest(tables, sizes["N"], sizes["D"])


def _check_forest(
    tables: Mapping[str, NDArray[Any]], nodes: int, features: int
) -> None:
    """Refuse nodes that lead out of the forest, or back."""
    left, right = tables["left"], tables["right"]
    for name in ("feature", "left", "right", "roots"):
        if tables[name].dtype != np.int64:
            raise ValueError(f"{name} of {tables[name].dtype}")
    inner = left >= 0
    below = np.stack([left, right])[:, inner]
    leads_on = (below > np.flatnonzero(inner)) & (below < nodes)
    roots, feature = tables["roots"], tables["feature"]
    if not (
        leads_on.all()
        and ((roots >= 0) & (roots < nodes)).all()
        and ((feature >= 0) & (feature < features)).all()
    ):
        raise ValueError("its trees are damaged")
