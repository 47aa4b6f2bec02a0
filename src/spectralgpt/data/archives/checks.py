"""Checking an archive by its name, or one's own data by a YAML file."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from spectralgpt.config import build_config, read_mapping
from spectralgpt.data.archives.catalogue import take_inventory
from spectralgpt.data.archives.findings import ArchiveCheck, check_images
from spectralgpt.data.archives.inventory import (
    Fault,
    FaultKind,
    Inventory,
    list_masks,
    list_unlabelled,
)
from spectralgpt.data.archives.registry import PREFIX, load_archive
from spectralgpt.data.dense import DenseDataConfig, find_positive, read_dense
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.sources import Source, read_source, source_from_table
from spectralgpt.errors import ConfigError, SpectralGPTError
from spectralgpt.rasters import Stated

_OWN_LAYOUTS = ("folder", "csv", "masks")
_MASK_LAYOUTS = ("folders", "segmunich", "oscd")


@dataclass(frozen=True)
class CheckOptions:
    """How a check is done.

    Args:
        limit: open this many images, drawn with the seed; None opens all.
        seed: of that draw, of the statistics and of the picture.
        workers: threads that read.
        stated: of one's own images, where their files do not say it.
        labels: table of layout csv, relative to the root.
    """

    limit: int | None = None
    seed: int = 0
    workers: int = 2
    stated: Stated = field(default_factory=Stated)
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
    found = (
        _from_file(Path(target), root, options)
        if target.endswith(".yaml")
        else _from_registry(target, root, options)
    )
    checked = check_images(
        found.inventory,
        found.source,
        found.name,
        found.root,
        options.limit,
        options.seed,
        options.workers,
        report,
    )
    if checked.faults or found.load is None:
        return checked
    try:
        found.load()
    except SpectralGPTError as error:
        # Such as a split without images: no single file is at fault.
        detail = " ".join(str(error).split())
        refused = Fault(FaultKind.REFUSED, str(found.root), detail)
        return replace(checked, faults=(refused,))
    return checked


@dataclass(frozen=True)
class _Found:
    """What is checked.

    Args:
        name: of the archive or description.
        root: its folder.
        source: how its images are read.
        inventory: what is there.
        load: reads the set as training does; None for images without labels, and for
            archives whose files are known.
    """

    name: str
    root: Path
    source: Source
    inventory: Inventory
    load: Callable[[], object] | None = None


def _has_masks(table: Mapping[str, Any]) -> bool:
    """Whether settings of labelled data are of images with masks."""
    return "task" in table or table.get("layout") in _MASK_LAYOUTS


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
    if _has_masks(labels):
        values = labels | options.stated.facts | {"root": str(root)}
        inventory = list_masks(build_config(values, DenseDataConfig, archive.name))
        return _Found(archive.name, root, source, inventory)
    inventory = take_inventory(archive, source, root, labels)
    load: Callable[[], object] | None = None
    if archive.name in _OWN_LAYOUTS:
        values = labels | options.stated.facts | {"root": str(root)}
        labelled = build_config(values, LabelledDataConfig, archive.name)
        load = functools.partial(read_labelled, labelled)
    return _Found(archive.name, root, source, inventory, load)


def _from_file(path: Path, root: Path | None, options: CheckOptions) -> _Found:
    table = read_mapping(path)
    if "layout" not in table and "task" not in table:
        source = _with_options(read_source(path), options)
        data_root = root or Path()
        inventory = list_unlabelled(source, data_root)
        return _Found(source.name, data_root, source, inventory)
    # As fine-tuning reads the same file: a root lies beside it.
    where = root or path.parent / str(table.get("root", "."))
    settings = dict(table) | {"root": str(where)}
    source = _with_options(_images_of(table, path), options)
    if _has_masks(table):
        config = build_config(settings, DenseDataConfig, str(path))
        config = _stated(config, options)
        if "sensor" in table and options.stated.sensor is None:
            config = replace(config, sensor=source.sensor)
        read = functools.partial(_read_masks, config)
        return _Found(path.stem, where, source, list_masks(config), read)
    labelled = build_config(settings, LabelledDataConfig, str(path))
    archive = load_archive(_archive_of(table, where))
    if archive.imagery:
        source = replace(
            read_source(PREFIX + archive.name), folders=archive.folders, name=path.stem
        )
    load: Callable[[], object] | None = None
    if table["layout"] in _OWN_LAYOUTS:
        load = functools.partial(read_labelled, _stated(labelled, options))
    inventory = take_inventory(archive, source, where, table)
    return _Found(path.stem, where, source, inventory, load)


_Settings = TypeVar("_Settings", DenseDataConfig, LabelledDataConfig)


def _read_masks(config: DenseDataConfig) -> None:
    """Read images with masks as training does, to the class that scores are about."""
    dense = read_dense(config)
    find_positive(dense.class_names, dense.task, dense.positive)


def _stated(config: _Settings, options: CheckOptions) -> _Settings:
    """Put what the options say of the images over what the file says."""
    facts = options.stated.facts
    if isinstance(config, DenseDataConfig) and "offset" in facts:
        config = replace(config, offsets=None)
    return replace(config, **facts)


def _archive_of(table: Mapping[str, Any], root: Path) -> str:
    """Return the registry's name for a layout of labelled data."""
    layout = table["layout"]
    if layout == "bigearthnet":
        is_second = (root / "BigEarthNet-S2").is_dir()
        return "bigearthnet-v2" if is_second else "bigearthnet-v1"
    return "eurosat-ms" if layout == "eurosat" else str(layout)


def _with_options(source: Source, options: CheckOptions) -> Source:
    facts = options.stated.facts
    if "offset" in facts:
        source = replace(source, offsets=())
    return replace(source, **facts)


def _images_of(table: Mapping[str, Any], path: Path) -> Source:
    """Return how the settings of labelled data say that its images are read."""
    known = {each.name for each in fields(Stated)}
    values = {k: v for k, v in table.items() if k in known and v is not None}
    if "band_pattern" in values:
        values["pattern"] = values.pop("band_pattern")
    if table.get("offsets"):
        values["offset"] = {**table["offsets"], "*": values.get("offset", "auto")}
    return source_from_table(values, str(path), path.stem, path.parent)
