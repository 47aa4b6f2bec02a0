"""Images with labels of any layout: one's own folders, tables, masks, or an archive.

`read_labelled` is the one way in: it finds the images and labels of a data set and
splits them. `spectralgpt.data.datasets` feeds them to a model.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectralgpt.config import check_range
from spectralgpt.data.bigearthnet import read_bigearthnet
from spectralgpt.data.dense.config import read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.division import SampleSetConfig, divide
from spectralgpt.data.fmow import read_fmow
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.label_files import (
    list_class_folders,
    list_csv,
    number_samples,
    read_split_lists,
)
from spectralgpt.data.listings import Listing, first_names, refuse_faults
from spectralgpt.data.masks import count_samples
from spectralgpt.data.samples import (
    MULTI_LABEL,
    SEGMENTATION,
    SINGLE_LABEL,
    SPLITS,
    Sample,
    SampleSet,
)
from spectralgpt.data.sources import format_of_archive
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError, require
from spectralgpt.rasters import FILE_SIZES, RASTER_SUFFIXES, Stated, list_folder
from spectralgpt.rasters.files import RESAMPLE

logger = logging.getLogger(__name__)
_OWN_LAYOUTS = ("folder", "csv", "masks")


@dataclass(frozen=True)
class LabelledDataConfig(SampleSetConfig):
    """Where labelled images are and how they are split.

    Args:
        layout: `folder` (one sub-folder a class, below train, val and test or not),
            `csv` (columns image and label, or image and labels parted by ";", and
            optionally split and place), `masks` (images with masks as a YAML file
            describes them: the class of most pixels, or all that cover `label_share`),
            `eurosat` (multispectral), `bigearthnet` (v1 or v2), `fmow-sentinel2`.
        labels: the CSV file, relative to root, for layout csv; the YAML file for layout
            masks.
        label_share: share of an image that makes a class one of its labels, 0..1, for
            layout masks; null gives each image one label.
        tile_px: side of the tiles that layout masks cuts images into, px; null does as
            the YAML file says.
        class_names: the classes in order; null takes those that occur, sorted.
        allow_unlisted: layout csv: leave out images without a row instead of refusing.
        eurosat_split: published split lists of EuroSAT: `random` or `spatial`.
        num_classes: classes of BigEarthNet, 19 or 43 (43: version 1 only).
        download: fetch a known archive that is not at root (EuroSAT 2 GB, BigEarthNet
            v1 66 GB, v2 over 100 GB).
    """

    layout: Literal[
        "folder", "csv", "masks", "eurosat", "bigearthnet", "fmow-sentinel2"
    ] = "folder"
    labels: str = "labels.csv"
    label_share: float | None = None
    tile_px: int | None = None
    class_names: tuple[str, ...] | None = None
    allow_unlisted: bool = False
    eurosat_split: Literal["random", "spatial"] = "random"
    num_classes: Literal[19, 43] = 19
    download: bool = False


def read_labelled(
    config: LabelledDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
    *,
    divided: bool = True,
) -> SampleSet:
    """Find the images and labels of a data set and split them.

    Args:
        config: what to read.
        class_names: classes of a fine-tuned model, in its order; they go before those
            of the config, and labels are matched to them by name.
        assumed: what is so where the files do not say, such as the model's sensor.
        divided: split as configured; else the splits are those that it states itself.

    Raises:
        DatasetNotFoundError: nothing is there.
        DataError: labels and images contradict each other, or a class is unknown.
    """
    root = Path(config.root)
    if not root.exists() and not config.download:
        raise DatasetNotFoundError(f"There is no folder {root} (option data.root).")
    labelled = _read_layout(config, root, config.image_format(assumed))
    labelled = _use_names(labelled, class_names or config.class_names)
    return divide(labelled, config, config.split_seed) if divided else labelled


def _read_layout(
    config: LabelledDataConfig, root: Path, image_format: ImageFormat
) -> SampleSet:
    if config.resamples and config.layout not in _OWN_LAYOUTS:
        raise ConfigError(
            f"layout {config.layout} states its own bands: bands 'resample' is for "
            f"{', '.join(_OWN_LAYOUTS)}."
        )
    if config.layout == "eurosat":
        return _read_eurosat(root, config.eurosat_split, config.download)
    if config.layout == "bigearthnet":
        return read_bigearthnet(root, config.num_classes, config.download)
    if config.layout == "fmow-sentinel2":
        return read_fmow(root)
    if config.layout == "masks":
        return _read_from_masks(config, root, image_format.assumed)
    if config.layout == "csv":
        table = root / config.labels
        listing, task = list_csv(table, allow_unlisted=config.allow_unlisted)
        refuse_faults(table, listing.faults)
        return _make_set(listing, task, str(table), image_format)
    return _read_folder(root, image_format)


def _read_folder(root: Path, image_format: ImageFormat) -> SampleSet:
    """Read a folder of classes, with or without folders of splits above them."""
    listing = list_class_folders(root)
    if listing.faults:
        logger.warning(
            "%s: %d images lie in no folder of a class and are left out (%s).",
            root,
            len(listing.faults),
            first_names(fault.name for fault in listing.faults),
        )
    if not listing.entries:
        raise DataError(
            f"{root} holds no images in folders of classes (expected "
            f"{root.name}/<class>/<image>{'|'.join(RASTER_SUFFIXES)})."
        )
    return _make_set(listing, SINGLE_LABEL, str(root), image_format)


def _make_set(
    listing: Listing, task: str, source: str, image_format: ImageFormat
) -> SampleSet:
    names = listing.class_names
    samples = number_samples(listing.entries, names, image_format)
    return SampleSet(samples, names, task, source, stated=Stated.of(image_format.facts))


def _read_eurosat(
    root: Path, lists: Literal["random", "spatial"], download: bool
) -> SampleSet:
    """Read EuroSAT with its published split, or a folder of its classes without one.

    The files carry no band names and keep B8A last. The registry has the order, so that
    bands go by name from then on: dropping B10 by index would drop B11 instead. Splits
    are `random` (Neumann et al. 2019) or `spatial` (by longitude).

    Source: Helber et al. 2019; band order verified on files (the ninth band's values
        are those of water vapour, the last one's follow B08).
    """
    require("torchgeo")
    from torchgeo.datasets import EuroSAT, EuroSATSpatial

    image_format = replace(format_of_archive("eurosat-ms"), sizes=FILE_SIZES)
    archive: Any = EuroSATSpatial if lists == "spatial" else EuroSAT
    files = [(split, root / name) for split, name in archive.split_filenames.items()]
    images = root / archive.base_dir
    is_there = images.is_dir() or (root / archive.filename).is_file()
    if not download and not (is_there and all(path.is_file() for _, path in files)):
        if not (root.is_dir() and any(path.is_dir() for path in list_folder(root))):
            raise DatasetNotFoundError(
                f"EuroSAT is not at {root}. Set data.download true, or put the folders "
                "of its classes there."
            )
        return _read_folder(root, image_format)
    for split in SPLITS:
        # Fetches, unpacks and checks what the split needs.
        archive(root=str(root), split=split, download=download, checksum=True)
    listing = list_class_folders(images, lists=read_split_lists(files))
    listed = [entry for entry in listing.entries if entry.split]
    entries = sorted(listed, key=lambda entry: SPLITS.index(entry.split))
    names, source = listing.class_names, f"EuroSAT at {root}"
    samples = number_samples(entries, names, image_format)
    return SampleSet(samples, names, SINGLE_LABEL, source, stated=image_format.of_files)


def _use_names(labelled: SampleSet, names: Sequence[str] | None) -> SampleSet:
    """Match the classes that occur by name to given ones, and number them alike."""
    if names is None or tuple(names) == labelled.class_names:
        return labelled
    found = labelled.class_names
    occurring = {found[label] for sample in labelled.samples for label in sample.labels}
    unknown = sorted(occurring - set(names))
    if unknown:
        raise DataError(
            f"{labelled.source} has {len(unknown)} unknown classes "
            f"({first_names(unknown)}); known: {', '.join(names)}. Correct the labels "
            "or data.class_names."
        )
    index = {name: i for i, name in enumerate(names)}
    samples = tuple(
        replace(
            sample, labels=tuple(sorted(index[found[label]] for label in sample.labels))
        )
        for sample in labelled.samples
    )
    return replace(labelled, samples=samples, class_names=tuple(names))


def _read_from_masks(
    config: LabelledDataConfig, root: Path, assumed: Stated
) -> SampleSet:
    """Label images, or tiles of them, by the classes of their pixels.

    Images without a labelled pixel are left out. Splits are those of the description
    that `config.labels` names; `root` takes the place of its folder.
    """
    label_share, description = config.label_share, Path(config.labels)
    check_range("above 0 and at most 1", {"data.label_share": label_share})
    described = read_dense_config(description, str(root))
    if config.resamples and not described.resamples:
        described = replace(described, bands=(*(described.layers or ()), RESAMPLE))
    if config.tile_px is not None:
        described = replace(described, tile_px=config.tile_px)
    if described.task != SEGMENTATION:
        raise ConfigError(
            f"{description} describes {described.task}; layout masks takes the classes "
            "of single images: use one of segmentation."
        )
    dense = read_dense(described, assumed=assumed)
    counted = count_samples(dense)
    samples: list[Sample] = []
    for sample, counts in zip(dense.samples, counted, strict=True):
        if not counts.any():
            continue
        held = np.array([counts.argmax()])
        if label_share is not None:
            held = np.flatnonzero(counts >= label_share * counts.sum())
        labels = tuple(held.tolist())
        samples.append(replace(sample, labels=labels, mask=None))
    if not samples:
        raise DataError(f"{dense.source}: no mask holds a labelled pixel.")
    _report_lost(samples, counted, dense)
    task = SINGLE_LABEL if label_share is None else MULTI_LABEL
    source = f"masks of {root}"
    return SampleSet(
        tuple(samples), dense.class_names, task, source, stated=dense.stated
    )


def _report_lost(
    samples: Sequence[Sample], counted: Sequence[NDArray[np.int64]], dense: SampleSet
) -> None:
    """Report which classes of the masks become no image's label."""
    pixels = np.sum(counted, axis=0)
    labels = {label for sample in samples for label in sample.labels}
    lost = [
        f"{name} ({pixels[index]} px)"
        for index, name in enumerate(dense.class_names)
        if pixels[index] and index not in labels
    ]
    if lost:
        logger.warning(
            "%s: no image has enough of %s for a label. Lower data.label_share or "
            "data.tile_px, or put the codes into ignored.",
            dense.source,
            ", ".join(lost),
        )
