"""Labelled images of any layout, and the data set that feeds them to a model.

`read_labelled` is the one way in: it finds the images and labels of a folder, a CSV or
a known archive and splits them. `LabelledDataset` reads pixels when they are asked for
and prepares them exactly as the checkpoint's `Preprocessing` says.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spectralgpt.data.bigearthnet import read_bigearthnet
from spectralgpt.data.chips import (
    Fractions,
    LabelledSet,
    keep_fraction,
    split_blocks,
    split_stratified,
)
from spectralgpt.data.crops import part_on
from spectralgpt.data.eurosat import read_eurosat
from spectralgpt.data.fmow import read_fmow
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.from_masks import read_from_masks
from spectralgpt.data.label_files import match_classes, read_csv, read_folder
from spectralgpt.data.overlaps import report_overlaps
from spectralgpt.data.splits import report_missing
from spectralgpt.data.statistics import part_statistics
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.preprocessing import BandStatistics, Preprocessing
from spectralgpt.rasters import Raster, Stated, Window, read_raster
from spectralgpt.sensors import Band

__all__ = [
    "LabelledDataConfig",
    "LabelledDataset",
    "divide",
    "read_all",
    "read_labelled",
    "train_statistics",
]

logger = logging.getLogger(__name__)

_MEGABYTE = 2**20


@dataclass(frozen=True)
class LabelledDataConfig(Stated):
    """Where labelled images are and how they are split.

    Args:
        root: folder of the data set.
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
        split: `given` by the archive, `stratified` (whole images and places at random,
            same class shares), `blocks` (by place, so that neighbours stay together),
            or `auto` (given if there is one, else stratified).
        fractions: shares of train, val and test, for splits that are not given.
        block_m: side of a block of split `blocks`, m.
        gap_m: least distance between chips of different splits of `blocks`, m.
        split_seed: seed of the split.
        train_fraction: share of the training images that is used, 0..1; of each class
            at least one.
        eurosat_split: published split lists of EuroSAT: `random` or `spatial`.
        num_classes: classes of BigEarthNet, 19 or 43 (43: version 1 only).
        download: fetch a known archive that is not at root (EuroSAT 2 GB, BigEarthNet
            v1 66 GB, v2 over 100 GB).
    """

    root: str
    layout: Literal[
        "folder", "csv", "masks", "eurosat", "bigearthnet", "fmow-sentinel2"
    ] = "folder"
    labels: str = "labels.csv"
    label_share: float | None = None
    tile_px: int | None = None
    class_names: tuple[str, ...] | None = None
    allow_unlisted: bool = False
    split: Literal["auto", "given", "stratified", "blocks"] = "auto"
    fractions: Fractions = field(default_factory=Fractions)
    block_m: float = 10_000.0
    gap_m: float = 0.0
    split_seed: int = 0
    train_fraction: float = 1.0
    eurosat_split: Literal["random", "spatial"] = "random"
    num_classes: Literal[19, 43] = 19
    download: bool = False

    def image_format(self, assumed: Stated | None = None) -> ImageFormat:
        """Return what is stated about the images."""
        return ImageFormat(**self.facts).assuming(assumed or Stated())


class LabelledDataset(Dataset[dict[str, Tensor]]):
    """Chips as a model takes them: plain when indexed, augmented when drawn.

    Args:
        labelled: the chips, of one split or all.
        preprocessing: that of the checkpoint: bands, unit, scaling, image size.
        crop_scale: share of a chip's area that a drawn crop covers, lowest and highest;
            None draws the whole chip.
        flip: turn drawn images left to right at random.
        memory_mb: whole chips kept in memory once read, up to this many megabytes; for
            sets that are gone through several times.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        preprocessing: Preprocessing,
        crop_scale: tuple[float, float] | None = None,
        flip: bool = False,
        memory_mb: float = 0.0,
    ) -> None:
        self.memory_mb = memory_mb
        self._kept: dict[int, Raster] = {}
        self._kept_mb = 0.0
        self.labelled = labelled
        self.preprocessing = preprocessing
        self.crop_scale = crop_scale
        self.flip = flip
        self._targets = labelled.targets()

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.labelled.chips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return `image` and `valid` (C, H, W), and `target`: () int64 or (classes,).

        Raises:
            BandError: the chip lacks a band of the model; it is named.
            RasterError: the file cannot be read.
        """
        return self._sample(index, self._part(index))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a sample with a random crop and flip from `generator`."""
        window = self._part(index)
        if self.crop_scale is not None:
            height, width = self.labelled.chips[index].item.shape(self._bands(index))
            whole = window or Window(0, 0, height, width)
            window = _random_crop(whole, self.crop_scale, generator)
        sample = self._sample(index, window)
        if self.flip and torch.rand((), generator=generator) < 1 / 2:
            sample["image"] = sample["image"].flip(-1)
            sample["valid"] = sample["valid"].flip(-1)
        return sample

    def raster(self, index: int, window: Window | None = None) -> Raster:
        """Read reflectance on the model's grid, bands by name; see `__getitem__`.

        Args:
            index: of the chip.
            window: pixels of the grid of the model's bands; None is the whole chip.
        """
        chip, whole = self.labelled.chips[index], self._part(index)
        window = window or whole
        if window == whole and index in self._kept:
            return self._kept[index]
        size = self.preprocessing.image_size
        bands = self._bands(index)
        raster = read_raster(chip.item, bands, window=window, out_size=(size, size))
        needed_mb = (raster.pixels.nbytes + raster.valid.nbytes) / _MEGABYTE
        if window == whole and self._kept_mb + needed_mb <= self.memory_mb:
            self._kept[index] = raster
            self._kept_mb += needed_mb
        return raster

    def _bands(self, index: int) -> tuple[Band, ...]:
        available = self.labelled.chips[index].item.bands
        return tuple(available[i] for i in self.preprocessing.match(available))

    def _part(self, index: int) -> Window | None:
        """Pixels of the grid of the model's bands; None is all, and opens no file."""
        chip = self.labelled.chips[index]
        if chip.window is None:
            return None
        return part_on(chip.item, chip.window, self._bands(index))[1]

    def _sample(self, index: int, window: Window | None) -> dict[str, Tensor]:
        images, valid = self.preprocessing.prepare(self.raster(index, window))
        return {
            "image": torch.from_numpy(images),
            "valid": torch.from_numpy(valid),
            "target": self._targets[index],
        }


