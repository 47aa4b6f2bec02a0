"""Scenes and layers of labels that tests write into their own folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from shapely import box

from tests.raster_files import LEFT, TOP, numbered, write_tiff

SENSOR = "sentinel-2-l2a"
BANDS = ("B02", "B03", "B04", "B08")
CRS = "EPSG:32632"


def write_scene(path: Path, height: int = 96, width: int = 96, **options: Any) -> Path:
    """Write a scene in which every pixel of every band has its own number."""
    rows, columns = np.mgrid[:height, :width]
    ramp = (rows * 7 + columns * 3).astype(np.uint16)
    first = np.array(list(numbered(BANDS).values()), np.uint16)[:, None, None]
    stated = {"descriptions": BANDS, "nodata": 0} | options
    return write_tiff(path, first + ramp, **stated)


def pixel_box(top: int, left: int, bottom: int, right: int, res: float = 10.0) -> Any:
    """A rectangle whose edges are those of pixels of a scene at `LEFT`, `TOP`."""
    return box(
        LEFT + left * res, TOP - bottom * res, LEFT + right * res, TOP - top * res
    )


def write_labels(
    path: Path, values: Sequence[Any], shapes: Sequence[Any], crs: str = CRS
) -> Path:
    """Write shapes of the scenes' reference system with a column `cover`."""
    frame = geopandas.GeoDataFrame({"cover": values}, geometry=shapes, crs=CRS)
    frame.to_crs(crs).to_file(path)
    return path


def halves(side: int = 96) -> tuple[list[str], list[Any]]:
    """Water in the upper half of a square scene, trees in the lower."""
    middle = side // 2
    return ["water", "trees"], [
        pixel_box(0, 0, middle, side),
        pixel_box(middle, 0, side, side),
    ]
