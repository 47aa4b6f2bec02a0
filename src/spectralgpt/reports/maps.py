"""Maps of a scene's embeddings: principal components as colour, and clusters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.colours import class_colours
from spectralgpt.errors import ShapeError
from spectralgpt.reports.style import hide_ticks, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pca_colours", "plot_class_map", "plot_embedding_map"]

_COLOUR_COMPONENTS = 3
_MOST_CELLS = 20_000
_PANEL_IN = 4.6
_TITLE_IN = 0.35
_LEGEND_COLUMNS = 3
_LOW_PERCENT, _HIGH_PERCENT = 1.0, 99.0


def pca_colours(
    embeddings: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Turn embeddings into colours by their first three principal components.

    Args:
        embeddings: (H, W, D), one embedding a map cell, D at least 3.
        valid: (H, W), false for cells without one, which become white; None if all
            have one.

    Returns:
        Colours (H, W, 3) of 0..1, each component stretched between its 1st and 99th
        percentile, and the shares of variance the components explain. The sign of a
        component is arbitrary; it is fixed so that its largest loading is positive.

    Raises:
        ShapeError: embeddings are not (H, W, D), or too few for three components.
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
    picture: NDArray[np.float32],
    embeddings: Sequence[tuple[str, NDArray[np.float32]]],
) -> "Figure":
    """Draw a scene beside its embeddings as colours.

    Args:
        picture: (H, W, 3), the scene, 0..1.
        embeddings: (title, (h, w, D)) pairs, each over the same area as the scene.
    """
    panels = 1 + len(embeddings)
    figure = new_figure(4.4 * panels, 4.9)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    grid[0].imshow(picture)
    grid[0].set_title("true colour", fontsize=11)
    extent = _extent(picture)
    for axes, (title, values) in zip(grid[1:], embeddings, strict=True):
        colours, shares = pca_colours(values)
        axes.imshow(colours, extent=extent, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        explained = " + ".join(f"{share:.0%}" for share in shares)
        axes.set_xlabel(f"variance shown: {explained}", fontsize=9)
    for axes in grid:
        hide_ticks(axes)
    return figure


def plot_class_map(
    picture: NDArray[np.float32],
    classes: NDArray[np.int64],
    names: Sequence[str],
    *,
    title: str,
    pixel_width_m: float | None = None,
    dashed_rows: Sequence[int] = (),
    colours: Sequence[Any] | None = None,
    before: NDArray[np.float32] | None = None,
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
        colours: one a class; None chooses them.
        before: (H, W, 3), the scene at an earlier date, drawn first.
        picture_title: of the scene.
        shares: of the classes, for the legend; None counts what is drawn.

    Raises:
        ShapeError: an index has no name.
    """
    if classes.max(initial=-1) >= len(names):
        raise ShapeError(
            f"the map has class {classes.max()}, but only {len(names)} names are given."
        )
    colours = list(class_colours(names).values()) if colours is None else colours
    pictures = [(picture_title, picture)]
    if before is not None:
        pictures = [("before", before), ("after", picture)]
    height_in = _PANEL_IN + _TITLE_IN
    figure = new_figure(_PANEL_IN * (len(pictures) + 1), height_in)
    *scenes, right = figure.subplots(1, len(pictures) + 1)
    for axes, (scene_title, scene) in zip(scenes, pictures, strict=True):
        axes.imshow(scene)
        axes.set_title(scene_title, fontsize=11)
    _draw_classes(right, classes, colours, _extent(picture))
    right.set_title(title, fontsize=11)
    if shares is None:
        shares = _count_shares(classes, len(names))
    figure.set_figheight(height_in + _draw_legend(figure, names, colours, shares))
    for axes, colour in (*((scene, "white") for scene in scenes), (right, "#1c2329")):
        hide_ticks(axes)
        for row in dashed_rows:
            axes.axhline(row - 0.5, color=colour, linestyle="--", linewidth=1)
    if pixel_width_m is not None:
        _draw_scale_bar(scenes[0], picture.shape[1], pixel_width_m)
    return figure


def _draw_classes(
    axes: Any,
    classes: NDArray[np.int64],
    colours: Sequence[Any],
    extent: tuple[float, float, float, float],
) -> None:
    from matplotlib.colors import ListedColormap

    axes.imshow(
        np.ma.masked_less(classes, 0),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        extent=extent,
        interpolation="nearest",
    )


def _draw_legend(
    figure: "Figure",
    names: Sequence[str],
    colours: Sequence[Any],
    shares: Sequence[float],
) -> float:
    from matplotlib.patches import Patch

    handles = [
        # An edge, for snow is white.
        Patch(
            facecolor=colour,
            edgecolor="#8a9199",
            linewidth=0.4,
            label=f"{name} ({share:.0%})",
        )
        for name, colour, share in zip(names, colours, shares, strict=True)
    ]
    return legend_below(figure, handles, _LEGEND_COLUMNS)


def _count_shares(classes: NDArray[np.int64], number: int) -> list[float]:
    total = max(int((classes >= 0).sum()), 1)
    return [float((classes == i).sum()) / total for i in range(number)]


def _extent(picture: NDArray[np.float32]) -> tuple[float, float, float, float]:
    height, width = picture.shape[:2]
    return (-0.5, width - 0.5, height - 0.5, -0.5)


def _draw_scale_bar(axes: "Axes", width_px: int, pixel_width_m: float) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten, about a quarter of the width."""
    wanted_m = width_px * pixel_width_m / 4
    power = 10 ** np.floor(np.log10(wanted_m))
    length_m = max(step * power for step in (1, 2, 5) if step * power <= wanted_m)
    left = 0.04 * width_px
    bottom = axes.get_ylim()[0] - 0.05 * width_px
    axes.plot(
        [left, left + length_m / pixel_width_m],
        [bottom] * 2,
        color="white",
        linewidth=4,
        solid_capstyle="butt",  # Other ends would lengthen it.
    )
    label = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    axes.text(
        left, bottom - 0.02 * width_px, label, color="white", fontsize=9, va="bottom"
    )
