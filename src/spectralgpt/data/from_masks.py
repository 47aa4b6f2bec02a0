"""Labels of whole images from masks: what covers most of them, or all that they hold.

Any images with masks serve classification this way, as BigEarthNet was made from maps
of land cover.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.chips import MULTI_LABEL, SINGLE_LABEL, Chip, LabelledSet
from spectralgpt.data.dense import (
    SEGMENTATION,
    DenseSet,
    count_chips,
    read_dense,
    read_dense_config,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import Stated

__all__ = ["read_from_masks"]

logger = logging.getLogger(__name__)


def read_from_masks(
    description: Path,
    root: Path,
    label_share: float | None = None,
    tile_px: int | None = None,
    assumed: Stated | None = None,
) -> LabelledSet:
    """Label images, or tiles of them, by the classes of their pixels.

    Images without a labelled pixel are left out. Splits are those of the description.

    Args:
        description: YAML file of images with masks.
        root: folder of the images, in place of the description's.
        label_share: share of the labelled pixels that makes a class a label, 0..1; None
            gives each image one label, the class of most of its pixels.
        tile_px: side of the tiles that images are cut into; None does as the file says.
        assumed: what is so where the files do not say.

    Raises:
        ConfigError: the share is out of range, or masks show change.
        DataError: no image is labelled.
    """
    if label_share is not None and not 0 < label_share <= 1:
        raise ConfigError(f"data.label_share must be in 0..1 (found: {label_share}).")
    config = read_dense_config(description, str(root))
    if tile_px is not None:
        config = replace(config, tile_px=tile_px)
    if config.task != SEGMENTATION:
        raise ConfigError(
            f"{description} describes {config.task}; layout masks takes the classes of "
            "single images: use one of segmentation."
        )
    dense = read_dense(config, assumed=assumed)
    counted = count_chips(dense)
    chips: list[Chip] = []
    for chip, counts in zip(dense.chips, counted, strict=True):
        if not counts.any():
            continue
        held = np.array([counts.argmax()])
        if label_share is not None:
            held = np.flatnonzero(counts >= label_share * counts.sum())
        labels = tuple(held.tolist())
        chips.append(Chip(chip.item, labels, chip.split, chip.window, chip.place))
    if not chips:
        raise DataError(f"{dense.source}: no mask holds a labelled pixel.")
    _report_lost(chips, counted, dense)
    task = SINGLE_LABEL if label_share is None else MULTI_LABEL
    source = f"masks of {root}"
    return LabelledSet(tuple(chips), dense.class_names, task, source, dense.stated)


def _report_lost(
    chips: Sequence[Chip], counted: Sequence[NDArray[np.int64]], dense: DenseSet
) -> None:
    """Say aloud which classes masks show that become no image's label."""
    pixels = np.sum(counted, axis=0)
    labels = {label for chip in chips for label in chip.labels}
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
