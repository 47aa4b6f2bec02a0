"""Pictures of rasters of embeddings: components as colours, classes, similarity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.rasters import NO_CLASS
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.maps import pca_colours, plot_class_map
from spectralgpt.reports.style import hide_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_class_picture", "write_component_picture", "write_similarity_picture"]

_MOST_PX = 900
_MOST_NUMBERS = 2**26
"""Of a raster that is thinned out for a picture."""
_DPI = 130
_PANEL_IN = 4.6
_HEAT_COLOURS = "magma"


@dataclass(frozen=True)
class _Thinned:
    """A raster thinned out to the size of a picture.

    Args:
        values: (h, w, D) embeddings.
        valid: (h, w).
        scene: (h, w, 3), 0..1, white for nothing; colours of the embeddings if the
            raster holds no reflectance.
        title: of the scene.
        step: cells of the raster to one of these.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    scene: NDArray[np.float32]
    title: str
    step: int


def write_component_picture(raster: EmbeddingRaster, path: Path) -> Path:
    """Write a PNG of the first three principal components as red, green and blue.

    The scene stands beside it, if the raster holds its reflectance.

    Raises:
        CheckpointError: the picture cannot be written.
    """
    thinned = _thin(raster)
    colours, shares = pca_colours(thinned.values, thinned.valid)
    panels = [("embeddings, first three components", colours)]
    if raster.source.bands:
        panels.insert(0, (thinned.title, thinned.scene))
    figure = new_figure(_PANEL_IN * len(panels), _PANEL_IN + 0.4)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, picture) in zip(row, panels, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        hide_ticks(axes)
    explained = " + ".join(f"{share:.0%}" for share in shares)
    row[-1].set_xlabel(f"variance shown: {explained}", fontsize=9)
    return _write(figure, path)


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
        colours: one a class.
        path: the PNG.
        title: of the map.

    Raises:
        CheckpointError: the picture cannot be written.
    """
    thinned = _thin(raster)
    shown = classes[:: thinned.step, :: thinned.step].astype(np.int64)
    size = pixel_size_m(raster.grid)
    counts = np.bincount(classes.ravel(), minlength=NO_CLASS + 1)[: len(names)]
    figure = plot_class_map(
        thinned.scene,
        np.where(shown == NO_CLASS, -1, shown),
        names,
        title=title,
        pixel_width_m=None if size is None else size[1] * thinned.step,
        colours=colours,
        picture_title=thinned.title,
        shares=(counts / max(1, int(counts.sum()))).tolist(),
    )
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
        places: (row, column) of cells, the likest first.
        path: the PNG.

    Raises:
        CheckpointError: the picture cannot be written.
    """
    thinned = _thin(raster)
    figure = new_figure(2 * _PANEL_IN + 0.8, _PANEL_IN + 0.4)
    left, right = figure.subplots(1, 2)
    left.imshow(thinned.scene, interpolation="nearest")
    left.set_title(thinned.title, fontsize=11)
    shown = similarity[:: thinned.step, :: thinned.step]
    heat = right.imshow(shown, cmap=_HEAT_COLOURS, interpolation="nearest")
    right.set_title("similarity (cosine) and the places found", fontsize=11)
    figure.colorbar(heat, ax=right, shrink=0.8)
    for axes in (left, right):
        if places:
            rows, columns = np.array(places).T / thinned.step
            axes.plot(columns, rows, "o", mfc="none", mec="#56B4E9", ms=9, mew=1.5)
        hide_ticks(axes)
    return _write(figure, path)


def _thin(raster: EmbeddingRaster) -> _Thinned:
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
    width = raster.source.width
    embeddings, bands = values[..., :width], raster.source.bands
    if not bands:
        picture, _ = pca_colours(embeddings, valid)
        return _Thinned(embeddings, valid, picture, "embeddings", step)
    composite = choose_composites(bands)[0]
    pixels = np.moveaxis(values[..., width:], -1, 0)
    stretch = measure_stretch(pixels, np.broadcast_to(valid, pixels.shape))
    picture = stretch.apply(pixels, composite)
    picture = np.broadcast_to(picture, (*valid.shape, 3)).copy()
    picture[~valid] = 1
    return _Thinned(embeddings, valid, picture, composite.name, step)


def _write(figure: "Figure", path: Path) -> Path:
    write_atomically(path, lambda to: figure.savefig(to, format="png", dpi=_DPI))
    return path
