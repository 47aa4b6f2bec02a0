"""What a user states of images with masks: one typed table for YAML and options."""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spectralgpt.config import build_config, check_range, read_mapping
from spectralgpt.data.division import SampleSetConfig
from spectralgpt.data.samples import REGRESSION, Target
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Align

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class DenseDataConfig(SampleSetConfig):
    r"""Where images and masks are, what the codes mean, and how they are split.

    Folders of the images, of the two dates and of the masks are named by their path
    under root; files are matched by their name without its ending, and a folder of band
    files counts as one image. In place of a folder's name may stand a regular
    expression for whole paths under root with a group `place`, and optionally `split`
    and `date`: `2020/geojson_(?P<place>\d+)\.tif`. With groups `place` and `date`,
    `images` alone gives both dates of change detection.

    Args:
        task: segmentation, change (two dates, one mask), or regression (masks of
            numbers, see `target`).
        layout: `folders` (below train, val and test or not), `csv` (columns image, or
            before and after; mask; optionally split and place), or an archive:
            `segmunich`, `oscd`.
        images: folder or pattern of the images; layout folders, segmentation.
        before: folder or pattern of the first date; layout folders, change.
        after: folder or pattern of the second date; layout folders, change.
        masks: folder or pattern of the masks; layout folders.
        class_masks: pattern of the masks of each class by its name, in place of `masks`
            and `classes`, where each class has a file of its own: what is not 0 belongs
            to the class, what belongs to none has no label.
        mask_index: layer of the mask files that holds the codes, from 1.
        table: the CSV file of layout csv, relative to root; paths in it are relative to
            its own folder and stay beneath it.
        split_table: a CSV file with columns place and split, relative to root; gives
            the splits where layout folders does not.
        place: regular expression with a group `place` for the names that images are
            matched by; images of one place stay in one split. Null: each name is one.
        offsets: offsets of images whose path under root fits a glob, in place of
            `offset`; the first glob that fits counts.
        align: how masks lie on images: `auto` goes by georeference where both have one
            and by equal shape otherwise; `georeference` and `shape` insist.
        classes: code, or list of codes, of each class by its name, in the order of the
            classes. Null takes the names that the masks state in tags CLASS_0,
            CLASS_1, ..., or else all codes that occur.
        positive: the class that F1, IoU and the choice of the best weights are about,
            such as `changed`; `all` if all classes count alike. Null takes, of two
            classes, the one that is not called background, unchanged, no change, other
            or the like, and refuses names that do not tell.
        target: what the masks' numbers measure, for regression, in place of `classes`:
            name, unit, and optionally range, nodata, scale and offset; see `Target`.
        ignored: codes that are no label. The masks' own nodata value is none either,
            unless it is the code of a class.
        colours: colours of classes by name, such as "#1b7837"; others follow from the
            masks' own table, or from the names.
        allow_unlabelled: leave out images without a mask instead of refusing.
        tile_px: cut images into tiles of this side, px, before they are split; for few
            large images and split blocks. Null keeps them whole.
        download: fetch OSCD (500 MB) through TorchGeo if it is not at root.

    Raises:
        ConfigError: a value, or a combination of them, makes no sense.
    """

    task: Literal["segmentation", "change", "regression"] = "segmentation"
    layout: Literal["folders", "csv", "segmunich", "oscd"] = "folders"
    images: str = "images"
    before: str = "before"
    after: str = "after"
    masks: str = "masks"
    class_masks: dict[str, str] | None = None
    mask_index: int = 1
    table: str = "labels.csv"
    split_table: str | None = None
    place: str | None = None
    offsets: dict[str, float] | None = None
    align: Align = "auto"
    classes: dict[str, int | list[int]] | None = None
    target: dict[str, Any] | None = None
    positive: str | None = None
    ignored: tuple[int, ...] = ()
    colours: dict[str, str] | None = None
    allow_unlabelled: bool = False
    tile_px: int | None = None
    download: bool = False

    def __post_init__(self) -> None:
        """Check what can be seen without the data."""
        super().__post_init__()
        check_range("at least 1", self, "mask_index", "tile_px", section="data.")
        if self.class_masks is not None and self.classes is not None:
            raise ConfigError(
                "data.class_masks names the classes itself: leave data.classes out."
            )
        self._check_target()
        if self.layout == "segmunich" and self.task != "segmentation":
            raise ConfigError("layout segmunich has one date: set data.task.")
        if self.layout == "oscd" and self.task != "change":
            raise ConfigError("layout oscd has two dates: set data.task to change.")
        wrong = [c for c in (self.colours or {}).values() if not _COLOUR.fullmatch(c)]
        if wrong:
            raise ConfigError(f"data.colours must be like '#1b7837' (found: {wrong}).")

    @property
    def measured(self) -> Target | None:
        """What the masks' numbers measure; None for classes.

        Raises:
            ConfigError: `target` is wrong.
        """
        if self.target is None:
            return None
        unit = self.target.get("unit")
        # The command line takes "1" for a number.
        own = {"unit": str(unit)} if isinstance(unit, int) else {}
        return build_config({**self.target, **own}, Target, "data.target")

    def _check_target(self) -> None:
        """Refuse masks that are to hold classes and numbers, or neither."""
        of_classes = ("classes", "class_masks", "positive", "ignored", "colours")
        given = [name for name in of_classes if getattr(self, name)]
        if self.measured is None:
            if self.task == REGRESSION:
                raise ConfigError(
                    "data.task is regression: say what the masks' numbers are, such as "
                    "'target: {name: canopy height, unit: m}'."
                )
        elif given or self.task != REGRESSION:
            other = f"data.task is {self.task}"
            other = f"data.{given[0]} is for classes" if given else other
            raise ConfigError(
                f"{other}, and data.target for numbers, of task regression: leave one "
                "of them out."
            )

    def offset_of(self, path: Path) -> float | Literal["auto"]:
        """Return the offset stated for an image."""
        if not path.is_relative_to(self.root):
            return self.offset
        name = path.relative_to(self.root).as_posix()
        for glob, offset in (self.offsets or {}).items():
            if fnmatch.fnmatchcase(name, glob):
                return offset
        return self.offset


def read_dense_config(
    path: Path | str, root: str | None = None, usual: Mapping[str, Any] | None = None
) -> DenseDataConfig:
    """Read a description of images with masks from a YAML file.

    A relative `root` or sensor file is relative to the folder of the YAML file.

    Args:
        path: keys are those of `DenseDataConfig`.
        root: folder of the data set, in place of the one in the file.
        usual: values of keys that the file leaves out, in place of the defaults.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    path = Path(path)
    stated = dict(read_mapping(path)) | ({"root": root} if root else {})
    values = {**(usual or {}), **stated}
    config = build_config(values, DenseDataConfig, str(path))
    sensor = config.sensor
    if sensor is not None and sensor.endswith(".yaml"):
        sensor = str(path.parent / sensor)
    where = str(path.parent / config.root) if root is None else config.root
    return replace(config, sensor=sensor, root=where)
