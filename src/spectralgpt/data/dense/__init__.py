"""Images with a class for every pixel, for segmentation and change detection.

`read_dense` finds images and masks in one's own folders, a table or a known archive;
`DenseDataset` reads them as windows of the model's size.
"""

from spectralgpt.data.dense.chips import (
    CHANGE,
    IGNORE,
    SEGMENTATION,
    DenseChip,
    DenseSet,
    MaskFile,
)
from spectralgpt.data.dense.classes import find_positive
from spectralgpt.data.dense.config import DenseDataConfig, read_dense_config
from spectralgpt.data.dense.counts import (
    balanced_class_weights,
    count_chips,
    count_classes,
    dense_statistics,
    find_faults,
)
from spectralgpt.data.dense.dataset import DenseDataset
from spectralgpt.data.dense.geometry import DenseAugmentationConfig
from spectralgpt.data.dense.reading import divide_dense, read_all_dense, read_dense

__all__ = [
    "CHANGE",
    "IGNORE",
    "SEGMENTATION",
    "DenseAugmentationConfig",
    "DenseChip",
    "DenseDataConfig",
    "DenseDataset",
    "DenseSet",
    "MaskFile",
    "balanced_class_weights",
    "count_chips",
    "count_classes",
    "dense_statistics",
    "divide_dense",
    "find_faults",
    "find_positive",
    "read_all_dense",
    "read_dense",
    "read_dense_config",
]
