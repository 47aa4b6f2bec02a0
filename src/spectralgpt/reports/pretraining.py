"""The report of a pretraining run, from the files in its folder.

Nothing is computed anew: metrics, scores and figures were written while the run went
on, so the report can also be made of a run that was killed.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectralgpt.errors import DataError
from spectralgpt.json_files import read_json
from spectralgpt.reports.curves import (
    Series,
    describe_divergence,
    metric_title,
    plot_curves,
    plot_lines,
    read_metrics,
)
from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.yaml_files import read_yaml

__all__ = [
    "READING",
    "dataset_losses",
    "describe_fillers",
    "read_scores",
    "reconstruction_section",
    "scores_table",
    "write_pretraining_report",
]

_CURVES = ("loss", "token_loss", "spectral_loss", "masked_error", "lr", "images_per_s")
_FIGURE_NAME = re.compile(r"(reconstruction|spectra)_epoch_(\d+)_image_(\d+)")
_FILLERS = {
    "model": "the model",
    "band_mean": "mean of the band's visible pixels",
    "linear_space": "linear interpolation in space",
    "space_spectrum": "linear interpolation in space and spectrum (best width)",
    "token_mean": "each token's own mean, which the model is told too",
}
READING = (
    "Rows are band composites, chosen by wavelength. Columns: the input; what the "
    "encoder saw (a hidden band is set to mid grey, so plain grey means that all bands "
    "shown are hidden, and a tint that only some are); the rebuilt image, in which "
    "visible pixels are the input's own; the absolute error of hidden bands, averaged "
    "over those shown, light grey where nothing was hidden. Input and rebuilt share "
    "one stretch."
)


def write_pretraining_report(run: Path) -> Path:
    """Write `report.html` of a pretraining run.

    Args:
        run: folder with metrics.csv; validation.json, config.yaml and figures/ are used
            if they are there.

    Returns:
        The path of the report.

    Raises:
        DatasetNotFoundError: there is no metrics.csv.
        DataError: validation.json cannot be read.
    """
    series = read_metrics(run / "metrics.csv")
    by_name = read_scores(run / "validation.json")
    sections = [_curves_section(series), *_datasets_section(series)]
    for name, scores in by_name.items():
        title = "Held-out images against simple fillers" + (name and f": {name}")
        text = describe_fillers(scores)
        sections.append(Section(title, text, tables=[scores_table(scores)]))
    sections += reconstruction_section(run / "figures")
    sections += _config_section(run / "config.yaml")
    return write_report(
        run / "report.html",
        f"Pretraining: {run.resolve().name}",
        sections,
        summary="A masked autoencoder was trained to rebuild the hidden parts of "
        "images. A low error says that hidden pixels can be predicted, not yet that "
        "the embeddings are useful: for that, evaluate them on labels."
        + describe_divergence(series),
        facts=_facts(series, by_name.get("", {})),
    )


def scores_table(scores: Mapping[str, float]) -> Table:
    """Return the errors of the model and of the fillers as a table."""
    model = scores.get("model", math.nan)
    rows = []
    for name, title in _FILLERS.items():
        if name in scores:
            ratio = scores[name] / model if model > 0 else math.nan
            rows.append([title, f"{scores[name]:.5f}", f"{ratio:.2f}"])
    images = scores.get("images")
    over = f" over {images:.0f} held-out images" if images else ""
    return Table(
        ["filled by", "mean squared error", "error / model's error"],
        rows,
        f"Mean squared error of hidden pixels{over}, in scaled reflectance. All fill "
        "the same masks.",
    )


def describe_fillers(scores: Mapping[str, float]) -> str:
    """Say in a sentence how the model stands against the best filler.

    Raises:
        DataError: the scores lack the model's, or all fillers'.
    """
    fillers = {n: scores[n] for n in _FILLERS if n in scores and n != "model"}
    if "model" not in scores or not fillers:
        raise DataError(f"found scores of {sorted(scores)}: need model and a filler.")
    best = min(fillers, key=lambda name: fillers[name])
    model, other = scores["model"], fillers[best]
    if model < other:
        return (
            f"The model's error is {1 - model / other:.0%} below that of the best "
            f"filler ({_FILLERS[best]})."
        )
    return (
        f"The model does not beat the best filler ({_FILLERS[best]}): its error is "
        f"{model / max(other, 1e-12):.2f} times as large. It needs longer training."
    )


def reconstruction_section(folder: Path) -> list[Section]:
    """Return a section with the figures of the last epoch drawn; empty if none was."""
    found: dict[int, list[tuple[int, str, Path]]] = {}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        match = _FIGURE_NAME.fullmatch(path.stem)
        if match:
            kind, epoch, image = match[1], int(match[2]), int(match[3])
            found.setdefault(epoch, []).append((image, kind, path))
    if not found:
        return []
    last = max(found)
    pictures = [
        Picture(path, *_describe_figure(kind, image, last))
        for image, kind, path in sorted(found[last])
    ]
    return [Section(f"Reconstructions after epoch {last}", READING, pictures)]


def _describe_figure(kind: str, image: int, epoch: int) -> tuple[str, str]:
    if kind == "reconstruction":
        return (
            f"Held-out image {image} after epoch {epoch}: input, visible part, rebuilt "
            "image and error, for each band composite.",
            f"Held-out image {image}.",
        )
    return (
        f"Measured and rebuilt spectra of four pixels of held-out image {image}.",
        "Four of its pixels, from dark to bright. Open circles were hidden from the "
        "model; the rebuilt spectrum is drawn where it had to predict.",
    )


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Read the errors of held-out images of each data set.

    Args:
        path: `validation.json` of a run.

    Returns:
        Errors by data set; the only one of a run is called "". Empty without a file.

    Raises:
        DataError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = read_json(path)
        nested = {n: v for n, v in content.items() if isinstance(v, Mapping)}
        return {
            name: {
                key: float(value)
                for key, value in scores.items()
                if isinstance(value, int | float)
            }
            for name, scores in (nested or {"": content}).items()
        }
    except (AttributeError, ValueError) as error:
        raise DataError(f"{path} is no table of scores ({error}).") from error


def dataset_losses(series: Mapping[str, Series]) -> dict[str, Series]:
    """Return the training loss of each data set of a mixture, by its name."""
    prefix = "loss_"
    return {
        name.removeprefix(prefix): values
        for name, values in series.items()
        if name.startswith(prefix)
    }


def _datasets_section(series: Mapping[str, Series]) -> list[Section]:
    lines = dataset_losses(series)
    if not lines:
        return []
    rows = [
        [name, str(len(values)), f"{values[0]:.4f}", f"{values[-1]:.4f}"]
        for name, (_, values) in lines.items()
    ]
    table = Table(["data set", "logged steps", "first loss", "last loss"], rows)
    picture = Picture(
        plot_lines(lines, "training loss by data set"),
        f"Training loss of {', '.join(lines)}.",
        "Each batch is of one data set. Levels differ with bands and scaling: compare "
        "a curve with its own beginning.",
    )
    return [Section("Losses by data set", figures=[picture], tables=[table])]


def _curves_section(series: Mapping[str, Series]) -> Section:
    known = [n for n in _CURVES if n in series or f"val_{n}" in series]
    picture = Picture(
        plot_curves(series, known or None),
        "Curves of " + ", ".join(map(metric_title, known)) + ".",
        "Of many steps, thin lines are single ones, thick lines a moving average. The "
        "loss is the sum "
        "of the token term (hidden tokens, value by value) and the spectral term (sums "
        "over the spectrum at each position).",
    )
    return Section("Training curves", figures=[picture])


def _config_section(path: Path) -> list[Section]:
    if not path.is_file():
        return []
    content = read_yaml(path) or {}
    rows = [[name, value] for name, value in _flatten(content)]
    return [Section("Configuration", tables=[Table(["setting", "value"], rows)])]


def _flatten(content: object, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping) and content:
        return [
            entry
            for name, value in content.items()
            for entry in _flatten(value, f"{prefix}.{name}" if prefix else str(name))
        ]
    return [(prefix, str(content))]


def _facts(
    series: Mapping[str, Series], scores: Mapping[str, float]
) -> list[tuple[str, str]]:
    facts = []
    if "loss" in series:
        steps, values = series["loss"]
        facts.append((f"{steps[-1]:,}", "optimizer steps"))
        facts.append(
            (f"{values[0]:.3f} → {values[-1]:.3f}", "training loss, first → last")
        )
    if "model" in scores:
        facts.append((f"{scores['model']:.4f}", "held-out error (mean squared)"))
    return facts
