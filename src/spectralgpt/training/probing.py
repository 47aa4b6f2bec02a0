"""Frozen features of an arena's encoders, scored on labelled images by probes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.samples import SampleSet
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Assumed
from spectralgpt.tasks.probes import Features
from spectralgpt.training.comparison import (
    STATISTICS,
    ProbeMethod,
    Split,
    band_statistics,
    draw_splits,
    extract_features,
    floors,
    probe,
    random_encoder,
)

_MEMORY_MB = 2048.0
_FOREST = "random forest"
Scores = dict[str, list[float]]
"""Values by seed of the task, by method and metric."""


@dataclass(frozen=True)
class ProbeTask:
    """Frozen features of labelled images, see `ArenaConfig` of the arena.

    Args:
        data: the labelled images, and how they are split.
        methods: how features are told apart.
        k: neighbours of `knn`.
    """

    data: LabelledDataConfig
    methods: tuple[ProbeMethod, ...] = ("ridge", "knn")
    k: int = 20


def first_of(scores: Scores) -> float:
    """Return the mean over seeds of the first score."""
    return float(np.mean(next(iter(scores.values()))))


class Prober:
    """Scores frozen features of the images of a task.

    Args:
        task: the images and the methods.
        seeds: repetitions, each with splits, weights and trees of its own.
    """

    def __init__(self, task: ProbeTask, seeds: Sequence[int]) -> None:
        self.task, self.seeds = task, seeds
        self._listed: dict[Assumed, tuple[SampleSet, list[Split]]] = {}
        self._datasets: dict[str, LabelledDataset] = {}

    def list_images(self, contract: Preprocessing) -> tuple[SampleSet, list[Split]]:
        """Return the images, listed once, and how each seed divides them.

        Raises:
            DataError: they are not there, or a split is empty.
        """
        assumed = contract.unstated
        if assumed not in self._listed:
            labelled = read_labelled(self.task.data, assumed=assumed, divided=False)
            splits = draw_splits(labelled, self.task.data, self.seeds)
            self._listed[assumed] = labelled, splits
        return self._listed[assumed]

    def score(self, loaded: LoadedModel) -> Scores:
        """Score the features of an encoder."""
        features = extract_features(loaded.encoder, self._dataset_of(loaded))
        return self._score(loaded, lambda seed, train: features)

    def score_random(self, loaded: LoadedModel) -> Scores:
        """Score the same encoder with random weights, drawn anew for each seed."""
        dataset = self._dataset_of(loaded)

        def drawn(seed: int, train: NDArray[np.int64]) -> Features:
            return extract_features(random_encoder(loaded.encoder, seed), dataset)

        return self._score(loaded, drawn)

    def score_floors(self, loaded: LoadedModel) -> dict[str, Scores]:
        """Score what has no weights on the same images, by name."""
        dataset = self._dataset_of(loaded)
        made = floors(
            loaded.encoder,
            dataset,
            lambda encoder, kind: extract_features(encoder, dataset),
            lambda kind: None,
        )
        del made["random weights"]  # Each encoder has its own, see `score_random`.
        statistics = band_statistics(dataset)
        made = {STATISTICS: lambda seed, train: statistics} | made
        found = {name: self._score(loaded, made[name]) for name in made}
        by_forest = self._score(loaded, made[STATISTICS], ("forest",))
        # A forest is a method of its own: it stands beside every other one.
        metrics = {name.partition(", ")[2]: v for name, v in by_forest.items()}
        found[_FOREST] = {
            f"{method}, {metric}": values
            for method in self.task.methods
            for metric, values in metrics.items()
        }
        return found

    def _dataset_of(self, loaded: LoadedModel) -> LabelledDataset:
        contract = loaded.preprocessing
        assert contract is not None, "pretraining states it"
        key = json.dumps(contract.to_dict(), sort_keys=True)
        if key not in self._datasets:
            labelled, _ = self.list_images(contract)
            kept = LabelledDataset(labelled, contract, memory_mb=_MEMORY_MB)
            self._datasets[key] = kept
        return self._datasets[key]

    def _score(
        self,
        loaded: LoadedModel,
        compute: Callable[[int, NDArray[np.int64]], Features],
        methods: Sequence[ProbeMethod] = (),
    ) -> Scores:
        assert loaded.preprocessing is not None, "pretraining states it"
        labelled, splits = self.list_images(loaded.preprocessing)
        found: Scores = {}
        for seed, split in zip(self.seeds, splits, strict=True):
            features = compute(seed, split["train"])
            for method in methods or self.task.methods:
                scored = probe(features, split, labelled, method, self.task.k, seed)
                for metric, value in scored.summary.items():
                    found.setdefault(f"{method}, {metric}", []).append(value)
        return found
