"""Maps of how well a window was rebuilt, and spectra of pixels marked in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    draw_spectrum,
    show_picture,
)
from spectralgpt.reports.style import ERROR_COLOURS, hide_ticks, new_figure
from spectralgpt.scenes.rebuilt_scores import WindowScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_marked_spectra", "plot_score_maps"]

_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_BLANK = "#d9d9d9"
_MARK = "#ffd400"
_SPECTRA_A_ROW = 2


def plot_score_maps(reconstruction: Reconstruction, scores: WindowScores) -> "Figure":
    """Draw the picture beside its maps of spectral angle and PSNR.

    In both maps yellow is worse.

    Args:
        reconstruction: the image and its prediction.
        scores: of the same window.
    """
    height, width = reconstruction.image.shape[1:]
    figure = new_figure(12.4, 0.9 + 3.7 * min(height / width, 2.0))
    picture, angle, ratio = figure.subplots(1, 3)
    _draw_picture(picture, reconstruction)
    _draw_map(angle, scores.angle, (height, width), "spectral angle", "degrees")
    _draw_map(
        ratio,
        scores.psnr_map,
        (height, width),
        "PSNR of each patch",
        "dB",
        colours=f"{ERROR_COLOURS}_r",
    )
    return figure


def _draw_picture(axes: "Axes", reconstruction: Reconstruction) -> None:
    composite = choose_composites(reconstruction.bands)[0]
    stretch = measure_stretch(reconstruction.image, reconstruction.valid)
    picture = stretch.apply(reconstruction.image, composite)
    picture[reconstruction.is_blank(composite.indices)] = 1.0
    show_picture(axes, picture)
    axes.set_title(f"input, {composite.title}", fontsize=10.5)
    hide_ticks(axes)


def _draw_map(
    axes: "Axes",
    values: NDArray[np.float64],
    size: tuple[int, int],
    title: str,
    unit: str,
    colours: str = ERROR_COLOURS,
) -> None:
    """Draw a map, stretched over the whole window, with its colour bar."""
    known = values[np.isfinite(values)]
    low, high = (
        np.percentile(known, (_LOW_PERCENT, _HIGH_PERCENT)) if known.size else (0, 1)
    )
    height, width = size
    shown = axes.imshow(
        np.where(np.isposinf(values), high, values),
        cmap=colours,
        vmin=low,
        vmax=high,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set_facecolor(_BLANK)
    axes.set_title(title, fontsize=10.5)
    hide_ticks(axes)
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.03, extend="both")
    bar.set_label(unit, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def plot_marked_spectra(
    reconstruction: Reconstruction,
    pixels: Sequence[tuple[int, int]],
    names: Sequence[str],
) -> "Figure":
    """Draw spectra of pixels beside a picture in which they are marked.

    Args:
        reconstruction: the image and its prediction, in reflectance.
        pixels: (row, column) of each in the image.
        names: what each is called.
    """
    columns = min(_SPECTRA_A_ROW, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = new_figure(12.4, max(4.4, 2.6 * rows + 0.4))
    shares = (1.15, *[_SPECTRA_A_ROW / columns] * columns)
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=shares)
    picture = figure.add_subplot(grid[:2, 0])
    _draw_picture(picture, reconstruction)
    for number, (row, column) in enumerate(pixels, start=1):
        _mark(picture, row, column, str(number))
    for number, ((row, column), name) in enumerate(zip(pixels, names, strict=True)):
        place = grid[number // columns, 1 + number % columns]
        axes = figure.add_subplot(place)
        draw_spectrum(axes, reconstruction, row, column)
        axes.set_title(f"{number + 1}   {name}", loc="left", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=9
    )
    return figure


def _mark(axes: "Axes", row: int, column: int, label: str) -> None:
    """Mark a pixel with a ring and a number that can be read on any ground."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.5, foreground="#1c2329")]
    axes.plot(
        column,
        row,
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=_MARK,
        markeredgewidth=1.6,
        path_effects=outline,
    )
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    is_right, is_top = column > 0.9 * right, row < 0.1 * bottom
    axes.annotate(
        label,
        (column, row),
        xytext=(-7 if is_right else 7, -7 if is_top else 5),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top" if is_top else "bottom",
        color=_MARK,
        fontsize=11,
        fontweight="bold",
        path_effects=outline,
    )
