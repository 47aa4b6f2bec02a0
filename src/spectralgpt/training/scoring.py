"""Score a fine-tuned model on a labelled set, and write down what was found."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.chips import MULTI_LABEL, LabelledSet
from spectralgpt.data.identity import count_seen, describe_seen
from spectralgpt.data.labelled import LabelledDataset
from spectralgpt.errors import DataError
from spectralgpt.files import write_json, write_table
from spectralgpt.metrics import Interval, Scores, bootstrap_intervals
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.tasks.classification import (
    check_classifier,
    predict_probabilities,
    score,
    summary_of,
)

if TYPE_CHECKING:
    from spectralgpt.reports.score_reports import Examples

__all__ = [
    "describe_choice",
    "describe_positive",
    "evaluate_classifier",
    "score_classifier",
    "write_class_table",
]

_EXAMPLES = 12


def score_classifier(
    loaded: LoadedModel,
    name: str,
    labelled: LabelledSet,
    *,
    seed: int,
    batch_size: int = 32,
    num_workers: int = 0,
    resamples: int = 500,
    progress: Callable[[int], None] | None = None,
) -> tuple[Scores, dict[str, Interval], Tensor]:
    """Predict a labelled set and score it; see `evaluate_classifier`.

    Returns:
        The scores, their 95 % bootstrap intervals, and the probabilities (N, classes).
    """
    names, task = check_classifier(loaded.model, loaded.extra, name)
    if labelled.task != task:
        raise DataError(
            f"{labelled.source} has {labelled.task} labels, but {name} was fine-tuned "
            f"for {task} ones."
        )
    assert isinstance(loaded.model, ClassificationModel)
    assert loaded.preprocessing is not None
    probabilities = predict_probabilities(
        loaded.model,
        LabelledDataset(labelled, loaded.preprocessing),
        task,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )
    targets = labelled.targets()
    intervals = bootstrap_intervals(
        summary_of(task, probabilities, targets),
        len(targets),
        resamples=resamples,
        generator=torch.Generator().manual_seed(seed),
    )
    return score(task, probabilities, targets, names), intervals, probabilities


def evaluate_classifier(
    loaded: LoadedModel,
    name: str,
    test: LabelledSet,
    folder: Path,
    *,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    resamples: int = 500,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score a fine-tuned model; write metrics.json, table.csv and report.html.

    Args:
        loaded: the model, on the device to use.
        name: what it is called in messages.
        test: what it is scored on, with its class names.
        folder: gets the files.
        seed: of the bootstrap and the choice of examples.
        batch_size: images classified at once.
        num_workers: processes that read images.
        resamples: bootstrap test sets.
        progress: called with the number of images done in each batch.

    Raises:
        CheckpointError: the model is not fine-tuned.
    """
    from spectralgpt.reports.score_reports import write_classification_report

    scores, intervals, probabilities = score_classifier(
        loaded,
        name,
        test,
        seed=seed,
        batch_size=batch_size,
        num_workers=num_workers,
        resamples=resamples,
        progress=progress,
    )
    chosen = loaded.extra.get("chosen")
    seen = count_seen(loaded.extra, name, test.chips)
    _write_scores(folder, name, test, scores, intervals, chosen, seen)
    write_classification_report(
        folder,
        f"Classification: {name}",
        {"test": scores},
        summary=f"Labels: {test.source}. Scored on {len(test.chips)} images."
        f"{describe_seen(seen, len(test.chips))}{describe_choice(chosen)}",
        intervals=intervals,
        examples=choose_examples(loaded, test, probabilities, seed),
    )
    return scores


def _write_scores(
    folder: Path,
    name: str,
    test: LabelledSet,
    scores: Scores,
    intervals: Mapping[str, Interval],
    chosen: Mapping[str, Any] | None,
    seen: Mapping[str, int] | None,
) -> None:
    from spectralgpt.reports.score_reports import plot_confusion

    values = {
        "model": name,
        "test": scores.summary,
        "intervals": {score: asdict(interval) for score, interval in intervals.items()},
        "images": len(test.chips),
        "chosen": chosen,
        "seen_in_training": seen,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", values)
    write_class_table(folder / "table.csv", scores)
    if scores.confusion is not None:
        figure = plot_confusion(scores.confusion, test.class_names)
        figure.savefig(folder / "confusion.png")


def describe_choice(chosen: Mapping[str, Any] | None) -> str:
    """Say in a sentence how a model's weights were chosen; nothing if that is unknown.

    Args:
        chosen: epoch, metric and value, as the checkpoint has them.
    """
    if chosen is None:
        return ""
    return (
        f" The weights are those of epoch {chosen['epoch']}, chosen by "
        f"{chosen['metric']}{describe_positive(chosen.get('class'))} "
        f"({chosen['value']:.4f}), never by the test split."
    )


def describe_positive(name: str | None) -> str:
    """Say which class a score is about, with a blank before; nothing if about all."""
    return "" if name is None else f" of class {name!r}"


def choose_examples(
    loaded: LoadedModel, labelled: LabelledSet, probabilities: Tensor, seed: int
) -> "Examples":
    """Pick images at random and say what was predicted for them."""
    from spectralgpt.reports.score_reports import Examples

    names, task = check_classifier(loaded.model, loaded.extra, "the model")
    assert loaded.preprocessing is not None
    rng = np.random.default_rng(seed)
    count = min(_EXAMPLES, len(labelled.chips))
    chosen = sorted(rng.choice(len(labelled.chips), count, replace=False).tolist())
    dataset = LabelledDataset(labelled, loaded.preprocessing)
    images = [dataset.raster(i).pixels for i in chosen]
    truth = [", ".join(names[k] for k in labelled.chips[i].labels) for i in chosen]
    return Examples(
        images=np.stack(images),
        bands=loaded.preprocessing.bands,
        true_labels=truth,
        predicted_labels=[label_text(probabilities[i], names, task) for i in chosen],
        confidences=[float(probabilities[i].max()) for i in chosen],
    )


def label_text(probabilities: Tensor, names: tuple[str, ...], task: str) -> str:
    """Spell out the predicted class, or all labels at or above one half."""
    if task != MULTI_LABEL:
        return names[int(probabilities.argmax())]
    chosen = (probabilities >= 1 / 2).nonzero().flatten().tolist()
    return ", ".join(names[k] for k in chosen)


def write_class_table(path: Path, scores: Scores) -> None:
    """Write the scores of each class as CSV."""
    rows: list[dict[str, Any]] = [asdict(entry) for entry in scores.per_class]
    if scores.positive is not None:
        rows = [row | {"positive": row["name"] == scores.positive} for row in rows]
    write_table(path, rows)
