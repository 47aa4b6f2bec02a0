"""Score a model for maps on images with masks, and write down what was found."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.chips import SPLITS
from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    DenseSet,
    find_positive,
    read_dense,
)
from spectralgpt.data.identity import count_seen, describe_seen
from spectralgpt.errors import DataError
from spectralgpt.files import write_json
from spectralgpt.metrics import (
    Interval,
    Scores,
    bootstrap_intervals,
    confusion_counts,
    score_pixels,
)
from spectralgpt.models.heads import DenseModel
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Stated
from spectralgpt.reports.score_reports import MapExample, write_map_report
from spectralgpt.tasks.dense import check_mapper, flipped_probabilities
from spectralgpt.tasks.floors import Floor, find_floors, fit_pixel_forest, map_pixels
from spectralgpt.threads import start_worker
from spectralgpt.training.scoring import (
    describe_choice,
    describe_positive,
    write_class_table,
)

__all__ = [
    "DenseScores",
    "PlaceCounts",
    "check_dense_model",
    "evaluate_dense",
    "evaluate_forest",
    "score_dense",
    "scored_class",
]

_EXAMPLES = 6


@dataclass(frozen=True)
class DenseScores:
    """Scores of a map and how sure they are.

    Args:
        scores: over all labelled pixels.
        intervals: of the summary scores, from resampled places.
        places: (places, K, K) counts of true and predicted classes.
    """

    scores: Scores
    intervals: dict[str, Interval]
    places: NDArray[np.int64]


def check_dense_model(loaded: LoadedModel, name: str, dense: DenseSet) -> None:
    """Refuse a model that does not make such maps.

    Raises:
        CheckpointError: it makes none, or does not name its classes.
        DataError: it was fine-tuned for another task.
    """
    names, task = check_mapper(loaded.model, loaded.extra, name)
    if task != dense.task or names != dense.class_names:
        raise DataError(
            f"{dense.source} is for {dense.task} of {', '.join(dense.class_names)}, "
            f"but {name} was fine-tuned for {task} of {', '.join(names)}."
        )


def scored_class(dense: DenseSet, extra: Mapping[str, Any]) -> str | None:
    """Return the class that scores are about; None if all count alike.

    Args:
        dense: what is scored; what it states goes first.
        extra: what the model's checkpoint says of it.

    Raises:
        ConfigError: neither says, and the classes' names do not tell.
    """
    if dense.positive is None and "positive" in extra:
        own: str | None = extra["positive"]
        return own
    return find_positive(dense.class_names, dense.task, dense.positive)


def score_dense(
    loaded: LoadedModel,
    name: str,
    dense: DenseSet,
    *,
    seed: int,
    flips: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    resamples: int = 500,
    progress: Callable[[int], None] | None = None,
) -> DenseScores:
    """Map images and compare with their masks; see `evaluate_dense`."""
    check_dense_model(loaded, name, dense)
    assert isinstance(loaded.model, DenseModel)
    assert loaded.preprocessing is not None
    model = loaded.model.eval()
    device = next(model.parameters()).device
    dataset = DenseDataset(dense, loaded.preprocessing)
    counts = PlaceCounts(dense, scored_class(dense, loaded.extra))
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=start_worker,
    )
    windows = iter(dataset.windows)
    for batch in loader:
        images = batch["image"].to(device)
        predicted = flipped_probabilities(model, images, flips).argmax(dim=1).cpu()
        for one, target in zip(predicted, batch["target"], strict=True):
            counts.add(next(windows).chip, one, target)
        if progress is not None:
            progress(len(images))
    return counts.scores(seed, resamples)


class PlaceCounts:
    """Counts of true and predicted classes, apart for each place.

    Args:
        dense: what is scored.
        positive: the class that scores are about; None if all count alike.
    """

    def __init__(self, dense: DenseSet, positive: str | None) -> None:
        self.dense = dense
        self.positive = positive
        self._index_of = {place: i for i, place in enumerate(dense.places)}
        shape = (len(self._index_of), dense.num_classes, dense.num_classes)
        self._counts = np.zeros(shape, dtype=np.int64)

    def add(self, chip: int, predicted: Tensor, target: Tensor) -> None:
        """Count the pixels of a window of a chip, both (H, W) class indices."""
        place = self._index_of[self.dense.chips[chip].place]
        found = confusion_counts(predicted, target, self.dense.num_classes)
        self._counts[place] += found

    def scores(self, seed: int, resamples: int = 500) -> DenseScores:
        """Score all that was counted, with intervals from resampled places.

        Raises:
            DataError: no pixel is labelled.
        """

        def scored(counts: NDArray[np.int64]) -> Scores:
            return score_pixels(counts, self.dense.class_names, self.positive)

        whole = scored(self._counts.sum(axis=0))
        labelled = self._counts[self._counts.sum(axis=(1, 2)) > 0]
        intervals = bootstrap_intervals(
            lambda times: scored(np.tensordot(times, labelled, axes=1)).summary,
            len(labelled),
            resamples=resamples,
            generator=torch.Generator().manual_seed(seed),
        )
        return DenseScores(whole, intervals, self._counts)


def evaluate_dense(
    loaded: LoadedModel,
    name: str,
    test: DenseSet,
    folder: Path,
    *,
    seed: int = 0,
    flips: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    resamples: int = 500,
    train: DenseSet | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score a fine-tuned model; write metrics.json, table.csv and report.html.

    Args:
        loaded: the model, on the device to use.
        name: what it is called in messages.
        test: what it is scored on.
        folder: gets the files.
        seed: of the bootstrap and the choice of examples.
        flips: average over the image and its three mirror images.
        batch_size: windows mapped at once.
        num_workers: processes that read images.
        resamples: bootstrap test sets, of whole places.
        train: what floors beside the scores learn from; None leaves them out.
        progress: called with the number of windows done in each batch.

    Raises:
        CheckpointError: the model makes no maps.
        DataError: its task or classes are others, or no pixel is labelled.
    """
    found = score_dense(
        loaded,
        name,
        test,
        seed=seed,
        flips=flips,
        batch_size=batch_size,
        num_workers=num_workers,
        resamples=resamples,
        progress=progress,
    )
    chosen = loaded.extra.get("chosen")
    seen = count_seen(loaded.extra, name, test.chips)
    folder.mkdir(parents=True, exist_ok=True)
    floors: tuple[Floor, ...] = ()
    if train is not None:
        floors = find_floors(train, test, found.scores.positive, seed)
    facts = {
        "chosen": chosen,
        "seen_in_training": seen,
        "floors": {floor.name: asdict(floor) for floor in floors},
    }
    _write_metrics(folder, name, test, found, facts)
    write_class_table(folder / "table.csv", found.scores)
    text = (
        f"Labels: {test.source}. Scored on {len(test.chips)} images of "
        f"{len(found.places)} places.{_describe_scores(found.scores)}"
        f"{describe_seen(seen, len(test.chips))}{describe_choice(chosen)}"
    )
    write_map_report(
        folder,
        f"{test.task.capitalize()}: {name}",
        found.scores,
        summary=text,
        intervals=found.intervals,
        floors=floors,
        examples=_examples(loaded, test, seed, flips),
        colours=test.colours,
    )
    return found.scores


