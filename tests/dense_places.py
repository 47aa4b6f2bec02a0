"""Small places in which a dark rectangle comes up between two dates, with masks."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from spectralgpt.data.dense import DenseDataConfig, read_dense
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.splits import Fractions
from spectralgpt.rasters import Stated
from tests.toy import BANDS, SENSOR, write_chip

SIZE = 32
PLACES = 10


def write_places(root: Path) -> Path:
    """Write places before and after a dark rectangle came up, and masks of it."""
    rng = np.random.default_rng(0)
    for number in range(PLACES):
        origin = (500_000.0 + 20_000.0 * number, 4_600_000.0)
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        row, column = rng.integers(0, 16, 2)
        mask[row : row + 16, column : column + 16] = 1
        ground = rng.normal(2000, 100, (SIZE, SIZE))
        for date, seen in (("before", 0), ("after", 1)):
            values = np.clip(ground - 1200.0 * seen * mask, 1, 9000).astype(np.uint16)
            # Both ends occur in each image, so that scaling by extremes keeps levels.
            values[0, :2] = 500, 4000
            pixels = dict.fromkeys(BANDS, values)
            write_chip(root / date / f"place_{number}.tif", pixels, origin=origin)
        path = root / "masks" / f"place_{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = root / "after" / f"place_{number}.tif"
        with rasterio.open(grid) as image:
            profile = {**image.profile, "count": 1, "dtype": "uint8", "nodata": None}
        with rasterio.open(path, "w", **profile) as file:
            file.write(mask, 1)
    return root


def places_config(root: Path, task: Any = "segmentation") -> DenseDataConfig:
    """Describe what `write_places` wrote."""
    return DenseDataConfig(
        root=str(root),
        task=task,
        images="after",
        offset=0.0,
        classes={"intact": 0, "damaged": 1},
        fractions=Fractions(0.6, 0.2, 0.2),
    )


def dense_places(root: Path, task: str) -> SampleSet:
    """Write places, and read them back with their splits."""
    return read_dense(
        places_config(write_places(root), task), assumed=Stated(sensor=SENSOR)
    )
