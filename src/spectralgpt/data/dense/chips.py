"""Images with a mask: the plain values that the readers of archives make.

A `DenseChip` is one image, or two dates of a place, with the file of its mask; a
`DenseSet` adds what the codes in the masks mean. Nothing here reads pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectralgpt.data.splits import part_name, select_split
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.losses import IGNORE
from spectralgpt.rasters import Align, Grid, RasterItem, Stated, Window

__all__ = [
    "CHANGE",
    "IGNORE",
    "SEGMENTATION",
    "TASKS",
    "DenseChip",
    "DenseSet",
    "MaskFile",
]

SEGMENTATION = "segmentation"
CHANGE = "change"
TASKS = (SEGMENTATION, CHANGE)
_DATES = {SEGMENTATION: 1, CHANGE: 2}


@dataclass(frozen=True)
class MaskFile:
    """Where the class codes of an image lie.

    Args:
        path: the file.
        index: which layer of it, from 1.
        grid: where its pixels lie; None reads it from the file when pixels are read.
        nodata: code that the file says is no label.
        align: how it is laid over the image; see `spectralgpt.rasters.overlay`.
        stands_for: code of every pixel that is not 0, for masks with one file a class;
            None takes the numbers as codes.
        others: the files of the other classes.
    """

    path: Path
    index: int = 1
    grid: Grid | None = None
    nodata: float | None = None
    align: Align = "auto"
    stands_for: int | None = None
    others: tuple["MaskFile", ...] = ()


@dataclass(frozen=True)
class DenseChip:
    """An image, or two dates of a place, and its mask.

    Args:
        items: one image for segmentation; before and after for change detection.
        mask: class codes of its pixels.
        split: "train", "val", "test", or "" where the archive does not say.
        window: the part that is meant, in pixels of the finest grid of all bands of
            the first item; None is all of it.
        place: what it shows; chips of one place stay in one split.
    """

    items: tuple[RasterItem, ...]
    mask: MaskFile
    split: str = ""
    window: Window | None = None
    place: str = ""

    @property
    def item(self) -> RasterItem:
        """The image, or that of the first date."""
        return self.items[0]

    @property
    def name(self) -> str:
        """Name for tables and messages."""
        return part_name(self.item, self.window)


@dataclass(frozen=True)
class DenseSet:
    """Chips that share classes.

    Args:
        chips: at least one.
        class_names: names in the order of the class indices.
        task: "segmentation" or "change".
        codes: class index of each code in the masks.
        ignored: codes in the masks that are no label.
        source: where it came from, for messages and reports.
        colours: a colour a class, such as "#1b7837"; None takes those of the names.
        positive: what is stated of the class that scores are about; see
            `find_positive`.
        stated: what was stated of its images.

    Raises:
        ConfigError: codes or colours do not fit the classes, or the task is unknown.
        DataError: there is no chip, or one has another number of dates.
    """

    chips: tuple[DenseChip, ...]
    class_names: tuple[str, ...]
    task: str
    codes: Mapping[int, int]
    ignored: tuple[int, ...] = ()
    source: str = ""
    colours: tuple[str, ...] | None = None
    positive: str | None = None
    stated: Stated = field(default_factory=Stated)

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        if self.task not in TASKS:
            raise ConfigError(
                f"Unknown task '{self.task}' (known: {', '.join(TASKS)})."
            )
        if not self.chips:
            raise DataError(f"{self.source} holds no images with masks.")
        wrong = [c for c in self.chips if len(c.items) != _DATES[self.task]]
        if wrong:
            raise DataError(
                f"{self.source}: {self.task} takes {_DATES[self.task]} image(s) a "
                f"mask, {wrong[0].name} has {len(wrong[0].items)}."
            )
        count = len(self.class_names)
        beyond = [c for c, index in self.codes.items() if not 0 <= index < count]
        if beyond or (self.colours is not None and len(self.colours) != count):
            raise ConfigError(
                f"{self.source}: codes {beyond} or colours {self.colours} do not fit "
                f"the {count} classes {', '.join(self.class_names)}."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def places(self) -> tuple[str, ...]:
        """The places, sorted."""
        return tuple(sorted({chip.place for chip in self.chips}))

    def select(self, split: str) -> "DenseSet":
        """Return the chips of one split.

        Raises:
            DataError: the split is empty.
        """
        advice = "Set data.split to stratified, blocks or folds."
        chips = select_split(self.chips, split, self.source, advice)
        return replace(self, chips=chips)
