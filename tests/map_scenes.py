"""Scenes of a camera of seven bands, and a model that goes by each pixel alone."""

from pathlib import Path

import numpy as np
import torch
from rasterio import Affine
from torch import Tensor

from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, Stated, describe_raster
from spectralgpt.scenes.maps import Mapper, classes_of
from tests.dense_files import BANDS, contract, image_of, write_sensor
from tests.raster_files import write_tiff

SIDE = 32
NAMES = ("water", "trees", "fields")
COLOURS = ("#0072b2", "#1b7837", "#e69f00")
UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)


def rule(images: Tensor) -> Tensor:
    """Give 0.9 to the class that the first band tells, of the last of two dates."""
    last = images[:, -1] if images.ndim == 5 else images
    classes = (last[:, 0] * 10 - 1).round().long().clamp(0, len(NAMES) - 1)
    one_hot = torch.nn.functional.one_hot(classes, len(NAMES)).movedim(-1, 1)
    return one_hot * 0.85 + 0.05


def rule_contract(folder: Path) -> Preprocessing:
    return contract(write_sensor(folder), SIDE)


def rule_mapper(folder: Path, predict: object = rule, side: int = SIDE) -> Mapper:
    contract_ = rule_contract(folder)
    return Mapper(predict, contract_, NAMES, COLOURS, side)  # type: ignore[arg-type]


def write_scene(
    path: Path,
    classes: np.ndarray,
    crs: str | None = "EPSG:32632",
    transform: Affine | None = UTM,
    hole: tuple[slice, slice] | None = None,
) -> Path:
    """Write a scene of which `rule` makes these classes."""
    image = image_of(classes)
    if hole is not None:
        image[:, *hole] = 0
    options = {"crs": crs, "nodata": 0, "descriptions": BANDS}
    write_tiff(path, image, **options)  # type: ignore[arg-type]
    import rasterio

    with rasterio.open(path, "r+") as dataset:
        dataset.transform = transform or Affine.identity()
    return path


def describe(path: Path) -> RasterFile:
    return describe_raster(path, write_sensor(path.parent), Stated(bands=BANDS))


def join(strips: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Put the classes of all strips together, checking that none is missing."""
    classes = [classes_of(probabilities) for _, probabilities in strips]
    ends = np.cumsum([0, *map(len, classes)])
    assert [row for row, _ in strips] == ends[:-1].tolist()
    return np.concatenate(classes)
