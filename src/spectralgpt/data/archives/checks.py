"""Checking an archive by its name, or one's own data by a YAML file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from spectralgpt.data.archives.catalogue import take_inventory
from spectralgpt.data.archives.inventory import Inventory, list_unlabelled
from spectralgpt.data.archives.masks import has_masks, list_masks, mask_config
from spectralgpt.data.archives.registry import PREFIX, load_archive
from spectralgpt.data.checking import check_images
from spectralgpt.data.descriptions import Source, read_source, source_from_table
from spectralgpt.data.findings import ArchiveCheck
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.errors import ConfigError
from spectralgpt.yaml_files import check_keys, read_mapping

__all__ = ["CheckOptions", "check_archive"]

_IMAGE_KEYS = ("sensor", "bands", "unit", "offset", "quantification", "nodata")
"""Settings of labelled data that say how its images are read."""


@dataclass(frozen=True)
class CheckOptions:
    """How a check is done.

    Args:
        limit: open this many images, drawn with the seed; None opens all.
        seed: of that draw, of the statistics and of the picture.
        workers: threads that read.
        sensor: of one's own images, if their files do not say it.
        bands: names of the layers of one's own images, if their files do not say them.
        offset: of the digital numbers of one's own images, if nothing says it.
        labels: table of layout csv, relative to the root.
    """

    limit: int | None = None
    seed: int = 0
    workers: int = 2
    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    offset: float | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1: {value}.")


def check_archive(
    target: str,
    root: Path | None = None,
    options: CheckOptions | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ArchiveCheck:
    """Check an archive, or one's own data.

    Args:
        target: name of an archive or layout of the registry; or a YAML file: the
            description of a data set, or settings of labelled data.
        root: the archive's folder; for a description, the data folder.
        options: how.
        report: called with the images looked at and all of them.

    Raises:
        ConfigError: the archive is unknown, or a description is wrong.
        DatasetNotFoundError: nothing of it is there.
        DataError: nothing can be listed.
    """
    options = options or CheckOptions()
    if target.endswith(".yaml"):
        name, root, source, inventory = _from_file(Path(target), root, options)
    else:
        name, root, source, inventory = _from_registry(target, root, options)
    return check_images(
        inventory,
        source,
        name,
        root,
        options.limit,
        options.seed,
        options.workers,
        report,
    )


_Found = tuple[str, Path, Source, Inventory]


def _from_registry(name: str, root: Path | None, options: CheckOptions) -> _Found:
    archive = load_archive(name.removeprefix(PREFIX))
    if root is None:
        raise ConfigError(f"say where {name} is: spectralgpt data check {name} FOLDER.")
    # The folder that is named is the archive's own, not one that holds it.
    source = replace(read_source(PREFIX + archive.name), folders=archive.folders)
    source = _with_options(source, options)
    labels = dict(archive.labels)
    if options.labels is not None:
        labels["labels"] = options.labels
    if has_masks(labels):
        images = {"sensor": options.sensor, "bands": options.bands}
        stated = {key: value for key, value in images.items() if value is not None}
        inventory = list_masks(mask_config(labels | stated, str(root), archive.name))
    else:
        inventory = take_inventory(archive, source, root, labels)
    return archive.name, root, source, inventory


def _from_file(path: Path, root: Path | None, options: CheckOptions) -> _Found:
    table = read_mapping(path)
    if "layout" not in table and "task" not in table:
        source = _with_options(read_source(path), options)
        data_root = root or Path()
        return source.name, data_root, source, list_unlabelled(source, data_root)
    # As fine-tuning reads the same file: a root lies beside it.
    where = root or path.parent / str(table.get("root", "."))
    images = {key: table[key] for key in _IMAGE_KEYS if table.get(key) is not None}
    source = source_from_table(images, str(path), path.stem, path.parent)
    source = _with_options(source, options)
    if has_masks(table):
        inventory = list_masks(mask_config(table, str(where), str(path)))
        return path.stem, where, source, inventory
    known = [field.name for field in fields(LabelledDataConfig)]
    check_keys(table, str(path), optional=known)
    archive = load_archive(_archive_of(table, where))
    if archive.imagery:
        source = replace(
            read_source(PREFIX + archive.name), folders=archive.folders, name=path.stem
        )
    return path.stem, where, source, take_inventory(archive, source, where, table)


def _archive_of(table: Mapping[str, Any], root: Path) -> str:
    """Return the registry's name for a layout of labelled data."""
    layout = table["layout"]
    if layout == "bigearthnet":
        is_second = (root / "BigEarthNet-S2").is_dir()
        return "bigearthnet-v2" if is_second else "bigearthnet-v1"
    return "eurosat-ms" if layout == "eurosat" else str(layout)


def _with_options(source: Source, options: CheckOptions) -> Source:
    return replace(
        source,
        sensor=options.sensor or source.sensor,
        bands=options.bands or source.bands,
        offset=source.offset if options.offset is None else (("*", options.offset),),
    )
