"""Tables in Markdown of what `tools/transfer_study.py` found.

A score of one set of labels is of all its test predictions together, its 95 % interval
that of 1,000 draws of the test places with replacement; random weights and forests are
the mean of five seeds in each draw. Of five archives, or five draws of training places,
it is the mean of five scores and 1.96 standard errors by Student's t. Differences to
`today` are paired: the same draws, or the same seeds. Which scaling an arm takes, its
own or the target's, is chosen as the penalty is: by the score on held-out places within
the training folds.

    python tools/transfer_tables.py runs/transfer
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DRAWS = 1000
T_OF_FIVE = 2.776  # 97.5 % point of Student's t with 4 degrees of freedom
ARMS = ("today", "random", "resample", "imagery", "positions", "spectral")
ARMS += ("continued", "logistic", "forest")
Run = dict[str, Array]


def read_runs(folder: Path) -> dict[str, dict[tuple[str, str], list[Run]]]:
    """Read predictions: of each data set, by (arm, pooling), a run a seed.

    Of both scalings, that with the better score within the training folds is kept.
    """
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    inner: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        for pooling in {"mean", "parts", "none"} & set(row):
            key = (plain_name(row["data"]), row["arm"], pooling, row["scaling"])
            inner[key].append(row[pooling]["inner"])
    found: dict[str, dict[tuple[str, str], list[Run]]] = defaultdict(dict)
    for row in rows:
        for pooling in {"mean", "parts", "none"} & set(row):
            name, arm = plain_name(row["data"]), row["arm"]
            scalings = {
                s: np.mean(v)
                for (*k, s), v in inner.items()
                if k == [name, arm, pooling]
            }
            best = max(scalings, key=lambda s: scalings[s])
            if row["scaling"] != best:
                continue
            stem = f"{row['data']}_{arm}_{row['seed']}_{best}_{pooling}"
            with np.load(folder / f"{stem}.npz") as file:
                run = {key: file[key] for key in file.files}
            run["scaling"] = np.array(best)
            found[name].setdefault((arm, pooling), []).append(run)
    return found


def plain_name(name: str) -> str:
    """Name a data set without the seed of an archive or draw."""
    return name[:-2] if name[-2] == "-" else name


def score(metric: str, run: Run, weights: Array) -> float:
    """Score predictions (N, classes), each of some weight.

    Args:
        metric: ap (average precision of class 1), balanced (mean recall), f1 (mean F1)
            or accuracy.
        run: truth and chances.
        weights: (N,).
    """
    truth, chances = run["truth"], run["chances"]
    if metric == "ap":
        order = np.argsort(-chances[:, 1], kind="stable")
        weight = weights[order]
        hit = weight * (truth[order] == 1)
        precision = np.cumsum(hit) / np.maximum(np.cumsum(weight), 1e-12)
        return float((precision * hit).sum() / max(hit.sum(), 1e-12))
    predicted = chances.argmax(axis=1)
    size = chances.shape[1]
    confusion = np.bincount(truth * size + predicted, weights, size * size)
    confusion = confusion.reshape(size, size)
    there = confusion.sum(axis=1) > 0
    hit, real = np.diag(confusion)[there], confusion.sum(axis=1)[there]
    if metric == "balanced":
        return float((hit / real).mean())
    if metric == "f1":
        return float((2 * hit / (real + confusion.sum(axis=0)[there])).mean())
    return float(hit.sum() / real.sum())


def drawn_scores(metric: str, runs: Sequence[Run]) -> tuple[float, Array]:
    """Mean score of the runs, and that of each draw of places, (DRAWS,)."""
    rng = np.random.default_rng(0)  # the same draws for all arms
    places, owner = np.unique(runs[0]["place"], return_inverse=True)
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(places), size=len(places))
        weights = np.bincount(drawn, minlength=len(places))[owner].astype(float)
        found.append(np.mean([score(metric, run, weights) for run in runs]))
    even = np.ones(len(owner))
    return float(np.mean([score(metric, run, even) for run in runs])), np.array(found)


def seed_scores(metric: str, runs: Sequence[Run]) -> Array:
    """Score of each seed."""
    return np.array([score(metric, run, np.ones(len(run["truth"]))) for run in runs])


def show(values: Array, sign: str = "") -> str:
    """Write a mean over seeds with half the width of its 95 % interval."""
    half = T_OF_FIVE * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.3f} ± {half:.3f}"


def show_drawn(mean: float, draws: Array, sign: str = "") -> str:
    """Write a score with the 95 % interval of its draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def table(metric: str, arms: dict[tuple[str, str], list[Run]], by_seed: bool) -> str:
    """Write one table, a line for each arm and pooling."""
    lines = [
        f"| arm | pooling | scaling | {metric} | against today |",
        "| --- " * 5 + "|",
    ]
    base: dict[str, Any] = {}
    for arm in ARMS:
        for pooling in ("mean", "parts", "none"):
            runs = arms.get((arm, pooling))
            if not runs or (by_seed and len(runs) < 2):
                continue
            against = "mean" if pooling == "none" else pooling
            if by_seed:
                values = seed_scores(metric, runs)
                shown, other = show(values), base.get(against)
                apart = (
                    "" if other is None else show(values - other[: len(values)], "+")
                )
                base.setdefault(pooling, values)
            else:
                mean, draws = drawn_scores(metric, runs)
                shown, other = show_drawn(mean, draws), base.get(against)
                apart = ""
                if other is not None:
                    apart = show_drawn(mean - other[0], draws - other[1], "+")
                base.setdefault(pooling, (mean, draws))
            scaling = runs[0]["scaling"]
            lines.append(f"| {arm} | {pooling} | {scaling} | {shown} | {apart} |")
    return "\n".join(lines)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, arms in sorted(read_runs(parser.parse_args().folder).items()):
        by_seed = name.endswith("tenth") or name.startswith(("landsat", "gaofen"))
        metrics = ["ap"] if name.startswith("barkbeetle") else ["balanced", "f1"]
        for metric in metrics if name == "enmap" else metrics[:1]:
            print(f"\n### {name}: {metric}\n\n{table(metric, arms, by_seed)}")


if __name__ == "__main__":
    main()
