"""Compare frozen features: the pretrained encoder against those that learned nothing.

For every kind of features and every seed a probe is fitted on train, tuned on val and
scored on test. All kinds share the same splits, so their differences are paired.

An encoder must beat band statistics, TorchGeo's random convolutional features and the
same encoder with random weights. The first two see calibrated reflectance, not the
encoder's scaled pixels: scaling each image to 0..1 would take their brightness away,
and a baseline is only worth beating at its best.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.division import divide
from spectralgpt.data.identity import count_seen
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.data.samples import SPLITS, SampleSet
from spectralgpt.errors import CheckpointError, require
from spectralgpt.files import write_json, write_table
from spectralgpt.metrics import Scores, score_images
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.weights import check_output
from spectralgpt.resampling import absent_groups
from spectralgpt.tasks import read_batches
from spectralgpt.tasks.probes import (
    Features,
    predict_forest,
    predict_knn,
    predict_linear,
    predict_ridge,
)
from spectralgpt.training.scoring import spread, write_class_scores

Head = Literal["linear-probe", "ridge", "knn", "forest"]
ProbeMethod = Literal["auto", Head]
PRETRAINED = "this model"
STATISTICS = "band statistics"
# Every seed of every baseline reads the images again.
_MEMORY_MB = 2048.0
_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
_RCF_FEATURES = 512
_RCF_KERNEL_PX = 3
_EMPIRICAL_IMAGES = 256
_BATCH = 32
_EPS = 1e-6
Split = dict[str, NDArray[np.int64]]
_Compute = Callable[[int, NDArray[np.int64]], Features]
_Count = Callable[[str], Callable[[int], None] | None]


_Summary = dict[str, dict[str, dict[str, Any]]]
"""Mean, standard deviation over seeds and all values, by kind and metric."""


def compare_features(
    loaded: LoadedModel,
    labelled: SampleSet,
    config: LabelledDataConfig,
    folder: Path,
    name: str,
    *,
    method: ProbeMethod = "auto",
    k: int = 20,
    baselines: bool = False,
    seeds: int = 1,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, tuple[Scores, ...]]:
    """Probe the features of a model beside band statistics, and both together.

    Writes metrics.json, table.csv, classes.csv, confusion.png and report.html.

    Each seed draws its own split, unless the archive gives one; then it draws the
    training subset if `config.train_fraction` is below 1. Random weights and filters
    are drawn anew for each seed.

    Args:
        loaded: the model, on the device to use.
        labelled: all images, from `read_labelled`, not divided.
        config: how they are split.
        folder: gets the files.
        name: what the model is called in them.
        method: `linear-probe` (logistic regression), `ridge`, `knn`, `forest`, or
            `auto`: each kind of features takes what is best for it on val.
        k: neighbours of `knn`.
        baselines: compare with random convolutions (both of TorchGeo's modes) and
            random weights, too.
        seeds: number of repetitions.
        batch_size: images encoded at once.
        num_workers: processes that read images.
        progress: called with (what is done, images done, images in all).

    Returns:
        Scores of each kind of features in the order of the seeds; the model comes
        first.

    Raises:
        CheckpointError: the model has no contract.
        DataError: a split is empty.
    """
    if loaded.preprocessing is None:
        raise CheckpointError(
            "The model does not say which bands and scaling it takes."
        )
    dataset = LabelledDataset(labelled, loaded.preprocessing, memory_mb=_MEMORY_MB)
    splits = draw_splits(labelled, config, range(seeds))

    def counter(kind: str) -> Callable[[int], None] | None:
        if progress is None:
            return None
        done = 0

        def add(images: int) -> None:
            nonlocal done
            done += images
            progress(kind, done, len(dataset))

        return add

    def encode(encoder: Encoder, kind: str) -> Features:
        return extract_features(
            encoder,
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=counter(kind),
        )

    fixed = encode(loaded.encoder, PRETRAINED)
    kinds: dict[str, _Compute] = {PRETRAINED: lambda seed, train: fixed}
    statistics = band_statistics(dataset, counter(STATISTICS))
    both = fixed.beside(statistics)
    kinds[f"{PRETRAINED} + {STATISTICS}"] = lambda seed, train: both
    kinds[STATISTICS] = lambda seed, train: statistics
    if baselines:
        kinds |= floors(loaded.encoder, dataset, encode, counter)
    scores: dict[str, tuple[Scores, ...]] = {}
    heads: dict[str, list[Head]] = {}
    for kind, compute in kinds.items():
        heads[kind], found = [], []
        for seed, split in enumerate(splits):
            features = compute(seed, split["train"])
            heads[kind].append(choose_head(features, split, labelled, method, k))
            found.append(probe(features, split, labelled, heads[kind][-1], k))
        scores[kind] = tuple(found)
    sizes = {name: len(indices) for name, indices in splits[0].items()}
    tested = np.unique(np.concatenate([split["test"] for split in splits]))
    seen, _ = count_seen(
        loaded.extra, "the model", [labelled.samples[i] for i in tested.tolist()]
    )
    summary = _summarise(scores)
    facts = {
        "model": name,
        "method": method,
        "heads": heads,
        "seeds": seeds,
        "images": sizes,
        "seen_in_training": seen,
        "features": summary,
    }
    own = ", ".join(sorted(set(heads[PRETRAINED])))
    text = (
        f"{method} on frozen features ({own}). Labels: {labelled.source} "
        f"({', '.join(f'{count} {split}' for split, count in sizes.items())} images). "
        f"Scores below are those of the first of {seeds} seeds."
    )
    _write(folder, scores, summary, facts, text)
    return scores


def draw_splits(
    labelled: SampleSet, config: LabelledDataConfig, seeds: Sequence[int]
) -> list[Split]:
    """Return for each seed the positions of the samples of each split.

    Raises:
        DataError: a split is empty.
    """
    return [
        _indices(labelled, divide(labelled, config, config.split_seed + seed))
        for seed in seeds
    ]


def floors(
    encoder: Encoder,
    dataset: LabelledDataset,
    encode: Callable[[Encoder, str], Features],
    counter: _Count,
) -> dict[str, _Compute]:
    """Return what computes each drawn baseline for a seed and its training images."""

    def drawn(seed: int, train: NDArray[np.int64]) -> Features:
        return encode(random_encoder(encoder, seed), "random weights")

    def convolved(mode: str) -> _Compute:
        return lambda seed, train: _random_convolutions(
            dataset, train, seed=seed, mode=mode, progress=counter(f"RCF {mode}")
        )

    return {
        "random weights": drawn,
        "RCF gaussian": convolved("gaussian"),
        "RCF empirical": convolved("empirical"),
    }


def _summarise(scores: Mapping[str, Sequence[Scores]]) -> _Summary:
    return {
        kind: {
            metric: spread([entry.summary[metric] for entry in entries])
            for metric in scores[PRETRAINED][0].summary
        }
        for kind, entries in scores.items()
    }


def _write(
    folder: Path,
    scores: Mapping[str, Sequence[Scores]],
    summary: _Summary,
    facts: Mapping[str, Any],
    text: str,
) -> None:
    from spectralgpt.reports.score_reports import write_classification_report

    folder.mkdir(parents=True, exist_ok=True)
    first = {kind: entries[0] for kind, entries in scores.items()}
    write_json(folder / "metrics.json", facts)
    write_table(folder / "table.csv", _rows(summary))
    write_class_scores(folder, "classes.csv", first[PRETRAINED])
    write_classification_report(
        folder,
        f"Frozen features: {facts['model']}",
        first,
        summary="\n\n".join([text, *_describe(summary)]),
    )


def choose_head(
    features: Features,
    split: Split,
    labelled: SampleSet,
    method: ProbeMethod,
    k: int = 20,
) -> Head:
    """Return what tells features apart: for `auto` what has the best macro F1 on val.

    Test is not looked at.
    """
    if method != "auto":
        return method
    inner = {**split, "test": split["val"]}

    def score(head: Head) -> float:
        return probe(features, inner, labelled, head, k).summary["macro_f1"]

    heads: tuple[Head, ...] = get_args(Head)
    return max(heads, key=score)


def probe(
    features: Features,
    split: Split,
    labelled: SampleSet,
    method: ProbeMethod,
    k: int = 20,
    seed: int = 0,
) -> Scores:
    """Fit features to labels on train, tune on val where there is a choice, and score.

    Args:
        features: of all samples.
        split: one of `draw_splits`.
        labelled: the samples.
        method: logistic regression, ridge, nearest neighbours or a random forest; for
            `auto` see `choose_head`.
        k: neighbours.
        seed: of the forest.
    """
    method = choose_head(features, split, labelled, method, k)
    train, val, test = (features.take(split[name]) for name in SPLITS)
    if method == "knn":
        probabilities = predict_knn(train, test, k)
    elif method == "ridge":
        probabilities = predict_ridge(train, test)
    elif method == "forest":
        probabilities = predict_forest(train, test, seed)
    else:
        probabilities = predict_linear(train, val, test)
    return score_images(probabilities, test.targets, labelled.class_names)


def _indices(labelled: SampleSet, divided: SampleSet) -> Split:
    """Positions in `labelled` of the samples of each split of `divided`."""
    position = {sample.name: index for index, sample in enumerate(labelled.samples)}
    return {
        split: np.array([position[c.name] for c in divided.select(split).samples])
        for split in SPLITS
    }


def _rows(summary: _Summary) -> list[dict[str, str]]:
    return [
        {"features": kind}
        | {
            f"{metric}_{part}": f"{scores[metric][part]:.6f}"
            for metric in scores
            for part in ("mean", "std")
        }
        for kind, scores in summary.items()
    ]


def _describe(summary: _Summary) -> Iterator[str]:
    for kind, row in summary.items():
        spread = "; ".join(
            f"{metric.replace('_', ' ')} {entry['mean']:.4f} ± {entry['std']:.4f}"
            for metric, entry in row.items()
        )
        yield f"{kind}, mean and standard deviation over seeds: {spread}."


def extract_features(
    encoder: Encoder,
    dataset: LabelledDataset,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Encode every image to the means of its normalised tokens, one per band group."""
    device = next(encoder.parameters()).device
    encoder.eval()
    samples = dataset.sample_set.samples
    encoder.absent_groups = absent_groups(i for s in samples for i in s.items)
    rows = []
    with torch.inference_mode():
        for batch in read_batches(dataset, batch_size, num_workers, progress):
            images = batch["image"].to(device)
            rows.append(check_output(encoder.pooled_by_group(images).float().cpu()))
    return _features_of(torch.cat(rows).numpy(), dataset)


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
                    _describe_band(pixels[valid])
                    for pixels, valid in zip(raster.pixels, raster.valid, strict=True)
                ]
            )
        )
        if progress is not None:
            progress(1)
    return _features_of(np.stack(rows), dataset)


