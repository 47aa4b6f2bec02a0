"""Images with a class for every pixel, for segmentation and change detection.

`read_dense` finds images and masks in one's own folders, a table or a known archive;
`DenseDataset` reads them as windows of the model's size.
"""

from spectralgpt.data.classes import find_positive
from spectralgpt.data.datasets import DenseAugmentationConfig, DenseDataset
from spectralgpt.data.dense.config import DenseDataConfig, read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.masks import balanced_class_weights, count_classes, find_faults

__all__ = [
    "DenseAugmentationConfig",
    "DenseDataConfig",
    "DenseDataset",
    "balanced_class_weights",
    "count_classes",
    "find_faults",
    "find_positive",
    "read_dense",
    "read_dense_config",
]
