"""Backbones for TerraTorch: importing this registers them, beside its tasks.

A configuration that names a task or the data module from here imports it: TerraTorch
has no other place to say so.
"""

from typing import Any

import timm
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from terratorch.tasks import (
    ClassificationTask,
    PixelwiseRegressionTask,
    SemanticSegmentationTask,
)
from torch import nn

from spectralgpt.integrations.torchgeo import SampleDataModule

__all__ = [
    "ClassificationTask",
    "PixelwiseRegressionTask",
    "SampleDataModule",
    "SemanticSegmentationTask",
    "spectralgpt",
]


@TERRATORCH_BACKBONE_REGISTRY.register  # type: ignore[untyped-decorator]
def spectralgpt(pretrained: bool = True, **settings: Any) -> nn.Module:
    """Open weights as a backbone: `backbone: spectralgpt` in `model_args`.

    Its features are normalised maps of reflectance; see `spectralgpt.integrations`.

    Args:
        pretrained: where `weights` are not stated, take those in the package.
        **settings: what timm's model `spectralgpt` takes: weights, bands, sensor,
            img_size, and the out_indices of features.
    """
    features: Any = timm.create_model(
        "spectralgpt", pretrained=pretrained, features_only=True, norm=True, **settings
    )
    features.out_channels = features.feature_info.channels()
    made: nn.Module = features
    return made
