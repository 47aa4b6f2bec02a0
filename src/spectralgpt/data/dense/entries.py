"""One's own images and masks: folders, matched by name or patterns, and tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.label_files import (
    find_files,
    first_names,
    list_images,
    read_rows,
    refuse_problems,
)
from spectralgpt.data.samples import SPLITS
from spectralgpt.data.splits import split_folders, split_named
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.files import read_table
from spectralgpt.rasters import RASTER_SUFFIXES, list_folder, walk

_MASK_SUFFIXES = (*RASTER_SUFFIXES, ".png", ".bmp")
_PATTERN_SIGN = "(?P<"
_Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """The files of one chip.

    Args:
        name: what its files were matched by.
        images: one image, or before and after.
        masks: the mask, or one mask of each class in their order.
        split: "train", "val", "test" or "".
        place: images of one place share it; "" takes it from the name.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    split: str = ""
    place: str = ""


@dataclass(frozen=True)
class _Found:
    """A file, or a folder of band files, that was found for a role.

    Args:
        path: where.
        name: what it is matched by.
        split: "train", "val", "test" or "".
        date: of the image, "" if its path tells none.
        place: what it shows; "" takes it from the name.
    """

    path: Path
    name: str
    split: str = ""
    date: str = ""
    place: str = ""


def list_folders(root: Path, config: DenseDataConfig) -> list[Entry]:
    """List images with their masks, by place.

    Raises:
        DatasetNotFoundError: a folder is not there.
        DataError: images and masks do not match; all are counted, the first named.
        ConfigError: a folder or pattern makes no sense.
    """
    masks = _find_masks(root, config)
    roles: dict[str, list[_Found]]
    if config.task == "segmentation":
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
        key[1],
        tuple(files[name].path for name in images),
        tuple(files[name].path for name in masks),
        next(iter(splits), ""),
        files[images[0]].place,
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


def list_table(root: Path, config: DenseDataConfig) -> list[Entry]:
    """List the rows of a table; paths are relative to it and stay beneath it.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: columns, paths or splits are wrong; all are counted, the first named.
    """
    if config.class_masks is not None:
        raise ConfigError("data.class_masks needs layout folders.")
    table = root / config.table
    columns, rows = read_rows(table, "data.table")
    dates = ("image",) if config.task == "segmentation" else ("before", "after")
    missing = [name for name in (*dates, "mask") if name not in columns]
    if missing:
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)} (found: "
            f"{', '.join(columns) or 'none'})."
        )
    files, problems = find_files(table, rows, (*dates, "mask"))
    refuse_problems(table, problems)
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
