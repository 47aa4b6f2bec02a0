"""A picture of a map beside its scene, to see at a glance whether it makes sense."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.rasters import NO_CLASS, RasterItem, read_raster
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.reports.composites import choose_composites, measure_stretch
from spectralgpt.reports.maps import plot_class_map
from spectralgpt.scenes.mapping import Mapper
from spectralgpt.scenes.maps import SceneMap
from spectralgpt.sensors import Band

__all__ = ["write_quick_look"]

_DPI = 130


def write_quick_look(made: SceneMap, mapper: Mapper, colours: Sequence[str]) -> Path:
    """Write a PNG beside the map: the scene, or both dates, and the classes.

    Args:
        made: the map.
        mapper: what made it.
        colours: one a class.
    """
    shape = made.preview.shape
    pictures = []
    for item in made.items:
        bands = mapper.bands(item)
        title, picture = _picture(item, bands, (shape[0], shape[1]))
        pictures.append(picture)
    first = made.items[0]
    grid = first.grid(mapper.bands(first))
    size = pixel_size_m(grid)
    classes = made.preview.astype(np.int64)
    figure = plot_class_map(
        pictures[-1],
        np.where(classes == NO_CLASS, -1, classes),
        mapper.class_names,
        title="map",
        pixel_width_m=None if size is None else size[1] * grid.width / shape[1],
        colours=colours,
        before=pictures[0] if len(pictures) > 1 else None,
        picture_title=title,
        # Of all pixels, as in the table, not of the few that are drawn.
        shares=(made.pixels / made.pixels.sum()).tolist(),
    )
    path = made.path.with_suffix(".png")
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI)
    )
    return path


def _picture(
    item: RasterItem, bands: Sequence[Band], shape: tuple[int, int]
) -> tuple[str, NDArray[np.float32]]:
    """Return the name of a composite, and the scene in it (h, w, 3), white for nothing.

    Only the bands that are shown are read, thinned out to the shape.
    """
    composite = choose_composites(bands)[0]
    shown = [bands[index] for index in composite.indices]
    raster = read_raster(item, shown, out_size=shape)
    stretch = measure_stretch(raster.pixels, raster.valid)
    as_read = replace(composite, indices=tuple(range(len(shown))))
    picture = stretch.apply(raster.pixels, as_read)
    picture = np.broadcast_to(picture, (*shape, 3)).copy()
    picture[~raster.valid.any(axis=0)] = 1
    return composite.name, picture
