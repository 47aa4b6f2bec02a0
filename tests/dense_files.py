"""Small data sets with masks that tests write into their own folders.

The first band of an image tells its mask: 1000 where the class is 0, and 1000 more for
each class above. Images of a sensor of seven bands that the package does not know.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    sensor_preprocessing,
)
from tests.raster_files import LEFT, TOP, write_tiff

SENSOR_TEXT = """
title: A camera of our own
quantification: 10000
offset: 0
nodata: 0
saturated: null
source: measured in the laboratory
bands:
  - {name: violet, wavelength_nm: 420, width_nm: 30, gsd_m: 5}
  - {name: blue, wavelength_nm: 490, width_nm: 40, gsd_m: 5}
  - {name: green, wavelength_nm: 560, width_nm: 40, gsd_m: 5}
  - {name: red, wavelength_nm: 660, width_nm: 40, gsd_m: 5}
  - {name: edge, wavelength_nm: 710, width_nm: 20, gsd_m: 5}
  - {name: near, wavelength_nm: 850, width_nm: 60, gsd_m: 5}
  - {name: far, wavelength_nm: 950, width_nm: 60, gsd_m: 5}
"""
BANDS = ("violet", "blue", "green", "red", "edge", "near", "far")
STEP = 1000


def write_sensor(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "camera.yaml"
    path.write_text(SENSOR_TEXT, encoding="utf-8")
    return str(path)


def contract(sensor: str, image_size: int = 32) -> Preprocessing:
    """Scale so that the first band of the model's image is class / 10 + 0.1."""
    zero, one = dict.fromkeys(BANDS, 0.0), dict.fromkeys(BANDS, 1.0)
    statistics = BandStatistics(zero, one, zero, one, "stated")
    return sensor_preprocessing(
        sensor, image_size=image_size, scaling="fixed-range", statistics=statistics
    )


def class_of(image: np.ndarray) -> np.ndarray:
    """The class that the first band of a prepared image tells."""
    return np.rint(image[0] * 10 - 1).astype(int)


def blobs(height: int, width: int, seed: int, classes: int = 2) -> np.ndarray:
    """A mask (H, W) of blocks of 4 px that no flip or turn maps onto itself."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (-(-height // 4), -(-width // 4)))
    return np.kron(small, np.ones((4, 4), int))[:height, :width].astype(np.uint8)


def image_of(mask: np.ndarray, bands: int = len(BANDS)) -> np.ndarray:
    """An image (C, H, W) that shows a mask in its first band."""
    image = np.ones((bands, *mask.shape), np.uint16)
    image *= (np.arange(bands, dtype=np.uint16) * 100 + 2000)[:, None, None]
    image[0] = STEP * (mask.astype(np.uint16) + 1)
    return image


def write_pair(
    root: Path,
    name: str,
    mask: np.ndarray,
    images: str = "images",
    masks: str = "masks",
    **options: object,
) -> None:
    """Write an image and its mask at a place that the name tells."""
    corner = (LEFT + 2000.0 * (sum(map(ord, name)) % 97), TOP)
    stated = {"corner": corner, "res": 5.0} | options
    write_tiff(root / images / f"{name}.tif", image_of(mask), **stated)  # type: ignore
    write_tiff(root / masks / f"{name}.tif", mask[None], **stated)  # type: ignore


def write_set(
    root: Path, names: Mapping[str, tuple[int, int]], classes: int = 2
) -> Path:
    """Write images of given sizes, each with another mask."""
    for number, (name, shape) in enumerate(names.items()):
        write_pair(root, name, blobs(*shape, seed=number, classes=classes))
    return root


def write_segmunich(root: Path, tiles: int = 3, side: int = 128) -> Path:
    """Write tiles of 10 bands with codes of both kinds, and the two lists."""
    rng = np.random.default_rng(0)
    codes = np.array([0, 21, 22, 23, 31, 5, 32, 33, 41, 13, 14, 11, 12], np.uint8)
    (root / "dataset").mkdir(parents=True)
    for split in ("train", "val"):
        names = [f"{split}_{number}" for number in range(tiles)]
        for name in names:
            small = rng.integers(0, len(codes), (side // 16, side // 16))
            label = codes[np.kron(small, np.ones((16, 16), int))]
            image = np.ones((10, side, side), np.uint16)
            image *= (np.arange(10, dtype=np.uint16) * 100 + 300)[:, None, None]
            image[9] = 1000 + 10 * label.astype(np.uint16)
            write_tiff(root / split / "img" / f"{name}.tif", image)
            write_tiff(root / split / "label" / f"{name}.tif", label[None])
        text = "".join(f"{name}.tif\n" for name in names)
        (root / "dataset" / f"{split}.txt").write_text(text, encoding="utf-8")
    return root


OSCD_NAME = "Onera Satellite Change Detection dataset - {}"
OSCD_CITIES = {"Train": ("paris", "pisa"), "Test": ("milano",)}


def write_oscd(root: Path, side: int = 40) -> Path:
    """Write cities with one file a band for both dates, and masks of 1 and 2."""
    from spectralgpt.sensors import load_sensor

    for split, cities in OSCD_CITIES.items():
        for number, city in enumerate(cities):
            changed = blobs(side, side + 8, seed=number)
            folder = root / OSCD_NAME.format("Images") / city
            for date in (1, 2):
                for index, band in enumerate(load_sensor("sentinel-2-l1c").band_names):
                    numbers = np.full(changed.shape, 500 + 100 * index, np.uint16)
                    if band == "B12" and date == 2:
                        numbers = numbers + 3000 * changed.astype(np.uint16)
                    path = folder / f"imgs_{date}_rect" / f"{band}.tif"
                    # The archive's georeferences are of no use: they are turned round.
                    write_tiff(path, numbers[None], corner=(LEFT + 999 * date, TOP))
            labels = root / OSCD_NAME.format(f"{split} Labels") / city / "cm"
            write_tiff(labels / f"{city}-cm.tif", changed[None] + np.uint8(1), crs=None)
    return root
