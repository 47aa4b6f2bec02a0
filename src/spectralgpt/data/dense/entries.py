"""Which images and masks belong together: own folders and tables, SegMunich, OSCD.

Folders are matched by name or patterns. SegMunich:

    train/img/<tile>.tif   train/label/<tile>.tif   dataset/train.txt
    val/img/<tile>.tif     val/label/<tile>.tif     dataset/val.txt

It has no test split. OSCD, the Onera change detection set:

    ... dataset - Images/<city>/imgs_1_rect/B01.tif to B12.tif, imgs_2_rect/...
    ... dataset - Train Labels/<city>/cm/<city>-cm.tif, and the same in Test Labels

The folders of labels are the split: 14 cities to train and 10 to test. TorchGeo's class
does the download.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from spectralgpt.data.classes import Classes, name_classes
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.label_files import find_files, list_images, read_rows
from spectralgpt.data.listings import Entry, first_names, refuse_faults
from spectralgpt.data.samples import CHANGE, SPLITS
from spectralgpt.data.splits import split_folders, split_named
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError, require
from spectralgpt.files import read_table, read_text
from spectralgpt.rasters import RASTER_SUFFIXES, list_folder, walk

logger = logging.getLogger(__name__)

_MASK_SUFFIXES = (*RASTER_SUFFIXES, ".png", ".bmp")
_PATTERN_SIGN = "(?P<"
_Key = tuple[str, str]
_SEGMUNICH_CLASSES: dict[str, int | list[int]] = {
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
_NAME = "Onera Satellite Change Detection dataset - "
_CITIES = {"train": 14, "test": 10}
_DATES = ("imgs_1_rect", "imgs_2_rect")
# The TIFF masks count from 1, the pictures beside them go from black to white.
_TIFF_CODES: dict[str, int | list[int]] = {"unchanged": 1, "changed": 2}
_PICTURE_CODES: dict[str, int | list[int]] = {"unchanged": 0, "changed": 255}


@dataclass(frozen=True)
class _Found:
    """A file, or a folder of band files, found for a role, by the name that it matches.

    What its path does not tell is "".
    """

    path: Path
    name: str
    split: str = ""
    date: str = ""
    place: str = ""


def list_entries(
    root: Path, config: DenseDataConfig
) -> tuple[list[Entry], Classes | None]:
    """List images with their masks, by place.

    Args:
        root: folder of the data set.
        config: says how its files lie.

    Returns:
        What belongs together, and the classes where the layout fixes them; those of
        SegMunich come in the order of the published models.

    Raises:
        DatasetNotFoundError: a folder, list or table is not there.
        DataError: images and masks do not match; all are counted, the first named.
        ConfigError: a folder or pattern makes no sense.
    """
    if config.layout == "segmunich":
        return _list_segmunich(root), name_classes(_SEGMUNICH_CLASSES)
    if config.layout == "oscd":
        return _list_oscd(root, config.download)
    list_own = _list_table if config.layout == "csv" else _list_folders
    return list_own(root, config), None


def _list_folders(root: Path, config: DenseDataConfig) -> list[Entry]:
    masks = _find_masks(root, config)
    roles: dict[str, list[_Found]]
    if config.task != CHANGE:
        images = _find(root, config.images, "images")
        roles = {"image": _name_by_date(images)}
        masks = {role: _repeat(files, images) for role, files in masks.items()}
    elif _has_group(config.images, "date"):
        roles = _part_dates(_find(root, config.images, "images"))
    else:
        roles = {
            "image before": _find(root, config.before, "before"),
            "image after": _find(root, config.after, "after"),
        }
    entries = _match(roles, masks, config.allow_unlabelled, str(root))
    if config.split_table is not None:
        return _assign(entries, root / config.split_table)
    return entries


def _find_masks(root: Path, config: DenseDataConfig) -> dict[str, list[_Found]]:
    if config.class_masks is None:
        return {"mask": _find(root, config.masks, "masks", _MASK_SUFFIXES)}
    return {
        f"mask of {name}": _find(root, where, f"class_masks, {name}", _MASK_SUFFIXES)
        for name, where in config.class_masks.items()
    }


def _find(
    root: Path, where: str, option: str, suffixes: Sequence[str] | None = None
) -> list[_Found]:
    """Find the files of a role; `suffixes` are those of files that are no images."""
    found = (
        _find_by_pattern(root, where, option)
        if _PATTERN_SIGN in where
        else _find_in_folder(root, where, option, suffixes)
    )
    if not found:
        raise DataError(
            f"data.{option}: nothing under {root} fits '{where}'. Name a folder, or a "
            "pattern for whole paths under root."
        )
    return found


def _find_by_pattern(root: Path, where: str, option: str) -> list[_Found]:
    if not _has_group(where, "place"):
        raise ConfigError(f"data.{option} needs a group (?P<place>...): {where}")
    found = []
    for path in walk(root):
        match = re.fullmatch(where, path.relative_to(root).as_posix())
        if match:
            groups = match.groupdict()
            stated = groups.get("split") or ""
            split = split_named(stated) if stated else ""
            if split is None:
                raise DataError(
                    f"{path} is in split '{stated}' (known: {', '.join(SPLITS)})."
                )
            found.append(_Found(path, groups["place"], split, groups.get("date") or ""))
    return found


def _has_group(where: str, group: str) -> bool:
    if _PATTERN_SIGN not in where:
        return False
    try:
        return group in re.compile(where).groupindex
    except re.error as error:
        raise ConfigError(f"'{where}' is no regular expression: {error}.") from None


def _find_in_folder(
    root: Path, where: str, option: str, suffixes: Sequence[str] | None
) -> list[_Found]:
    inner = PurePosixPath(where)
    if inner.is_absolute() or ".." in inner.parts:
        raise ConfigError(f"data.{option} must be a folder under root: '{where}'.")
    by_split = {
        split: folder / where
        for split, folder in split_folders(root).items()
        if (folder / where).is_dir()
    } | split_folders(root / where)
    folders = by_split or {"": root / where}
    missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise DatasetNotFoundError(
            f"There is no folder {missing[0]} (data.{option}), nor one below "
            f"{', '.join(SPLITS)}."
        )
    return [
        _Found(path, path.name if path.is_dir() else path.stem, split)
        for split, folder in folders.items()
        for path in _list(folder, suffixes)
    ]


def _list(folder: Path, suffixes: Sequence[str] | None) -> list[Path]:
    if suffixes is None:
        return list_images(folder)
    return [
        p for p in list_folder(folder) if p.is_file() and p.suffix.lower() in suffixes
    ]


def _part_dates(found: Sequence[_Found]) -> dict[str, list[_Found]]:
    """Sort the two images of each place by date."""
    places: dict[_Key, list[_Found]] = {}
    for image in found:
        places.setdefault((image.split, image.name), []).append(image)
    wrong = [
        f"{place} ({', '.join(sorted(image.date for image in images))})"
        for (_, place), images in places.items()
        if len({image.date for image in images}) != 2 or len(images) != 2
    ]
    if wrong:
        raise DataError(
            f"{len(wrong)} places do not have two dates ({first_names(wrong)}). Narrow "
            "the pattern data.images, or name data.before and data.after."
        )
    pairs = [sorted(images, key=lambda image: image.date) for images in places.values()]
    return {
        "image before": [pair[0] for pair in pairs],
        "image after": [pair[1] for pair in pairs],
    }


def _name_by_date(files: Sequence[_Found]) -> list[_Found]:
    """Let dates of one place be images of their own; they stay in one split."""
    return [
        replace(file, name=f"{file.name} {file.date}", place=file.name)
        if file.date
        else file
        for file in files
    ]


def _repeat(masks: Sequence[_Found], images: Sequence[_Found]) -> list[_Found]:
    """Give a mask without a date to all dates of its place."""
    dates: dict[_Key, set[str]] = {}
    for image in images:
        for split in (image.split, ""):
            dates.setdefault((split, image.name), set()).add(image.date)
    dated = []
    for mask in masks:
        found = dates.get((mask.split, mask.name)) or dates.get(("", mask.name))
        every = {mask.date} if mask.date else found or {""}
        dated += [replace(mask, date=date) for date in sorted(every)]
    return _name_by_date(dated)


def _match(
    images: Mapping[str, Sequence[_Found]],
    masks: Mapping[str, Sequence[_Found]],
    allow_unlabelled: bool,
    source: str,
) -> list[Entry]:
    everything = [*images.values(), *masks.values()]
    # Where all roles lie below split folders, a name may occur in each of them.
    all_split = all(file.split for files in everything for file in files)
    roles = {
        name: _by_key(files, all_split, name, source)
        for name, files in {**images, **masks}.items()
    }
    labelled = set.intersection(*(set(roles[name]) for name in masks))
    problems = []
    for name, files in roles.items():
        others = [other for other in roles if other != name]
        if allow_unlabelled and name in images:
            others = [other for other in others if other in images]
        for other in others:
            lonely = sorted(key[1] for key in set(files) - set(roles[other]))
            if lonely:
                problems.append(
                    f"{len(lonely)} with {name} but no {other} ({first_names(lonely)})"
                )
    if problems:
        raise DataError(
            f"{source}: images and masks do not match: {'; '.join(problems)}. Files "
            "are matched by name without ending; for images that have no mask set "
            "data.allow_unlabelled true."
        )
    keys = sorted(set.intersection(*(set(roles[name]) for name in images)) & labelled)
    return [_entry(key, roles, list(images), list(masks)) for key in keys]


def _by_key(
    files: Iterable[_Found], with_split: bool, role: str, source: str
) -> dict[_Key, _Found]:
    table: dict[_Key, _Found] = {}
    for file in files:
        key = (file.split if with_split else "", file.name)
        if key in table:
            raise DataError(
                f"{source}: two files are the {role} of '{file.name}': "
                f"{table[key].path} and {file.path}. Rename one, or narrow the pattern."
            )
        table[key] = file
    return table


def _entry(
    key: _Key,
    roles: Mapping[str, Mapping[_Key, _Found]],
    images: Sequence[str],
    masks: Sequence[str],
) -> Entry:
    files = {name: role[key] for name, role in roles.items()}
    splits = {file.split for file in files.values()} - {""}
    if len(splits) > 1:
        raise DataError(
            f"'{key[1]}' is in split {' and '.join(sorted(splits))}: put its image and "
            "mask in the same one."
        )
    return Entry(
        name=key[1],
        images=tuple(files[name].path for name in images),
        masks=tuple(files[name].path for name in masks),
        split=next(iter(splits), ""),
        place=files[images[0]].place,
    )


def _assign(entries: Sequence[Entry], table: Path) -> list[Entry]:
    """Take the splits from a table of places."""
    columns, rows = read_table(table)
    if not {"place", "split"} <= set(columns):
        raise DataError(
            f"{table} needs the columns place and split (found: {', '.join(columns)})."
        )
    stated = {row["place"].strip(): row["split"].strip() for row in rows}
    wrong = {split for split in stated.values() if split_named(split) is None}
    missing = [e.name for e in entries if (e.place or e.name) not in stated]
    if wrong or missing:
        raise DataError(
            f"{table}: {len(missing)} images have no row ({first_names(missing)}), "
            f"unknown splits: {', '.join(sorted(wrong)) or 'none'} (known: "
            f"{', '.join(SPLITS)})."
        )
    return [
        replace(entry, split=split_named(stated[entry.place or entry.name]) or "")
        for entry in entries
    ]


def _list_table(root: Path, config: DenseDataConfig) -> list[Entry]:
    """List the rows of a table; paths are relative to it and stay beneath it."""
    if config.class_masks is not None:
        raise ConfigError("data.class_masks needs layout folders.")
    table = root / config.table
    columns, rows = read_rows(table, "data.table")
    dates = ("before", "after") if config.task == CHANGE else ("image",)
    missing = [name for name in (*dates, "mask") if name not in columns]
    if missing:
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)} (found: "
            f"{', '.join(columns) or 'none'})."
        )
    files, faults = find_files(table, rows, (*dates, "mask"))
    refuse_faults(table, faults)
    return [
        Entry(
            name=Path(row[dates[0]]).with_suffix("").as_posix(),
            images=tuple(found[date] for date in dates),
            masks=(found["mask"],),
            split=split_named(row.get("split", "")) or "",
            place=row.get("place", ""),
        )
        for row, found in zip(rows, files, strict=True)
    ]


def _list_segmunich(root: Path) -> list[Entry]:
    """List the tiles that the two lists name."""
    entries = []
    for split in ("train", "val"):
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
        there = {path.stem for path in (folder / "img").glob("*.tif")}
        unlisted = sorted(there - set(names))
        if unlisted:
            logger.warning(
                "%s holds %d tiles that no list names (%s): they are left out.",
                folder,
                len(unlisted),
                first_names(unlisted),
            )
        entries += [
            Entry(
                name=f"{split}/{name}",
                images=(folder / "img" / f"{name}.tif",),
                masks=(folder / "label" / f"{name}.tif",),
                split=split,
            )
            for name in names
        ]
    return entries


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


def _list_oscd(root: Path, download: bool) -> tuple[list[Entry], Classes]:
    """List the cities, and the codes of their masks."""
    images = root / f"{_NAME}Images"
    if download and not images.is_dir():
        require("torchgeo")
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
        Entry(
            name=path.name,
            images=tuple(images / path.name / date for date in _DATES),
            masks=(mask,),
            split=split,
        )
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
