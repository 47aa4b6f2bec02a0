"""Maps on disk, ours and others': classes with names and colours, or measured numbers.

Writing them is `spectralgpt.rasters.maps`'s.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectralgpt.rasters.files import (
    OpenFiles,
    find_masks,
    open_place,
    open_raster,
    quiet_gdal,
)
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.sampling import lay_under, sample, sample_layers
from spectralgpt.rasters.stated import SENSOR_TAG, UNIT_TAG

__all__ = ["MapClass", "MapFile", "open_map", "read_palette", "sample_map"]

_CLASS = "CLASS_"
_SOFTWARE = "TIFFTAG_SOFTWARE"
_OURS = "spectralgpt "


@dataclass(frozen=True)
class MapClass:
    """A class of a map.

    Args:
        code: number in the file.
        name: what the file calls it.
        colour: such as "#1b7837"; None if the file has no table of colours.
    """

    code: int
    name: str
    colour: str | None


@dataclass(frozen=True)
class MapFile:
    """A map and what it says of itself.

    Args:
        path: its file.
        grid: where its pixels lie.
        kind: `classes`, or `measures` for numbers that are more or less.
        layers: names of its layers; one for classes.
        classes: by code; empty for measures.
        nodata: number that means nothing was mapped.
        scales: (scale, offset) of each layer of measures.
        masks: of each layer, see `spectralgpt.rasters.files.read_masks`.
        is_certain: whether names, colours or this package say that it is a map; else it
            is one for having one layer alone.
    """

    path: Path
    grid: Grid
    kind: Literal["classes", "measures"]
    layers: tuple[str, ...]
    classes: tuple[MapClass, ...]
    nodata: float | None
    scales: tuple[tuple[float, float], ...]
    masks: tuple[tuple[int, ...], ...]
    is_certain: bool


def open_map(path: Path) -> MapFile | None:
    """Read what a map says of itself; None if the raster does not look like a map.

    A map is a raster with names of classes, a table of colours or one layer alone, or
    one of this package's with layers of measured numbers.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        tags = dataset.tags()
        is_whole = np.dtype(dataset.dtypes[0]).kind in "iu"
        table = _colour_table(dataset) if dataset.count == 1 and is_whole else {}
        names = _class_names(tags) if is_whole else {}
        is_ours = tags.get(_SOFTWARE, "").startswith(_OURS)
        if (
            not (is_ours or dataset.count == 1)
            or SENSOR_TAG in tags
            or UNIT_TAG in tags
        ):
            return None
        codes = sorted(names) if names else sorted(table)
        return MapFile(
            path,
            open_place(path)[0],
            "classes" if codes else "measures",
            tuple(
                text or f"layer {i}" for i, text in enumerate(dataset.descriptions, 1)
            ),
            tuple(MapClass(c, names.get(c, f"class {c}"), table.get(c)) for c in codes),
            dataset.nodata,
            tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            find_masks(dataset),
            is_ours or bool(codes),
        )


def read_palette(path: Path) -> dict[int, str]:
    """Return the colours that a raster gives its codes; empty without a table.

    Raises:
        RasterError: the file is missing, or no raster.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        return _colour_table(dataset)


def sample_map(
    found: MapFile, layer: int, shown: Grid, base: Grid, files: OpenFiles
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Take the numbers of a map under the pixels of a grid.

    Args:
        found: the map.
        layer: which, from 0.
        shown: the grid wanted, a part of the base; see `sampling.shown_grid`.
        base: the whole grid that it is a part of.
        files: kept open between calls.

    Returns:
        Codes, or measured numbers as float32, (H, W), and where there are any.

    Raises:
        RasterError: the file cannot be read, or cannot be laid over the base.
    """
    with quiet_gdal():
        under, masks = lay_under(base, found.grid), found.masks[layer]
        taken = sample(shown, under, sample_layers(found.path, [layer + 1], files))
        if masks:
            read = sample_layers(found.path, [layer + 1], files, masks)
            seen = sample(shown, under, read)
    if taken is None:
        shape = (shown.height, shown.width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    numbers, valid = taken[0][0], taken[1] & np.isfinite(taken[0][0])
    if masks:
        assert seen is not None
        valid &= np.asarray(seen[0][0], np.bool_)
    if found.nodata is not None and not np.isnan(found.nodata):
        valid &= numbers != found.nodata
    if found.kind == "classes":
        return numbers, valid
    scale, offset = found.scales[layer]
    measured = numbers.astype(np.float32) * np.float32(scale) + np.float32(offset)
    return np.where(valid, measured, np.float32(0)), valid


def _class_names(tags: dict[str, str]) -> dict[int, str]:
    numbers = {key.removeprefix(_CLASS): key for key in tags if key.startswith(_CLASS)}
    return {int(n): tags[key] for n, key in numbers.items() if n.isdecimal()}


def _colour_table(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Colours by code, without the black that fills a table's unused end."""
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    return {
        code: f"#{red:02x}{green:02x}{blue:02x}"
        for code, (red, green, blue, opaque) in table.items()
        if opaque and code != dataset.nodata and (red, green, blue) != (0, 0, 0)
    }
