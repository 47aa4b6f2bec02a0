"""Contact sheets of rebuilt bands: input, visible part, rebuilt and error of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.reports.composites import Composite, measure_stretch
from spectralgpt.reports.reconstructions import Reconstruction
from spectralgpt.reports.style import ERROR_COLOURS, hide_ticks, new_figure
from spectralgpt.scenes.rebuilt_scores import BandScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

__all__ = ["plot_bands", "spread_bands"]

_LONGEST_SHEET = 24
_STRIPS_A_ROW = 2
_PANELS = ("input", "visible", "rebuilt", "error")
# A tint that no grey picture holds, so that hidden is not mistaken for bright or dark.
_HIDDEN = (0.78, 0.87, 0.93)
_NO_ERROR = (0.85, 0.85, 0.85)
_WHITE = (1.0, 1.0, 1.0)
_WIDTH_IN, _MARGIN_IN = 12.4, 0.1
_HEAD_IN, _TITLE_IN, _FOOT_IN = 0.25, 0.33, 0.75
_GAP_SHARE = 0.03
_HIGH_PERCENT = 99.0
_POINTS_PER_INCH = 72


def spread_bands(count: int, show_all: bool = False) -> list[list[int]]:
    """Choose which of `count` bands, ordered by wavelength, go on which sheet.

    Args:
        count: bands there are.
        show_all: draw all of them, on several sheets if need be; otherwise one sheet,
            with bands evenly spread where there are too many.

    Returns:
        Indices of the bands, sheet by sheet.
    """
    if show_all:
        every = list(range(count))
        return [
            every[start : start + _LONGEST_SHEET]
            for start in range(0, count, _LONGEST_SHEET)
        ]
    places = np.linspace(0, count - 1, min(count, _LONGEST_SHEET))
    return [[int(place) for place in places.round()]]


def plot_bands(
    reconstruction: Reconstruction,
    scores: Sequence[BandScore],
    chosen: Sequence[int],
    highest: float | None = None,
) -> "Figure":
    """Draw bands, each as a strip: input, visible part, rebuilt and error.

    Errors are absolute, as shares of the band's range, so that bands can be compared.

    Args:
        reconstruction: the image and its prediction, in reflectance.
        scores: of each of its bands.
        chosen: indices of the bands to draw.
        highest: error of the brightest colour; None takes the 99th percentile.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    errors = {k: _relative_error(reconstruction, scores[k], k) for k in chosen}
    highest = highest or _highest(list(errors.values()))
    colours = ScalarMappable(Normalize(0, highest), ERROR_COLOURS)
    columns = min(_STRIPS_A_ROW, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, places = _lay_out(rows, columns, reconstruction.image.shape[1:])
    for number, (k, box) in enumerate(zip(chosen, places, strict=False)):
        axes = figure.add_axes(box)
        axes.imshow(_strip(reconstruction, k, errors[k], colours), aspect="auto")
        hide_ticks(axes)
        axes.set_title(_title(scores[k]), loc="left", fontsize=10, pad=3)
        if number < columns:
            _name_panels(axes)
    height = figure.get_figheight()
    bar_axes = figure.add_axes((0.3, 0.42 / height, 0.4, 0.12 / height))
    bar = figure.colorbar(colours, cax=bar_axes, orientation="horizontal", extend="max")
    bar.set_label("absolute error, share of the band's range", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _title(score: BandScore) -> str:
    if score.peak == 0:
        # Without any valid pixel the range is zero, too.
        result = "no data, or all the same"
    elif np.isnan(score.psnr_db):
        result = "nothing hidden"
    else:
        result = f"PSNR {score.psnr_db:.1f} dB"
    return f"{score.band.name}   {score.band.wavelength_nm:.0f} nm   {result}"


def _name_panels(axes: "Axes") -> None:
    """Write what the panels are above a strip and its title."""
    step = 1 / (len(_PANELS) + _GAP_SHARE * (len(_PANELS) - 1))
    for number, name in enumerate(_PANELS):
        axes.annotate(
            name,
            (step * (0.5 + number * (1 + _GAP_SHARE)), 1.0),
            xycoords="axes fraction",
            xytext=(0, _TITLE_IN * _POINTS_PER_INCH),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9.5,
            color="#56616b",
        )


def _lay_out(
    rows: int, columns: int, size: tuple[int, ...]
) -> tuple["Figure", list[tuple[float, float, float, float]]]:
    """Return a figure, and a box (left, bottom, width, height) for each strip."""
    width_in = _WIDTH_IN * columns / _STRIPS_A_ROW
    strip_in = (width_in - _MARGIN_IN * (columns + 1)) / columns
    panels = len(_PANELS) + _GAP_SHARE * (len(_PANELS) - 1)
    strip_height_in = strip_in / panels * size[0] / size[1]
    step_in = strip_height_in + _TITLE_IN
    height_in = _HEAD_IN + rows * step_in + _FOOT_IN
    figure = new_figure(width_in, height_in)
    # Boxes of their own: solving the layout of so many pictures takes minutes.
    figure.set_layout_engine("none")
    places = [
        (
            (_MARGIN_IN + column * (strip_in + _MARGIN_IN)) / width_in,
            1 - (_HEAD_IN + (row + 1) * step_in) / height_in,
            strip_in / width_in,
            strip_height_in / height_in,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return figure, places


def _strip(
    reconstruction: Reconstruction,
    index: int,
    error: NDArray[np.float32],
    colours: "ScalarMappable",
) -> NDArray[np.float32]:
    """Join the four pictures of a band with gaps between them: (H, W', 3)."""
    one = Composite("", (index,), ("",))
    stretch = measure_stretch(reconstruction.image, reconstruction.valid)
    shown = [
        np.repeat(stretch.apply(pixels, one), 3, axis=-1)
        for pixels in (
            reconstruction.image,
            reconstruction.image,
            reconstruction.pasted,
        )
    ]
    shown[1] = np.where(reconstruction.is_masked[index][..., None], _HIDDEN, shown[1])
    coloured = colours.to_rgba(np.nan_to_num(error))[..., :3]
    shown.append(np.where(np.isnan(error)[..., None], _NO_ERROR, coloured))
    height, width = error.shape
    gap = np.ones((height, max(1, round(_GAP_SHARE * width)), 3), np.float32)
    for picture in shown:
        picture[reconstruction.is_blank([index])] = _WHITE
    parts = [part for picture in shown for part in (picture, gap)][:-1]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _relative_error(
    reconstruction: Reconstruction, score: BandScore, index: int
) -> NDArray[np.float32]:
    """Absolute error over the band's range, NaN where nothing was hidden: (H, W)."""
    error = np.abs(reconstruction.rebuilt[index] - reconstruction.image[index])
    relative = error / max(score.peak, np.finfo(np.float32).tiny)
    known = reconstruction.counted[index] & (score.peak > 0)
    return np.where(known, relative, np.nan).astype(np.float32)


def _highest(errors: Sequence[NDArray[np.float32]]) -> float:
    known = np.concatenate([error[np.isfinite(error)] for error in errors])
    return float(np.percentile(known, _HIGH_PERCENT)) if known.size else 1.0
