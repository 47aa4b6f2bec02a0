"""Small raster files that tests write into their own folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine

S2_L2A = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09"),
    *("B11", "B12"),
)
LEFT, TOP = 500_000.0, 4_000_000.0


def write_tiff(
    path: Path,
    pixels: np.ndarray,
    *,
    res: float = 10.0,
    corner: tuple[float, float] = (LEFT, TOP),
    descriptions: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    **profile: Any,
) -> Path:
    """Write (C, H, W) as a georeferenced raster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "crs": "EPSG:32632"} | profile
    with rasterio.open(
        path,
        "w",
        height=height,
        width=width,
        count=count,
        dtype=pixels.dtype,
        transform=Affine(res, 0, corner[0], 0, -res, corner[1]),
        **profile,
    ) as dataset:
        dataset.write(pixels)
        if descriptions:
            dataset.descriptions = descriptions
        dataset.update_tags(**(tags or {}))
    return path


def constant(values: Sequence[float], side: int = 16, dtype: str = "uint16") -> Any:
    """(C, side, side) with another constant in each band."""
    return np.ones((1, side, side), dtype) * np.array(values, dtype)[:, None, None]


def write_band_folder(
    folder: Path, values: Mapping[str, int], name: str = "{band}.tif", side: int = 16
) -> Path:
    """Write one constant file a band, all at 10 m."""
    for band, value in values.items():
        write_tiff(folder / name.format(band=band), constant([value], side))
    return folder


def numbered(bands: Sequence[str], first: int = 1000) -> dict[str, int]:
    """Another digital number for each band."""
    return {band: first + 100 * i for i, band in enumerate(bands)}