def read_labelled(
    config: LabelledDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
) -> LabelledSet:
    """Find the images and labels of a data set and split them.

    Args:
        config: what to read.
        class_names: classes of a fine-tuned model, in its order; they go before those
            of the config, and labels are matched to them by name.
        assumed: what is so where the files do not say, such as the model's sensor.

    Raises:
        DatasetNotFoundError: nothing is there.
        DataError: labels and images contradict each other, or a class is unknown.
    """
    return divide(read_all(config, class_names, assumed), config, config.split_seed)


def read_all(
    config: LabelledDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
) -> LabelledSet:
    """Find the images and labels of a data set, with the splits it states itself."""
    root = Path(config.root)
    if not root.exists() and not config.download:
        raise DatasetNotFoundError(f"There is no folder {root} (option data.root).")
    names = class_names or config.class_names
    return _read_layout(config, root, names, config.image_format(assumed))


def divide(labelled: LabelledSet, config: LabelledDataConfig, seed: int) -> LabelledSet:
    """Split as configured and keep the configured share of train, drawn with a seed.

    Classes that a split lacks, and images of one split that show ground of another, are
    said aloud.

    Raises:
        DataError: the images cannot be split that way, or train would learn nothing of
            a class.
    """
    divided = _split(labelled, config, seed)
    report_missing(
        [chip.split for chip in divided.chips],
        [chip.labels for chip in divided.chips],
        divided.class_names,
        divided.source,
    )
    report_overlaps(divided.chips, divided.source)
    return keep_fraction(divided, config.train_fraction, seed)


