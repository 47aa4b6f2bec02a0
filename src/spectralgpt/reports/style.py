"""Colours and figures that all reports share.

Figures are built with matplotlib's object interface, which keeps no global state.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spectralgpt.data.colours import CATEGORY_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CATEGORY_COLOURS",
    "ERROR_COLOURS",
    "category_colours",
    "hex_colours",
    "hide_ticks",
    "legend_below",
    "new_figure",
    "tidy",
]

ERROR_COLOURS = "cividis"


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Return an empty figure of this size in inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Any, handles: Sequence[Any], most_columns: int) -> float:
    """Draw a legend below the panels of a figure or a part of one.

    Args:
        figure: the figure.
        handles: patches with labels.
        most_columns: fewer are taken where labels are too long to stand side by side.

    Returns:
        Its height in inches.
    """
    for columns in range(min(len(handles), most_columns), 0, -1):
        legend = figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            break
        legend.remove()
    return float(extent.height / figure.dpi)


def category_colours(count: int) -> Sequence[Any]:
    """Return `count` different colours, the safest first."""
    if count <= len(CATEGORY_COLOURS):
        return CATEGORY_COLOURS[:count]
    from matplotlib import colormaps

    wheel = colormaps["turbo"]
    return [wheel(index / (count - 1)) for index in range(count)]


def hex_colours(count: int) -> tuple[str, ...]:
    """Return the colours of `category_colours` as text such as "#0072B2"."""
    from matplotlib.colors import to_hex

    return tuple(to_hex(colour) for colour in category_colours(count))


def tidy(axes: "Axes") -> None:
    """Take away the frame's upper and right side and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#d8dcdf", linewidth=0.6)
    axes.set_axisbelow(True)


def hide_ticks(axes: "Axes") -> None:
    """Take away ticks and frame, as for a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
