"""Pictures of what the masked autoencoder saw, hid and rebuilt, and a page of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.files import write_json, write_table
from spectralgpt.reports.html import TEMPLATES, write_report
from spectralgpt.reports.style import (
    ERROR_COLOURS,
    INK,
    Stretch,
    choose_composites,
    draw_legend,
    height_of,
    hide_ticks,
    measure_stretch,
    new_figure,
    paint_bands,
    tidy,
)
from spectralgpt.scenes.reconstruction import (
    BandScore,
    RebuiltWindow,
    Reconstruction,
    WindowScores,
    score_window,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Picture = NDArray[np.float32]
"""(H, W, 3), 0..1."""
_TITLES = ("input", "visible to the model", "rebuilt", "error where hidden")
_STRIP_TITLES = ("input", "visible", "rebuilt", "error")
_HIDDEN_GREY = (0.5, 0.5, 0.5)
# A tint that no grey picture holds, so that hidden is not mistaken for bright or dark.
_HIDDEN_BLUE = (0.78, 0.87, 0.93)
_NO_ERROR = (0.85, 0.85, 0.85)
_MAP_LOW_PERCENT, _MAP_HIGH_PERCENT = 2.0, 98.0
_ERROR_HIGH_PERCENT = 99.0
_WIDE_IN = 12.4
_LONGEST_SHEET = 24
_STRIPS_A_ROW = 2
_MARGIN_IN, _HEAD_IN, _TITLE_IN, _FOOT_IN = 0.1, 0.25, 0.33, 0.75
_GAP_SHARE = 0.03
_PANELS = len(_STRIP_TITLES) + _GAP_SHARE * (len(_STRIP_TITLES) - 1)
"""Width of a strip, in panels."""
_POINTS_PER_INCH = 72
_SPECTRA = 4
_SPECTRA_A_ROW = 2
_MARKER_PT, _SMALL_MARKER_PT = 6.0, 2.4
# Above this, a spectrum is a curve rather than a row of points.
_MANY_BANDS = 40
_ENOUGH = 0.9
_MARK = "#ffd400"
_PICTURE_DPI = 110


def plot_reconstruction(
    reconstruction: Reconstruction, stretch: Stretch | None = None
) -> "Figure":
    """Draw one image: a row per composite; input, visible part, rebuilt and error.

    Args:
        reconstruction: the image and its prediction.
        stretch: values shown darkest and brightest; None measures them on the image.
            Input and rebuilt always share it.
    """
    stretch = stretch or _measure_stretch(reconstruction)
    composites = choose_composites(reconstruction.bands)
    errors = [_error_picture(reconstruction, each.indices) for each in composites]
    figure = new_figure(9.2, height_of(errors[0], 2.05) * len(composites) + 0.6)
    grid = figure.subplots(len(composites), len(_TITLES), squeeze=False)
    highest = _highest(errors)
    for row, composite, error in zip(grid, composites, errors, strict=True):
        pictures = _three_pictures(
            reconstruction, composite.indices, stretch, _HIDDEN_GREY
        )
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture)
        shown = row[-1].imshow(error, cmap=ERROR_COLOURS, vmin=0, vmax=highest)
        row[-1].set_facecolor(_NO_ERROR)
        for axes in row:
            hide_ticks(axes)
        names = ", ".join(composite.band_names)
        row[0].set_ylabel(f"{composite.name}\n{names}", fontsize=9.5)
    for axes, title in zip(grid[0], _TITLES, strict=True):
        axes.set_title(title, fontsize=10.5)
    bar = figure.colorbar(shown, ax=grid[:, -1].tolist(), shrink=0.8, pad=0.03)
    _name_bar(bar, f"absolute error ({reconstruction.unit})")
    figure.suptitle(reconstruction.name, fontsize=11.5, x=0.01, ha="left")
    return figure


def plot_spectra(
    reconstruction: Reconstruction, pixels: Sequence[tuple[int, int]] | None = None
) -> "Figure":
    """Draw spectra of some pixels, input and rebuilt, over wavelength.

    Args:
        reconstruction: the image and its prediction.
        pixels: (row, column) of each; None takes four spread over the image's
            brightness.
    """
    pixels = list(pixels or _varied_pixels(reconstruction))
    rows = -(-len(pixels) // _SPECTRA_A_ROW)
    figure = new_figure(9.2, 2.9 * rows)
    grid = figure.subplots(rows, _SPECTRA_A_ROW, squeeze=False, sharex=True)
    for axes, (row, column) in zip(grid.flat, pixels, strict=False):
        _draw_spectrum(axes, reconstruction, row, column)
        axes.set_title(f"row {row}, column {column}", loc="left", fontsize=10)
    for other in list(grid.flat)[len(pixels) :]:
        other.set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    draw_legend(figure, handles, 3, "outside upper center")
    return figure


def write_rebuilt_report(
    folder: Path,
    rebuilt: RebuiltWindow,
    name: str,
    facts: Mapping[str, Any],
    pixels: Sequence[tuple[int, int]] = (),
    all_bands: bool = False,
) -> Path:
    """Write report.html, its pictures, scores.json and bands.csv; return the report.

    Args:
        folder: made if it is not there.
        rebuilt: from `rebuild_window`.
        name: what the image is called.
        facts: what scores.json says of the run; `mask_ratio` is named in the report.
        pixels: (row, column) in the scene whose spectra are drawn; none takes a few.
        all_bands: draw every band of many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = replace(rebuilt, name=name)
    scores = score_window(rebuilt)
    guess = (
        "the mean of the hidden token, which the model is told,"
        if rebuilt.is_told
        else f"the best interpolation, chosen on this very window ({rebuilt.filler}),"
    )
    told = {"image": name, **facts, "without_learning": rebuilt.filler}
    _write_scores(folder, scores, told)
    for old in folder.glob("bands_[0-9]*.png"):
        old.unlink()
    sheets = []
    for number, sheet in enumerate(_spread_bands(len(shown.bands), all_bands), start=1):
        figure = _plot_bands(shown, scores.bands, sheet)
        sheets.append((_save(folder / f"bands_{number}.png", figure), len(sheet)))
    places = [rebuilt.locate(*pixel) for pixel in pixels] or _varied_pixels(shown)
    chosen = list(pixels) or [rebuilt.scene_pixel(*place) for place in places]
    names = [f"row {row}, column {column}" for row, column in chosen]
    spectra = _plot_marked_spectra(shown, places, names)
    lacking = np.flatnonzero(~rebuilt.known.any(axis=(1, 2)))
    return write_report(
        folder / "report.html",
        TEMPLATES / "rebuilt.html",
        f"Rebuilt: {name}",
        facts=[
            _describe_size(rebuilt),
            (_number(scores.mean_angle, ".1f", "°"), "mean spectral angle"),
            (_number(scores.psnr_db, ".1f", " dB"), "PSNR where hidden"),
            (
                _number(scores.error_ratio, ".2f"),
                "of the squared error without learning",
            ),
        ],
        name=name,
        mask_ratio=facts["mask_ratio"],
        is_told=rebuilt.is_told,
        guess=guess,
        resampling=facts.get("resampling", ""),
        lacking=[rebuilt.bands[at].name for at in lacking],
        are_drawn=bool(np.isfinite(rebuilt.rebuilt[lacking]).all()),
        overview=_save(folder / "reconstruction.png", plot_reconstruction(shown)),
        score_maps=_save(folder / "scores.png", _plot_score_maps(shown, scores)),
        score_rows=[
            [what, _number(model, style), _number(other, style)]
            for what, style, model, other in (
                ("squared error, scaled", ".5f", scores.error, scores.guess_error),
                (
                    *("mean spectral angle (°)", ".2f"),
                    *(scores.mean_angle, scores.guess_angle),
                ),
                ("PSNR (dB)", ".2f", scores.psnr_db, scores.guess_psnr_db),
            )
        ],
        median_angle=_number(scores.median_angle, ".2f", "°"),
        sheets=sheets,
        band_rows=[_band_row(score) for score in scores.bands],
        spectra=_save(folder / "spectra.png", spectra),
        are_chosen=bool(pixels),
    )