def _random_convolutions(
    dataset: LabelledDataset,
    train: NDArray[Any],
    *,
    seed: int,
    mode: str = "gaussian",
    num_features: int = _RCF_FEATURES,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """TorchGeo's random convolutional features of standardised reflectance.

    Bands are standardised on the images `train`, and the filters of mode `empirical`
    are patches of them.

    Source: Rolf et al. 2021, doi:10.1038/s41467-021-24638-z (MOSAIKS).
    """
    require("torchgeo")
    from torchgeo.models import RCF

    bands = len(dataset.preprocessing.bands)
    count, total, squares = np.zeros(bands), np.zeros(bands), np.zeros(bands)
    for index in train:
        raster = dataset.raster(int(index))
        pixels = np.where(raster.valid, raster.pixels, 0).astype(np.float64)
        count += raster.valid.sum(axis=(1, 2))
        total += pixels.sum(axis=(1, 2))
        squares += (pixels**2).sum(axis=(1, 2))
    means = total / np.maximum(count, 1)
    variances = np.maximum(squares / np.maximum(count, 1) - means**2, 0)
    mean, std = (
        torch.from_numpy(each).float() for each in (means, np.sqrt(variances) + _EPS)
    )
    seen: list[int] = train[:_EMPIRICAL_IMAGES].tolist()
    patches: Any = _Standardised(dataset, seen, mean, std)
    # Seed 0 means "no seed" to TorchGeo.
    model = RCF(
        in_channels=len(mean),
        features=num_features,
        kernel_size=_RCF_KERNEL_PX,
        seed=seed + 1,
        mode=mode,
        dataset=patches if mode == "empirical" else None,
    )
    images, rows = _Standardised(dataset, range(len(dataset)), mean, std), []
    for start in range(0, len(images), _BATCH):
        numbers = range(start, min(start + _BATCH, len(images)))
        batch = torch.stack([images[number]["image"] for number in numbers])
        rows.append(model(batch).numpy())
        if progress is not None:
            progress(len(batch))
    return _features_of(np.concatenate(rows), dataset)


def random_encoder(encoder: Encoder, seed: int) -> Encoder:
    """Build the same encoder anew with random weights."""
    # Initialisation draws from torch's global generator; fork it, so that the caller's
    # own sequence does not depend on whether baselines are computed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(encoder)(**encoder.config)
    return fresh.to(next(encoder.parameters()).device).eval()


@dataclass(frozen=True)
class _Standardised:
    """Z-scores of reflectance, as TorchGeo's empirical mode asks for images.

    Invalid pixels become the band's mean, 0.
    """

    dataset: LabelledDataset
    indices: Sequence[int]
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        raster = self.dataset.raster(self.indices[number])
        pixels = torch.from_numpy(np.nan_to_num(raster.pixels))
        scaled = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        return {"image": scaled * torch.from_numpy(raster.valid)}


def _describe_band(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.size == 0:
        return np.zeros(2 + len(_PERCENTILES), dtype=np.float32)
    moments = [values.mean(), values.std()]
    described = np.array([*moments, *np.percentile(values, _PERCENTILES)])
    return described.astype(np.float32)


def _features_of(values: NDArray[np.float32], dataset: LabelledDataset) -> Features:
    labelled = dataset.sample_set
    return Features(
        values.astype(np.float32), labelled.targets(), len(labelled.class_names)
    )
