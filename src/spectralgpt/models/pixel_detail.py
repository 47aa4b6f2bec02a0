"""What single pixels tell a map, beside the patches that the encoder sees.

A patch is the finest thing an encoder of tokens tells apart. Where borders matter, and
where the spectrum of one pixel says much, a map gains from seeing the pixels as well.
"""

import torch
from torch import Tensor, nn

__all__ = ["PixelDetail"]

_WIDTH = 64
_NORM_GROUPS = 8
_CLASSIFIER_STD = 0.01


class PixelDetail(nn.Module):
    """Join what a head says of the surroundings with the spectrum of each pixel.

    Args:
        num_bands: bands of the image, or of both dates together.
        context: channels of the head's map.
        num_classes: classes K.

    Source: a skip connection from the image to the last layer, as in U-Nets;
        Hatamizadeh et al. 2022, arXiv:2103.10504, has one around a transformer.
    """

    def __init__(self, num_bands: int, context: int, num_classes: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            nn.Conv2d(num_bands, _WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, _WIDTH),
            nn.GELU(),
        )
        self.joined = nn.Sequential(nn.Conv2d(_WIDTH + context, _WIDTH, 1), nn.GELU())
        self.classifier = nn.Conv2d(_WIDTH, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=_CLASSIFIER_STD)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            images: (B, bands, H, W), scaled as the encoder sees them.
            context: (B, context, H, W), from a head, brought to the image's size.

        Returns:
            Logits (B, K, H, W).
        """
        seen = torch.cat([self.pixels(images), context], dim=1)
        logits: Tensor = self.classifier(self.joined(seen))
        return logits
