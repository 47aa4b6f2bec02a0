"""What a map must beat to be worth a network: a forest on pixels, and an index.

For numbers these are the mean of the training, ridge regression and a forest. All see
calibrated reflectance of single pixels, for change of both dates, and nothing of their
surroundings, and learn from the training places alone. Floors reported beside scores
use sampled pixels, which takes seconds; the forest of a study maps every pixel.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.data.datasets import DenseDataset, Patch
from spectralgpt.data.samples import Sample, SampleSet
from spectralgpt.errors import DataError, SpectralGPTError, require
from spectralgpt.metrics import (
    POSITIVE_SCORES,
    confusion_counts,
    score_pixels,
    score_values,
    value_sums,
)
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.resampling import present
from spectralgpt.sensors import Band, match_bands
from spectralgpt.tasks.dense import leading_metric

logger = logging.getLogger(__name__)

_TREES, _TREES_OF_FLOOR = 200, 100
_LEAST_LEAF = 3
_MOST_PIXELS = 100_000
"""Most pixels that the forest of a study learns from."""
_MOST_IMAGES = 400
_LEARNED, _SCORED = 20_000, 100_000
"""Most pixels that are learnt from, and that are scored."""
_PENALTIES = tuple(10.0**power for power in range(-4, 5))
"""Of ridge regression on standardised features, tried in turn."""

_PARTS_NM = {
    "green": (520.0, 560.0, 600.0),
    "red": (620.0, 665.0, 690.0),
    "nir": (780.0, 842.0, 900.0),
    "swir1": (1550.0, 1610.0, 1750.0),
    "swir2": (2080.0, 2200.0, 2350.0),
}
"""Parts of the spectrum: where a band's centre may lie at least, best and at most."""
_INDICES = {
    # McFeeters 1996, Xu 2006, Tucker 1979, Key and Benson 2006.
    "NDWI": ("green", "nir"),
    "MNDWI": ("green", "swir1"),
    "NDVI": ("nir", "red"),
    "NBR": ("nir", "swir2"),
}
_Values = NDArray[np.float32]
_Pixels = tuple[_Values, NDArray[Any]]
"""Labelled pixels: reflectance (N, T, C) of each date, and classes or numbers (N,)."""


@dataclass(frozen=True)
class Floor:
    """What a simple method reaches on the same images.

    Args:
        name: what it is, such as "dNBR > 0.27".
        scores: by the names of the model's own.
        learned_from: pixels.
        scored_on: pixels, drawn at random from all that are scored.
    """

    name: str
    scores: dict[str, float]
    learned_from: int
    scored_on: int


def find_floors(
    train: SampleSet, scored: SampleSet, positive: str | None, seed: int
) -> tuple[Floor, ...]:
    """Fit a forest and the best index on train, and score them.

    The forest weighs classes or not, whichever is better on the pixels that its trees
    have not seen. The index, for two classes or a stated one, is the one of those that
    the bands allow with the best F1 on train; for change it is that before minus after.

    Args:
        train: learnt from.
        scored: what the model is scored on.
        positive: the class that scores are about; None if all count alike.
        seed: of the drawn pixels and the trees.

    Returns:
        None at all where the pixels do not allow it, which is logged.
    """
    try:
        bands = _shared_bands((*train.samples, *scored.samples))
        contract = Preprocessing(train.samples[0].item.sensor.name, bands)
        learned = _draw(DenseDataset(train, contract), _LEARNED, seed)
        tested = _draw(DenseDataset(scored, contract), _SCORED, seed)
    except SpectralGPTError as error:
        logger.warning("no floors beside the scores: %s", error)
        return ()
    if len(np.unique(learned[1])) < 2 or not len(tested[1]):
        what = "class" if scored.target is None else "number"
        logger.warning(
            "no floors beside the scores: pixels with all bands show one %s at most.",
            what,
        )
        return ()
    if scored.target is not None:
        return _number_floors(learned, tested, seed)
    names = scored.class_names
    floors = [_forest(learned, tested, names, positive, seed)]
    if positive is not None:
        floors += _index(learned, tested, contract.bands, names, positive)
    return tuple(floors)


def _best_index(
    values: dict[str, _Values], is_positive: NDArray[np.bool_]
) -> tuple[str, bool, float] | None:
    """Choose, by F1, an index, whether the class lies above its threshold, and that."""
    best: tuple[float, tuple[str, bool, float]] | None = None
    for name, found in values.items():
        for above in (True, False):
            f1, threshold = _tune(found if above else -found, is_positive)
            if best is None or f1 > best[0]:
                best = f1, (name, above, threshold if above else -threshold)
    return None if best is None else best[1]


