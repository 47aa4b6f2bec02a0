"""The one way in: find images with masks, name their classes, split them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spectralgpt.data.dense.chips import DenseSet
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.division import cut_tiles, divide_dense
from spectralgpt.data.dense.entries import build_set
from spectralgpt.data.dense.folders import list_folders
from spectralgpt.data.dense.oscd import OSCD_SENSOR, list_oscd, oscd_bands
from spectralgpt.data.dense.segmunich import (
    SEGMUNICH_SENSOR,
    check_tile,
    list_segmunich,
    segmunich_classes,
)
from spectralgpt.data.dense.tables import list_table
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, DatasetNotFoundError
from spectralgpt.rasters import Stated

__all__ = ["divide_dense", "read_all_dense", "read_dense"]


def read_dense(
    config: DenseDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
) -> DenseSet:
    """Find the images and masks of a data set and split them.

    Args:
        config: what to read.
        class_names: classes of a fine-tuned model, in its order; those of the data set
            are matched to them by name.
        assumed: what is so where the files do not say, such as the model's sensor.

    Raises:
        DatasetNotFoundError: nothing is there.
        DataError: images and masks contradict each other, or a class is unknown.
        ConfigError: the description is wrong.
    """
    dense = read_all_dense(config, class_names, assumed)
    return divide_dense(dense, config, config.split_seed)


def read_all_dense(
    config: DenseDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
) -> DenseSet:
    """Find the images and masks of a data set, with the splits it states itself."""
    root = Path(config.root)
    if not root.is_dir() and not config.download:
        raise DatasetNotFoundError(f"There is no folder {root} (option data.root).")
    dense = _read_layout(root, config, class_names, assumed)
    return dense if config.tile_px is None else cut_tiles(dense, config.tile_px)


def _read_layout(
    root: Path,
    config: DenseDataConfig,
    class_names: Sequence[str] | None,
    assumed: Stated | None,
) -> DenseSet:
    image_format = config.image_format(assumed)
    if config.layout == "segmunich":
        return _read_segmunich(root, config, class_names)
    if config.layout == "oscd":
        return _read_oscd(root, config, class_names)
    entries = (
        list_table(root, config)
        if config.layout == "csv"
        else list_folders(root, config)
    )
    return build_set(entries, config, image_format, class_names)


def _read_segmunich(
    root: Path, config: DenseDataConfig, class_names: Sequence[str] | None
) -> DenseSet:
    entries = list_segmunich(root)
    if config.bands is None:
        raise ConfigError(
            "SegMunich's files do not name their 10 bands, and descriptions of it "
            "disagree: the bands of 10 and 20 m (B02 B03 B04 B05 B06 B07 B08 B8A B11 "
            "B12), or B01 B02 B03 B04 B05 B06 B07 B8A B11 B12. State data.bands."
        )
    stated = config.image_format(Stated(sensor=SEGMUNICH_SENSOR))
    dense = build_set(entries, config, stated, class_names, segmunich_classes())
    for chip in dense.chips:
        check_tile(chip.item)
    return dense


def _read_oscd(
    root: Path, config: DenseDataConfig, class_names: Sequence[str] | None
) -> DenseSet:
    entries, classes = list_oscd(root, config.download)
    stated = ImageFormat(
        sensor=config.sensor or OSCD_SENSOR,
        bands=config.bands or oscd_bands(),
        unit="digital-numbers" if config.unit == "auto" else config.unit,
        offset=0.0 if config.offset == "auto" else config.offset,
        quantification=config.quantification,
        nodata=config.nodata,
        band_pattern=config.band_pattern,
    )
    if config.align == "auto":
        # Its dates and masks were registered to each other pixel by pixel.
        config = replace(config, align="shape")
    return build_set(entries, config, stated, class_names, classes)