def _describe_scores(scores: Scores) -> str:
    """Say which class F1 and IoU are about, and whether they say anything."""
    if scores.positive is None:
        return ""
    support = next(c.support for c in scores.per_class if c.name == scores.positive)
    text = (
        f" F1, IoU, precision and recall are those{describe_positive(scores.positive)}"
    )
    if support:
        return f"{text}."
    return f"{text}, of which there is no labelled pixel: they say nothing."


def _write_metrics(
    folder: Path,
    name: str,
    test: DenseSet,
    found: DenseScores,
    facts: Mapping[str, Any],
) -> None:
    values = {
        "model": name,
        "task": test.task,
        "positive": found.scores.positive,
        "test": found.scores.summary,
        "intervals": {key: asdict(value) for key, value in found.intervals.items()},
        "images": len(test.chips),
        "places": len(found.places),
        **facts,
    }
    write_json(folder / "metrics.json", values)


def _examples(
    loaded: LoadedModel, test: DenseSet, seed: int, flips: bool
) -> list[MapExample]:
    """Map a few windows: those with the most classes, of places drawn at random."""
    assert isinstance(loaded.model, DenseModel)
    assert loaded.preprocessing is not None
    dataset = DenseDataset(test, loaded.preprocessing)
    device = next(loaded.model.parameters()).device
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    drawn = {i: dataset[i] for i in order[: 8 * _EXAMPLES]}
    kinds = {i: len(sample["target"].unique()) for i, sample in drawn.items()}
    chosen = sorted(drawn, key=lambda i: -kinds[i])[:_EXAMPLES]
    examples = []
    for index in chosen:
        sample = drawn[index]
        images = sample["image"][None].to(device)
        predicted = flipped_probabilities(loaded.model, images, flips).argmax(dim=1)
        shown = sample["image"]
        examples.append(
            MapExample(
                images=shown.numpy() if shown.ndim == 4 else shown[None].numpy(),
                valid=sample["valid"].numpy().reshape(-1, *shown.shape[-3:]),
                bands=loaded.preprocessing.bands,
                truth=sample["target"].numpy(),
                predicted=predicted[0].cpu().numpy(),
            )
        )
    return examples


def evaluate_forest(
    data: DenseDataConfig,
    folder: Path,
    *,
    sensor: str | None = None,
    seed: int = 0,
    resamples: int = 500,
) -> Scores:
    """Fit a random forest on single pixels, score it, and write metrics.json.

    Args:
        data: images with masks; `train` is learnt from, `val` chooses, `test` scores.
        folder: gets metrics.json and table.csv.
        sensor: sensor of images that do not say theirs; its bands are used.
        seed: of pixels, trees and bootstrap.
        resamples: bootstrap test sets, of whole places.
    """
    dense = read_dense(data, assumed=Stated(sensor=sensor))
    item = dense.chips[0].item
    # Only which bands are read is taken from it: the forest sees reflectance.
    contract = Preprocessing(item.sensor.name, item.bands)
    train, val, test = (DenseDataset(dense.select(split), contract) for split in SPLITS)
    forest = fit_pixel_forest(train, val, seed, scored_class(dense, {}))
    counts = PlaceCounts(test.dense, scored_class(dense, {}))
    for chip, predicted, target in map_pixels(forest, test):
        counts.add(chip, predicted, target)
    found = counts.scores(seed, resamples)
    folder.mkdir(parents=True, exist_ok=True)
    write_class_table(folder / "table.csv", found.scores)
    _write_metrics(folder, "random forest on single pixels", test.dense, found, {})
    return found.scores
