"""Images with labels, or with a mask of their pixels: plain values, before any pixel.

A `Sample` is an image, or a part of one, or two dates of a place; a `SampleSet` adds
the classes. Every reader of labelled data makes them, and every task takes them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import Align, Grid, RasterFile, Stated, Window

SPLITS = ("train", "val", "test")
SINGLE_LABEL = "single-label"
MULTI_LABEL = "multi-label"
SEGMENTATION = "segmentation"
CHANGE = "change"
REGRESSION = "regression"
LABEL_TASKS = (SINGLE_LABEL, MULTI_LABEL)
"""Tasks of classes of images; the others are of pixels."""
_DATES = dict.fromkeys((*LABEL_TASKS, SEGMENTATION, REGRESSION), 1) | {CHANGE: 2}


@dataclass(frozen=True)
class Target:
    """What the numbers in masks measure, for regression.

    Args:
        name: such as `canopy height`.
        unit: such as `m` or `%`; `1` for shares and indices.
        scale: value = number in the mask * scale + offset. Null takes what the files
            state, as GDAL knows it, or else 1.
        offset: null takes what the files state, or else 0.
        nodata: number in the masks that is no measurement, beside NaN and what the
            files state.
        range: least and most that a value can be; others are an error.

    Raises:
        ConfigError: there is no name or unit, or numbers make no sense.
    """

    name: str
    unit: str
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check what can be seen without the data."""
        if not self.name.strip() or not self.unit.strip():
            raise ConfigError(
                "data.target needs a name and a unit, '1' for shares (found: "
                f"{self.name!r} and {self.unit!r})."
            )
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            raise ConfigError(f"data.target.range {low:g} to {high:g} is empty.")


@dataclass(frozen=True)
class MaskFile:
    """Where the class codes, or measured numbers, of an image's pixels lie.

    Args:
        path: the file.
        index: which layer of it, from 1.
        grid: where its pixels lie; None reads it from the file when pixels are read.
        nodata: code that the file says is no label.
        align: how it is laid over the image; see `spectralgpt.rasters.overlay`.
        stands_for: code of all pixels other than 0, for masks with one file per class;
            None takes the numbers as codes.
        others: the files of the other classes.
        scale: (factor, addend) that the file states of its numbers.
    """

    path: Path
    index: int = 1
    grid: Grid | None = None
    nodata: float | None = None
    align: Align = "auto"
    stands_for: int | None = None
    others: tuple["MaskFile", ...] = ()
    scale: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Sample:
    """An image, or two dates of a place, with its labels or its mask.

    Args:
        items: one image; before and after for change detection.
        labels: indices of its classes, ascending; exactly one for single-label tasks,
            none where there is a mask.
        mask: class codes of its pixels.
        split: "train", "val", "test", or "" where the archive does not say.
        window: the part that is meant, in pixels of the finest grid of all bands of
            the first item; None is all of it.
        place: what it shows; samples of one place stay in one split. "" takes the
            image's own, so that parts of one image do.
    """

    items: tuple[RasterFile, ...]
    labels: tuple[int, ...] = ()
    mask: MaskFile | None = None
    split: str = ""
    window: Window | None = None
    place: str = ""

    @property
    def item(self) -> RasterFile:
        """The image, or that of the first date."""
        return self.items[0]

    @property
    def name(self) -> str:
        """Name for tables and messages."""
        at = self.window
        return (
            self.item.name if at is None else f"{self.item.name}[{at.row},{at.column}]"
        )

    @property
    def ground(self) -> str:
        """The place, or the image where no place is stated."""
        return self.place or self.item.name


@dataclass(frozen=True)
class SampleSet:
    """Samples that share classes.

    Args:
        samples: at least one.
        class_names: names in the order of the class indices; for regression the
            target's alone.
        task: "single-label", "multi-label", "segmentation", "regression" or "change".
        source: where it came from, for messages and reports.
        codes: class index of each code in the masks.
        ignored: codes in the masks that are no label.
        colours: a colour per class, such as "#1b7837"; None takes those of the names.
        positive: what is stated of the class that scores are about; see
            `find_positive`.
        stated: what was stated of its images.
        target: what masks of regression measure.

    Raises:
        ConfigError: codes or colours do not fit the classes, or the task is unknown.
        DataError: there is no sample, or one does not fit the task.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    task: str
    source: str = ""
    codes: Mapping[int, int] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    colours: tuple[str, ...] | None = None
    positive: str | None = None
    stated: Stated = field(default_factory=Stated)
    target: Target | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        if self.task not in _DATES:
            known = LABEL_TASKS if self.task in LABEL_TASKS else tuple(_DATES)
            raise ConfigError(
                f"Unknown task '{self.task}' (known: {', '.join(known)})."
            )
        if not self.samples:
            kind = "labelled images" if self.has_labels else "images with masks"
            raise DataError(f"{self.source} holds no {kind}.")
        dates = _DATES[self.task]
        wrong = [sample for sample in self.samples if len(sample.items) != dates]
        if wrong:
            raise DataError(
                f"{self.source}: {self.task} takes {dates} image(s) a mask, "
                f"{wrong[0].name} has {len(wrong[0].items)}."
            )
        wrong = [sample for sample in self.samples if len(sample.labels) != 1]
        if self.task == SINGLE_LABEL and wrong:
            raise DataError(
                f"{self.source}: {len(wrong)} images do not have exactly one label "
                f"(first: {wrong[0].name} with {len(wrong[0].labels)})."
            )
        count = self.num_classes
        beyond = [c for c, index in self.codes.items() if not 0 <= index < count]
        if beyond or (self.colours is not None and len(self.colours) != count):
            raise ConfigError(
                f"{self.source}: codes {beyond} or colours {self.colours} do not fit "
                f"the {count} classes {', '.join(self.class_names)}."
            )

    @property
    def has_labels(self) -> bool:
        """Whether its classes are those of images, and not of pixels."""
        return self.task in LABEL_TASKS

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def places(self) -> tuple[str, ...]:
        """What its samples show, sorted."""
        return tuple(sorted({sample.ground for sample in self.samples}))

    @property
    def items(self) -> tuple[RasterFile, ...]:
        """The images of all samples."""
        return tuple(item for sample in self.samples for item in sample.items)

    def select(self, split: str) -> "SampleSet":
        """Return the samples of one split.

        Raises:
            DataError: the split is empty.
        """
        chosen = tuple(sample for sample in self.samples if sample.split == split)
        if not chosen:
            found = Counter(sample.split or "(none)" for sample in self.samples)
            raise DataError(
                f"{self.source} has no images in split '{split}' (found: "
                f"{', '.join(f'{n} in {name}' for name, n in found.items())}). Set "
                "data.split to stratified, blocks or folds, or change data.fractions."
            )
        return replace(self, samples=chosen)

    def targets(self) -> Tensor:
        """Class indices (N,) int64, or (N, K) float32 of 0 and 1 for multi-label."""
        if self.task == SINGLE_LABEL:
            return torch.tensor([sample.labels[0] for sample in self.samples])
        targets = torch.zeros(len(self.samples), self.num_classes)
        for row, sample in enumerate(self.samples):
            targets[row, list(sample.labels)] = 1.0
        return targets
