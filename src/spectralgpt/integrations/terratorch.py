"""Backbones for TerraTorch: importing this registers them, beside its tasks.

A configuration that names a task or the data module from here imports it: TerraTorch
has no other place to say so.
"""

from collections.abc import Sequence
from pathlib import Path

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from terratorch.tasks import (
    ClassificationTask,
    PixelwiseRegressionTask,
    SemanticSegmentationTask,
)
from torch import Tensor, nn

from spectralgpt.errors import ConfigError
from spectralgpt.integrations import Backbone, open_backbone
from spectralgpt.integrations.torchgeo import SampleDataModule

__all__ = [
    "ClassificationTask",
    "PixelwiseRegressionTask",
    "SampleDataModule",
    "SemanticSegmentationTask",
    "spectralgpt",
]


class _Features(nn.Module):
    """What TerraTorch takes for a backbone: images to a list of maps.

    Attributes:
        out_channels: of each map.
        patch_size: images are padded to a multiple of it.
    """

    def __init__(self, backbone: Backbone, indices: Sequence[int] | None) -> None:
        super().__init__()
        encoder = backbone.encoder
        if indices is None:
            indices = [encoder.taps.index(level) for level in encoder.levels]
        self.taken = backbone.prune_intermediate_layers(indices)
        self.backbone, self.patch_size = backbone, encoder.patch_size
        channels = [info["num_chs"] for info in backbone.feature_info]
        self.out_channels = [channels[at] for at in self.taken]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map reflectance (B, C, H, W) to maps (B, G * D, Hp, Wp), early ones first."""
        maps = self.backbone.forward_intermediates(
            x, self.taken, norm=True, intermediates_only=True
        )
        assert isinstance(maps, list), "only with the last features it is a pair"
        return maps


@TERRATORCH_BACKBONE_REGISTRY.register  # type: ignore[untyped-decorator]
def spectralgpt(
    weights: str | Path = "spectralgpt-tiny-s2",
    pretrained: bool = True,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    img_size: int | None = None,
    out_indices: Sequence[int] | None = None,
) -> nn.Module:
    """Open weights as a backbone, `backbone: spectralgpt` in `model_args`.

    Args:
        weights: see `open_backbone`, as are bands and sensor.
        pretrained: must be true; sizes with random weights are `timm_spectralgpt_base`
            and the like.
        bands: names of the bands.
        sensor: whose they are.
        img_size: side in px that positions are interpolated for.
        out_indices: blocks whose features are taken; None are those at a quarter, half,
            three quarters and the whole of the depth.

    Raises:
        ConfigError: pretrained is false; else see `open_backbone`.
    """
    if not pretrained:
        raise ConfigError(
            "backbone spectralgpt is its weights: leave out backbone_pretrained, or "
            "use timm_spectralgpt_base for random ones."
        )
    found = open_backbone(weights, bands=bands, sensor=sensor, image_size=img_size)
    return _Features(found, out_indices)
