"""The demo's report: what each picture shows, and what it does not prove."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.imagery import CellLabels, Imagery
from spectralgpt.metrics import Scores
from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.reports.scene_pictures import plot_class_map, plot_embedding_map
from spectralgpt.reports.score_reports import plot_confusion
from spectralgpt.reports.style import Stretch, choose_composites, measure_stretch
from spectralgpt.reports.training_reports import (
    READING,
    describe_fillers,
    plot_curves,
    read_metrics,
    scores_table,
)
from spectralgpt.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NEIGHBOURS", "Compared", "Findings", "write_demo_report"]

NEIGHBOURS = 5

# Kind of features to method, knn or probe, to the scores of each seed.
Compared = dict[str, dict[str, list[Scores]]]


@dataclass(frozen=True)
class Findings:
    """All that the demo found.

    Args:
        imagery: what it ran on.
        config: of the pretraining.
        run: folder of the pretraining.
        scores: held-out errors of the model and of simple fillers.
        crops: held-out crops, rebuilt.
        pixels: (C, H, W) reflectance of the mapped scene, NaN without data.
        cells: (rows, columns, D) embeddings of the scene.
        random_cells: the same from random weights.
        clusters: (rows, columns) group of each cell, and what groups are called.
        labels: known land cover, None without.
        compared: scores by kind of features, none without labels.
        classes: (rows, columns) class map, None without labels.
    """

    imagery: Imagery
    config: PretrainConfig
    run: Path
    scores: dict[str, float]
    crops: list[Reconstruction]
    pixels: NDArray[np.float32]
    cells: NDArray[np.float32]
    random_cells: NDArray[np.float32]
    clusters: tuple[NDArray[np.int64], tuple[str, ...]]
    labels: CellLabels | None
    compared: Compared
    classes: NDArray[np.int64] | None

    @property
    def stretch(self) -> Stretch:
        """One stretch for every picture of the scene and of its crops."""
        return measure_stretch(self.pixels)

    @property
    def picture(self) -> NDArray[np.float32]:
        """The scene in true colour, or in grey where the sensor sees none."""
        composite = choose_composites(self.crops[0].bands)[0]
        return self.stretch.apply(np.nan_to_num(self.pixels), composite.indices)


def write_demo_report(path: Path, found: Findings) -> Path:
    """Write the report; returns its path."""
    sections = [
        _imagery_section(found),
        _training_section(found),
        _rebuilt_section(found),
        _embedding_section(found),
        _cluster_section(found),
        _comparison_section(found),
        _limits_section(found),
    ]
    return write_report(
        path,
        "SpectralGPT: a first run",
        sections,
        summary="A small masked autoencoder was pretrained on "
        f"{found.imagery.title}, on this machine, without labels: parts of each crop "
        "were hidden, and it learned to rebuild them from what it could still see, in "
        "space and along the spectrum.",
        facts=_facts(found),
    )


def _facts(found: Findings) -> list[tuple[str, str]]:
    series = read_metrics(found.run / "metrics.csv")
    steps = series["loss"][0][-1]
    images = steps * found.config.trainer.batch_size
    facts = [(f"{images:,}", f"crops seen in {steps:,} optimizer steps")]
    fillers = found.scores.keys() - {"model", "images"}
    ratio = found.scores["model"] / min(found.scores[name] for name in fillers)
    facts.append((f"{ratio:.2f}", "times the held-out error of the best simple filler"))
    if found.compared:
        ours, untrained, _ = (
            _mean_and_range(by_method["probe"]) for by_method in found.compared.values()
        )
        facts.append((ours[0], "accuracy of a linear probe on the frozen encoder"))
        facts.append((untrained[0], f"the same with random weights ({untrained[1]})"))
    return facts


def _map(
    found: Findings, classes: NDArray[np.int64], names: Sequence[str], title: str
) -> "Figure":
    """Draw classes of cells (rows, columns) beside the scene."""
    return plot_class_map(
        found.picture,
        classes,
        names,
        title=title,
        pixel_width_m=found.imagery.pixel_width_m,
        dashed_rows=found.imagery.borders,
    )


def _imagery_section(found: Findings) -> Section:
    imagery, labels = found.imagery, found.labels
    if labels is None:
        height, width = found.pixels.shape[1:]
        text = (
            f"{len(imagery.items)} images of {imagery.root}. The maps below show "
            f"{imagery.strips[0].item.name}, {height} x {width} px of it. Part of the "
            "imagery is held out of training, and rebuilt below; the map may show "
            "both."
        )
        return Section("The imagery", text)
    figure = _map(found, labels.classes, labels.class_names, "labelled cells")
    text = (
        "Farmland, forest, tidal marsh, a lagoon and a barrier beach on the coast of "
        "Virginia: a cloud-free Sentinel-2 scene of 2015 or 2016, 12 of its 13 bands "
        "(the cirrus band sees no ground). Five patches of BigEarthNet from four "
        "European countries are trained on too; a sixth, under snow, is left out. "
        "Everything ships with the package; "
        "contains modified Copernicus Sentinel data 2015/2016 and 2017/2018.\n\n"
        "The strip between the dashed lines is held out: training never draws a crop "
        "from it, nor is the range that pixels are scaled by measured on it."
    )
    caption = (
        "Right: cells of 8 x 8 pixels whose land cover is known. The developers drew "
        "them by looking at pictures of this scene; nobody was on the ground, and only "
        "places that looked certain were labelled. Training does not use them."
    )
    alt = "The scene in true colour, beside a map of the cells with known land cover."
    return Section("The imagery", text, [Picture(figure, alt, caption)])


def _training_section(found: Findings) -> Section:
    series = read_metrics(found.run / "metrics.csv")
    names = ("loss", "token_loss", "spectral_loss", "masked_error")
    curves = Picture(
        plot_curves(series, names),
        "Curves of the loss, its two terms and the held-out error over training steps.",
        "The loss is the sum of the token term (hidden tokens, value by value) and the "
        "spectral term (sums over the spectrum). The held-out error is measured on the "
        "part that is not trained on. Thin lines are single steps.",
    )
    text = (
        f"{describe_fillers(found.scores)} All fill the same hidden pixels, "
        f"{found.config.masking.ratio:.0%} of each held-out crop.\n\n"
        "What this does not prove: rebuilding pixels is a pretext. Whether the model "
        "learned something useful is asked further below."
    )
    return Section("Pretraining", text, [curves], [scores_table(found.scores)])


def _rebuilt_section(found: Findings) -> Section:
    pictures = [
        Picture(
            plot_reconstruction(crop, found.stretch),
            f"{crop.name}: input, visible part, rebuilt image and error, in rows of "
            "true colour, false colour and one short-wave infrared band.",
        )
        for crop in found.crops
    ]
    spectra = Picture(
        plot_spectra(found.crops[0]),
        f"Measured and rebuilt spectra of four pixels of {found.crops[0].name}.",
        "Four pixels of the first crop, from dark to bright. Open circles were "
        "hidden from the model; the rebuilt spectrum is drawn where it had to predict.",
    )
    text = (
        f"{READING}\n\nThese are the crops with the most contrast, the hardest ones. "
        "A model trained for minutes gets large shapes and the colour of what is near, "
        "and blurs fine detail. A rebuilt picture that looks right is a guess that "
        "fits, not a measurement: do not use it to fill gaps in data."
    )
    return Section("Held-out parts, rebuilt", text, [*pictures, spectra])


def _embedding_section(found: Findings) -> Section:
    figure = plot_embedding_map(
        found.picture,
        [("pretrained", found.cells), ("random weights", found.random_cells)],
    )
    text = (
        "Each 8 x 8 px cell has an embedding, a list of "
        f"{found.cells.shape[-1]} numbers. Here the three directions in which "
        "embeddings vary most are shown as red, green and blue; the colours have no "
        "meaning of their own, only likeness counts. Random weights also give a map, "
        "because any mixing of the bands keeps what the bands show: a pretty map alone "
        "proves nothing. Squares in a map are the windows that the encoder saw at "
        "once: an embedding also holds what surrounds its cell."
    )
    alt = "The scene in true colour, beside its embeddings as colours, from the "
    alt += "pretrained encoder and from one with random weights."
    return Section("A map of embeddings", text, [Picture(figure, alt)])


def _cluster_section(found: Findings) -> Section:
    index, names = found.clusters
    figure = _map(found, index, names, "clusters of embeddings")
    naming = (
        "by the known land cover found most often in it"
        if found.labels
        else "by its median vegetation index (NDVI)"
    )
    text = (
        f"k-means put the embeddings into {len(names)} groups, without "
        f"labels. Each group was named afterwards {naming}; the number of groups was "
        "chosen by us, and another number would cut differently."
    )
    alt = "The scene in true colour, beside a map of clusters: " + "; ".join(names)
    return Section("Clusters", text, [Picture(figure, alt)])


def _comparison_section(found: Findings) -> Section:
    """Tell how pretrained, random and no embeddings compare, or that labels lack."""
    labels = found.labels
    if labels is None or found.classes is None:
        text = (
            "There are no labels for this imagery, so nothing here says how well "
            "classes can be told apart. Give labels to `spectralgpt evaluate` to "
            "find out."
        )
        return Section("No comparison", text)
    cells, rectangles = labels.count("test")
    pretrained = next(iter(found.compared.values()))
    confusion = pretrained["probe"][0].confusion
    assert confusion is not None
    pictures = [
        Picture(
            plot_confusion(confusion, labels.class_names),
            "Confusion matrix of the linear probe on the pretrained encoder.",
            f"Linear probe on the pretrained encoder, {cells} held-out cells.",
        ),
        Picture(
            _map(
                found, found.classes, labels.class_names, "classes by the linear probe"
            ),
            "The scene in true colour, beside the linear probe's class of each cell.",
            "The same probe on every cell. It knows only these classes: villages, "
            "roads and surf are forced into them.",
        ),
    ]
    tables = [_comparison_table(found), _label_table(labels)]
    text = _comparison_text(found, cells, rectangles)
    return Section("Are the embeddings any good?", text, pictures, tables)


def _comparison_text(found: Findings, cells: int, rectangles: int) -> str:
    pretrained, untrained, spectrum = found.compared.values()
    sentences = []
    for method, title in (("probe", "linear probe"), ("knn", "nearest neighbours")):
        ours, others = (_values(by[method]) for by in (pretrained, untrained))
        verdict = (
            "more than with any of the random seeds"
            if ours[0] > max(others)
            else "less than with every random seed"
            if ours[0] < min(others)
            else "within the range of the random seeds, so no gain is shown"
        )
        sentences.append(
            f"With the {title} pretraining gives {ours[0]:.1%}, {verdict}."
        )
    best, reached = (
        max(_values(scores)[0] for scores in by.values())
        for by in (spectrum, pretrained)
    )
    easy = "That is no worse" if best >= reached else "That is worse"
    return (
        "The encoder is frozen: only a linear classifier, or a vote among the "
        f"{NEIGHBOURS} nearest labelled cells, is fitted on top. It is fitted on cells "
        f"north and south of the held-out strip and tested on {cells} cells in "
        f"{rectangles} rectangles inside it. {' '.join(sentences)}\n\n"
        f"The mean spectrum of a cell alone reaches {best:.1%}. {easy} than the "
        f"embeddings ({reached:.1%}): these classes differ in colour, so they are "
        "easy, and the test asks only whether pretraining kept and ordered what the "
        "pixels hold. Cells of one rectangle are alike, so differences of a few per "
        "cent mean nothing here. Fine-tuning on real data sets is the test that counts."
    )


def _comparison_table(found: Findings) -> Table:
    rows, seeds = [], 0
    for name, by_method in found.compared.items():
        row = [name]
        for scores in by_method.values():
            for score in ("accuracy", "macro_accuracy"):
                mean, between = _mean_and_range(scores, score)
                row.append(f"{mean} ({between})" if between else mean)
        rows.append(row)
        seeds = max(seeds, len(by_method["probe"]))
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


def _values(scores: Sequence[Scores], name: str = "accuracy") -> list[float]:
    return [each.summary[name] for each in scores]


def _mean_and_range(
    scores: Sequence[Scores], name: str = "accuracy"
) -> tuple[str, str]:
    """Write a score's mean over the seeds, and its range; that is empty for one run."""
    values = _values(scores, name)
    between = f"{min(values):.1%} to {max(values):.1%}" if len(values) > 1 else ""
    return f"{np.mean(values):.1%}", between


def _limits_section(found: Findings) -> Section:
    shipped = found.labels is not None
    data = "" if shipped else f" --data {found.imagery.root}"
    text = (
        "One small model, one scene, minutes of training: the figures say that the "
        "parts work together, not how good a fully trained model is. Nothing here was "
        "tested in another place or season.\n\n"
        f"The model is in {found.run.name}/checkpoints/model beside this report, and "
        f"{found.run.name}/report.html tells more of its training. Seed "
        f"{found.config.seed}; how far training gets in the given time depends on the "
        f"machine. Repeat with: spectralgpt demo{data} --seed {found.config.seed}"
    )
    if shipped:
        text += " Sources and licences of the imagery: demo_data/ATTRIBUTION.md."
    return Section("What this does not prove", text)
