"""The picture of a labelled set: a scene with its blocks, its labels, sample tiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.colours import to_rgb
from spectralgpt.data.labelling import UNLABELLED, Overview
from spectralgpt.data.labelling.lattice import Cell
from spectralgpt.rasters import RasterItem, Window, read_codes, read_raster
from spectralgpt.rasters.files import read_numbers
from spectralgpt.rasters.products import describe_raster
from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.style import hide_ticks, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_overview", "write_overview"]

_Picture = NDArray[np.float32]
_SIDE_PX = 900
_MOST_NAMED, _LONGEST = 20, 40
_EACH = 3
"""Sample tiles of each split."""
_WIDTH_IN, _PANEL_IN, _HIGHEST_IN = 12.0, 5.8, 9.0
# Seen on imagery, on maps and on white.
_SPLIT_COLOURS = {"train": "#19C3FF", "val": "#FFC400", "test": "#FF2FB0"}
_BLANK = 0.93
_SHADE = "#10151A"


def write_overview(overview: Overview, path: Path) -> None:
    """Draw a labelled set to a file."""
    plot_overview(overview).savefig(path, dpi=150)


def plot_overview(overview: Overview) -> "Figure":
    """Draw the scene with most tiles beside its labels, above tiles of each split."""
    samples = overview.samples(_EACH)
    height, width = overview.labelled.scenes[overview.largest()].shape
    top_in = min(_HIGHEST_IN, _PANEL_IN * height / width) + 0.9
    bottom_in = 2 * _WIDTH_IN / (len(samples) + 0.5) + 0.5
    figure = new_figure(_WIDTH_IN, top_in + bottom_in)
    parts: Any = figure.subfigures(2, 1, height_ratios=(top_in, bottom_in))
    top, bottom = parts
    top.suptitle(overview.title, fontsize=14, fontweight="bold")
    _draw_scene(top, overview)
    grid = bottom.subplots(2, len(samples), squeeze=False)
    sensor = overview.labelled.scenes[0].item.sensor
    for column, tile in zip(grid.T, samples, strict=True):
        folder = overview.folder / tile.split
        image = describe_raster(folder / "images" / f"{tile.name}.tif", sensor)
        mask = read_numbers(folder / "masks" / f"{tile.name}.tif")[0]
        column[0].imshow(_true_colour(image, None), interpolation="nearest")
        column[1].imshow(_paint(mask, overview), interpolation="nearest")
        column[0].set_title(tile.split, fontsize=9)
        for axes in column:
            _frame(axes, _SPLIT_COLOURS[tile.split])
    return figure


def _draw_scene(figure: Any, overview: Overview) -> None:
    number = overview.largest()
    scene = overview.labelled.scenes[number]
    height, width = scene.shape
    step = max(1, -(-max(height, width) // _SIDE_PX))
    size = -(-height // step), -(-width // step)
    rows, columns = (np.arange(0, length, step) for length in (height, width))
    codes, _ = read_codes(overview.labelled.masks[number], 1, rows, columns)
    left, right = figure.subplots(1, 2)
    extent = (0.0, float(width), float(height), 0.0)
    left.imshow(_true_colour(scene.item, size), extent=extent)
    right.imshow(_paint(codes, overview), extent=extent, interpolation="nearest")
    shown = choose_composites(scene.item.bands)[0].name
    left.set_title(f"{_shorten(scene.name)}, {shown}, {scene.date}", fontsize=9)
    right.set_title("labels", fontsize=9)
    for axes in (left, right):
        _outline(axes, overview, number)
        hide_ticks(axes)
    legend_below(figure, _legend(overview), 8)


def _legend(overview: Overview) -> list[Any]:
    from matplotlib.patches import Patch

    splits = [tile.split for tile in overview.tiles]
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
    classes = list(overview.labelled.colours.items())
    handles += [Patch(color=c, label=name) for name, c in classes[:_MOST_NAMED]]
    if len(classes) > _MOST_NAMED:
        more = f"and {len(classes) - _MOST_NAMED} more classes"
        handles.append(Patch(facecolor="none", label=more))
    return [*handles, Patch(facecolor=str(_BLANK), label="no label")]


def _outline(axes: "Axes", overview: Overview, number: int) -> None:
    """Draw the tiles of a scene thinly and their blocks boldly, by split."""
    blocks: dict[tuple[Cell, str], list[Window]] = {}
    for tile in overview.tiles:
        if tile.tile.scene == number:
            blocks.setdefault((tile.tile.cell, tile.split), []).append(tile.tile.window)
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


def _true_colour(item: RasterItem, size: tuple[int, int] | None) -> _Picture:
    composite = choose_composites(item.bands)[0]
    bands = [item.bands[index] for index in composite.indices]
    raster = read_raster(item, bands, out_size=size)
    shown = choose_composites(bands)[0]
    picture = measure_stretch(raster.pixels, raster.valid).apply(raster.pixels, shown)
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3)).copy()
    picture[~raster.valid.all(axis=0)] = 1
    return picture


def _paint(codes: NDArray[Any], overview: Overview) -> _Picture:
    table = np.full((UNLABELLED + 1, 3), _BLANK, np.float32)
    for code, colour in enumerate(overview.labelled.colours.values()):
        table[code] = np.array(to_rgb(colour)) / UNLABELLED
    return table[codes]


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _frame(axes: "Axes", colour: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=3)
