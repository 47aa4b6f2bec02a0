"""Pictures of data sets: many images side by side; a scene with blocks and labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import to_rgb
from spectralgpt.data.labelling import UNLABELLED, Cell, MadeSet
from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster, Window, describe_raster, read_codes
from spectralgpt.rasters.files import read_numbers
from spectralgpt.reports.style import (
    draw_legend,
    hide_ticks,
    new_figure,
    paint_bands,
    read_picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHEET_COLUMNS = 6
_IMAGE_IN, _HEADING_IN = 1.7, 0.5
_LONGEST_LABEL, _LONGEST_NAME = 24, 40
_SIDE_PX = 900
_MOST_NAMED, _LEGEND_COLUMNS = 20, 8
_EACH = 3
"""Sample tiles of each split."""
_WIDTH_IN, _PANEL_IN, _HIGHEST_IN = 12.0, 5.8, 9.0
# Seen on imagery, on maps and on white.
_SPLIT_COLOURS = {"train": "#19C3FF", "val": "#FFC400", "test": "#FF2FB0"}
_BLANK = 0.93
_SHADE = "#10151A"


def plot_contact_sheet(images: Sequence[tuple[Raster, str]], heading: str) -> "Figure":
    """Draw images in true colour, or in grey where the sensor sees no colours.

    Args:
        images: rasters and what is written above them.
        heading: of the figure.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("there is no image to draw.")
    columns = min(_SHEET_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(
        max(columns, 3) * _IMAGE_IN, rows * (_IMAGE_IN + 0.25) + _HEADING_IN
    )
    figure.suptitle(heading, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        hide_ticks(axes)
        axes.set_visible(False)
    for axes, (raster, title) in zip(grid.flat, images, strict=False):
        picture = paint_bands(raster.pixels, raster.valid, raster.bands)
        axes.set_visible(True)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(_cut(title, _LONGEST_LABEL), fontsize=7, pad=2)
    return figure


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def write_overview(made: MadeSet, path: Path) -> None:
    """Draw a labelled set to a file."""
    _plot_overview(made).savefig(path, dpi=150)


def _plot_overview(made: MadeSet) -> "Figure":
    """Draw the scene with most tiles beside its labels, above tiles of each split."""
    samples = made.samples(_EACH)
    height, width = made.scenes[made.largest()].shape
    top_in = min(_HIGHEST_IN, _PANEL_IN * height / width) + 0.9
    bottom_in = 2 * _WIDTH_IN / (len(samples) + 0.5) + 0.5
    figure = new_figure(_WIDTH_IN, top_in + bottom_in)
    parts: Any = figure.subfigures(2, 1, height_ratios=(top_in, bottom_in))
    top, bottom = parts
    top.suptitle(made.name, fontsize=14, fontweight="bold")
    _draw_scene(top, made)
    grid = bottom.subplots(2, len(samples), squeeze=False)
    sensor = made.scenes[0].item.sensor
    for column, tile in zip(grid.T, samples, strict=True):
        folder = made.folder / tile.split
        image = describe_raster(folder / "images" / f"{tile.name}.tif", sensor)
        mask = read_numbers(folder / "masks" / f"{tile.name}.tif")[0]
        picture = read_picture(image, image.bands, None)[1]
        column[0].imshow(picture, interpolation="nearest")
        column[1].imshow(_paint(mask, made), interpolation="nearest")
        column[0].set_title(tile.split, fontsize=9)
        for axes in column:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(edgecolor=_SPLIT_COLOURS[tile.split], linewidth=3)
    return figure


def _draw_scene(figure: Any, made: MadeSet) -> None:
    number = made.largest()
    scene = made.scenes[number]
    height, width = scene.shape
    step = max(1, -(-max(height, width) // _SIDE_PX))
    size = -(-height // step), -(-width // step)
    rows, columns = (np.arange(0, length, step) for length in (height, width))
    codes, _ = read_codes(scene.mask, 1, rows, columns)
    left, right = figure.subplots(1, 2)
    extent = (0.0, float(width), float(height), 0.0)
    shown, picture = read_picture(scene.item, scene.item.bands, size)
    left.imshow(picture, extent=extent)
    right.imshow(_paint(codes, made), extent=extent, interpolation="nearest")
    name = _cut(scene.name, _LONGEST_NAME)
    left.set_title(f"{name}, {shown}, date {scene.date}", fontsize=9)
    right.set_title("labels", fontsize=9)
    for axes in (left, right):
        _outline(axes, made, number)
        hide_ticks(axes)
    draw_legend(figure, _legend_handles(made), _LEGEND_COLUMNS)


def _legend_handles(made: MadeSet) -> list[Any]:
    from matplotlib.patches import Patch

    splits = [tile.split for tile in made.tiles]
    handles = [
        Patch(
            facecolor="none",
            edgecolor=colour,
            linewidth=2,
            label=f"{split}: {splits.count(split)} tiles",
        )
        for split, colour in _SPLIT_COLOURS.items()
        if split in splits
    ]
    classes = list(made.colours.items())
    handles += [Patch(color=c, label=name) for name, c in classes[:_MOST_NAMED]]
    if len(classes) > _MOST_NAMED:
        more = f"and {len(classes) - _MOST_NAMED} more classes"
        handles.append(Patch(facecolor="none", label=more))
    return [*handles, Patch(facecolor=str(_BLANK), label="no label")]


def _outline(axes: "Axes", made: MadeSet, number: int) -> None:
    """Draw the tiles of a scene thinly and their blocks boldly, by split."""
    blocks: dict[tuple[Cell, str], list[Window]] = {}
    for tile in made.tiles:
        if tile.scene == number:
            blocks.setdefault((tile.cell, tile.split), []).append(tile.window)
    for (_, split), windows in blocks.items():
        colour = _SPLIT_COLOURS[split]
        for window in windows:
            _draw_edge(axes, [window], colour, 0.4)
        _draw_edge(axes, windows, _SHADE, 3.2)
        _draw_edge(axes, windows, colour, 1.8)


def _draw_edge(
    axes: "Axes", windows: Sequence[Window], colour: str, width: float
) -> None:
    """Draw the smallest rectangle around windows."""
    from matplotlib.patches import Rectangle

    left, top = min(w.column for w in windows), min(w.row for w in windows)
    right = max(w.column + w.width for w in windows)
    bottom = max(w.row + w.height for w in windows)
    size = right - left, bottom - top
    axes.add_patch(
        Rectangle((left, top), *size, fill=False, edgecolor=colour, linewidth=width)
    )


def _paint(codes: NDArray[Any], made: MadeSet) -> NDArray[np.float32]:
    table = np.full((UNLABELLED + 1, 3), _BLANK, np.float32)
    for code, colour in enumerate(made.colours.values()):
        table[code] = np.array(to_rgb(colour)) / UNLABELLED
    return table[codes]
