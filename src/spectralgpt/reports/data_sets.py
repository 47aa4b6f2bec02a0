"""Pictures of data sets: many images side by side; a scene with blocks and labels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.archives.findings import Example
from spectralgpt.data.classes import class_colours
from spectralgpt.data.labelling import Cell, MadeSet
from spectralgpt.data.samples import SampleSet
from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster, Window, describe_raster, read_codes
from spectralgpt.rasters.files import read_numbers
from spectralgpt.reports.style import (
    ERROR_COLOURS,
    HATCH,
    choose_composites,
    draw_legend,
    hatch,
    hide_ticks,
    new_figure,
    paint_bands,
    paint_classes,
    read_picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHEET_COLUMNS = 6
_IMAGE_IN, _HEADING_IN = 1.7, 0.5
_LONGEST_LABEL, _LONGEST_NAME = 24, 40
_SIDE_PX, _FINE_PX = 900, 256
_MOST_NAMED, _LEGEND_COLUMNS = 20, 8
_EACH = 3
"""Sample tiles of each split."""
_WIDTH_IN, _PANEL_IN, _HIGHEST_IN = 12.0, 5.8, 9.0
# Seen on imagery, on maps and on white.
_SPLIT_COLOURS = {"train": "#19C3FF", "val": "#FFC400", "test": "#FF2FB0"}
_GAP = 48
"""Between pictures side by side, as a share of their width."""
_ENDS = 2, 98
"""Percentiles of numbers that colours reach to."""
_SHADE = "#10151A"


def plot_contact_sheet(
    examples: Sequence[Example], heading: str, masked: SampleSet | None = None
) -> "Figure":
    """Draw images in true colour, or in grey where the sensor sees no colours.

    Beside an image, or its two dates, stands its mask. What holds no data or has no
    label is hatched.

    Args:
        examples: equally many dates of each.
        heading: of the figure.
        masked: what their masks mean.

    Raises:
        DataError: there are no images.
    """
    if not examples:
        raise DataError("there is no image to draw.")
    parts = [*(("before", "after") if len(examples[0][2]) > 1 else ("image",)), "mask"]
    parts = parts if masked else parts[:-1]
    columns = min(_SHEET_COLUMNS // len(parts), len(examples))
    rows = -(-len(examples) // columns)
    figure = new_figure(
        max(columns * len(parts), 3) * _IMAGE_IN,
        rows * (_IMAGE_IN + 0.25) + _HEADING_IN * len(parts),
    )
    figure.suptitle("\n".join([heading, " | ".join(parts)][: len(parts)]), fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    if masked:
        paint = _mask_painter(figure, grid, [mask for *_, mask in examples], masked)
    for axes in grid.flat:
        hide_ticks(axes)
        axes.set_visible(False)
    for axes, (_, title, dates, mask) in zip(grid.flat, examples, strict=False):
        pictures = [_paint_image(date) for date in dates]
        pictures += [paint(_enlarge(mask))] if masked else []
        axes.set_visible(True)
        axes.imshow(_side_by_side(pictures), interpolation="nearest")
        longest = _LONGEST_LABEL * len(parts)
        axes.set_title(_cut(title, longest), fontsize=7, pad=3)
    return figure


def _paint_image(raster: Raster) -> NDArray[np.float32]:
    picture = paint_bands(raster.pixels, raster.valid, raster.bands)
    shown = list(choose_composites(raster.bands)[0].indices)
    return hatch(_enlarge(picture), _enlarge(np.any(~raster.valid[shown], axis=0)))


def _enlarge(layer: NDArray[Any]) -> NDArray[Any]:
    """Repeat pixels where they are few, so that stripes are finer than they."""
    factor = max(1, _FINE_PX // max(layer.shape[:2]))
    return layer.repeat(factor, axis=0).repeat(factor, axis=1)


def _side_by_side(pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Put pictures of one height in a row, with a little white between them."""
    height, width = pictures[0].shape[:2]
    gap = np.ones((height, max(1, width // _GAP), 3), np.float32)
    row = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(row[1:], axis=1)


def _mask_painter(
    figure: "Figure",
    grid: NDArray[Any],
    masks: Sequence[NDArray[Any]],
    masked: SampleSet,
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Draw the legend, or the scale of numbers; returns what paints a mask."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    seen = np.concatenate([mask[np.isfinite(mask)] for mask in masks])
    if masked.target is None:
        colours = masked.colours or tuple(class_colours(masked.class_names).values())
        both = zip(masked.class_names, colours, strict=True)
        shown = {name: c for at, (name, c) in enumerate(both) if (seen == at).any()}
        handles = _class_patches(shown, "no data or label")
        height_in = draw_legend(figure, handles, _LEGEND_COLUMNS)
        figure.set_figheight(figure.get_figheight() + height_in)
        return lambda mask: paint_classes(mask, colours)
    ends = np.percentile(seen, _ENDS) if seen.size else (0, 1)
    scale = ScalarMappable(Normalize(*ends), ERROR_COLOURS)
    label = f"{masked.target.name}, {masked.target.unit}; hatched: none"
    figure.colorbar(scale, ax=grid, label=label, location="bottom", shrink=0.5)
    return lambda mask: hatch(
        np.asarray(scale.to_rgba(np.nan_to_num(mask))[..., :3], np.float32),
        ~np.isfinite(mask),
    )


def _class_patches(colours: Mapping[str, str], nothing: str) -> list[Any]:
    """Return legend entries of classes, and of what is hatched."""
    from matplotlib.patches import Patch

    shown = list(colours.items())[:_MOST_NAMED]
    # Without an edge snow is not seen on white.
    edge: dict[str, Any] = {"edgecolor": "#85898f", "linewidth": 0.4}
    handles = [Patch(facecolor=c, label=name, **edge) for name, c in shown]
    if len(colours) > _MOST_NAMED:
        more = f"and {len(colours) - _MOST_NAMED} more classes"
        handles.append(Patch(facecolor="none", label=more))
    light, dark = map(str, HATCH)
    hatched = Patch(facecolor=light, edgecolor=dark, hatch="/////", label=nothing)
    return [*handles, hatched]


def _cut(text: str, longest: int) -> str:
    """Leave out the middle of a text that is too long: names differ at their ends."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]}…{text[-half:]}"


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
    sensor, colours = made.scenes[0].item.sensor, list(made.colours.values())
    for column, tile in zip(grid.T, samples, strict=True):
        folder = made.folder / tile.split
        image = describe_raster(folder / "images" / f"{tile.name}.tif", sensor)
        mask = read_numbers(folder / "masks" / f"{tile.name}.tif")[0]
        picture = read_picture(image, image.bands, None)[1]
        column[0].imshow(picture, interpolation="nearest")
        column[1].imshow(paint_classes(mask, colours), interpolation="nearest")
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
    labels = paint_classes(codes, list(made.colours.values()))
    right.imshow(labels, extent=extent, interpolation="nearest")
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
    return [*handles, *_class_patches(made.colours, "no label")]


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
