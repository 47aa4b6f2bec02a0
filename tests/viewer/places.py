"""A scene, a map, embeddings and a model that lie on one place, as small files."""

from pathlib import Path

import numpy as np
from rasterio import Affine

from spectralgpt.checkpoints import LoadedModel, save_model
from spectralgpt.rasters import (
    Layers,
    Raster,
    write_geotiff,
    writing_map,
)
from spectralgpt.rasters.grid import Grid
from spectralgpt.viewer import Viewer, open_sources
from spectralgpt.viewer.model import ViewModel
from tests.embedding_files import three_kinds, write_embeddings
from tests.tiny import tiny_contract, tiny_model

HEIGHT, WIDTH = 96, 120
GRID = Grid(HEIGHT, WIDTH, Affine(10, 0, 500_000, 0, -10, 4_600_000), "EPSG:32632")
NAMES, COLOURS = ("water", "trees", "fields"), ("#0000ff", "#00aa00", "#ffcc00")
BANDS = tiny_contract().bands


def reflectance() -> np.ndarray:
    """(C, H, W): each pixel of each band differs, and 4 x 4 pixels hold no data."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    base = 0.05 + 0.1 * (columns * 3 // WIDTH) + rows / 2000 + columns / 5000
    return np.stack([base + i / 100 for i in range(len(BANDS))]).astype(np.float32)


def write_scene(path: Path, grid: Grid = GRID) -> Path:
    pixels = reflectance()
    valid = np.ones(pixels.shape, np.bool_)
    valid[:, :4, :4] = False
    scene = Raster(pixels, valid, BANDS, grid.crs, grid.transform)
    return write_geotiff(path, scene, sensor="sentinel-2-l1c")


def classes() -> np.ndarray:
    """(H, W) codes, in the order of `NAMES`; 255 in the lowest rows."""
    codes = np.broadcast_to(np.arange(WIDTH) * 3 // WIDTH, (HEIGHT, WIDTH)).copy()
    codes[-8:] = 255
    return codes.astype(np.uint8)


def write_classes(path: Path) -> Path:
    with writing_map(path, GRID, Layers.of_classes(NAMES, COLOURS)) as write:
        write(0, classes()[None])
    return path


def write_measures(path: Path) -> Path:
    values = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) / 100
    values[:, :, :10] = np.nan
    with writing_map(path, GRID, Layers.of_measures(("down", "across"))) as write:
        write(0, values)
    return path


def write_all(folder: Path) -> list[Path]:
    """Write a scene, its embeddings, and two maps."""
    return [
        write_scene(folder / "scene.tif"),
        write_embeddings(folder / "cells" / "embedded.tif", three_kinds()).path,
        write_classes(folder / "classes.tif"),
        write_measures(folder / "measures.tif"),
    ]


def write_model(folder: Path) -> Path:
    return save_model(folder / "run", tiny_model(), tiny_contract())


def make_viewer(folder: Path, with_model: bool = True) -> Viewer:
    sources = open_sources(write_all(folder))
    loaded = LoadedModel(tiny_model().eval(), tiny_contract())
    return Viewer(sources, ViewModel(loaded, "runs/tiny") if with_model else None)
