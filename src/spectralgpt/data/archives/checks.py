"""Checking an archive by its name, or one's own data by a YAML file."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spectralgpt.config import build_config, check_range, read_mapping
from spectralgpt.data.archives.findings import ArchiveCheck, check_images
from spectralgpt.data.archives.registry import PREFIX, Archive, load_archive
from spectralgpt.data.bigearthnet import list_bigearthnet
from spectralgpt.data.classes import Classes, find_positive, name_classes
from spectralgpt.data.dense.config import DenseDataConfig, read_dense_config
from spectralgpt.data.dense.entries import list_entries
from spectralgpt.data.dense.sets import FitError, describe_entries, read_dense
from spectralgpt.data.fmow import list_fmow
from spectralgpt.data.label_files import list_class_folders, list_csv, read_split_lists
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.listings import Entry, Fault, FaultKind, Listing
from spectralgpt.data.masks import describe_target
from spectralgpt.data.samples import REGRESSION, SPLITS, SampleSet
from spectralgpt.data.sources import (
    Source,
    find_root,
    list_images,
    place_of,
    read_source,
)
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    SpectralGPTError,
)
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
        check_range("at least 1", self, "limit", "workers")


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
    name, folder, source, listing, load = (
        _from_file(Path(target), root, options)
        if target.endswith(".yaml")
        else _from_registry(target, root, options)
    )
    checked = check_images(
        listing,
        source,
        name,
        folder,
        options.limit,
        options.seed,
        options.workers,
        report,
    )
    if checked.faults or load is None:
        return checked
    try:
        loaded = load()
        if isinstance(loaded, SampleSet) and loaded.target is not None:
            told = _tell_numbers(loaded, options)
            return replace(checked, notes=(*checked.notes, *told))
    except SpectralGPTError as error:
        # Such as a split without images: no single file is at fault.
        refused = Fault.of(FaultKind.REFUSED, str(folder), error)
        return replace(checked, faults=(refused,))
    return checked


def _tell_numbers(samples: SampleSet, options: CheckOptions) -> Iterator[str]:
    """Say of each split what numbers its masks hold, or some of them if limited."""
    assert samples.target is not None
    rng = np.random.default_rng(options.seed)
    for split in sorted({sample.split for sample in samples.samples}):
        part = samples.select(split)
        drawn = rng.permutation(len(part.samples))[: options.limit].tolist()
        part = replace(part, samples=tuple(part.samples[at] for at in sorted(drawn)))
        found = describe_target(part)
        if not found["labelled"]:
            raise DataError(f"no mask of split {split} holds a number.")
        named = {"1 %": "p1", "median": "p50", "99 %": "p99", "most": "most"}
        named = {"mean": "mean", "std": "std", "least": "least"} | named
        told = (f"{name} {found[key]:.4g}" for name, key in named.items())
        yield (
            f"{samples.target.name} ({samples.target.unit}) in {split}: "
            f"{', '.join(told)}; {1 - found['labelled']:.1%} of {found['pixels']:,.0f} "
            "pixels have no number"
        )


_Found = tuple[str, Path, Source, Listing, Callable[[], object] | None]
"""Name, folder, how images are read, what is there, and what reads it as training does.

