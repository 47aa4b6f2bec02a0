"""SegMunich and OSCD, the Onera change detection set, in their archives' layouts.

SegMunich:

    train/img/<tile>.tif   train/label/<tile>.tif   dataset/train.txt
    val/img/<tile>.tif     val/label/<tile>.tif     dataset/val.txt

It has no test split. Its 10 bands are not named in the files, and its descriptions
disagree on which they are: bands must be stated.

OSCD:

    ... dataset - Images/<city>/imgs_1_rect/B01.tif to B12.tif, imgs_2_rect/...
    ... dataset - Train Labels/<city>/cm/<city>-cm.tif, and the same in Test Labels

The folders of labels are the split: 14 cities to train and 10 to test. TorchGeo's class
does the download. Images are Sentinel-2 level 1C of 2015 to 2018, from before digital
numbers had an offset.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from spectralgpt.data.classes import ClassTable, name_classes
from spectralgpt.data.dense.entries import Entry
from spectralgpt.data.label_files import first_names
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.files import read_text
from spectralgpt.rasters import RasterFile, list_folder
from spectralgpt.sensors import load_sensor

logger = logging.getLogger(__name__)

SEGMUNICH_SENSOR = "sentinel-2-l2a"
_TILE_PX = 128
_SPLITS = ("train", "val")
_CLASSES: dict[str, int | list[int]] = {
    "background": 0,
    "arable land": [1, 21],
    "permanent crops": [2, 22],
    "pastures": [3, 23],
    "forests": [4, 31],
    "surface water": 5,
    "shrub": [6, 32],
    "open spaces": [7, 33],
    "wetlands": [8, 41],
    "mine, dump": [9, 13],
    "artificial vegetation": [10, 14],
    "urban fabric": 11,
    "buildings": 12,
}
"""Codes that are not renumbered already are those of the second CORINE level.

Source: Hong et al. 2024, arXiv:2311.07113, and the published reader's label table.
"""
OSCD_SENSOR = "sentinel-2-l1c"
_NAME = "Onera Satellite Change Detection dataset - "
_CITIES = {"train": 14, "test": 10}
_DATES = ("imgs_1_rect", "imgs_2_rect")
# The TIFF masks count from 1, the pictures beside them go from black to white.
_TIFF_CODES: dict[str, int | list[int]] = {"unchanged": 1, "changed": 2}
_PICTURE_CODES: dict[str, int | list[int]] = {"unchanged": 0, "changed": 255}


def segmunich_classes() -> ClassTable:
    """Return the 13 classes, in the order of the published models."""
    return name_classes(_CLASSES)


def list_segmunich(root: Path) -> list[Entry]:
    """List the tiles that the two lists name.

    Raises:
        DatasetNotFoundError: a list or folder is missing.
        DataError: a list names a tile that is not there, or a tile lacks its label.
    """
    entries = []
    for split in _SPLITS:
        folder = root / split
        names = _read_list(root / "dataset" / f"{split}.txt")
        for part in ("img", "label"):
            if not (folder / part).is_dir():
                raise DatasetNotFoundError(
                    f"SegMunich is not at {root}: there is no folder {folder / part}."
                )
            missing = [n for n in names if not (folder / part / f"{n}.tif").is_file()]
            if missing:
                raise DataError(
                    f"{folder / part} lacks {len(missing)} of {len(names)} tiles of "
                    f"dataset/{split}.txt ({first_names(missing)}). Unpack it again."
                )
        _report_unlisted(folder, names)
        entries += [
            Entry(
                f"{split}/{name}",
                (folder / "img" / f"{name}.tif",),
                (folder / "label" / f"{name}.tif",),
                split,
            )
            for name in names
        ]
    return entries


def check_tile(item: RasterFile) -> None:
    """Refuse a tile of another size.

    Raises:
        DataError: names it.
    """
    height, width = item.shape()
    if (height, width) != (_TILE_PX, _TILE_PX):
        raise DataError(
            f"{item.name} has {height} x {width} px; tiles of SegMunich have "
            f"{_TILE_PX} x {_TILE_PX}. Unpack it again, or use layout folders."
        )


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise DatasetNotFoundError(
            f"SegMunich's list {path} is missing. Unpack the archive again, or use "
            "layout folders."
        )
    lines = read_text(path).split()
    names = [line.removesuffix(".tif") for line in lines]
    outside = [
        n for n in names if "/" in n or "\\" in n or "\0" in n or n in ("", "..")
    ]
    twice = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if outside or twice or not names:
        raise DataError(
            f"{path} must list names of tiles, each once (no plain names: "
            f"{first_names(outside) or 'none'}; twice: {first_names(twice) or 'none'})."
        )
    return names


def _report_unlisted(folder: Path, names: list[str]) -> None:
    there = {path.stem for path in (folder / "img").glob("*.tif")}
    unlisted = sorted(there - set(names))
    if unlisted:
        logger.warning(
            "%s holds %d tiles that no list names (%s): they are left out.",
            folder,
            len(unlisted),
            first_names(unlisted),
        )


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
