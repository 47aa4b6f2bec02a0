"""Writing simulated images and masks as GeoTIFFs that say what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.data.simulation.observation import quantification_of, to_numbers
from spectralgpt.data.simulation.rendering import Picture
from spectralgpt.rasters.numbers import NorthUpPlace, write_numbers
from spectralgpt.rasters.products import SENSOR_TAG
from spectralgpt.sensors import Band, Sensor

__all__ = ["IGNORED", "FileStamp", "write_image", "write_mask"]

IGNORED = 255
"""Value of masks under clouds, where the ground cannot be seen."""


@dataclass(frozen=True)
class FileStamp:
    """What all files of one simulated place say about themselves.

    Args:
        sensor: whose numbers they hold.
        bands: in the order of the file.
        place: where the files lie.
        region: name of the region.
        seed: of the archive.
    """

    sensor: Sensor
    bands: tuple[Band, ...]
    place: NorthUpPlace
    region: str
    seed: int

    @property
    def tags(self) -> dict[str, str]:
        """Tags of every file."""
        return {
            "SIMULATED": "yes",
            "GENERATOR": f"spectralgpt {__version__} simulate",
            "REGION": self.region,
            "SEED": str(self.seed),
        }


def write_image(path: Path, picture: Picture, stamp: FileStamp) -> None:
    """Write digital numbers as the sensor's product has them.

    The file states its own scale and offset, so that readers need no rule to come back
    to reflectance.
    """
    sensor = stamp.sensor
    quantification = quantification_of(sensor)
    tags = stamp.tags | {
        SENSOR_TAG: sensor.name,
        "ACQUISITION": picture.season.day.isoformat(),
        "SUN_ELEVATION_DEG": f"{picture.season.sun_elevation_deg:.2f}",
    }
    write_numbers(
        path,
        to_numbers(picture.reflectance, sensor),
        stamp.place,
        [band.name for band in stamp.bands],
        nodata=sensor.nodata,
        scale=(1.0 / quantification, sensor.offset / quantification),
        tags=tags,
    )


def write_mask(
    path: Path, mask: NDArray[np.generic], stamp: FileStamp, names: Sequence[str]
) -> None:
    """Write class numbers, with their names as tags; `IGNORED` means no label."""
    write_numbers(
        path,
        mask[None].astype(np.uint8),
        stamp.place,
        ["class"],
        nodata=IGNORED,
        tags=stamp.tags | {f"CLASS_{i}": name for i, name in enumerate(names)},
    )