The last is None for images without labels, and for archives whose files are known.
"""


def _has_masks(table: Mapping[str, Any]) -> bool:
    """Whether settings of labelled data are of images with masks."""
    return "task" in table or table.get("layout") in _MASK_LAYOUTS


def _from_registry(name: str, root: Path | None, options: CheckOptions) -> _Found:
    archive = load_archive(name.removeprefix(PREFIX))
    if root is None:
        raise ConfigError(f"say where {name} is: spectralgpt data check {name} FOLDER.")
    # The folder that is named is the archive's own, not one that holds it.
    source = replace(read_source(PREFIX + archive.name), folders=archive.folders)
    source = _stated(source, options)
    labels = dict(archive.labels)
    if options.labels is not None:
        labels["labels"] = options.labels
    values = labels | options.stated.facts | {"root": str(root)}
    if _has_masks(labels):
        listing = _list_masks(build_config(values, DenseDataConfig, archive.name))
        return archive.name, root, source, listing, None
    load = None
    if archive.name in _OWN_LAYOUTS:
        labelled = build_config(values, LabelledDataConfig, archive.name)
        load = functools.partial(read_labelled, labelled)
    return archive.name, root, source, _list(archive, source, root, labels), load


def _from_file(path: Path, root: Path | None, options: CheckOptions) -> _Found:
    table = read_mapping(path)
    if "layout" not in table and "task" not in table:
        source = _stated(read_source(path), options)
        data_root = root or Path()
        return source.name, data_root, source, _list_source(source, data_root), None
    # As fine-tuning reads the same file: root and sensor lie beside it.
    if _has_masks(table):
        config = read_dense_config(path, str(root) if root else None, {"root": "."})
        config = _stated(config, options)
        source, read = _images_of(config, path.stem), functools.partial(_read, config)
        return path.stem, Path(config.root), source, _list_masks(config), read
    where = root or path.parent / str(table.get("root", "."))
    settings = dict(table) | {"root": str(where)}
    if str(table.get("sensor")).endswith(".yaml"):
        settings["sensor"] = str(path.parent / table["sensor"])
    labelled = build_config(settings, LabelledDataConfig, str(path))
    labelled = _stated(labelled, options)
    source = _images_of(labelled, path.stem)
    archive = load_archive(_archive_of(table, where))
    if archive.imagery:
        source = replace(
            read_source(PREFIX + archive.name), folders=archive.folders, name=path.stem
        )
    is_own = table["layout"] in _OWN_LAYOUTS
    load = functools.partial(read_labelled, labelled) if is_own else None
    return path.stem, where, source, _list(archive, source, where, table), load


_Settings = TypeVar("_Settings", DenseDataConfig, LabelledDataConfig, Source)


def _read(config: DenseDataConfig) -> SampleSet:
    """Read images with masks as training does, to the class that scores are about."""
    dense = read_dense(config)
    if dense.target is None:
        find_positive(dense.class_names, dense.task, dense.positive)
    return dense


def _stated(config: _Settings, options: CheckOptions) -> _Settings:
    """Put what the options say of the images over what the file says."""
    facts = dict(options.stated.facts)
    if "offset" in facts and not isinstance(config, LabelledDataConfig):
        facts["offsets"] = type(config).offsets
    return replace(config, **facts)


def _archive_of(table: Mapping[str, Any], root: Path) -> str:
    """Return the registry's name for a layout of labelled data."""
    layout = table["layout"]
    if layout == "bigearthnet":
        is_second = (root / "BigEarthNet-S2").is_dir()
        return "bigearthnet-v2" if is_second else "bigearthnet-v1"
    return "eurosat-ms" if layout == "eurosat" else str(layout)


def _images_of(config: DenseDataConfig | LabelledDataConfig, name: str) -> Source:
    """Return how settings of labelled data say that its images are read."""
    by_glob = config.offsets if isinstance(config, DenseDataConfig) else None
    offsets = {**by_glob, "*": config.offset} if by_glob else {}
    return Source(name, offsets=tuple(offsets.items()), **config.facts)


def _list(
    archive: Archive, source: Source, root: Path, labels: Mapping[str, Any]
) -> Listing:
    """List what an archive says it has, and what is there below its root."""
    if not root.is_dir():
        raise DatasetNotFoundError(f"There is no folder {root}.")
    layout = labels.get("layout")
    names = tuple(labels.get("class_names") or archive.classes)
    if layout == "csv":
        return list_csv(root / labels.get("labels", "labels.csv"), names)[0]
    if layout == "fmow-sentinel2":
        return list_fmow(root)
    if layout == "bigearthnet":
        find_root(source, root)
        return list_bigearthnet(root, archive.name == "bigearthnet-v1")
    if layout not in ("folder", "eurosat"):
        return _list_source(source, root)
    folder = root if layout == "folder" else find_root(source, root)
    lists = [(split, root / f"eurosat-{split}.txt") for split in SPLITS]
    splits = read_split_lists(lists) if layout == "eurosat" else None
    try:
        listing = list_class_folders(folder, names, splits)
    except DataError as error:
        return Listing((), (Fault(FaultKind.NO_MATCH, str(folder), str(error)),))
    if not listing.entries and not listing.faults:
        raise DatasetNotFoundError(
            f"{root} holds no images in the layout of {archive.name}:\n{archive.layout}"
        )
    return listing


