"""What frozen features tell of bark-beetle damage, cell by cell, beside simple floors.

    python benchmarks/barkbeetle_cells.py --data DATA [MODEL ...] [--json FILE]

DATA is the archive that examples/dense/barkbeetle_segmentation.yaml describes. Cells of
8 x 8 px of its images of 2020 are damaged where at least half of their pixels are. Band
statistics, random weights of `tiny`, and the features of each MODEL (a folder, a file,
or a size for random weights), alone, beside the statistics, and with random weights in
place of its own, are told apart by balanced logistic regression on standardised
features. It learns from a share of the training places, drawn anew for each seed, and
is scored on all cells of the archive's test places. Images are scaled as a model's own
contract says. Random weights of a size, drawn anew for each seed as well, get z-scores
by the training places: a floor at its best, for scaled image by image they never see
how bright a place is.

The strength of the penalty is chosen by training places alone, held out in turn. "Best"
is what the penalty that is best on the test places would reach: no score to report, but
what tables that chose so can be compared with.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.benchmarks.measurement import git_commit
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.datasets import DenseDataset
from spectralgpt.data.dense.config import read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.errors import ConfigError, SpectralGPTError
from spectralgpt.models.sizes import SIZES
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster
from spectralgpt.reports.arena import interval
from spectralgpt.scenes.loading import load_on_device, stated_contract
from spectralgpt.training.comparison import random_encoder

DESCRIPTION = "examples/dense/barkbeetle_segmentation.yaml"
SENSOR = "sentinel-2-l2a"
STATISTICS = "band statistics"
CELL_PX = 8
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the L2 penalty, C of scikit-learn."""
FOLDS = 3
MAX_ITERATIONS = 100
Values = NDArray[np.float32]
Labels = NDArray[np.bool_]
Features = tuple[list[Values], Values]
"""Of each training place (cells, D), and of all test cells (cells, D)."""
Scored = dict[str, dict[str, dict[str, list[float]]]]
"""Values of each seed, by row, fraction of the training places, and metric."""


@dataclass(frozen=True)
class Place:
    """An image cut to whole cells, and which of them are damaged, row by row."""

    raster: Raster
    damaged: Labels


@dataclass(frozen=True)
class Cells:
    """The archive: places to learn from, places to score on, and both as listed."""

    train: tuple[Place, ...]
    test: tuple[Place, ...]
    listed: SampleSet


@dataclass(frozen=True)
class Row:
    """What is compared: features for a seed, the same for each unless drawn."""

    features: Callable[[int], Features]
    is_drawn: bool = False


def read_cells(root: Path) -> Cells:
    """Read the images and masks of the archive with its own split."""
    description = Path(__file__).parent.parent / DESCRIPTION
    config = read_dense_config(description, root=str(root))
    whole = read_dense(config, divided=False)
    contract = Preprocessing(SENSOR, tuple(whole.samples[0].item.bands))
    number = whole.class_names.index("damaged")

    def places(split: str) -> tuple[Place, ...]:
        dataset = DenseDataset(whole.select(split), contract)
        found = []
        for at in range(len(dataset.sample_set.samples)):
            patch = dataset.patch(at)
            height, width = (n // CELL_PX * CELL_PX for n in patch.target.shape)
            patch = patch.cut(0, 0, height, width)
            shares = _by_cell(patch.target == number).mean(axis=(1, 3))
            found.append(Place(patch.rasters[0], shares.ravel() >= 1 / 2))
        return tuple(found)

    return Cells(places("train"), places("test"), whole)


def _by_cell(pixels: NDArray[Any]) -> NDArray[Any]:
    """Cut (..., H, W) into cells: (..., rows, 8, columns, 8)."""
    *axes, height, width = pixels.shape
    return pixels.reshape(*axes, height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX)


def band_statistics(place: Place) -> Values:
    """Mean and deviation of each band's reflectance in each cell, (cells, 2 * C)."""
    cells = _by_cell(place.raster.pixels)
    described = np.concatenate([cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))])
    return described.reshape(len(described), -1).T.astype(np.float32)


