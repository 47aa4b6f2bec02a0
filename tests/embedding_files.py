"""Rasters of embeddings with known vectors, for tests that need no encoder."""

from pathlib import Path

import geopandas
import numpy as np
from rasterio import Affine
from shapely.geometry import Point

from spectralgpt.rasters.embeddings import (
    EmbeddingRaster,
    EmbeddingSource,
    open_embeddings,
    writing_embeddings,
)
from spectralgpt.rasters.grid import Grid, apply
from spectralgpt.rasters.write import NumberType
from spectralgpt.sensors import find_sensor

UTM = Affine(40.0, 0.0, 500_000.0, 0.0, -40.0, 4_600_000.0)
BANDS = find_sensor("sentinel-2-l2a").bands[1:4]
WIDTH = 5


def three_kinds(height: int = 24, width: int = 30) -> np.ndarray:
    """Classes (height, width) 0, 1, 2 in columns, so that each is in many blocks."""
    return np.broadcast_to(np.arange(width) * 3 // width, (height, width)).copy()


def write_embeddings(
    path: Path,
    classes: np.ndarray,
    *,
    encoder: str = "one",
    number_type: NumberType = "float16",
    transform: Affine | None = UTM,
    bands: bool = True,
    noise: float = 0.05,
    trained_on: str = "",
) -> EmbeddingRaster:
    """Write vectors that tell the class of each cell; -1 is nodata."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (classes.max() + 1, WIDTH))
    values = centres[classes] + rng.normal(0, noise, (*classes.shape, WIDTH))
    used = BANDS if bands else ()
    if bands:
        shown = 0.1 + 0.1 * classes[..., None] + np.arange(len(BANDS)) / 100
        values = np.concatenate([values, shown], axis=-1)
    values[classes < 0] = np.nan
    grid = Grid(*classes.shape, transform, "EPSG:32632" if transform else None)
    source = EmbeddingSource(encoder, path.stem, WIDTH, 8, 4, used, "0", trained_on)
    layers = np.moveaxis(values, -1, 0)
    with writing_embeddings(path, grid, source, number_type) as write:
        for row in range(0, len(classes), 7):
            write(row, layers[:, row : row + 7])
    return open_embeddings(path)


def write_labels(
    path: Path,
    classes: np.ndarray,
    names: tuple[str, ...],
    step: int = 4,
    crs: str = "EPSG:4326",
) -> Path:
    """Write a point in the middle of every `step`-th cell, with its class."""
    rows, columns = np.mgrid[1 : len(classes) : step, 1 : classes.shape[1] : step]
    at = list(zip(rows.ravel(), columns.ravel(), strict=True))
    points = [Point(*apply(UTM, c + 0.5, r + 0.5)) for r, c in at]
    kinds = [names[classes[place]] for place in at]
    frame = geopandas.GeoDataFrame({"kind": kinds}, geometry=points, crs="EPSG:32632")
    frame.to_crs(crs).to_file(path)
    return path
