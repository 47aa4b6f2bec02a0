"""A scene beside what was made of it: classes, clusters, embeddings, similarity."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import class_colours
from spectralgpt.errors import ShapeError
from spectralgpt.files import MADE_BY, may_replace, write_file
from spectralgpt.rasters import NO_CLASS
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.reports.style import (
    INK,
    choose_composites,
    draw_legend,
    height_of,
    hide_ticks,
    new_figure,
    paint_bands,
    read_picture,
)
from spectralgpt.scenes.maps import Mapper, SceneMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Picture = NDArray[np.float32]
"""(H, W, 3), 0..1."""
_COLOUR_COMPONENTS = 3
_MOST_CELLS = 20_000
_LOW_PERCENT, _HIGH_PERCENT = 1.0, 99.0
_MOST_PX = 900
_MOST_NUMBERS = 2**26
"""Of a raster that is thinned out for a picture."""
_DPI = 130
_PANEL_IN, _TITLE_IN = 4.6, 0.35
_LEGEND_COLUMNS = 3
_HEAT_COLOURS = "magma"
_NUMBER_COLOURS = "viridis"


def write_quick_look(made: SceneMap, mapper: Mapper) -> Path:
    """Write a PNG beside the map: the scene, or both dates, and classes or numbers."""
    height, width = made.preview.shape
    pictures = [
        read_picture(item, mapper.bands(item), (height, width)) for item in made.items
    ]
    if mapper.unit is not None:
        label = f"{mapper.class_names[0]} ({mapper.unit})"
        figure = _plot_numbers(*pictures[-1], made.preview, label)
        return _write(figure, made.path.with_suffix(".png"))
    first = made.items[0]
    grid = first.grid(mapper.bands(first))
    size = pixel_size_m(grid)
    figure = plot_class_map(
        pictures[-1][1],
        _blank_no_class(made.preview),
        mapper.class_names,
        title="map",
        pixel_width_m=None if size is None else size[1] * grid.width / width,
        colours=mapper.colours,
        before=pictures[0][1] if len(pictures) > 1 else None,
        picture_title=pictures[-1][0],
        # Of all pixels, as in the table, not of the few that are drawn.
        shares=(made.pixels / made.pixels.sum()).tolist(),
    )
    return _write(figure, made.path.with_suffix(".png"))


def _plot_numbers(
    title: str, picture: _Picture, numbers: NDArray[np.float32], label: str
) -> "Figure":
    """Draw a scene beside a map of numbers (h, w), NaN for nothing, with a colour bar.

    Colours reach from the 1st to the 99th percentile.
    """
    figure = new_figure(2 * _PANEL_IN + 0.8, height_of(picture, _PANEL_IN) + 0.4)
    left, right = figure.subplots(1, 2)
    _show(left, picture, title)
    known = numbers[np.isfinite(numbers)]
    low, high = np.percentile(known, (_LOW_PERCENT, _HIGH_PERCENT))
    heat = _show(
        right, numbers, "map", cmap=_NUMBER_COLOURS, vmin=low, vmax=high,
        extent=_extent(picture), interpolation="nearest",
    )  # fmt: skip
    figure.colorbar(heat, ax=right, shrink=0.8, label=label, extend="both")
    return figure


def write_class_picture(
    raster: EmbeddingRaster,
    classes: NDArray[np.uint8],
    names: Sequence[str],
    colours: Sequence[str],
    path: Path,
    title: str = "map",
) -> Path:
    """Write a PNG of the scene beside a map of classes, with their legend and shares.

    Args:
        raster: that the map was made of.
        classes: (H, W), `NO_CLASS` for nothing.
        names: of the classes.
        colours: one per class.
        path: the PNG.
        title: of the map.

    Raises:
        OutputError: the picture cannot be written.
    """
    values, valid, step = _thin(raster)
    scene_title, scene = _picture_of(raster, values, valid)
    size = pixel_size_m(raster.grid)
    counts = np.bincount(classes.ravel(), minlength=NO_CLASS + 1)[: len(names)]
    figure = plot_class_map(
        scene,
        _blank_no_class(classes[::step, ::step]),
        names,
        title=title,
        pixel_width_m=None if size is None else size[1] * step,
        colours=colours,
        picture_title=scene_title,
        shares=(counts / max(1, int(counts.sum()))).tolist(),
    )
    return _write(figure, path)


def _blank_no_class(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.where(codes == NO_CLASS, -1, codes.astype(np.int64))


def write_component_picture(raster: EmbeddingRaster, path: Path) -> Path:
    """Write a PNG of the first three principal components as red, green and blue.

    The scene stands beside it, if the raster holds its reflectance.

    Raises:
        OutputError: the picture cannot be written.
    """
    values, valid, _ = _thin(raster)
    colours, shares = _pca_colours(values[..., : raster.source.width], valid)
    panels = [("embeddings, first three components", colours)]
    if raster.source.bands:
        panels.insert(0, _picture_of(raster, values, valid))
    figure = new_figure(_PANEL_IN * len(panels), height_of(colours, _PANEL_IN) + 0.4)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, picture) in zip(row, panels, strict=True):
        _show(axes, picture, title, interpolation="nearest")
    _name_shares(row[-1], shares)
    return _write(figure, path)


def write_similarity_picture(
    raster: EmbeddingRaster,
    similarity: NDArray[np.float32],
    places: Sequence[tuple[int, int]],
    path: Path,
) -> Path:
    """Write a PNG of the scene with the places found, and how like each cell is.

    Args:
        raster: that was searched.
        similarity: (H, W), -1..1, NaN for nothing.
        places: (row, column) of cells, the most similar first.
        path: the PNG.

    Raises:
        OutputError: the picture cannot be written.
    """
    values, valid, step = _thin(raster)
    title, scene = _picture_of(raster, values, valid)
    figure = new_figure(2 * _PANEL_IN + 0.8, height_of(scene, _PANEL_IN) + 0.4)
    left, right = figure.subplots(1, 2)
    _show(left, scene, title, interpolation="nearest")
    heat = _show(
        right,
        similarity[::step, ::step],
        "similarity (cosine) and the places found",
        cmap=_HEAT_COLOURS,
        interpolation="nearest",
    )
    figure.colorbar(heat, ax=right, shrink=0.8)
    if places:
        rows, columns = np.array(places).T / step
        for axes in (left, right):
            axes.plot(columns, rows, "o", mfc="none", mec="#56B4E9", ms=9, mew=1.5)
    return _write(figure, path)


def _thin(raster: EmbeddingRaster) -> tuple[_Picture, NDArray[np.bool_], int]:
    """Thin a raster out: layers (h, w, layers), validity (h, w), and the step."""
    grid, layers = raster.grid, len(raster.source.layer_names)
    least = math.sqrt(grid.height * grid.width * layers / _MOST_NUMBERS)
    step = math.ceil(max(grid.height / _MOST_PX, grid.width / _MOST_PX, least))
    shape = -(-grid.height // step), -(-grid.width // step)
    values, valid = np.zeros((*shape, layers), np.float32), np.zeros(shape, np.bool_)
    for block in raster.blocks():
        found, known = raster.read(block)
        at = np.s_[-block.row % step :: step, -block.column % step :: step]
        top, left = -(-block.row // step), -(-block.column // step)
        height, across = known[at].shape
        place = np.s_[top : top + height, left : left + across]
        values[place], valid[place] = found[at], known[at]
    return values, valid, step


def _picture_of(
    raster: EmbeddingRaster, values: _Picture, valid: NDArray[np.bool_]
) -> tuple[str, _Picture]:
    """Return a title, and the scene, or its embeddings without reflectance."""
    width, bands = raster.source.width, raster.source.bands
    if not bands:
        return "embeddings", _pca_colours(values[..., :width], valid)[0]
    pixels = np.moveaxis(values[..., width : width + len(bands)], -1, 0)
    picture = paint_bands(pixels, np.broadcast_to(valid, pixels.shape), bands)
    return choose_composites(bands)[0].name, picture


def _pca_colours(
    embeddings: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> tuple[_Picture, tuple[float, ...]]:
    """Turn embeddings (H, W, D) into colours by their first three principal components.

    Each is stretched between its 1st and 99th percentile, with the sign by which its
    largest loading is positive, white where cells are not valid (H, W). Returns colours
    (H, W, 3) of 0..1, and the shares of variance that the components explain.
    """
    if (
        embeddings.ndim != 3
        or min(embeddings.shape[0] * embeddings.shape[1], embeddings.shape[2])
        < _COLOUR_COMPONENTS
    ):
        raise ShapeError(
            f"embeddings have shape {embeddings.shape}: give (rows, columns, width) "
            f"with at least {_COLOUR_COMPONENTS} cells and a width of at least "
            f"{_COLOUR_COMPONENTS}."
        )
    shown = np.ones(embeddings.shape[:2], np.bool_) if valid is None else valid
    flat = embeddings[shown]
    # Of many cells, some give the components of all.
    seen = flat[:: max(1, len(flat) // _MOST_CELLS)].astype(np.float64)
    mean = seen.mean(axis=0)
    _, singular, directions = np.linalg.svd(seen - mean, full_matrices=False)
    directions = directions[:_COLOUR_COMPONENTS]
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    scores = (flat - mean) @ directions.T
    low, high = np.percentile(scores, (_LOW_PERCENT, _HIGH_PERCENT), axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    total = max(float((singular**2).sum()), 1e-12)
    shares = tuple(float(s) for s in singular[:_COLOUR_COMPONENTS] ** 2 / total)
    picture = np.ones((*shown.shape, _COLOUR_COMPONENTS), np.float32)
    picture[shown] = colours
    return picture, shares


def plot_embedding_map(
    picture: _Picture, embeddings: Sequence[tuple[str, NDArray[np.float32]]]
) -> "Figure":
    """Draw a scene beside its embeddings as colours.

    Args:
        picture: (H, W, 3), the scene, 0..1.
        embeddings: (title, (h, w, D)) pairs, each over the same area as the scene.
    """
    panels = 1 + len(embeddings)
    figure = new_figure(4.4 * panels, 4.9)
    scene, *others = figure.subplots(1, panels, squeeze=False)[0]
    _show(scene, picture, "true colour")
    for axes, (title, values) in zip(others, embeddings, strict=True):
        colours, shares = _pca_colours(values)
        _show(axes, colours, title, extent=_extent(picture), interpolation="nearest")
        _name_shares(axes, shares)
    return figure


def plot_class_map(
    picture: _Picture,
    classes: NDArray[np.int64],
    names: Sequence[str],
    *,
    title: str,
    pixel_width_m: float | None = None,
    dashed_rows: Sequence[int] = (),
    colours: Sequence[str] | None = None,
    before: _Picture | None = None,
    picture_title: str = "true colour",
    shares: Sequence[float] | None = None,
) -> "Figure":
    """Draw a scene beside a map of classes or clusters, with their legend and shares.

    Args:
        picture: (H, W, 3), the scene, 0..1.
        classes: (h, w) indices into `names`; below 0 is left blank.
        names: what each class is called.
        title: of the map.
        pixel_width_m: ground that a pixel of `picture` covers from left to right, for a
            scale bar; None draws none.
        dashed_rows: rows of `picture` to draw a dashed line above.
        colours: one per class; None chooses them.
        before: (H, W, 3), the scene at an earlier date, drawn first.
        picture_title: of the scene.
        shares: of the classes, for the legend; None counts what is drawn.

    Raises:
        ShapeError: an index has no name.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    if classes.max(initial=-1) >= len(names):
        raise ShapeError(
            f"the map has class {classes.max()}, but only {len(names)} names are given."
        )
    colours = list(class_colours(names).values()) if colours is None else colours
    scenes = [(picture_title, picture)]
    if before is not None:
        scenes = [("before", before), ("after", picture)]
    height_in = height_of(picture, _PANEL_IN) + _TITLE_IN
    figure = new_figure(_PANEL_IN * (len(scenes) + 1), height_in)
    *lefts, right = figure.subplots(1, len(scenes) + 1)
    for axes, (scene_title, scene) in zip(lefts, scenes, strict=True):
        _show(axes, scene, scene_title)
    _show(
        right,
        np.ma.masked_less(classes, 0),
        title,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        extent=_extent(picture),
        interpolation="nearest",
    )
    if shares is None:
        total = max(int((classes >= 0).sum()), 1)
        shares = [float((classes == i).sum()) / total for i in range(len(names))]
    handles = [
        # An edge, for snow is white.
        Patch(fc=colour, ec="#8a9199", linewidth=0.4, label=f"{name} ({share:.0%})")
        for name, colour, share in zip(names, colours, shares, strict=True)
    ]
    height_in += draw_legend(figure, handles, _LEGEND_COLUMNS)
    figure.set_figheight(height_in)
    for axes in (*lefts, right):
        for row in dashed_rows:
            colour = INK if axes is right else "white"
            axes.axhline(row - 0.5, color=colour, linestyle="--", linewidth=1)
    if pixel_width_m is not None:
        _draw_scale_bar(lefts[0], picture.shape[1], pixel_width_m)
    return figure