def _list_source(source: Source, root: Path) -> Listing:
    """List the images of a description, its root below a data folder."""
    # HySpecNet's lists keep tiles together: TILE/PATCH/PATCH-DATA.npy a line.
    folders = (root / "hyspecnet-11k" / "splits", root / "splits")
    lists = [(s, below / "hard" / f"{s}.csv") for below in folders for s in SPLITS]
    is_known = source.name == "hyspecnet-11k"
    splits = read_split_lists(lists, lambda p: p.parent.name) if is_known else {}
    found: list[Entry | Fault] = []
    seen = set()
    for image in list_images(source, root):
        folder = image.path.parent.name
        seen.add(folder)
        if not image.path.exists():
            found.append(Fault(FaultKind.NOT_THERE, image.name))
            continue
        try:
            place = place_of(source, image.name)
        except ConfigError as error:
            found.append(Fault(FaultKind.OUTSIDE, image.name, str(error)))
            continue
        found.append(
            replace(
                image,
                split=splits.get(folder, ""),
                place="" if place == image.name else place,
            )
        )
    found += (Fault(FaultKind.NOT_THERE, name) for name in splits if name not in seen)
    return Listing.of(found)


def _list_masks(config: DenseDataConfig) -> Listing:
    """List images with their masks, one entry per image."""
    root = Path(config.root)
    if not root.is_dir():
        raise DatasetNotFoundError(f"There is no folder {root}.")
    try:
        listed, classes = list_entries(root, replace(config, download=False))
    except DatasetNotFoundError:
        raise
    except DataError as error:
        # What does not match cannot be looked at together; the message counts it.
        return Listing((), (Fault.of(FaultKind.NO_MATCH, config.layout, error),))
    is_archive = classes is not None
    if not is_archive and config.classes is not None and config.class_masks is None:
        classes = name_classes(config.classes, config.ignored)
    described = (
        [] if is_archive else describe_entries(listed, config, config.image_format())
    )
    # Images that cannot be described are told when each is looked at.
    errors = {
        chip.name: found
        for chip, found in zip(listed, described, strict=not is_archive)
        if isinstance(found, SpectralGPTError)
    }
    fitting = [chip for chip in listed if chip.name not in errors]
    names, codes = classes or ((), {})
    return Listing(
        tuple(entry for chip in listed for entry in _one_by_one(root, chip)),
        tuple(
            Fault.of(FaultKind.APART, name, error)
            for name, error in errors.items()
            if isinstance(error, FitError)
        ),
        names,
        code_names={code: names[index] for code, index in codes.items()},
        mask_codes=frozenset((*codes, *config.ignored)) if classes else None,
        masks_have_same_size=is_archive,
        masks_hold_codes=config.task != REGRESSION,
        read=functools.partial(_read_some, config, fitting, classes),
    )


def _read_some(
    config: DenseDataConfig,
    listed: Sequence[Entry],
    classes: Classes | None,
    files: Sequence[Entry],
    bad: Collection[Path],
    most: int,
) -> SampleSet:
    """Read places whose last images are among the files, in the files' order."""
    sound = [chip for chip in listed if not any(path in bad for path in chip.images)]
    places = {chip.images[-1]: chip for chip in sound}
    chosen = [places[file.path] for file in files if file.path in places]
    if not chosen:
        raise DataError(f"{config.root} has no place with a mask that is sound.")
    return read_dense(config, divided=False, listed=(chosen[:most], classes))


def _one_by_one(root: Path, chip: Entry) -> Iterator[Entry]:
    """Give each image of a place; the mask goes with the last, which it describes."""
    for path in chip.images:
        is_last = path == chip.images[-1] and len(chip.masks) == 1
        name, masks = path.relative_to(root).as_posix(), chip.masks * is_last
        yield replace(chip, name=name, images=(path,), masks=masks)