def train_statistics(labelled: LabelledSet, bands: Sequence[Band]) -> BandStatistics:
    """Measure reflectance by band on the training chips, and on nothing beside them.

    Raises:
        BandError: an image lacks a band.
        DataError: there is no training chip, or a band has no valid pixel.
    """
    chips = labelled.select("train").chips
    parts = [(chip.item, chip.window) for chip in chips]
    return part_statistics(parts, bands, f"train split of {labelled.source}")


def _read_layout(
    config: LabelledDataConfig,
    root: Path,
    class_names: Sequence[str] | None,
    image_format: ImageFormat,
) -> LabelledSet:
    if config.layout == "eurosat":
        labelled = read_eurosat(root, config.eurosat_split, config.download)
        return _use_names(labelled, class_names)
    if config.layout == "bigearthnet":
        labelled = read_bigearthnet(root, config.num_classes, config.download)
        return _use_names(labelled, class_names)
    if config.layout == "fmow-sentinel2":
        return _use_names(read_fmow(root), class_names)
    if config.layout == "masks":
        labelled = read_from_masks(
            Path(config.labels),
            root,
            config.label_share,
            config.tile_px,
            image_format.assumed,
        )
        return _use_names(labelled, class_names)
    if config.layout == "csv":
        return read_csv(
            root / config.labels,
            image_format=image_format,
            class_names=class_names,
            allow_unlisted=config.allow_unlisted,
        )
    return read_folder(
        root,
        image_format=image_format,
        class_names=class_names,
    )


def _use_names(labelled: LabelledSet, names: Sequence[str] | None) -> LabelledSet:
    """Renumber the classes of an archive to given names."""
    if names is None or tuple(names) == labelled.class_names:
        return labelled
    occurring = {
        labelled.class_names[label] for chip in labelled.chips for label in chip.labels
    }
    ordered = match_classes(occurring, names, labelled.source)
    index = {name: i for i, name in enumerate(ordered)}
    chips = tuple(
        replace(
            chip,
            labels=tuple(
                sorted(index[labelled.class_names[label]] for label in chip.labels)
            ),
        )
        for chip in labelled.chips
    )
    return replace(labelled, chips=chips, class_names=ordered)


def _split(labelled: LabelledSet, config: LabelledDataConfig, seed: int) -> LabelledSet:
    given = {chip.split for chip in labelled.chips}
    if config.split == "blocks":
        return split_blocks(
            labelled, config.fractions, config.block_m, config.gap_m, seed
        )
    if config.split == "stratified" or (config.split == "auto" and given == {""}):
        return split_stratified(labelled, config.fractions, seed)
    if "" in given:
        without = sum(chip.split == "" for chip in labelled.chips)
        raise DataError(
            f"{labelled.source}: {without} of {len(labelled.chips)} images have no "
            "split. Give all of them one, or set data.split to stratified or blocks."
        )
    return labelled if "val" in given else _val_from_train(labelled, config, seed)


def _val_from_train(
    labelled: LabelledSet, config: LabelledDataConfig, seed: int
) -> LabelledSet:
    """Take a val split out of train, so that test never chooses a checkpoint."""
    train = labelled.select("train")
    share = config.fractions.val
    logger.warning(
        "%s has no val split: %.0f %% of train is held out as val.",
        labelled.source,
        share * 100,
    )
    divided = split_stratified(train, Fractions(1 - share, share, 0), seed)
    rest = tuple(chip for chip in labelled.chips if chip.split != "train")
    return replace(labelled, chips=divided.chips + rest)


def _random_crop(
    whole: Window, scale: tuple[float, float], generator: torch.Generator
) -> Window:
    """Choose a square crop that covers a random share of the chip's area."""
    low, high = scale
    share = low + (high - low) * float(torch.rand((), generator=generator))
    side = round(float(np.sqrt(share * whole.height * whole.width)))
    side = max(1, min(side, whole.height, whole.width))
    row, column = (
        int(torch.randint(free - side + 1, (), generator=generator))
        for free in (whole.height, whole.width)
    )
    return Window(whole.row + row, whole.column + column, side, side)