def _show(axes: "Axes", picture: NDArray[Any], title: str, **options: Any) -> Any:
    """Draw a picture with a title and without ticks; returns what was drawn."""
    shown = axes.imshow(picture, **options)
    axes.set_title(title, fontsize=11)
    hide_ticks(axes)
    return shown


def _extent(picture: _Picture) -> tuple[float, float, float, float]:
    height, width = picture.shape[:2]
    return (-0.5, width - 0.5, height - 0.5, -0.5)


def _name_shares(axes: "Axes", shares: Sequence[float]) -> None:
    explained = " + ".join(f"{share:.0%}" for share in shares)
    axes.set_xlabel(f"variance shown: {explained}", fontsize=9)


def _draw_scale_bar(axes: "Axes", width_px: int, pixel_width_m: float) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten, about a quarter of the width."""
    wanted_m = width_px * pixel_width_m / 4
    power = 10 ** np.floor(np.log10(wanted_m))
    length_m = max(step * power for step in (1, 2, 5) if step * power <= wanted_m)
    left = 0.04 * width_px
    bottom = axes.get_ylim()[0] - 0.05 * width_px
    right = left + length_m / pixel_width_m
    axes.plot(
        [left, right],
        [bottom] * 2,
        color="white",
        linewidth=4,
        solid_capstyle="butt",  # Other ends would lengthen it.
    )
    label = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    axes.text(
        left, bottom - 0.02 * width_px, label, color="white", fontsize=9, va="bottom"
    )


def _write(figure: "Figure", path: Path) -> Path:
    if may_replace(path):
        note = {"Comment": MADE_BY}
        write_file(
            path, lambda to: figure.savefig(to, format="png", dpi=_DPI, metadata=note)
        )
    return path
