"""The Onera change detection set (OSCD) in its archive's layout.

    ... dataset - Images/<city>/imgs_1_rect/B01.tif to B12.tif, imgs_2_rect/...
    ... dataset - Train Labels/<city>/cm/<city>-cm.tif, and the same in Test Labels

The folders of labels are the split: 14 cities to train and 10 to test. TorchGeo's class
does the download. Images are Sentinel-2 level 1C of 2015 to 2018, from before digital
numbers had an offset.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from spectralgpt.data.dense.classes import ClassTable, name_classes
from spectralgpt.data.dense.entries import Entry, first_names
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.rasters import list_folder
from spectralgpt.sensors import load_sensor

__all__ = ["OSCD_SENSOR", "list_oscd", "oscd_bands"]

logger = logging.getLogger(__name__)

OSCD_SENSOR = "sentinel-2-l1c"
_NAME = "Onera Satellite Change Detection dataset - "
_CITIES = {"train": 14, "test": 10}
_DATES = ("imgs_1_rect", "imgs_2_rect")
# The TIFF masks count from 1, the pictures beside them go from black to white.
_TIFF_CODES: dict[str, int | list[int]] = {"unchanged": 1, "changed": 2}
_PICTURE_CODES: dict[str, int | list[int]] = {"unchanged": 0, "changed": 255}


def oscd_bands() -> tuple[str, ...]:
    """Names of the 13 bands that every city has for both dates."""
    return load_sensor(OSCD_SENSOR).band_names


def list_oscd(root: Path, download: bool = False) -> tuple[list[Entry], ClassTable]:
    """List the cities, and the codes of their masks.

    Raises:
        DatasetNotFoundError: it is not there and may not be downloaded.
        DataError: a city lacks a date or its mask.
    """
    images = root / f"{_NAME}Images"
    if download and not images.is_dir():
        from torchgeo.datasets import OSCD

        OSCD(str(root), split="train", download=True, checksum=True)
    if not images.is_dir():
        raise DatasetNotFoundError(
            f"OSCD is not at {root}: there is no folder '{images.name}'. Set "
            "data.download true, or unpack its three archives there."
        )
    cities: list[tuple[str, Path]] = []
    for split, count in _CITIES.items():
        labels = root / f"{_NAME}{split.capitalize()} Labels"
        if not labels.is_dir():
            raise DatasetNotFoundError(f"OSCD's folder '{labels}' is missing.")
        found = sorted(path for path in list_folder(labels) if (path / "cm").is_dir())
        if len(found) != count:
            logger.warning("%s holds %d cities, not %d.", labels, len(found), count)
        cities += [(split, path) for path in found]
    masks, codes = _choose_masks([path for _, path in cities])
    _check_cities(images, [path.name for _, path in cities])
    entries = [
        Entry(path.name, tuple(images / path.name / d for d in _DATES), (mask,), split)
        for (split, path), mask in zip(cities, masks, strict=True)
    ]
    return entries, name_classes(codes)


def _choose_masks(
    cities: Sequence[Path],
) -> tuple[list[Path], dict[str, int | list[int]]]:
    """Take one kind of mask for all cities: the two kinds have other codes."""
    tiffs = [city / "cm" / f"{city.name}-cm.tif" for city in cities]
    pictures = [city / "cm" / "cm.png" for city in cities]
    if all(path.is_file() for path in tiffs):
        return tiffs, _TIFF_CODES
    if all(path.is_file() for path in pictures):
        return pictures, _PICTURE_CODES
    lacking = [path.parent.parent.name for path in tiffs if not path.is_file()]
    raise DataError(
        f"{len(lacking)} of {len(cities)} cities of OSCD have no mask cm/<city>-cm.tif "
        f"({first_names(lacking)}). Unpack the labels again."
    )


def _check_cities(images: Path, names: Sequence[str]) -> None:
    lacking = [
        f"{name}/{date}" for name in names for date in _DATES
        if not (images / name / date).is_dir()
    ]  # fmt: skip
    unlabelled = sorted(
        path.name for path in list_folder(images)
        if path.is_dir() and path.name not in names
    )  # fmt: skip
    if lacking or unlabelled:
        raise DataError(
            f"{images}: {len(lacking)} dates are missing ({first_names(lacking)}), "
            f"{len(unlabelled)} cities have no mask ({first_names(unlabelled)}). "
            "Unpack the archives again."
        )
