"""SegMunich in its archive's layout.

    train/img/<tile>.tif   train/label/<tile>.tif   dataset/train.txt
    val/img/<tile>.tif     val/label/<tile>.tif     dataset/val.txt

The archive has no test split. Its 10 bands are not named in the files, and its
descriptions disagree on which they are: bands must be stated.
"""

import logging
from pathlib import Path

from spectralgpt.data.dense.classes import ClassTable, name_classes
from spectralgpt.data.dense.entries import Entry, first_names
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.files import read_text
from spectralgpt.rasters import RasterItem

__all__ = [
    "SEGMUNICH_SENSOR",
    "TILE_PX",
    "check_tile",
    "list_segmunich",
    "segmunich_classes",
]

logger = logging.getLogger(__name__)

SEGMUNICH_SENSOR = "sentinel-2-l2a"
TILE_PX = 128
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


def check_tile(item: RasterItem) -> None:
    """Refuse a tile of another size.

    Raises:
        DataError: names it.
    """
    height, width = item.shape()
    if (height, width) != (TILE_PX, TILE_PX):
        raise DataError(
            f"{item.name} has {height} x {width} px; tiles of SegMunich have "
            f"{TILE_PX} x {TILE_PX}. Unpack it again, or use layout folders."
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