def embed(
    loaded: LoadedModel, contract: Preprocessing, place: Place, tile_px: int
) -> Values:
    """Features of each cell, band groups side by side, (cells, G * D).

    Images are cut into tiles, each scaled as the model's contract says; the last of a
    row is moved back to end with the image.
    """
    patch = loaded.encoder.patch_size
    step = max(patch, CELL_PX)
    if step % min(patch, CELL_PX) or tile_px % step:
        raise ConfigError(
            f"tiles of {tile_px} px, patches of {patch} px and cells of {CELL_PX} px "
            "do not divide each other: choose another --tile_px, or another model."
        )
    raster = place.raster
    rows, columns = (length // CELL_PX for length in raster.pixels.shape[1:])
    height, width = (-(-n // step) * step for n in raster.pixels.shape[1:])
    raster = raster.padded(height, width, "constant")
    made: Values | None = None
    for top in _starts(height, tile_px):
        for left in _starts(width, tile_px):
            part = np.s_[:, top : top + tile_px, left : left + tile_px]
            tile = replace(
                raster,
                pixels=raster.pixels[part],
                valid=raster.valid[part],
                crs=None,
                transform=None,
            )
            found = _as_cells(loaded, contract, tile)
            if made is None:
                shape = height // CELL_PX, width // CELL_PX, found.shape[-1]
                made = np.zeros(shape, np.float32)
            at = np.s_[top // CELL_PX :, left // CELL_PX :]
            made[at][: len(found), : found.shape[1]] = found
    assert made is not None
    return made[:rows, :columns].reshape(rows * columns, -1)


def _starts(length: int, tile: int) -> list[int]:
    return sorted({max(0, min(at, length - tile)) for at in range(0, length, tile)})


@torch.inference_mode()
def _as_cells(loaded: LoadedModel, contract: Preprocessing, tile: Raster) -> Values:
    """Encode a tile, and bring its tokens onto cells: (rows, columns, G * D)."""
    images, _ = contract.prepare(tile)
    tokens = check_output(loaded.encoder(torch.from_numpy(images)[None])[0].float())
    found: Values = tokens.permute(1, 2, 0, 3).flatten(2).numpy()
    patch = loaded.encoder.patch_size
    if patch >= CELL_PX:
        times = patch // CELL_PX
        return found.repeat(times, axis=0).repeat(times, axis=1)
    parts = CELL_PX // patch
    rows, columns, width = found.shape
    cells = found.reshape(rows // parts, parts, columns // parts, parts, width)
    return cells.mean(axis=(1, 3))


def list_rows(cells: Cells, models: Sequence[str], tile_px: int) -> dict[str, Row]:
    """Read the models, and name what is compared."""
    fixed = _features(cells, band_statistics)
    rows = {STATISTICS: Row(lambda seed: fixed)}
    for name in dict.fromkeys(("tiny", *models)):
        loaded = load_on_device(name, "cpu", SENSOR)
        contract = stated_contract(loaded, name)
        if name in SIZES:
            measured = sample_statistics(cells.listed.select("train"), contract.bands)
            contract = replace(contract, scaling="z-score", statistics=measured)
        alone = _embedded(cells, loaded, contract, tile_px, name in SIZES)
        label = f"random weights, {name}" if name in SIZES else name
        rows[label] = alone
        if name not in SIZES:
            drawn = _embedded(cells, loaded, contract, tile_px, is_drawn=True)
            rows[f"random weights like {name}"] = drawn
        if models:
            both = _beside(alone.features, fixed)
            rows[f"{label} + statistics"] = Row(both, alone.is_drawn)
    return rows


def _embedded(
    cells: Cells,
    loaded: LoadedModel,
    contract: Preprocessing,
    tile_px: int,
    is_drawn: bool,
) -> Row:
    """Return features of a model, or of the same one with weights of the seed."""

    @cache
    def compute(seed: int) -> Features:
        model = random_encoder(loaded.encoder, seed) if is_drawn else loaded.model
        used = replace(loaded, model=model.eval())
        return _features(cells, lambda place: embed(used, contract, place, tile_px))

    return Row(compute if is_drawn else lambda seed: compute(0), is_drawn)


def _beside(
    first: Callable[[int], Features], other: Features
) -> Callable[[int], Features]:
    def compute(seed: int) -> Features:
        train, test = first(seed)
        pairs = zip(train, other[0], strict=True)
        together = [np.concatenate(pair, axis=1) for pair in pairs]
        return together, np.concatenate([test, other[1]], axis=1)

    return compute


def _features(cells: Cells, describe: Callable[[Place], Values]) -> Features:
    test = np.concatenate([describe(place) for place in cells.test])
    return [describe(place) for place in cells.train], test


def score(cells: Cells, features: Features, chosen: Sequence[int]) -> dict[str, float]:
    """Learn from the chosen training places and score the test places.

    Returns:
        Average precision and F1 (at a probability of a half) with the penalty that the
        training places chose, and with the one that is best on the test places
        (`best_ap`, `best_f1`: the best average precision's).
    """
    train, test = features
    values = np.concatenate([train[at] for at in chosen])
    labels = np.concatenate([cells.train[at].damaged for at in chosen])
    groups = np.repeat(chosen, [len(train[at]) for at in chosen])
    truth = np.concatenate([place.damaged for place in cells.test])
    scored = []
    for strength, found in _fit(values, labels, test).items():
        scored.append((strength, *_score(found, truth)))
    strength = choose_strength(values, labels, groups)
    _, ap, f1 = next(row for row in scored if row[0] == strength)
    _, best_ap, best_f1 = max(scored, key=lambda row: row[1])
    own = {"ap": ap, "f1": f1, "strength": strength}
    return own | {"best_ap": best_ap, "best_f1": best_f1}


def choose_strength(values: Values, labels: Labels, groups: NDArray[np.int64]) -> float:
    """Choose by the average precision of cells whose places were held out."""
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(np.unique(groups)))
    if folds < 2:
        raise ConfigError(
            "one training place leaves none to choose the penalty by: raise "
            "--fractions."
        )
    unseen = {strength: np.zeros(len(labels)) for strength in STRENGTHS}
    for train, held in GroupKFold(folds).split(values, labels, groups):
        for strength, found in _fit(values[train], labels[train], values[held]).items():
            unseen[strength][held] = found
    return max(
        STRENGTHS, key=lambda each: average_precision_score(labels, unseen[each])
    )


def _fit(
    values: Values, labels: Labels, others: Values
) -> dict[float, NDArray[np.float64]]:
    """Return the probability of damage of others, by strength of the penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if labels.all() or not labels.any():
        share = np.full(len(others), labels[0], np.float64)
        return dict.fromkeys(STRENGTHS, share)
    scaler = StandardScaler().fit(values)
    x, x_others = scaler.transform(values), scaler.transform(others)
    model = LogisticRegression(
        max_iter=MAX_ITERATIONS, class_weight="balanced", warm_start=True
    )
    found = {}
    with warnings.catch_warnings():
        # A weak penalty may not settle; its score then tells, as for the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # From strong to weak, each starts where the one before ended.
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(x, labels)
            found[strength] = model.predict_proba(x_others)[:, 1]
    return found


def _score(found: NDArray[np.float64], truth: Labels) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, f1_score

    return (
        float(average_precision_score(truth, found)),
        float(f1_score(truth, found > 1 / 2)),
    )


def compare(
    cells: Cells, rows: Mapping[str, Row], fractions: Sequence[float], seeds: int
) -> Scored:
    """Score each row at each fraction of the training places.

    Of all places there is one draw, so that what has no weights to draw is scored once.
    """
    total = len(cells.train)
    scored: Scored = {}
    for name, row in rows.items():
        scored[name] = {}
        for fraction in fractions:
            count = max(1, round(total * fraction))
            found = []
            for seed in range(seeds if count < total or row.is_drawn else 1):
                drawn = np.random.default_rng(seed).permutation(total)[:count]
                found.append(score(cells, row.features(seed), sorted(drawn.tolist())))
            by_metric = {key: [each[key] for each in found] for key in found[0]}
            scored[name][f"{fraction:g}"] = by_metric
    return scored


def as_table(scored: Scored) -> str:
    """Write a Markdown table of means and Student's 95 % intervals over the seeds.

    The third column of each fraction is the difference of average precision to that of
    the statistics, seed by seed.
    """
    fractions = list(scored[STATISTICS])
    titles = ("AP", "F1", "AP less statistics", "best AP / F1")
    head = [f"{title}, {part} of places" for part in fractions for title in titles]
    lines = [["features", *head], ["---"] * (len(head) + 1)]
    for name, row in scored.items():
        line = [name]
        for part in fractions:
            own = row[part]
            ahead = np.subtract(own["ap"], scored[STATISTICS][part]["ap"]).tolist()
            line += [_shown(values) for values in (own["ap"], own["f1"], ahead)]
            best = [np.mean(own[key]) for key in ("best_ap", "best_f1")]
            line.append(f"{best[0]:.3f} / {best[1]:.3f}")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(values: Sequence[float]) -> str:
    mean, width = interval(values)
    return f"{mean:.3f}" + ("" if math.isnan(width) else f" ± {width:.3f}")


def main() -> None:
    """Compare, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="the archive")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--tile_px", type=int, default=64, help="of an encoder's images"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        cells = read_cells(args.data)
        rows = list_rows(cells, args.models, args.tile_px)
        scored = compare(cells, rows, args.fractions, args.seeds)
    except SpectralGPTError as error:
        raise SystemExit(f"error: {error}") from None
    print(as_table(scored))
    if args.json is not None:
        test = np.concatenate([place.damaged for place in cells.test])
        facts = {
            "version": __version__,
            "git_commit": git_commit(),
            "seconds": time.process_time(),
            "places": {"train": len(cells.train), "test": len(cells.test)},
            "test_cells": len(test),
            "damaged": float(test.mean()),
            "tile_px": args.tile_px,
            "rows": scored,
        }
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
