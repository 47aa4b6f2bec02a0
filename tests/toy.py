"""A small labelled archive that can be learned, written as GeoTIFFs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine

BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07"),
    *("B08", "B8A", "B09", "B10", "B11", "B12"),
)
CLASSES = ("field", "forest", "water")
SENSOR = "sentinel-2-l1c"
TAGS = {"PROCESSING_BASELINE": "02.05"}


def chip_pixels(
    kind: str, size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Digital numbers (size, size) by band: each class shows a blob otherwise.

    The blob is dark in some bands and bright in others; which ones tells the class,
    also after each band was scaled to 0..1 by its own extremes.
    """
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(size * 0.3, size * 0.7, 2)
    blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (size / 4) ** 2)
    inverted = {"field": (), "forest": BANDS[:4], "water": BANDS[4:]}[kind]
    pixels = {}
    for index, band in enumerate(BANDS):
        shape = 1 - blob if band in inverted else blob
        noise = rng.normal(0, 0.03, (size, size))
        numbers = 800 + 100 * index + 1500 * shape + 1500 * noise
        pixels[band] = np.clip(numbers, 1, 9000).astype(np.uint16)
    return pixels


def write_chip(
    path: Path,
    pixels: dict[str, np.ndarray],
    order: Sequence[str] = BANDS,
    origin: tuple[float, float] = (500_000.0, 4_600_000.0),
    describe: bool = True,
    gsd_m: float = 10.0,
) -> Path:
    """Write bands in any order, in UTM zone 32 N."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels[order[0]].shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=len(order),
        dtype="uint16",
        crs="EPSG:32632",
        transform=Affine(gsd_m, 0.0, origin[0], 0.0, -gsd_m, origin[1]),
        nodata=0,
    ) as file:
        for index, band in enumerate(order, start=1):
            file.write(pixels[band], index)
            if describe:
                file.set_band_description(index, band)
    return path


def write_archive(
    root: Path, per_class: int, size: int = 32, seed: int = 0, spread_m: float = 5000.0
) -> Path:
    """Write a folder of classes, chips scattered over a row of places."""
    rng = np.random.default_rng(seed)
    for index, kind in enumerate(CLASSES):
        for number in range(per_class):
            origin = (500_000.0 + spread_m * number, 4_600_000.0 + 700.0 * index)
            write_chip(
                root / kind / f"{kind}_{number:03d}.tif",
                chip_pixels(kind, size, rng),
                origin=origin,
            )
    return root