def _write_scores(folder: Path, scores: WindowScores, facts: Mapping[str, Any]) -> None:
    """Write scores.json, with facts such as the mask ratio, and bands.csv."""
    values = {
        **facts,
        "unit": "reflectance",
        "psnr_peak": "range of each band over the valid pixels shown",
        "counted": "hidden, valid pixels",
        **scores.as_dict(),
    }
    write_json(folder / "scores.json", values)
    write_table(folder / "bands.csv", [asdict(score) for score in scores.bands])


def _band_row(score: BandScore) -> list[str]:
    return [
        score.band,
        f"{score.wavelength_nm:.0f}",
        f"{score.range_reflectance:.4f}",
        _number(score.rmse_reflectance, ".4f"),
        _number(score.psnr_db, ".1f"),
        _number(score.psnr_db_without_learning, ".1f"),
    ]


def _describe_size(rebuilt: RebuiltWindow) -> tuple[str, str]:
    window, size = rebuilt.window, rebuilt.image.shape[1:]
    is_enlarged = size != (window.height, window.width)
    enlarged = f", enlarged to {size[0]} x {size[1]}" if is_enlarged else ""
    return f"{window.height} x {window.width} px", f"shown{enlarged}"


def _save(path: Path, figure: "Figure") -> Path:
    figure.savefig(path, dpi=_PICTURE_DPI)
    return path