def _tune(values: _Values, is_positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the best F1 of "above a threshold", and the threshold."""
    known = np.isfinite(values)
    order = np.argsort(-values[known], kind="stable")
    ranked, hits = values[known][order], is_positive[known][order]
    if not len(ranked) or not is_positive.any():
        return 0.0, 0.0
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    f1 = 2 * np.cumsum(hits)[ends] / (ends + 1 + is_positive.sum())
    at = int(f1.argmax())
    last = ranked[ends[at]]
    following = ranked[ends[at] + 1] if at + 1 < len(ends) else last - 1.0
    return float(f1[at]), float((last + following) / 2)


def _shared_bands(samples: Sequence[Sample]) -> tuple[Band, ...]:
    """Bands of the first image that all have."""
    bands = tuple(samples[0].item.bands)
    for sample in samples:
        for item in sample.items:
            own = [item.bands[at] for at in present(item, item.bands)]
            there = match_bands(bands, own, allow_missing=True)
            bands = tuple(b for b, i in zip(bands, there, strict=True) if i is not None)
    return bands


def _draw(dataset: DenseDataset, most: int, seed: int) -> _Pixels:
    """Draw labelled pixels that all bands show, each with the same chance."""
    rng = np.random.default_rng(seed)
    share, values, targets = 1.0, [], []
    count = len(dataset.sample_set.samples)
    for number in rng.permutation(count)[:_MOST_IMAGES].tolist():
        patch = dataset.patch(number)
        is_valid = np.all(
            [raster.valid.all(axis=0) for raster in patch.rasters], axis=0
        )
        usable = patch.labelled & is_valid
        chosen = usable & (rng.random(usable.shape) < share)
        dates = [raster.pixels[:, chosen].T for raster in patch.rasters]
        values.append(np.stack(dates, axis=1))
        targets.append(patch.target[chosen])
        if sum(map(len, targets)) > 2 * most:
            drawn, classes = np.concatenate(values), np.concatenate(targets)
            kept = rng.random(len(classes)) < 1 / 2
            share, values, targets = share / 2, [drawn[kept]], [classes[kept]]
    drawn, classes = np.concatenate(values), np.concatenate(targets)
    order = rng.permutation(len(classes))[:most]
    return drawn[order], classes[order]


def _number_floors(learned: _Pixels, tested: _Pixels, seed: int) -> tuple[Floor, ...]:
    """Estimate numbers by their mean, by ridge regression and by a forest."""
    require("sklearn")
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (values, targets), (new, truth) = learned, tested
    features, others = (_features(list(v.swapaxes(0, 1))) for v in (values, new))
    forest = RandomForestRegressor(
        _TREES_OF_FLOOR, min_samples_leaf=_LEAST_LEAF, random_state=seed
    )
    models: dict[str, Any] = {
        "mean of training": DummyRegressor(),
        "ridge on pixels": make_pipeline(StandardScaler(), RidgeCV(_PENALTIES)),
        "random forest on pixels": forest,
    }
    floors = []
    for name, model in models.items():
        found = model.fit(features, targets).predict(others)
        pair = torch.from_numpy(found), torch.from_numpy(truth)
        sums = value_sums(*pair, centre=float(targets.mean()))
        scores = score_values(sums).summary
        floors.append(Floor(name, scores, len(targets), len(truth)))
    return tuple(floors)


def _forest(
    learned: _Pixels,
    tested: _Pixels,
    names: Sequence[str],
    positive: str | None,
    seed: int,
) -> Floor:
    (values, targets), (new, truth) = learned, tested

    def score_unseen(forest: Any) -> float:
        unseen = forest.classes_[forest.oob_decision_function_.argmax(axis=1)]
        found = _score(unseen, targets, names, positive)
        return found[leading_metric(positive)]

    forest = _fit_better_forest(
        _features(list(values.swapaxes(0, 1))),
        targets,
        score_unseen,
        n_estimators=_TREES_OF_FLOOR,
        oob_score=True,
        random_state=seed,
    )
    predicted = forest.predict(_features(list(new.swapaxes(0, 1))))
    scores = _score(predicted, truth, names, positive)
    return Floor("random forest on pixels", scores, len(targets), len(truth))


def _index(
    learned: _Pixels,
    tested: _Pixels,
    bands: Sequence[Band],
    names: Sequence[str],
    positive: str,
) -> list[Floor]:
    (values, targets), (new, truth) = learned, tested
    number = list(names).index(positive)
    chosen = _best_index(_index_values(values, bands), targets == number)
    if chosen is None:
        return []
    name, above, threshold = chosen
    found = _index_values(new, bands)[name]
    is_found = found > threshold if above else found < threshold
    if len(names) == 2:
        predicted = np.where(is_found, number, 1 - number)
        scores = _score(predicted, truth, names, positive)
    else:
        both = ("the rest", positive)
        is_it = (truth == number).astype(np.int64)
        scores = _score(is_found.astype(np.int64), is_it, both, positive)
        scores = {name: scores[name] for name in POSITIVE_SCORES}
    label = f"{name} {'>' if above else '<'} {threshold:.3g}"
    return [Floor(label, scores, len(targets), len(truth))]


def _index_values(values: _Values, bands: Sequence[Band]) -> dict[str, _Values]:
    """Give each index that the bands allow, (N,); of two dates, before minus after."""
    at = {name: _band_at(bands, name) for name in _PARTS_NM}
    found = {}
    for name, (first, second) in _INDICES.items():
        one, other = at[first], at[second]
        if one is None or other is None:
            continue
        a, b = values[:, :, one], values[:, :, other]
        total = a + b
        with np.errstate(invalid="ignore", divide="ignore"):
            dates = np.where(total > 0, (a - b) / total, np.nan)
        if dates.shape[1] == 2:
            found[f"d{name}"] = dates[:, 0] - dates[:, 1]
        else:
            found[name] = dates[:, 0]
    return found


def _band_at(bands: Sequence[Band], name: str) -> int | None:
    """Return which band shows a part of the spectrum, the nearest to its usual one."""
    low, centre, high = _PARTS_NM[name]
    inside = [i for i, b in enumerate(bands) if low <= b.wavelength_nm <= high]
    return min(inside, key=lambda i: abs(bands[i].wavelength_nm - centre), default=None)


def _features(dates: Sequence[_Values]) -> _Values:
    """Join reflectance (N, C) of each date, and of two their difference, by pixel."""
    changes = [dates[1] - dates[0]] if len(dates) == 2 else []
    return np.concatenate([*dates, *changes], axis=1)


def _score(
    predicted: NDArray[np.int64],
    targets: NDArray[np.int64],
    names: Sequence[str],
    positive: str | None,
) -> dict[str, float]:
    found = torch.from_numpy(predicted), torch.from_numpy(targets)
    counts = confusion_counts(*found, len(names))
    return score_pixels(counts, names, positive).summary


def map_by_forest(
    train: DenseDataset,
    val: DenseDataset,
    test: DenseDataset,
    seed: int,
    positive: str | None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Fit forests with and without class weights; map by the better one on val.

    Args:
        train: learnt from: up to 100,000 of its labelled pixels, drawn at random.
        val: chooses.
        test: is mapped.
        seed: of the draw and the trees.
        positive: the class that val is scored on; None takes all alike.

    Returns:
        Of every sample its number, its map and its labels, both (H, W) class indices.

    Raises:
        DataError: the training pixels are of fewer than two classes.
    """
    patches = [train.patch(number) for number in range(len(train.sample_set.samples))]
    total = sum(int((patch.target >= 0).sum()) for patch in patches)
    share = min(1.0, _MOST_PIXELS / max(total, 1))
    rng = np.random.default_rng(seed)
    drawn, classes = [], []
    for patch in patches:
        target = patch.target.reshape(-1)
        chosen = (target >= 0) & (rng.random(target.size) < share)
        drawn.append(_pixels_of(patch)[chosen])
        classes.append(target[chosen])
    features, targets = np.concatenate(drawn), np.concatenate(classes)
    if len(np.unique(targets)) < 2:
        raise DataError(
            f"{train.sample_set.source}: train has pixels of one class only."
        )
    forest = _fit_better_forest(
        features,
        targets,
        lambda forest: _score_map(forest, val, positive),
        n_estimators=_TREES,
        random_state=seed,
    )
    return _map_pixels(forest, test)


def _fit_better_forest(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    score: Callable[[Any], float],
    **options: Any,
) -> Any:
    """Fit forests with and without class weights; return the one that scores higher."""
    require("sklearn")
    from sklearn.ensemble import RandomForestClassifier

    forests = [
        RandomForestClassifier(
            min_samples_leaf=_LEAST_LEAF, class_weight=weights, **options
        ).fit(features, targets)
        for weights in (None, "balanced_subsample")
    ]
    return max(forests, key=score)


def _map_pixels(
    forest: Any, dataset: DenseDataset
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Map every sample; see `map_by_forest`."""
    for number in range(len(dataset.sample_set.samples)):
        patch = dataset.patch(number)
        predicted = forest.predict(_pixels_of(patch)).reshape(patch.target.shape)
        yield number, torch.from_numpy(predicted), torch.from_numpy(patch.target)


def _score_map(forest: Any, val: DenseDataset, positive: str | None) -> float:
    dense = val.sample_set
    counts = np.zeros((dense.num_classes, dense.num_classes), dtype=np.int64)
    for _, predicted, target in _map_pixels(forest, val):
        counts += confusion_counts(predicted, target, dense.num_classes)
    if positive is not None and not counts[dense.class_names.index(positive)].any():
        logger.warning(
            "split val has no pixel of class %r: the forest is chosen by its mean IoU.",
            positive,
        )
        positive = None
    scores = score_pixels(counts, dense.class_names, positive)
    return scores.summary[leading_metric(positive)]


def _pixels_of(patch: Patch) -> _Values:
    """Give the features of every pixel, (H * W, features); 0 where there is none."""
    return _features(
        [
            np.where(raster.valid, raster.pixels, 0).reshape(len(raster.bands), -1).T
            for raster in patch.rasters
        ]
    ).astype(np.float32)
