"""A contact sheet: many images of an archive side by side, with their classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster
from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.style import hide_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_contact_sheet"]

_COLUMNS = 6
_SIDE_IN = 1.7
_HEADING_IN = 0.5
_LONGEST = 24


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
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    size = max(columns, 3) * _SIDE_IN, rows * (_SIDE_IN + 0.25) + _HEADING_IN
    figure = new_figure(*size)
    figure.suptitle(heading, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        hide_ticks(axes)
        axes.set_visible(False)
    for axes, (raster, title) in zip(grid.flat, images, strict=False):
        composite = choose_composites(raster.bands)[0]
        stretch = measure_stretch(raster.pixels, raster.valid)
        picture = stretch.apply(raster.pixels, composite)
        chosen = list(composite.indices)
        picture[~raster.valid[chosen].all(axis=0)] = 1.0
        if picture.shape[-1] == 1:
            picture = np.repeat(picture, 3, axis=-1)
        axes.set_visible(True)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(_cut(title), fontsize=7, pad=2)
    return figure


def _cut(title: str) -> str:
    return title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…"