def _number(value: float, style: str, unit: str = "") -> str:
    return f"{value:{style}}{unit}" if np.isfinite(value) else "-"


def _measure_stretch(reconstruction: Reconstruction) -> Stretch:
    """Measure what is shown: of bands that the image lacks, what was rebuilt."""
    values = np.where(
        reconstruction.known, reconstruction.image, reconstruction.rebuilt
    )
    return measure_stretch(values, reconstruction.shown)


def _visible_picture(
    reconstruction: Reconstruction,
    indices: Sequence[int],
    stretch: Stretch,
    hidden: tuple[float, float, float] = _HIDDEN_GREY,
) -> _Picture:
    """Return a picture of bands with every hidden one of every pixel at one level.

    A pixel is plain grey only where all bands shown are hidden; where some are visible
    they keep their values, and the tint says so.
    """
    picture = stretch.apply(reconstruction.image, indices)
    is_hidden = np.moveaxis(reconstruction.is_masked[list(indices)], 0, -1)
    return np.where(is_hidden, np.array(hidden, np.float32), picture)


def _error_picture(
    reconstruction: Reconstruction, indices: Sequence[int]
) -> NDArray[np.float32]:
    """Return the mean absolute error over the hidden ones of some bands: (H, W).

    NaN where all of them are visible: there was nothing to predict.
    """
    chosen = list(indices)
    hidden = reconstruction.counted[chosen]
    error = np.abs(reconstruction.rebuilt[chosen] - reconstruction.image[chosen])
    counts = hidden.sum(axis=0)
    sums = np.where(hidden, error, 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan).astype(np.float32)


def _three_pictures(
    reconstruction: Reconstruction,
    indices: Sequence[int],
    stretch: Stretch,
    hidden: tuple[float, float, float],
) -> list[_Picture]:
    """Return input, visible part and rebuilt, white where a band has no value."""
    known = reconstruction.known
    pictures = [
        (stretch.apply(reconstruction.image, indices), known),
        (_visible_picture(reconstruction, indices, stretch, hidden), known),
        (stretch.apply(reconstruction.pasted, indices), reconstruction.shown),
    ]
    for picture, has_value in pictures:
        picture[~has_value[list(indices)].all(axis=0)] = 1
    return [picture for picture, _ in pictures]


def _highest(errors: Sequence[NDArray[np.float32]]) -> float:
    known = np.concatenate([error[np.isfinite(error)] for error in errors])
    return float(np.percentile(known, _ERROR_HIGH_PERCENT)) if known.size else 1.0


def _name_bar(bar: Any, label: str) -> None:
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _spread_bands(count: int, show_all: bool = False) -> list[list[int]]:
    """Choose which of `count` bands, ordered by wavelength, go on which sheet.

    All go on several sheets if need be; otherwise there is one, with bands evenly
    spread where they are too many.
    """
    if show_all:
        starts = range(0, count, _LONGEST_SHEET)
        return [
            list(range(start, min(start + _LONGEST_SHEET, count))) for start in starts
        ]
    places = np.linspace(0, count - 1, min(count, _LONGEST_SHEET))
    return [[int(place) for place in places.round()]]


