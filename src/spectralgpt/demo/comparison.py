"""The comparison in the demo's report: frozen features, the same labels and split."""

import numpy as np

from spectralgpt.demo.findings import Findings
from spectralgpt.demo.labels import CellLabels
from spectralgpt.demo.probing import NEIGHBOURS, Compared
from spectralgpt.reports.classification import plot_confusion
from spectralgpt.reports.html import Picture, Section, Table
from spectralgpt.reports.maps import plot_class_map

__all__ = ["comparison_sections", "mean_and_range"]


def comparison_sections(found: Findings) -> list[Section]:
    """Tell how pretrained, random and no embeddings compare, or that labels lack."""
    labels = found.labels
    if labels is None or found.classes is None:
        text = (
            "There are no labels for this imagery, so nothing here says how well "
            "classes can be told apart. Give labels to `spectralgpt evaluate` to "
            "find out."
        )
        return [Section("No comparison", text)]
    cells, rectangles = labels.count("test")
    pretrained = found.compared[0]
    confusion = pretrained.probe[0].confusion
    assert confusion is not None
    pictures = [
        Picture(
            plot_confusion(confusion, labels.class_names),
            "Confusion matrix of the linear probe on the pretrained encoder.",
            f"Linear probe on the pretrained encoder, {cells} held-out cells.",
        ),
        Picture(
            plot_class_map(
                found.picture,
                found.classes,
                labels.class_names,
                title="classes by the linear probe",
                pixel_width_m=found.imagery.pixel_width_m,
                dashed_rows=found.borders,
            ),
            "The scene in true colour, beside the linear probe's class of each cell.",
            "The same probe on every cell. It knows only these classes: villages, "
            "roads and surf are forced into them.",
        ),
    ]
    tables = [_comparison_table(found), _label_table(labels)]
    text = _comparison_text(found, cells, rectangles)
    return [Section("Are the embeddings any good?", text, pictures, tables)]


def _comparison_text(found: Findings, cells: int, rectangles: int) -> str:
    pretrained, untrained, spectrum = found.compared
    sentences = []
    for method, title in (("probe", "linear probe"), ("knn", "nearest neighbours")):
        ours, others = _values(pretrained, method)[0], _values(untrained, method)
        verdict = (
            "more than with any of the random seeds"
            if ours > max(others)
            else "less than with every random seed"
            if ours < min(others)
            else "within the range of the random seeds, so no gain is shown"
        )
        sentences.append(f"With the {title} pretraining gives {ours:.1%}, {verdict}.")
    best = max(_values(spectrum, m)[0] for m in ("probe", "knn"))
    ours = max(_values(pretrained, m)[0] for m in ("probe", "knn"))
    easy = "That is no worse" if best >= ours else "That is worse"
    return (
        "The encoder is frozen: only a linear classifier, or a vote among the "
        f"{NEIGHBOURS} nearest labelled cells, is fitted on top. It is fitted on cells "
        f"north and south of the held-out strip and tested on {cells} cells in "
        f"{rectangles} rectangles inside it. {' '.join(sentences)}\n\n"
        f"The mean spectrum of a cell alone reaches {best:.1%}. {easy} than the "
        f"embeddings ({ours:.1%}): these classes differ in colour, so they are "
        "easy, and the test asks only whether pretraining kept and ordered what the "
        "pixels hold. Cells of one rectangle are alike, so differences of a few per "
        "cent mean nothing here. Fine-tuning on real data sets is the test that counts."
    )


def _comparison_table(found: Findings) -> Table:
    rows = []
    for entry in found.compared:
        row = [entry.name]
        for method in ("knn", "probe"):
            for score in ("accuracy", "macro_accuracy"):
                mean, between = mean_and_range(entry, method, score)
                row.append(f"{mean} ({between})" if between else mean)
        rows.append(row)
    seeds = len(found.compared[1].probe)
    return Table(
        [
            "features",
            "neighbours: accuracy",
            "mean over classes",
            "linear probe: accuracy",
            "mean over classes",
        ],
        rows,
        f"Random weights: mean and range over {seeds} seeds.",
    )


def _label_table(labels: CellLabels) -> Table:
    rows = []
    for name in labels.class_names:
        counts = (labels.count(split, name) for split in ("train", "val", "test"))
        rows.append([name, *(f"{cells} in {parts}" for cells, parts in counts)])
    return Table(
        ["class", "fitted on", "penalty chosen on", "tested on"],
        rows,
        "Labelled cells, and the rectangles they lie in. The penalty is the linear "
        "probe's; the neighbours need none.",
    )


def _values(entry: Compared, method: str, score: str = "accuracy") -> list[float]:
    return [scores.summary[score] for scores in getattr(entry, method)]


def mean_and_range(
    entry: Compared, method: str, score: str = "accuracy"
) -> tuple[str, str]:
    """Write a score's mean over the seeds, and its range; that is empty for one run."""
    values = _values(entry, method, score)
    between = f"{min(values):.1%} to {max(values):.1%}" if len(values) > 1 else ""
    return f"{np.mean(values):.1%}", between
