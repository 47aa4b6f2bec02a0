"""Small archives of smooth imagery that training tests write into their own folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from spectralgpt.sensors import load_sensor
from tests.raster_files import write_tiff


def smooth_image(bands: int, side: int, seed: int) -> np.ndarray:
    """(C, side, side) float32 reflectance: waves, alike in neighbouring bands."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    waves = [
        np.sin(2 * np.pi * (a * rows + b * columns + c))
        for a, b, c in rng.uniform(0.5, 2.0, (2, 3))
    ]
    mix = np.linspace(0, 1, bands)[:, None, None]
    image = 0.3 + 0.1 * ((1 - mix) * waves[0] + mix * waves[1])
    return image.astype(np.float32)


def write_archive(
    root: Path,
    name: str,
    sensor: str,
    count: int = 4,
    side: int = 64,
    bands: Sequence[str] | None = None,
    missing: dict[int, Sequence[str]] | None = None,
) -> Path:
    """Write images of a sensor below `root`, and the description beside them.

    Args:
        root: folder of the data.
        name: of the data set, its folder and its description.
        sensor: in the registry.
        count: images.
        side: of each image, px.
        bands: names of the bands; None takes all of the sensor.
        missing: bands that single images lack, by the image's number.

    Returns:
        The path of the description.
    """
    known = load_sensor(sensor).select(bands)
    for number in range(count):
        lacking = (missing or {}).get(number, ())
        kept = [i for i, band in enumerate(known) if band.name not in lacking]
        pixels = smooth_image(len(known), side, seed=number)[kept]
        write_tiff(
            root / name / f"{number}.tif",
            pixels,
            descriptions=[known[i].name for i in kept],
        )
    path = root / f"{name}.yaml"
    described = {"root": name, "sensor": sensor, "unit": "reflectance"}
    path.write_text(yaml.safe_dump(described | {"holdout": "block"}))
    return path