def _plot_bands(
    reconstruction: Reconstruction,
    scores: Sequence[BandScore],
    chosen: Sequence[int],
    highest: float | None = None,
) -> "Figure":
    """Draw bands, each as a strip: input, visible part, rebuilt and error.

    Errors are absolute, as shares of the band's range, so that bands can be compared.
    The brightest colour is the highest one, or the 99th percentile.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    stretch = _measure_stretch(reconstruction)
    errors = {}
    for k in chosen:
        # Without a range there is no share of it.
        peak = scores[k].range_reflectance or np.nan
        errors[k] = (_error_picture(reconstruction, [k]) / peak).astype(np.float32)
    highest = highest or _highest(list(errors.values()))
    colours = ScalarMappable(Normalize(0, highest), ERROR_COLOURS)
    columns = min(_STRIPS_A_ROW, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, boxes = _lay_out(rows, columns, reconstruction.image.shape[1:])
    for number, (k, box) in enumerate(zip(chosen, boxes, strict=False)):
        axes = figure.add_axes(box)
        pictures = _three_pictures(reconstruction, [k], stretch, _HIDDEN_BLUE)
        error = colours.to_rgba(np.nan_to_num(errors[k]))[..., :3]
        error[np.isnan(errors[k])] = _NO_ERROR
        error[~reconstruction.known[k]] = 1
        axes.imshow(_join([*pictures, error]), aspect="auto")
        hide_ticks(axes)
        axes.set_title(_strip_title(scores[k]), loc="left", fontsize=10, pad=3)
        if number < columns:
            _name_panels(axes)
    height = figure.get_figheight()
    bar_axes = figure.add_axes((0.3, 0.42 / height, 0.4, 0.12 / height))
    bar = figure.colorbar(colours, cax=bar_axes, orientation="horizontal", extend="max")
    _name_bar(bar, "absolute error, share of the band's range")
    return figure


def _strip_title(score: BandScore) -> str:
    if score.range_reflectance == 0:
        # Without any valid pixel the range is zero, too.
        result = "no data, or all the same"
    elif np.isnan(score.psnr_db):
        result = "nothing hidden"
    else:
        result = f"PSNR {score.psnr_db:.1f} dB"
    return f"{score.band}   {score.wavelength_nm:.0f} nm   {result}"


def _name_panels(axes: "Axes") -> None:
    """Write what the panels are above a strip and its title."""
    for number, name in enumerate(_STRIP_TITLES):
        axes.annotate(
            name,
            ((0.5 + number * (1 + _GAP_SHARE)) / _PANELS, 1.0),
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
    width_in = _WIDE_IN * columns / _STRIPS_A_ROW
    strip_in = (width_in - _MARGIN_IN * (columns + 1)) / columns
    strip_height_in = strip_in / _PANELS * size[0] / size[1]
    step_in = strip_height_in + _TITLE_IN
    height_in = _HEAD_IN + rows * step_in + _FOOT_IN
    figure = new_figure(width_in, height_in)
    # Boxes of their own: solving the layout of so many pictures takes minutes.
    figure.set_layout_engine("none")
    boxes = [
        (
            (_MARGIN_IN + column * (strip_in + _MARGIN_IN)) / width_in,
            1 - (_HEAD_IN + (row + 1) * step_in) / height_in,
            strip_in / width_in,
            strip_height_in / height_in,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return figure, boxes


def _join(pictures: Sequence[_Picture]) -> _Picture:
    """Join pictures side by side with gaps between them: (H, W', 3)."""
    height, width, _ = pictures[0].shape
    gap = np.ones((height, max(1, round(_GAP_SHARE * width)), 3), np.float32)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _plot_score_maps(reconstruction: Reconstruction, scores: WindowScores) -> "Figure":
    """Draw the picture beside its maps of spectral angle and PSNR: yellow is worse."""
    height, width = reconstruction.image.shape[1:]
    figure = new_figure(_WIDE_IN, 0.9 + 3.7 * min(height / width, 2.0))
    picture, angle, ratio = figure.subplots(1, 3)
    _draw_input(picture, reconstruction)
    for axes, values, title, unit, colours in (
        (angle, scores.angle, "spectral angle", "degrees", ERROR_COLOURS),
        (ratio, scores.psnr_map, "PSNR of each patch", "dB", f"{ERROR_COLOURS}_r"),
    ):
        known = values[np.isfinite(values)]
        percents = (_MAP_LOW_PERCENT, _MAP_HIGH_PERCENT)
        low, high = np.percentile(known, percents) if known.size else (0, 1)
        shown = axes.imshow(
            np.where(np.isposinf(values), high, values),
            cmap=colours,
            vmin=low,
            vmax=high,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        axes.set_facecolor(_NO_ERROR)
        axes.set_title(title, fontsize=10.5)
        hide_ticks(axes)
        bar = figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.03, extend="both")
        _name_bar(bar, unit)
    return figure


def _draw_input(axes: "Axes", reconstruction: Reconstruction) -> None:
    bands = reconstruction.bands
    axes.imshow(paint_bands(reconstruction.image, reconstruction.known, bands))
    composite = choose_composites(bands)[0]
    names = ", ".join(composite.band_names)
    axes.set_title(f"input, {composite.name} ({names})", fontsize=10.5)
    hide_ticks(axes)


def _plot_marked_spectra(
    reconstruction: Reconstruction,
    pixels: Sequence[tuple[int, int]],
    names: Sequence[str],
) -> "Figure":
    """Draw spectra of pixels (row, column) beside a picture that marks them."""
    columns = min(_SPECTRA_A_ROW, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = new_figure(_WIDE_IN, max(4.4, 2.6 * rows + 0.4))
    shares = (1.15, *[_SPECTRA_A_ROW / columns] * columns)
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=shares)
    picture = figure.add_subplot(grid[:2, 0])
    _draw_input(picture, reconstruction)
    for number, ((row, column), name) in enumerate(zip(pixels, names, strict=True)):
        _mark(picture, row, column, str(number + 1))
        axes = figure.add_subplot(grid[number // columns, 1 + number % columns])
        _draw_spectrum(axes, reconstruction, row, column)
        axes.set_title(f"{number + 1}   {name}", loc="left", fontsize=10)
    handles, _ = axes.get_legend_handles_labels()
    draw_legend(figure, handles, 3, "outside upper right")
    return figure


def _mark(axes: "Axes", row: int, column: int, label: str) -> None:
    """Mark a pixel with a ring and a number that can be read on any ground."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.5, foreground=INK)]
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


def _varied_pixels(reconstruction: Reconstruction) -> list[tuple[int, int]]:
    """Pick pixels at evenly spaced ranks of mean brightness, darkest to brightest.

    Pixels that hold data in far fewer bands than others are not picked.
    """
    brightness = reconstruction.image.mean(axis=0)
    order = np.argsort(brightness, axis=None)
    count = reconstruction.known.sum(axis=0).ravel()
    order = order[count[order] >= _ENOUGH * count.max()]
    ranks = np.linspace(0.02, 0.98, _SPECTRA) * (order.size - 1)
    found = np.unravel_index(order[ranks.astype(int)], brightness.shape)
    return [(int(row), int(column)) for row, column in zip(*found, strict=True)]


def _draw_spectrum(
    axes: "Axes", reconstruction: Reconstruction, row: int, column: int
) -> None:
    """Draw the spectrum of one pixel, input and rebuilt, over wavelength."""
    order = np.argsort([band.wavelength_nm for band in reconstruction.bands])
    wavelengths = np.array([reconstruction.bands[at].wavelength_nm for at in order])
    known = reconstruction.known[order, row, column]
    true = np.where(known, reconstruction.image[order, row, column], np.nan)
    rebuilt = reconstruction.rebuilt[order, row, column]
    hidden = reconstruction.counted[order, row, column]
    shown = (reconstruction.is_masked & reconstruction.shown)[order, row, column]
    size = _MARKER_PT if len(order) <= _MANY_BANDS else _SMALL_MARKER_PT
    axes.plot(wavelengths, true, color=INK, linewidth=1.3, label="input")
    axes.plot(
        wavelengths,
        np.where(hidden, true, np.nan),
        color=INK,
        linestyle="",
        marker="o",
        markersize=size,
        markerfacecolor="white",
        markeredgewidth=size / _MARKER_PT,
        label="input, hidden from the model",
    )
    axes.plot(wavelengths[~hidden], true[~hidden], "o", color=INK, markersize=size)
    axes.plot(
        wavelengths,
        np.where(shown, rebuilt, np.nan),
        color="#D55E00",
        linewidth=1.3,
        marker="s",
        markersize=size * 2 / 3,
        label="rebuilt",
    )
    axes.set_xlabel("wavelength (nm)", fontsize=9)
    axes.set_ylabel(reconstruction.unit, fontsize=9)
    tidy(axes)
