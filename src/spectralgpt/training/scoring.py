"""Score a fine-tuned model on labelled images or masks, and write down what was found.

Classes of whole images and maps come the same way: predict, count, resample for
intervals (images, or whole places), and write metrics.json, table.csv and report.html.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.classes import find_positive
from spectralgpt.data.datasets import DenseDataset, LabelledDataset
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.identity import count_seen
from spectralgpt.data.samples import MULTI_LABEL, SPLITS, SampleSet
from spectralgpt.errors import DataError
from spectralgpt.files import write_json, write_table
from spectralgpt.metrics import (
    Interval,
    Scores,
    bootstrap_intervals,
    confusion_counts,
    score_images,
    score_pixels,
    score_values,
    summarise_images,
    value_sums,
)
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Stated
from spectralgpt.resampling import absent_groups
from spectralgpt.tasks import Batch, read_batches
from spectralgpt.tasks.classification import to_probabilities
from spectralgpt.tasks.dense import predict_map
from spectralgpt.tasks.floors import Floor, find_floors, map_by_forest

if TYPE_CHECKING:
    from spectralgpt.reports.score_reports import Examples, MapExample

_EXAMPLES, _MAP_EXAMPLES = 12, 6
_DRAWN_FOR_EXAMPLE = 8
"""Windows that are looked at for one that is shown."""
_PAIRS_A_WINDOW = 256
"""Pixels of a window, at most, that the scatter of a report shows."""


_Found = tuple[Scores, dict[str, Interval]]
"""Scores over all images or labelled pixels, and intervals of the summary, from
resampled images, of maps from resampled places."""


def evaluate(
    loaded: LoadedModel,
    name: str,
    test: SampleSet,
    folder: Path,
    *,
    seed: int = 0,
    flips: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    resamples: int = 500,
    train: SampleSet | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score a fine-tuned model; write metrics.json, table.csv and report.html.

    Args:
        loaded: the model, on the device to use.
        name: what it is called in messages.
        test: what it is scored on, with its class names.
        folder: gets the files.
        seed: of the bootstrap and the choice of examples.
        flips: average maps over the image and its three mirror images.
        batch_size: images, or windows of them, that the model takes at once.
        num_workers: processes that read images.
        resamples: bootstrap test sets, for maps of whole places.
        train: what floors beside the scores of maps learn from; None leaves them out.
        progress: called with the number of images or windows done in each batch.

    Raises:
        CheckpointError: the model is not fine-tuned, or for the other kind.
        DataError: its task or classes are others, or no pixel is labelled.
    """
    from spectralgpt.reports.score_reports import (
        write_classification_report,
        write_map_report,
    )

    _check_fits(loaded, name, test)
    loaded.encoder.absent_groups = absent_groups(test.items)
    read = partial(
        read_batches, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    probabilities: Tensor | None = None
    pairs: list[Tensor] = []
    if test.has_labels:
        probabilities = _predict_images(loaded, test, read)
        scores, intervals = _score_images(test, probabilities, seed, resamples)
    else:
        maps = _predict_maps(loaded, test, flips, read, pairs)
        scores, intervals = _score_places(test, loaded.extra, maps, seed, resamples)
    chosen = loaded.extra.get("chosen")
    seen, told = count_seen(loaded.extra, name, test.samples)
    facts: dict[str, Any] = {"chosen": chosen, "seen_in_training": seen}
    floors: tuple[Floor, ...] = ()
    if not test.has_labels:
        if train is not None:
            floors = find_floors(train, test, scores.positive, seed)
        facts["floors"] = {floor.name: asdict(floor) for floor in floors}
    _write_scores(folder, name, test, (scores, intervals), facts)
    places = "" if test.has_labels else f" of {len(test.places)} places"
    text = (
        f"Labels: {test.source}. Scored on {len(test.samples)} images{places}."
        f"{_describe_positive(scores)}"
        f"{told}{_describe_choice(chosen)}"
    )
    if probabilities is None:
        write_map_report(
            folder,
            f"{test.task.capitalize()}: {name}",
            scores,
            summary=text,
            intervals=intervals,
            floors=floors,
            examples=_map_examples(loaded, test, seed, flips),
            colours=test.colours,
            measured=f"{test.class_names[0]} ({loaded.unit})" if pairs else None,
            pairs=torch.cat(pairs, dim=1).numpy() if pairs else None,
        )
        return scores
    write_classification_report(
        folder,
        f"Classification: {name}",
        {"test": scores},
        summary=text,
        intervals=intervals,
        examples=_image_examples(loaded, test, probabilities, seed),
    )
    return scores


def _predict_images(
    loaded: LoadedModel, labelled: SampleSet, read: Callable[..., Iterator[Batch]]
) -> Tensor:
    """Give the probabilities (N, classes) of all images of a set."""
    model, contract = loaded.model.eval(), loaded.preprocessing
    assert contract is not None
    device = next(model.parameters()).device
    images = LabelledDataset(labelled, contract)
    rows = []
    with torch.inference_mode():
        for batch in read(images):
            logits = model(batch["image"].to(device))
            found = to_probabilities(logits, labelled.task).float().cpu()
            rows.append(check_output(found))
    return torch.cat(rows)


def _predict_maps(
    loaded: LoadedModel,
    dense: SampleSet,
    flips: bool,
    read: Callable[..., Iterator[Batch]],
    pairs: list[Tensor],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Map every window; see `_score_places`.

    Of numbers, true and estimated ones (2, N) at equal steps are added to `pairs`.
    """
    model, contract = loaded.model.eval(), loaded.preprocessing
    assert contract is not None
    windows = DenseDataset(dense, contract)
    places = iter(windows.windows)
    for batch in read(windows):
        predicted = _map_of(predict_map(model, flips, batch["image"]), dense).cpu()
        for one, target in zip(predicted, batch["target"], strict=True):
            if dense.target is not None:
                both = torch.stack([target, one])[:, target.isfinite()]
                pairs.append(both[:, :: max(1, both.shape[1] // _PAIRS_A_WINDOW)])
            yield next(places)[0], one, target


def _map_of(found: Tensor, dense: SampleSet) -> Tensor:
    """Return the numbers, or likeliest classes, (B, H, W), of maps (B, K, H, W)."""
    return found.argmax(dim=1) if dense.target is None else found[:, 0]


def _score_images(
    labelled: SampleSet, probabilities: Tensor, seed: int, resamples: int
) -> _Found:
    """Score predictions (N, classes), with intervals from resampled images."""
    targets = labelled.targets()
    intervals = bootstrap_intervals(
        summarise_images(probabilities, targets),
        len(targets),
        resamples=resamples,
        generator=torch.Generator().manual_seed(seed),
    )
    return score_images(probabilities, targets, labelled.class_names), intervals


def _score_places(
    dense: SampleSet,
    extra: Mapping[str, Any],
    maps: Iterable[tuple[int, Tensor, Tensor]],
    seed: int,
    resamples: int,
) -> _Found:
    """Score maps of a set, with intervals from resampled places.

    `maps` are the number of a sample, its map and its labels, both (H, W) class indices
    or numbers, of a window or of all of it.
    """
    count, score = _scoring(dense, extra)
    counts: dict[str, Any] = {}
    for sample, predicted, target in maps:
        place = dense.samples[sample].ground
        counts[place] = counts.get(place, 0) + count(predicted, target)
    stacked = np.stack([counts[place] for place in sorted(counts)])
    whole = score(stacked.sum(axis=0))
    labelled = stacked[stacked.any(axis=(1, 2))]
    intervals = bootstrap_intervals(
        lambda times: score(np.tensordot(times, labelled, axes=1)).summary,
        len(labelled),
        resamples=resamples,
        generator=torch.Generator().manual_seed(seed),
    )
    return whole, intervals


def _scoring(
    dense: SampleSet, extra: Mapping[str, Any]
) -> tuple[Callable[..., NDArray[Any]], Callable[[NDArray[Any]], Scores]]:
    """Return what counts map and labels of a window, and what scores such counts."""
    if dense.target is not None:
        edges = extra["target"]["edges"]
        centre = edges[len(edges) // 2]
        count = partial(value_sums, edges=edges, centre=centre)
        return count, partial(score_values, edges=edges)
    names, positive = dense.class_names, _scored_class(dense, extra)
    return (
        partial(confusion_counts, num_classes=dense.num_classes),
        lambda counts: score_pixels(counts, names, positive),
    )


def _check_fits(loaded: LoadedModel, name: str, labelled: SampleSet) -> None:
    """Refuse a model that was not fine-tuned for such labels."""
    names, task = loaded.classes(name, maps=not labelled.has_labels)
    if task != labelled.task or names != labelled.class_names:
        raise DataError(
            f"{labelled.source} is for {labelled.task} of "
            f"{', '.join(labelled.class_names)}, but {name} was fine-tuned for {task} "
            f"of {', '.join(names)}."
        )
    if labelled.target is not None and labelled.target.unit != loaded.unit:
        raise DataError(
            f"{labelled.source} is in {labelled.target.unit}, but {name} was fine-"
            f"tuned for {names[0]} in {loaded.unit}: state that unit, and target.scale."
        )


def _scored_class(dense: SampleSet, extra: Mapping[str, Any]) -> str | None:
    """Return the class that scores are about, None if all count alike."""
    if dense.positive is None and "positive" in extra:
        own: str | None = extra["positive"]
        return own
    return find_positive(dense.class_names, dense.task, dense.positive)


def _describe_positive(scores: Scores) -> str:
    """Say which class F1 and IoU are about, and whether they say anything."""
    if scores.positive is None:
        return ""
    support = next(c.support for c in scores.per_class if c.name == scores.positive)
    text = f" F1, IoU, precision and recall are those of class {scores.positive!r}"
    if support:
        return f"{text}."
    return f"{text}, of which there is no labelled pixel: they say nothing."


def _describe_choice(chosen: Mapping[str, Any] | None) -> str:
    """Say in a sentence how a model's weights were chosen, if that is known."""
    if chosen is None:
        return ""
    name = chosen.get("class")
    of = "" if name is None else f" of class {name!r}"
    return (
        f" The weights are those of epoch {chosen['epoch']}, chosen by "
        f"{chosen['metric']}{of} ({chosen['value']:.4f}), never by the test split."
    )


def _write_scores(
    folder: Path, name: str, test: SampleSet, found: _Found, facts: Mapping[str, Any]
) -> None:
    """Write metrics.json, table.csv and, of classes of images, confusion.png."""
    scores, intervals = found
    values: dict[str, Any] = {"model": name}
    if not test.has_labels:
        values |= {"task": test.task, "positive": scores.positive}
    if test.target is not None:
        values |= {"target": test.target.name, "unit": test.target.unit}
    values |= {
        "test": scores.summary,
        "intervals": {key: value._asdict() for key, value in intervals.items()},
        "images": len(test.samples),
    }
    if not test.has_labels:
        values["places"] = len(test.places)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {**values, **facts})
    write_class_scores(folder, "table.csv", scores, draws=test.has_labels)


def _image_examples(
    loaded: LoadedModel, labelled: SampleSet, probabilities: Tensor, seed: int
) -> "Examples":
    """Pick images at random and say what was predicted for them."""
    from spectralgpt.reports.score_reports import Examples

    assert loaded.preprocessing is not None
    names, task = labelled.class_names, labelled.task
    rng = np.random.default_rng(seed)
    count = min(_EXAMPLES, len(labelled.samples))
    chosen = sorted(rng.choice(len(labelled.samples), count, replace=False).tolist())
    dataset = LabelledDataset(labelled, loaded.preprocessing)
    return Examples(
        images=np.stack([dataset.raster(i).pixels for i in chosen]),
        bands=loaded.preprocessing.bands,
        true_labels=[
            ", ".join(names[k] for k in labelled.samples[i].labels) for i in chosen
        ],
        predicted_labels=[_label_text(probabilities[i], names, task) for i in chosen],
        confidences=[float(probabilities[i].max()) for i in chosen],
    )


def _label_text(probabilities: Tensor, names: tuple[str, ...], task: str) -> str:
    """Spell out the predicted class, or all labels at or above one half."""
    if task != MULTI_LABEL:
        return names[int(probabilities.argmax())]
    chosen = (probabilities >= 1 / 2).nonzero().flatten().tolist()
    return ", ".join(names[k] for k in chosen)


def _map_examples(
    loaded: LoadedModel, test: SampleSet, seed: int, flips: bool
) -> list["MapExample"]:
    """Map a few windows: those with the most classes, of some drawn at random."""
    from spectralgpt.reports.style import paint_bands

    assert loaded.preprocessing is not None
    dataset = DenseDataset(test, loaded.preprocessing)
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    drawn = {i: dataset[i] for i in order[: _DRAWN_FOR_EXAMPLE * _MAP_EXAMPLES]}
    kinds = {
        i: len(sample["target"].unique())
        if test.target is None
        else float(np.nan_to_num(np.nanstd(sample["target"].numpy())))
        for i, sample in drawn.items()
        if test.target is None or sample["target"].isfinite().any()
    }
    examples: list[MapExample] = []
    for index in sorted(kinds, key=lambda i: -kinds[i])[:_MAP_EXAMPLES]:
        shown = drawn[index]["image"]
        predicted = _map_of(predict_map(loaded.model, flips, shown[None]), test)
        images, valid = (
            each.numpy().reshape(-1, *shown.shape[-3:])
            for each in (shown, drawn[index]["valid"])
        )
        dates = [
            paint_bands(*date, loaded.preprocessing.bands)
            for date in zip(images, valid, strict=True)
        ]
        truth = drawn[index]["target"].numpy()
        examples.append((dates, truth, predicted[0].cpu().numpy()))
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
    item = dense.samples[0].item
    # Only which bands are read is taken from it: the forest sees reflectance.
    contract = Preprocessing(item.sensor.name, item.bands)
    train, val, test = (DenseDataset(dense.select(split), contract) for split in SPLITS)
    maps = map_by_forest(train, val, test, seed, _scored_class(dense, {}))
    found = _score_places(test.sample_set, {}, maps, seed, resamples)
    _write_scores(folder, "random forest on single pixels", test.sample_set, found, {})
    return found[0]


def write_class_scores(
    folder: Path, table: str, scores: Scores, draws: bool = True
) -> None:
    """Write the scores of each class, or range, as CSV; draw what is taken for what.

    Args:
        folder: gets the files.
        table: name of the CSV file.
        scores: of one set.
        draws: whether confusion.png is drawn, if confusion was counted.
    """
    rows: list[dict[str, Any]] = [asdict(entry) for entry in scores.per_class]
    rows = rows or list(scores.per_range)
    if scores.positive is not None:
        rows = [row | {"positive": row["name"] == scores.positive} for row in rows]
    write_table(folder / table, rows)
    if draws and scores.confusion is not None:
        from spectralgpt.reports.score_reports import plot_confusion

        names = [entry.name for entry in scores.per_class]
        plot_confusion(scores.confusion, names).savefig(folder / "confusion.png")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and all values of a score over seeds."""
    several = len(values) > 1
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if several else 0.0,
        "values": list(values),
    }
